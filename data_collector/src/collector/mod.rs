//! Collection: every closed window of every watched airport, fetched once.

mod attempt;
mod progress;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::clock::{Clock, DAY};
use common::trace::Trace;
use common::types::Direction;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub(crate) use self::attempt::WINDOW_CREDITS;
pub(crate) use self::progress::{Meters, Progress};
use crate::circuit_breaker::{CircuitBreaker, State};
use crate::config::{CollectArgs, seconds};
use crate::opensky::OpenSky;
use crate::store::{Announcer, Store};

/// Requests that a window takes at most: two calls, each with a token fetch and a repeat of both.
const REQUESTS: u32 = 8;
/// How often the database is asked for windows that nobody told us of, and for credits.
const LOOK: Duration = Duration::from_secs(5);

pub(crate) struct Collector {
    pub(crate) store: Store,
    /// Absent without credentials: then windows become due and wait.
    pub(crate) opensky: Option<OpenSky>,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) announcer: Announcer,
    /// How long after its end a window is closed, in seconds.
    pub(crate) lag: i64,
    pub(crate) collect: CollectArgs,
    pub(crate) daily_credits: i64,
    /// How long a claim holds, in seconds; see [`claim_for`].
    pub(crate) claim_for: i64,
    pub(crate) clock: Clock,
    pub(crate) node: String,
    /// Notified when there may be something to collect.
    pub(crate) wake: Arc<Notify>,
    /// To notify when the outbox got something.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) meters: Meters,
    /// The direction that is asked for first: the one that failed last, so that where only one fails, the other is not asked
    /// and paid for again and again, nor ends the breaker's row of failures.
    pub(crate) first: Mutex<Direction>,
}

/// How long a claim must hold, in seconds, when a call may take `timeout`.
pub(crate) fn claim_for(timeout: Duration) -> i64 {
    seconds(timeout.saturating_mul(REQUESTS)) + 60
}

/// Why the collector stops for now.
enum Pause {
    /// Nothing is due, or there are no credits for it: the database tells when that has changed.
    Idle,
    /// Nothing will be answered before then.
    Until(Instant),
    /// Nothing will be answered before the process is started anew.
    ForGood,
}

impl Pause {
    fn is_over(&self) -> bool {
        match self {
            Pause::Idle => true,
            Pause::Until(time) => Instant::now() >= *time,
            Pause::ForGood => false,
        }
    }
}

impl Collector {
    /// Collects until cancelled.
    pub(crate) async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        // A replica that was killed takes up at once what it had claimed; otherwise its claims run out by themselves.
        if let Err(error) = self.store.release_all(&self.node).await {
            tracing::warn!(%error, "earlier claims could not be given back");
        }
        let every = seconds(self.collect.collect_every);
        let (mut next_cycle, mut last_look) = (self.clock.now(), self.clock.now());
        let mut pause = Pause::Idle;
        while !token.is_cancelled() {
            let now = self.clock.now();
            // A clock that went back was put right: what it did has to be looked at, and it may be what the pause was for.
            let put_right = now < last_look;
            last_look = now;
            // A cycle further away than they are apart was set by a clock that was ahead.
            let is_due = put_right || now >= next_cycle || next_cycle.saturating_sub(now) > every;
            let planned = !is_due || token.run_until_cancelled(self.plan()).await == Some(true);
            if is_due && planned {
                next_cycle = self.clock.now().saturating_add(every);
                self.progress.next_cycle.store(next_cycle, Ordering::Relaxed);
                if let Err(error) = self.prune(&token).await {
                    tracing::warn!(%error, "old flights could not be removed; again next cycle");
                }
            }
            if (put_right && matches!(pause, Pause::Until(_))) || pause.is_over() {
                pause = self.collect_due(&token).await.unwrap_or_else(|error| {
                    tracing::warn!(error = format!("{error:#}"), "collecting failed; trying again");
                    Pause::Idle
                });
            }
            self.observe().await;
            let wait = match pause {
                Pause::Idle | Pause::ForGood => LOOK,
                Pause::Until(time) => time.saturating_duration_since(Instant::now()).min(LOOK),
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = self.wake.notified() => {}
                () = self.clock.sleep_until(next_cycle), if planned => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// Begins a cycle: what has closed becomes due. `false` if the database did not let it, at some airport at least.
    async fn plan(&self) -> bool {
        let (now, backfill) = (self.clock.now(), seconds(self.collect.collect_backfill));
        let planned = self.store.plan_all(self.lag, backfill, now, &Trace::start()).await;
        match &planned {
            Ok(()) => self.progress.last_cycle.store(now, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "windows could not be planned; trying again");
            }
        }
        planned.is_ok()
    }

    /// Removes the flights that are kept long enough, as long as nobody asks to stop, and windows that nobody wants any more.
    /// Their age is counted from the newest window, so that a clock which is ahead removes none too early.
    async fn prune(&self, token: &CancellationToken) -> sqlx::Result<()> {
        let Some(newest) = self.store.stored_until().await? else { return Ok(()) };
        let before = newest.min(self.clock.now()).saturating_sub(seconds(self.collect.flight_retention));
        while !token.is_cancelled() && self.store.prune_flights(before).await? {}
        self.store.forget_unwatched(newest.saturating_sub(seconds(self.collect.collect_backfill))).await
    }

    /// Collects due windows, one call at a time, until there are none or none can be fetched.
    async fn collect_due(&self, token: &CancellationToken) -> anyhow::Result<Pause> {
        let Some(opensky) = &self.opensky else { return Ok(Pause::ForGood) };
        while !token.is_cancelled() {
            if let Some(until) = self.breaker.refuses_until(Instant::now()) {
                return Ok(Pause::Until(until));
            }
            // The breaker's trial does not wait for a window's next attempt.
            let trial = self.breaker.wants_trial();
            let claim =
                self.store.claim(&self.node, self.claim_for, trial, self.lag, self.clock.now()).await?;
            let Some(claim) = claim else { return Ok(Pause::Idle) };
            let day = match self.credits_for(&claim).await? {
                Ok(day) => day,
                Err(pause) => return Ok(pause),
            };
            let span = tracing::info_span!("window", request_id = %claim.trace.request_id);
            let before = self.breaker.state();
            let done = self.collect(opensky, &claim, day, token).instrument(span).await;
            if let Err(error) = self.tell_transition(before).await {
                tracing::warn!(error = format!("{error:#}"), "what has failed waits its time");
            }
            self.observe().await;
            if let Some(pause) = done? {
                return Ok(pause);
            }
        }
        Ok(Pause::Idle)
    }

    /// Logs what a call did to the breaker. When it closes, OpenSky is back: what has failed without an answer need not wait
    /// any longer.
    async fn tell_transition(&self, before: State) -> anyhow::Result<()> {
        match (before, self.breaker.state()) {
            (State::Closed { .. } | State::HalfOpen { .. }, State::Open { .. }) => {
                tracing::warn!("the circuit breaker opens: OpenSky is left alone for a while");
            }
            (State::Open { .. } | State::HalfOpen { .. }, State::Closed { .. }) => {
                tracing::info!("the circuit breaker closes: OpenSky answers again");
                self.store.hurry_all().await?;
            }
            (State::Open { .. }, State::Open { .. }) => {
                tracing::warn!("the trial failed: the circuit breaker stays open");
            }
            _ => {}
        }
        Ok(())
    }

    /// Brings the gauges up to date.
    async fn observe(&self) {
        self.meters.tell_breaker(self.breaker.state(), self.breaker.counters());
        let now = self.clock.now();
        if let Ok(waiting) = self.store.waiting(self.lag, now).await {
            self.meters.due.set(waiting.due);
        }
        if let Ok(Some(credits)) = self.store.credits(now.div_euclid(DAY)).await
            && let Some(remaining) = credits.remaining
        {
            self.meters.credits.set(remaining);
        }
    }
}
