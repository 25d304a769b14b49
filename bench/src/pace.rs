//! When the next request is due.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::tally::Histogram;

/// What was due but not yet sent when the run ended may still be sent for this long.
const GRACE: Duration = Duration::from_secs(1);

/// How many requests are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rate {
    /// The next as soon as one is answered.
    Max,
    /// So many a second, whatever the answers do.
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(Self::PerSecond(rate)),
            _ => Err("a number of requests a second, or max".to_owned()),
        }
    }
}

/// The run's schedule, shared by all who send.
pub(crate) struct Pace {
    rate: Rate,
    start: Instant,
    end: Instant,
    /// Requests that may still be sent.
    left: AtomicU64,
    due: Mutex<VecDeque<Instant>>,
    places: Semaphore,
}

impl Pace {
    pub(crate) fn new(rate: Rate, start: Instant, duration: Duration, requests: Option<u64>) -> Self {
        let (due, places) = (Mutex::new(VecDeque::new()), Semaphore::new(0));
        let left = AtomicU64::new(requests.unwrap_or(u64::MAX));
        Self { rate, start, end: start + duration, left, due, places }
    }

    /// Nothing more is to be sent.
    pub(crate) fn stop(&self) {
        self.left.store(0, Ordering::Relaxed);
        self.places.close();
        self.due.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The moment at which the caller's next request was due; `None` when the run is over.
    pub(crate) async fn next(&self) -> Option<Instant> {
        let one_less = |left: u64| left.checked_sub(1);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        if self.rate == Rate::Max {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        }
        // Closed at the end; what is left in the queue is then sent too, for a while.
        if let Ok(place) = self.places.acquire().await {
            place.forget();
        } else if Instant::now() > self.end + GRACE {
            return None;
        }
        self.due.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Is there time for another request?
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end || self.left.load(Ordering::Relaxed) == 0
    }

    /// Makes requests due, on a thread of its own: tokio's timer is too coarse (1 ms). Returns at the end of the run
    /// how late it was in microseconds, because the machine had no time for it.
    pub(crate) fn drive(&self) -> Histogram {
        let mut late = Histogram::default();
        if let Rate::PerSecond(rate) = self.rate {
            for number in 0_u64.. {
                let due = self.start + Duration::from_secs_f64(number as f64 / rate);
                if due >= self.end || self.is_over() {
                    break;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                late.record(due.elapsed());
                self.due.lock().unwrap_or_else(PoisonError::into_inner).push_back(due);
                self.places.add_permits(1);
            }
            self.places.close();
        }
        late
    }

    /// Requests that were due but never sent. Of a run that was ended early nothing more was due.
    pub(crate) fn unsent(&self) -> u64 {
        if self.left.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        self.due.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_makes_so_many_requests_due_and_then_it_is_over() {
        let pace = Pace::new(Rate::PerSecond(1000.0), Instant::now(), Duration::from_millis(20), None);
        pace.drive();
        for number in 0..20 {
            assert_eq!(pace.next().await, Some(pace.start + Duration::from_millis(number)));
        }
        assert_eq!(pace.next().await, None);
        assert_eq!(pace.unsent(), 0);
    }

    #[tokio::test]
    async fn a_bounded_run_is_over_when_so_many_were_sent() {
        let pace = Pace::new(Rate::Max, Instant::now(), Duration::from_secs(60), Some(2));
        assert!(pace.next().await.is_some() && pace.next().await.is_some());
        assert_eq!(pace.next().await, None);
        assert!(pace.is_over());
    }

    #[tokio::test]
    async fn a_run_that_is_stopped_sends_nothing_more() {
        let pace = Pace::new(Rate::PerSecond(1000.0), Instant::now(), Duration::from_millis(20), None);
        pace.drive();
        assert!(pace.next().await.is_some());
        pace.stop();
        assert_eq!(pace.next().await, None);
        assert_eq!(pace.unsent(), 0);
    }

    #[test]
    fn a_rate_is_a_positive_number_or_max() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("2.5".parse(), Ok(Rate::PerSecond(2.5)));
        for bad in ["0", "-1", "NaN", "inf", "many"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}
