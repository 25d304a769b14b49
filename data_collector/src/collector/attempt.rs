//! One attempt at one window: its credits, its two calls, and what becomes of it.

use std::time::{Duration, Instant};

use common::clock::date;
use common::retry::doubled;
use common::types::Direction;
use tokio_util::sync::CancellationToken;

use super::{Collector, Pause};
use crate::circuit_breaker::State;
use crate::config::seconds;
use crate::opensky::{Called, Error as OpenSkyError, OpenSky};
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
    /// Takes the credits of a window; where there are none its claim is given back, and there is a pause.
    pub(super) async fn lacks_credits(&self, claim: &Claim, day: i64) -> anyhow::Result<Option<Pause>> {
        let why = match self.store.take_credits(day, self.daily_credits, WINDOW_CREDITS).await? {
            Budget::Taken => return Ok(None),
            Budget::Spent => "the day's credits with OpenSky are used up".to_owned(),
            Budget::Paused(seconds) => {
                OpenSkyError::RateLimited(Duration::from_secs(seconds.unsigned_abs())).to_string()
            }
        };
        self.store.release(claim, None).await?;
        self.progress.set_obstacle(Some(why));
        Ok(Some(Pause::Idle))
    }

    /// Fetches and stores one window; says whether to pause afterwards.
    pub(super) async fn collect(
        &self,
        opensky: &OpenSky,
        claim: &Claim,
        day: i64,
        token: &CancellationToken,
    ) -> anyhow::Result<Option<Pause>> {
        let Some(asked) = token.run_until_cancelled(self.ask(opensky, claim)).await else {
            self.store.release(claim, None).await?;
            return Ok(None);
        };
        self.store.settle_credits(day, asked.refund, asked.credits).await?;
        match asked.fetched {
            Ok(fetched) => self.keep(claim, &fetched, asked.date).await,
            Err(error) => self.failed(claim, error).await,
        }
    }

    /// Asks for the arrivals and, when there is an answer, for the departures.
    async fn ask(&self, opensky: &OpenSky, claim: &Claim) -> Asked {
        let call = async |direction| {
            let called = opensky.flights(claim.airport, direction, claim.window).await;
            self.meters.count(called.outcome());
            called
        };
        let charge = |called: &Called| if called.charged { CALL_CREDITS } else { 0 };
        let arrived = call(Direction::Arrivals).await;
        let (refund, credits, date) = (WINDOW_CREDITS - charge(&arrived), arrived.credits, arrived.date);
        let arrivals = match arrived.flights {
            Ok(arrivals) => arrivals,
            Err(error) => return Asked { fetched: Err(error), refund, credits, date },
        };
        let departed = call(Direction::Departures).await;
        let refund = refund - charge(&departed);
        let fetched = departed.flights.map(|departures| Fetched { arrivals, departures });
        Asked { fetched, refund, credits: departed.credits.or(credits), date }
    }

    /// Stores a window, unless it is too early to believe it. The time is the earlier one of this machine and OpenSky
    /// (`date`), so that a clock which is ahead makes no counts of what has not happened.
    async fn keep(
        &self,
        claim: &Claim,
        fetched: &Fetched,
        date: Option<i64>,
    ) -> anyhow::Result<Option<Pause>> {
        let (counts, now) = (fetched.counts(), self.clock.now());
        let then = date.map_or(now, |date| date.min(now));
        if then + SKEW < claim.window.end.saturating_add(self.grid.lag) {
            return self.is_ahead(claim, now - then).await.map(Some);
        }
        self.progress.set_obstacle(None);
        let unsettled = claim.window.end.saturating_add(seconds(self.collect.collect_settle)) - then;
        if (counts.arrivals == 0 || counts.departures == 0) && unsettled > 0 {
            tracing::info!(airport = %claim.airport, day = date_of(claim), "no flights yet; asked again later");
            self.store.leave_provisional(claim, now.saturating_add(unsettled)).await?;
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
            }
        }
        Ok(None)
    }

    /// By OpenSky's clock the window is not closed: `seconds` later it may be.
    async fn is_ahead(&self, claim: &Claim, seconds: i64) -> anyhow::Result<Pause> {
        let why = format!("this machine's clock is {seconds} s ahead of OpenSky's: one of the two is wrong");
        tracing::error!(airport = %claim.airport, day = date_of(claim), "collection pauses: {why}");
        self.store.release(claim, None).await?;
        self.progress.set_obstacle(Some(why));
        Ok(Pause::Until(Instant::now() + SKEW_PAUSE))
    }

    async fn failed(&self, claim: &Claim, error: OpenSkyError) -> anyhow::Result<Option<Pause>> {
        match error {
            OpenSkyError::Refused(refused) => {
                self.store.release(claim, None).await?;
                Ok(Some(Pause::Until(refused.until)))
            }
            OpenSkyError::RateLimited(wait) => {
                tracing::warn!(%error, "collection pauses");
                self.store.pause(seconds(wait)).await?;
                self.store.release(claim, None).await?;
                self.progress.set_obstacle(Some(error.to_string()));
                // The budget says so until then, to all replicas.
                Ok(Some(Pause::Idle))
            }
            OpenSkyError::Rejected(_) => {
                tracing::error!(%error, "collection stops");
                self.store.release(claim, None).await?;
                self.progress.set_obstacle(Some(error.to_string()));
                Ok(Some(Pause::ForGood))
            }
            OpenSkyError::Fault(..) => {
                self.meters.failed.inc();
                let now = self.clock.now();
                // Counted from when it could be had at all; and one failure never gives a window up.
                let wanted = claim.window.end.max(claim.due_since);
                let patience = seconds(self.collect.collect_give_up);
                if claim.attempts > 0 && now > wanted.saturating_add(patience) {
                    tracing::error!(airport = %claim.airport, day = date_of(claim), %error, "given up");
                    self.store.give_up(claim, &self.announcer, now).await?;
                    self.outbox.notify_one();
                } else {
                    let wait = retry_in(claim);
                    tracing::warn!(
                        airport = %claim.airport, day = date_of(claim), %error, retry_in_s = wait, "no answer"
                    );
                    self.store.release(claim, Some(wait)).await?;
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
    /// Of the credits that were taken for it, those that OpenSky does not charge.
    refund: i64,
    /// What OpenSky says is left.
    credits: Option<i64>,
    /// The earlier answer's time by OpenSky's clock, Unix seconds.
    date: Option<i64>,
}
