//! Time as a parameter. Nothing in Vedetta asks the operating system for the date; it asks a [`Clock`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use tokio::sync::watch;

/// Seconds in a day.
pub const DAY: i64 = 86_400;

/// Where the current time comes from. All times are Unix seconds, UTC.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A clock that moves only when a test moves it.
    Manual(Manual),
    /// A clock that runs `factor` times faster than the machine's, for time-lapse.
    Scaled(Scaled),
}

/// The handle of a manual clock; clones share the time.
#[derive(Clone, Debug)]
pub struct Manual(Arc<watch::Sender<i64>>);

/// The origin of a scaled clock.
#[derive(Clone, Copy, Debug)]
pub struct Scaled {
    origin: i64,
    started: Instant,
    factor: u32,
}

impl Clock {
    /// A clock that stands at `now` until [`Manual::set`] or [`Manual::advance`] moves it.
    pub fn manual(now: i64) -> (Clock, Manual) {
        let manual = Manual(Arc::new(watch::Sender::new(now)));
        (Clock::Manual(manual.clone()), manual)
    }

    /// A clock that shows `origin` now and from here on runs `factor` times as fast as the machine's.
    pub fn scaled(origin: i64, factor: u32) -> Clock {
        Clock::Scaled(Scaled { origin, started: Instant::now(), factor: factor.max(1) })
    }

    /// The current time in Unix seconds.
    pub fn now(&self) -> i64 {
        match self {
            Clock::System => Timestamp::now().as_second(),
            Clock::Manual(manual) => *manual.0.borrow(),
            Clock::Scaled(scaled) => scaled.now(),
        }
    }

    /// Waits for `duration` of this clock's time: shorter in real time on a scaled clock, until the time has
    /// been moved far enough on a manual one.
    pub async fn sleep(&self, duration: Duration) {
        match self {
            Clock::System => tokio::time::sleep(duration).await,
            Clock::Scaled(scaled) => tokio::time::sleep(duration / scaled.factor).await,
            Clock::Manual(manual) => {
                let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
                manual.reaches(self.now().saturating_add(seconds)).await;
            }
        }
    }

    /// How long `duration` of this clock's time takes in real time; at least a second if it is not zero and the
    /// clock is scaled, so that whoever waits that long waits long enough.
    pub fn real(&self, duration: Duration) -> Duration {
        match self {
            Clock::System | Clock::Manual(_) => duration,
            Clock::Scaled(_) if duration.is_zero() => duration,
            Clock::Scaled(scaled) => (duration / scaled.factor).max(Duration::from_secs(1)),
        }
    }

    /// Waits until this clock shows `time` (Unix seconds) or later.
    pub async fn sleep_until(&self, time: i64) {
        if let Clock::Manual(manual) = self {
            return manual.reaches(time).await;
        }
        while let Some(left) = u64::try_from(time - self.now()).ok().filter(|left| *left > 0) {
            self.sleep(Duration::from_secs(left)).await;
        }
    }
}

impl Manual {
    async fn reaches(&self, time: i64) {
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _ = self.0.subscribe().wait_for(|now| *now >= time).await;
    }

    /// Moves the clock to `now`, in Unix seconds; backwards too, as a machine's clock may.
    pub fn set(&self, now: i64) {
        self.0.send_replace(now);
    }

    /// Moves the clock on by `duration` (whole seconds).
    pub fn advance(&self, duration: Duration) {
        let seconds = i64::try_from(duration.as_secs()).unwrap_or(0);
        self.0.send_modify(|now| *now += seconds);
    }
}

impl Scaled {
    fn now(self) -> i64 {
        let passed = self.started.elapsed().as_secs_f64() * f64::from(self.factor);
        self.origin + passed as i64
    }
}

/// Unix seconds as RFC 3339 in UTC, to the second: `2001-04-03T00:00:00Z`.
pub fn rfc3339(time: i64) -> String {
    Timestamp::from_second(time).map_or_else(|_| time.to_string(), |stamp| stamp.to_string())
}

/// The UTC date of a time in Unix seconds: `2001-04-03`.
pub fn date(time: i64) -> String {
    rfc3339(time).chars().take_while(|c| *c != 'T').collect()
}

/// Unix seconds as an HTTP date (RFC 9110): `Tue, 03 Apr 2001 00:00:00 GMT`. Empty for times before the year 0 and after
/// 9999, which it cannot write.
pub fn http_date(time: i64) -> String {
    let stamp = Timestamp::from_second(time).ok();
    stamp
        .and_then(|stamp| DateTimePrinter::new().timestamp_to_rfc9110_string(&stamp).ok())
        .unwrap_or_default()
}

/// The time of an HTTP date in Unix seconds, if it is one.
pub fn from_http_date(text: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_to_the_second() {
        assert_eq!(rfc3339(986_256_000), "2001-04-03T00:00:00Z");
        assert_eq!(date(986_256_001), "2001-04-03");
    }

    #[test]
    fn http_dates_are_written_and_read() {
        let text = "Tue, 03 Apr 2001 00:00:00 GMT";
        assert_eq!((http_date(986_256_000).as_str(), from_http_date(text)), (text, Some(986_256_000)));
        assert_eq!(from_http_date("yesterday"), None);
    }

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_only_when_moved() {
        let (clock, manual) = Clock::manual(100);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        manual.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        manual.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.now(), 110);
    }

    #[tokio::test(start_paused = true)]
    async fn a_scaled_clock_sleeps_a_fraction_of_the_time() {
        let clock = Clock::scaled(0, 4320);
        let before = tokio::time::Instant::now();
        clock.sleep(Duration::from_secs(86_400)).await;
        assert_eq!(before.elapsed().as_secs(), 20);
    }
}
