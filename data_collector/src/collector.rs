//! Collection: every closed window of every watched airport, fetched once.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::clock::{Clock, DAY, date};
use common::retry::doubled;
use common::telemetry::Metrics;
use common::trace::Trace;
use common::types::Direction;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::circuit_breaker::{CircuitBreaker, State};
use crate::config::{CollectArgs, seconds};
use crate::opensky::{Error as OpenSkyError, OpenSky};
use crate::store::{Announcer, Claim, Fetched, Store, Stored};
use crate::window::Grid;

/// Requests that a window takes at most: two calls, each with a token fetch and a repeat of both.
const REQUESTS: u32 = 8;
/// Credits of a window: a call over at most a day costs 4, and there is one for each direction.
pub(crate) const WINDOW_CREDITS: i64 = 8;
/// How often the database is asked for windows that nobody told us of.
const LOOK: Duration = Duration::from_secs(5);
/// Backoff of a failed window: the first wait, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// What /status tells of the collection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Flight time; 0 before the first cycle.
    pub(crate) last_cycle: AtomicI64,
    /// Flight time.
    pub(crate) next_cycle: AtomicI64,
    /// Why nothing is collected, if so.
    pub(crate) obstacle: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn obstacle(&self) -> Option<String> {
        self.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Without credentials nothing is ever collected.
    pub(crate) fn lacks_credentials(&self) {
        let why = "nothing is collected: OPENSKY_CLIENT_ID and OPENSKY_CLIENT_SECRET are not set";
        tracing::warn!("{why}");
        self.set_obstacle(Some(why.to_owned()));
    }

    fn set_obstacle(&self, obstacle: Option<String>) {
        *self.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }
}

/// What the collector reports.
pub(crate) struct Meters {
    stored: Counter,
    failed: Counter,
    due: Gauge,
    breaker: Gauge,
    credits: Gauge,
}

impl Meters {
    pub(crate) fn new(metrics: &mut Metrics) -> Meters {
        let meters = Meters {
            stored: Counter::default(),
            failed: Counter::default(),
            due: Gauge::default(),
            breaker: Gauge::default(),
            credits: Gauge::default(),
        };
        metrics.register("stored_windows", "Windows collected and stored", meters.stored.clone());
        metrics.register("failed_windows", "Attempts to collect a window that failed", meters.failed.clone());
        metrics.register("due_windows", "Windows that wait to be collected", meters.due.clone());
        metrics.register(
            "breaker_state",
            "Circuit breaker: 0 closed, 1 half open, 2 open",
            meters.breaker.clone(),
        );
        metrics.register("credits_remaining", "Credits with OpenSky left today", meters.credits.clone());
        meters
    }
}

pub(crate) struct Collector {
    pub(crate) store: Store,
    /// Absent without credentials: then windows become due and wait.
    pub(crate) opensky: Option<OpenSky>,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) announcer: Announcer,
    pub(crate) grid: Grid,
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
}

/// How long a claim must hold, in seconds, when a call may take `timeout`.
pub(crate) fn claim_for(timeout: Duration) -> i64 {
    seconds(timeout.saturating_mul(REQUESTS)) + 60
}

/// Why the collector stops for now.
enum Pause {
    /// Nothing is due.
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
        let mut next_cycle = self.clock.now();
        let mut pause = Pause::Idle;
        while !token.is_cancelled() {
            if self.clock.now() >= next_cycle {
                if !self.plan().await {
                    token.run_until_cancelled(tokio::time::sleep(LOOK)).await;
                    continue;
                }
                next_cycle = self.clock.now().saturating_add(every);
                self.progress.next_cycle.store(next_cycle, Ordering::Relaxed);
                self.prune(&token).await;
                self.observe().await;
            }
            if pause.is_over() {
                pause = self.collect_due(&token).await.unwrap_or_else(|error| {
                    tracing::warn!(error = format!("{error:#}"), "collecting failed; trying again");
                    Pause::Idle
                });
                self.observe().await;
            }
            let wait = match pause {
                Pause::Idle => LOOK,
                Pause::Until(time) => time.saturating_duration_since(Instant::now()).min(LOOK),
                Pause::ForGood => Duration::from_secs(3600),
            };
            tokio::select! {
                () = token.cancelled() => {}
                () = self.wake.notified() => {}
                () = self.clock.sleep_until(next_cycle) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }

    /// Begins a cycle: what has closed becomes due. `false` if the database did not let it.
    async fn plan(&self) -> bool {
        let now = self.clock.now();
        let planned = self.store.plan_all(self.grid, now, &Trace::start()).await;
        match &planned {
            Ok(()) => self.progress.last_cycle.store(now, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "the windows could not be planned; trying again"
                );
            }
        }
        planned.is_ok()
    }

    /// Removes the flights that are kept long enough, as long as nobody asks to stop.
    async fn prune(&self, token: &CancellationToken) {
        let before = self.clock.now().saturating_sub(seconds(self.collect.flight_retention));
        while !token.is_cancelled() {
            match self.store.prune_flights(before).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    return tracing::warn!(%error, "old flights could not be removed; again next cycle");
                }
            }
        }
    }

    /// Collects due windows, one call at a time, until there are none or none can be fetched.
    async fn collect_due(&self, token: &CancellationToken) -> anyhow::Result<Pause> {
        let Some(opensky) = &self.opensky else { return Ok(Pause::ForGood) };
        while !token.is_cancelled() {
            if let Some(until) = self.breaker.refuses_until(Instant::now()) {
                return Ok(Pause::Until(until));
            }
            // The breaker's trial does not wait for a window's next attempt.
            let eager = self.breaker.wants_trial();
            let Some(claim) = self.store.claim(&self.node, self.claim_for, eager, self.clock.now()).await?
            else {
                return Ok(Pause::Idle);
            };
            let day = self.clock.now().div_euclid(DAY);
            if !self.store.take_credits(day, self.daily_credits, WINDOW_CREDITS).await? {
                self.store.release(&claim, None).await?;
                self.progress.set_obstacle(Some("the day's credits with OpenSky are used up".to_owned()));
                return Ok(Pause::Idle);
            }
            let span = tracing::info_span!("window", request_id = %claim.trace.request_id);
            let before = self.breaker.state();
            let done = self.collect(opensky, &claim, day, token).instrument(span).await;
            if done.is_err() {
                // What the database did not take now, it may take later.
                self.store.release(&claim, Some(retry_in(&claim))).await?;
            }
            self.tell_transition(before).await?;
            if let Some(pause) = done? {
                return Ok(pause);
            }
        }
        Ok(Pause::Idle)
    }

    /// Logs what a call did to the breaker. When it closes, OpenSky is back: what has failed need not wait any longer.
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

    /// Fetches and stores one window; says whether to pause afterwards.
    async fn collect(
        &self,
        opensky: &OpenSky,
        claim: &Claim,
        day: i64,
        token: &CancellationToken,
    ) -> anyhow::Result<Option<Pause>> {
        let Some(fetched) = token.run_until_cancelled(fetch(opensky, claim)).await else {
            self.store.release(claim, None).await?;
            return Ok(None);
        };
        match fetched {
            Ok((fetched, credits)) => {
                self.progress.set_obstacle(None);
                if let Some(credits) = credits {
                    self.store.set_credits(day, credits).await?;
                }
                self.keep(claim, &fetched).await?;
                Ok(None)
            }
            Err(error) => {
                self.store.return_credits(day, WINDOW_CREDITS).await?;
                self.failed(claim, error).await
            }
        }
    }

    /// Stores a window, unless it is too early to believe that there were no flights.
    async fn keep(&self, claim: &Claim, fetched: &Fetched) -> anyhow::Result<()> {
        let (counts, now) = (fetched.counts(), self.clock.now());
        let settled_at = claim.window.end.saturating_add(seconds(self.collect.collect_settle));
        if (counts.arrivals == 0 || counts.departures == 0) && now < settled_at {
            tracing::info!(airport = %claim.airport, day = date(claim.window.begin), "no flights yet; asked again later");
            return Ok(self.store.leave_provisional(claim, settled_at).await?);
        }
        match self.store.store_window(claim, fetched, &self.announcer, now).await? {
            Stored::Yes { messages } => {
                tracing::info!(
                    airport = %claim.airport, day = date(claim.window.begin),
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
        Ok(())
    }

    async fn failed(&self, claim: &Claim, error: OpenSkyError) -> anyhow::Result<Option<Pause>> {
        match error {
            OpenSkyError::Refused(refused) => {
                self.store.release(claim, None).await?;
                Ok(Some(Pause::Until(refused.until)))
            }
            OpenSkyError::RateLimited(wait) => {
                tracing::warn!(%error, "collection pauses");
                self.store.release(claim, None).await?;
                self.progress.set_obstacle(Some(error.to_string()));
                Ok(Some(Pause::Until(Instant::now() + wait)))
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
                    tracing::error!(airport = %claim.airport, day = date(claim.window.begin), %error, "given up");
                    self.store.give_up(claim, &self.announcer, now).await?;
                    self.outbox.notify_one();
                } else {
                    let wait = retry_in(claim);
                    tracing::warn!(
                        airport = %claim.airport, day = date(claim.window.begin), %error, retry_in_s = wait, "no answer"
                    );
                    self.store.release(claim, Some(wait)).await?;
                }
                // A trial that failed in a way that does not count leaves the breaker half open: the next one waits.
                let half_open = matches!(self.breaker.state(), State::HalfOpen { .. });
                Ok(half_open.then(|| Pause::Until(Instant::now() + RETRY.0)))
            }
        }
    }

    /// Brings the gauges up to date.
    async fn observe(&self) {
        self.meters.breaker.set(match self.breaker.state() {
            State::Closed { .. } => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        });
        if let Ok((due, _)) = self.store.waiting().await {
            self.meters.due.set(due);
        }
        if let Ok(Some(left)) = self.store.credits(self.clock.now().div_euclid(DAY)).await {
            self.meters.credits.set(left);
        }
    }
}

/// How long after a failed attempt the next one is, in seconds.
fn retry_in(claim: &Claim) -> i64 {
    seconds(doubled(RETRY.0, RETRY.1, claim.attempts))
}

/// Asks for both directions: a window counts only when both were answered.
async fn fetch(opensky: &OpenSky, claim: &Claim) -> Result<(Fetched, Option<i64>), OpenSkyError> {
    let arrivals = opensky.flights(claim.airport, Direction::Arrivals, claim.window).await?;
    let departures = opensky.flights(claim.airport, Direction::Departures, claim.window).await?;
    let fetched = Fetched { arrivals: arrivals.flights, departures: departures.flights };
    Ok((fetched, departures.credits.or(arrivals.credits)))
}
