//! What is told of the collection.

use std::sync::atomic::AtomicI64;
use std::sync::{Mutex, PoisonError};

use common::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::circuit_breaker::{Counters, State};

/// What /status tells of the collection.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Flight time; 0 before the first cycle.
    pub(crate) last_cycle: AtomicI64,
    /// Flight time.
    pub(crate) next_cycle: AtomicI64,
    /// Why nothing is collected, if so.
    obstacle: Mutex<Option<String>>,
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

    pub(super) fn set_obstacle(&self, obstacle: Option<String>) {
        *self.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
    }
}

/// What the collector reports.
pub(crate) struct Meters {
    pub(super) stored: Counter,
    pub(super) failed: Counter,
    pub(super) due: Gauge,
    breaker: Gauge,
    pub(super) credits: Gauge,
    calls: Family<Call, Counter>,
    transitions: Family<Transition, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Transition {
    to: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    outcome: &'static str,
}

impl Meters {
    pub(crate) fn new(metrics: &mut Metrics) -> Meters {
        let meters = Meters {
            stored: Counter::default(),
            failed: Counter::default(),
            due: Gauge::default(),
            breaker: Gauge::default(),
            credits: Gauge::default(),
            calls: Family::default(),
            transitions: Family::default(),
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
        metrics.register("breaker_transitions", "State changes of the breaker", meters.transitions.clone());
        metrics.register("opensky_calls", "Calls for flights by how they ended", meters.calls.clone());
        meters
    }

    /// Brings the breaker's part up to date.
    pub(super) fn tell_breaker(&self, state: State, counters: Counters) {
        self.breaker.set(match state {
            State::Closed { .. } => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
        });
        let changes =
            [("closed", counters.closed), ("open", counters.opened), ("half_open", counters.half_opened)];
        for (to, count) in changes {
            let counter = self.transitions.get_or_create(&Transition { to });
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }

    /// Counts a call to OpenSky.
    pub(super) fn count(&self, outcome: &'static str) {
        self.calls.get_or_create(&Call { outcome }).inc();
    }
}
