//! The circuit breaker in front of OpenSky: plain Rust, no I/O, time as a parameter.
//!
//! *Closed* lets everything pass. After a number of failures in a row it is *open* and refuses at once, until a
//! time-out after the failure that opened it. Then it is *half open*: one trial at a time passes; enough successes
//! close it, a failure opens it again.

#[cfg(test)]
mod concurrency_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The breaker's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Failures in a row that open it.
    pub(crate) failure_threshold: u32,
    /// Successes in a row that close it again.
    pub(crate) success_threshold: u32,
    /// How long it stays open.
    pub(crate) timeout: Duration,
}

/// What the breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Everything; so many calls have failed in a row.
    Closed { failures: u32 },
    /// Nothing, since the failure at this time.
    Open { since: Instant },
    /// One trial at a time.
    HalfOpen { successes: u32, trial_out: bool },
}

impl State {
    /// The name in /status and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// Calls that ended well.
    pub(crate) successes: u64,
    /// Calls that ended in a failure that counts.
    pub(crate) failures: u64,
    /// Calls refused while open.
    pub(crate) refused: u64,
    /// Times it opened.
    pub(crate) opened: u64,
    /// Times it became half open.
    pub(crate) half_opened: u64,
    /// Times it closed again.
    pub(crate) closed: u64,
    /// Failures in a row up to now.
    pub(crate) consecutive_failures: u32,
}

/// The call is refused; a trial is possible at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) until: Instant,
}

/// The state and its transitions. Each change of state begins a new generation; results of calls admitted in an
/// earlier one say nothing about now.
#[derive(Debug)]
struct Machine {
    settings: Settings,
    state: State,
    generation: u64,
    counters: Counters,
}

impl Machine {
    fn new(settings: Settings) -> Machine {
        Machine {
            settings,
            state: State::Closed { failures: 0 },
            generation: 0,
            counters: Counters::default(),
        }
    }

    fn enter(&mut self, state: State) {
        let transitions = match state {
            State::Closed { .. } => &mut self.counters.closed,
            State::Open { .. } => &mut self.counters.opened,
            State::HalfOpen { .. } => &mut self.counters.half_opened,
        };
        *transitions += 1;
        self.state = state;
        self.generation += 1;
    }

    /// Admits a call and says in which generation, or refuses it.
    fn admit(&mut self, now: Instant) -> Result<u64, Refused> {
        if let State::Open { since } = self.state
            && now >= since + self.settings.timeout
        {
            self.enter(State::HalfOpen { successes: 0, trial_out: false });
        }
        match &mut self.state {
            State::Closed { .. } => Ok(self.generation),
            State::HalfOpen { trial_out, .. } if !*trial_out => {
                *trial_out = true;
                Ok(self.generation)
            }
            State::HalfOpen { .. } => Err(self.refuse(now)),
            State::Open { since } => {
                let until = *since + self.settings.timeout;
                Err(self.refuse(until))
            }
        }
    }

    fn refuse(&mut self, until: Instant) -> Refused {
        self.counters.refused += 1;
        Refused { until }
    }

    fn record(&mut self, generation: u64, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Success => self.counters.successes += 1,
            Outcome::Failure => self.counters.failures += 1,
        }
        if generation != self.generation {
            return;
        }
        self.counters.consecutive_failures = match outcome {
            Outcome::Success => 0,
            Outcome::Failure => self.counters.consecutive_failures + 1,
        };
        match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Success) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, Outcome::Failure)
                if failures + 1 < self.settings.failure_threshold =>
            {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::HalfOpen { successes, .. }, Outcome::Success) => {
                if successes + 1 < self.settings.success_threshold {
                    self.state = State::HalfOpen { successes: successes + 1, trial_out: false };
                } else {
                    self.enter(State::Closed { failures: 0 });
                }
            }
            (State::Closed { .. } | State::HalfOpen { .. }, Outcome::Failure) => {
                self.enter(State::Open { since: now });
            }
            // No call is admitted while open, so none of this generation can end.
            (State::Open { .. }, _) => {}
        }
    }

    /// A call ended without a result: it only frees its place.
    fn cancel(&mut self, generation: u64) {
        if generation == self.generation
            && let State::HalfOpen { trial_out, .. } = &mut self.state
        {
            *trial_out = false;
        }
    }
}

/// The breaker. Clones share it; no lock is held while a call runs.
#[derive(Clone, Debug)]
pub(crate) struct CircuitBreaker(Arc<Mutex<Machine>>);

impl CircuitBreaker {
    pub(crate) fn new(settings: Settings) -> CircuitBreaker {
        CircuitBreaker(Arc::new(Mutex::new(Machine::new(settings))))
    }

    /// A permit for one call, or the time until which there is none.
    pub(crate) fn admit(&self, now: Instant) -> Result<Permit, Refused> {
        let generation = self.machine().admit(now)?;
        Ok(Permit { breaker: self.clone(), generation, used: false })
    }

    /// The time until which calls are refused, if they are. Asking changes nothing and counts nothing.
    pub(crate) fn refuses_until(&self, now: Instant) -> Option<Instant> {
        let machine = self.machine();
        match machine.state {
            State::Open { since } => Some(since + machine.settings.timeout).filter(|until| *until > now),
            _ => None,
        }
    }

    /// Whether the next admitted call is a trial.
    pub(crate) fn wants_trial(&self) -> bool {
        !matches!(self.machine().state, State::Closed { .. })
    }

    pub(crate) fn state(&self) -> State {
        self.machine().state
    }

    pub(crate) fn counters(&self) -> Counters {
        self.machine().counters
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to make one call. Dropped without a result (the call was cancelled) it frees its place and counts nothing.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: CircuitBreaker,
    generation: u64,
    used: bool,
}

impl Permit {
    pub(crate) fn record(mut self, outcome: Outcome, now: Instant) {
        self.used = true;
        self.breaker.machine().record(self.generation, outcome, now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.used {
            self.breaker.machine().cancel(self.generation);
        }
    }
}
