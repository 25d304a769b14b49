//! One attempt at one window: its credits, its two calls, and what becomes of it.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::clock::{DAY, date};
use common::retry::doubled;
use common::types::Direction;
use tokio_util::sync::CancellationToken;

use super::{Collector, Pause};
use crate::circuit_breaker::State;
use crate::config::seconds;
use crate::opensky::{Error as OpenSkyError, OpenSky};
use crate::store::{Budget, Claim, Fetched, Stored};

/// Credits of a call over at most a day.
const CALL_CREDITS: i64 = 4;
/// Credits of a window: there is a call for each direction.
pub(crate) const WINDOW_CREDITS: i64 = 2 * CALL_CREDITS;
/// Backoff of a failed window: the first wait, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How far this machine's clock may be ahead of OpenSky's, in seconds.
const SKEW: i64 = 60;
/// How long to wait when it is further ahead.
const SKEW_PAUSE: Duration = Duration::from_secs(3600);

impl Collector {
    /// Takes the credits of a window; gives the day that they are of. Where there are none, the window's claim is given back,
    /// and there is a pause.
    pub(super) async fn credits_for(&self, claim: &Claim) -> anyhow::Result<Result<i64, Pause>> {
        let today = self.clock.now().div_euclid(DAY);
        let why = match self.store.take_credits(today, self.daily_credits, WINDOW_CREDITS).await? {
            Budget::Taken { day } => return Ok(Ok(day)),
            Budget::Spent => "the day's credits with OpenSky are used up".to_owned(),
            Budget::Paused(seconds) => {
                OpenSkyError::RateLimited(Duration::from_secs(seconds.unsigned_abs())).to_string()
            }
        };
        self.store.release(claim).await?;
        self.progress.set_obstacle(Some(why));
        Ok(Err(Pause::Idle))
    }

    /// Fetches and stores one window; says whether to pause afterwards. The credits that were taken are of `day`.
    pub(super) async fn collect(
        &self,
        opensky: &OpenSky,
        claim: &Claim,
        day: i64,
        token: &CancellationToken,
    ) -> anyhow::Result<Option<Pause>> {
        let Some(asked) = token.run_until_cancelled(self.ask(opensky, claim)).await else {
            self.store.release(claim).await?;
            return Ok(None);
        };
        let charged = asked.charged > 0;
        let done = self.settle(claim, day, asked).await;
        if done.is_err() {
            // What the database did not take now, it may take later.
            self.store.failed(claim, retry_in(claim), charged).await?;
        }
        done
    }

    /// What becomes of a window that was asked for.
    async fn settle(&self, claim: &Claim, day: i64, asked: Asked) -> anyhow::Result<Option<Pause>> {
        self.store.settle_credits(day, WINDOW_CREDITS - asked.charged, asked.credits).await?;
        match asked.fetched {
            Ok(fetched) => self.keep(claim, &fetched, asked.at, asked.date).await,
            Err(error) => self.failed(claim, error, asked.charged > 0).await,
        }
    }

    /// Asks for both directions; after a failure the second one is not asked for.
    async fn ask(&self, opensky: &OpenSky, claim: &Claim) -> Asked {
        let first = *self.first();
        let second = match first {
            Direction::Arrivals => Direction::Departures,
            Direction::Departures => Direction::Arrivals,
        };
        let at = self.clock.now();
        let (mut fetched, mut charged, mut credits, mut date) = (Fetched::default(), 0, None, None);
        for direction in [first, second] {
            let called = opensky.flights(claim.airport, direction, claim.window).await;
            self.meters.count(called.outcome());
            charged += if called.charged { CALL_CREDITS } else { 0 };
            credits = called.credits.or(credits);
            date = date.or(called.date);
            match (called.flights, direction) {
                (Ok(flights), Direction::Arrivals) => fetched.arrivals = flights,
                (Ok(flights), Direction::Departures) => fetched.departures = flights,
                (Err(error), _) => {
                    *self.first() = direction;
                    return Asked { fetched: Err(error), charged, credits, at, date };
                }
            }
        }
        Asked { fetched: Ok(fetched), charged, credits, at, date }
    }

    fn first(&self) -> MutexGuard<'_, Direction> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a window, unless it is too early to believe it: before it has closed, or, without flights in a direction,
    /// before it has settled. It was asked for `at` a time by this machine's clock; of that and OpenSky's (`date`) the earlier
    /// one holds, so that a clock which is ahead makes no counts of what has not happened.
    async fn keep(
        &self,
        claim: &Claim,
        fetched: &Fetched,
        at: i64,
        date: Option<i64>,
    ) -> anyhow::Result<Option<Pause>> {
        let (counts, now) = (fetched.counts(claim.window), self.clock.now());
        let earlier = date.map_or(at, |date| date.min(at));
        let closes = claim.window.end.saturating_add(self.lag);
        let settles = match counts.arrivals == 0 || counts.departures == 0 {
            true => closes.max(claim.window.end.saturating_add(seconds(self.collect.collect_settle))),
            false => closes,
        };
        if earlier + SKEW < closes {
            return self.is_ahead(claim, at - earlier).await.map(Some);
        }
        self.progress.set_obstacle(None);
        if at < settles || earlier + SKEW < settles {
            tracing::info!(airport = %claim.airport, day = date_of(claim), "no flights yet; asked again later");
            // By a clock that is ahead that would be at once.
            match at < settles {
                true => self.store.leave_provisional(claim, settles).await?,
                false => self.store.failed(claim, seconds(SKEW_PAUSE), true).await?,
            }
            return Ok(None);
        }
        match self.store.store_window(claim, fetched, &self.announcer, now).await? {
            Stored::Yes { messages } => {
                tracing::info!(
                    airport = %claim.airport, day = date_of(claim),
                    arrivals = counts.arrivals, departures = counts.departures, messages, "collected"
                );
                self.meters.stored.inc();
                if messages > 0 {
                    self.outbox.notify_one();
                }
            }
            Stored::NoLonger => {
                tracing::info!(airport = %claim.airport, "the window is no longer ours to store");
                self.store.release(claim).await?;
            }
        }
        Ok(None)
    }

    /// By OpenSky's clock the window is not closed: `seconds` later it may be.
    async fn is_ahead(&self, claim: &Claim, seconds: i64) -> anyhow::Result<Pause> {
        let why = format!("this machine's clock is {seconds} s ahead of OpenSky's: one of the two is wrong");
        tracing::error!(airport = %claim.airport, day = date_of(claim), "collection pauses: {why}");
        self.store.release(claim).await?;
        self.progress.set_obstacle(Some(why));
        Ok(Pause::Until(Instant::now() + SKEW_PAUSE))
    }

    /// What becomes of a window whose attempt failed; `charged` says whether that cost credits.
    async fn failed(
        &self,
        claim: &Claim,
        error: OpenSkyError,
        charged: bool,
    ) -> anyhow::Result<Option<Pause>> {
        match error {
            OpenSkyError::Refused(refused) => {
                self.store.release(claim).await?;
                Ok(Some(Pause::Until(refused.until)))
            }
            OpenSkyError::RateLimited(wait) => {
                tracing::warn!(%error, "collection pauses");
                self.store.pause(seconds(wait)).await?;
                self.store.release(claim).await?;
                self.progress.set_obstacle(Some(error.to_string()));
                // The budget says so until then, to all replicas.
                Ok(Some(Pause::Idle))
            }
            OpenSkyError::Rejected(_) => {
                tracing::error!(%error, "collection stops");
                self.store.release(claim).await?;
                self.progress.set_obstacle(Some(error.to_string()));
                Ok(Some(Pause::ForGood))
            }
            OpenSkyError::Fault(..) => {
                self.meters.failed.inc();
                let now = self.clock.now();
                // Counted from its end, or from when somebody wanted it later; and one failure never gives a window up.
                let was_wanted = claim.due_since <= claim.window.end.saturating_add(self.lag);
                let since = if was_wanted { claim.window.end } else { claim.due_since };
                let patience = seconds(self.collect.collect_give_up);
                if claim.attempts > 0 && now > since.saturating_add(patience) {
                    tracing::error!(airport = %claim.airport, day = date_of(claim), %error, "given up");
                    self.store.give_up(claim, &self.announcer, now).await?;
                    // If nobody watches the airport any more, it was not.
                    self.store.release(claim).await?;
                    self.outbox.notify_one();
                } else {
                    let wait = retry_in(claim);
                    tracing::warn!(
                        airport = %claim.airport, day = date_of(claim), %error, retry_in_s = wait, "no answer"
                    );
                    self.store.failed(claim, wait, charged).await?;
                }
                // A trial that failed in a way that does not count leaves the breaker half open: the next one waits.
                let half_open = matches!(self.breaker.state(), State::HalfOpen { .. });
                Ok(half_open.then(|| Pause::Until(Instant::now() + RETRY.0)))
            }
        }
    }
}

/// How long after a failed attempt the next one is, in seconds.
pub(super) fn retry_in(claim: &Claim) -> i64 {
    seconds(doubled(RETRY.0, RETRY.1, claim.attempts))
}

fn date_of(claim: &Claim) -> String {
    date(claim.window.begin)
}

/// What came of the calls for a window.
struct Asked {
    /// Both directions: a window counts only when both were answered.
    fetched: Result<Fetched, OpenSkyError>,
    /// What OpenSky charges for them, in credits.
    charged: i64,
    /// What OpenSky says is left.
    credits: Option<i64>,
    /// When it was asked by this machine's clock, flight time.
    at: i64,
    /// The earlier answer's time by OpenSky's clock, Unix seconds.
    date: Option<i64>,
}
