//! The circuit breaker in front of OpenSky: plain Rust, no I/O, time as a parameter.
//!
//! *Closed* lets everything pass. After a number of failures in a row it is *open* and refuses at once, until a
//! time-out after the failure that opened it. Then it is *half open*: one trial at a time passes; enough successes
//! close it, a failure opens it again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The breaker's parameters.
#[derive(Clone, Copy, Debug)]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings =
        Settings { failure_threshold: 3, success_threshold: 2, timeout: Duration::from_secs(60) };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn fail(breaker: &CircuitBreaker, now: Instant) {
        breaker.admit(now).unwrap().record(Outcome::Failure, now);
    }

    #[test]
    fn it_opens_after_exactly_the_threshold_of_failures_in_a_row() {
        let (breaker, now) = (CircuitBreaker::new(SETTINGS), Instant::now());
        fail(&breaker, now);
        fail(&breaker, now);
        breaker.admit(now).unwrap().record(Outcome::Success, now);
        fail(&breaker, now);
        fail(&breaker, now);
        assert_eq!(breaker.state(), State::Closed { failures: 2 });
        fail(&breaker, now);
        assert_eq!(breaker.admit(now).unwrap_err(), Refused { until: after(now, 60) });
    }

    #[test]
    fn half_open_lets_one_trial_at_a_time_through() {
        let (breaker, start) = (CircuitBreaker::new(SETTINGS), Instant::now());
        (0..3).for_each(|_| fail(&breaker, start));
        let now = after(start, 60);
        let trial = breaker.admit(now).unwrap();
        assert!((0..100).all(|_| breaker.admit(now).is_err()));
        drop(trial);
        breaker.admit(now).expect("a cancelled trial frees its place").record(Outcome::Success, now);
        assert!(matches!(breaker.state(), State::HalfOpen { successes: 1, .. }));
        breaker.admit(now).unwrap().record(Outcome::Success, now);
        assert_eq!(breaker.state(), State::Closed { failures: 0 });
    }

    #[test]
    fn a_failed_trial_opens_it_for_the_whole_time_again() {
        let (breaker, start) = (CircuitBreaker::new(SETTINGS), Instant::now());
        (0..3).for_each(|_| fail(&breaker, start));
        let trial_at = after(start, 75);
        fail(&breaker, trial_at);
        assert_eq!(breaker.refuses_until(trial_at), Some(after(trial_at, 60)));
    }

    #[test]
    fn results_from_an_earlier_state_say_nothing() {
        let (breaker, start) = (CircuitBreaker::new(SETTINGS), Instant::now());
        let slow = breaker.admit(start).unwrap();
        let slower = breaker.admit(start).unwrap();
        (0..3).for_each(|_| fail(&breaker, start));
        slow.record(Outcome::Success, start);
        assert!(matches!(breaker.state(), State::Open { .. }));
        let now = after(start, 60);
        let trial = breaker.admit(now).unwrap();
        slower.record(Outcome::Failure, now);
        assert!(matches!(breaker.state(), State::HalfOpen { trial_out: true, .. }));
        trial.record(Outcome::Success, now);
    }

    #[test]
    fn of_a_hundred_threads_at_once_one_makes_the_trial() {
        let (breaker, start) = (CircuitBreaker::new(SETTINGS), Instant::now());
        (0..3).for_each(|_| fail(&breaker, start));
        let barrier = std::sync::Barrier::new(100);
        let permits: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                barrier.wait();
                breaker.admit(after(start, 60))
            };
            let threads: Vec<_> = (0..100).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(permits.iter().filter(|permit| permit.is_ok()).count(), 1);
        assert_eq!(breaker.counters().refused, 99);
    }

    /// The design's text, told anew from the beginning for each question: what was asked and answered so far decides.
    struct Story {
        settings: Settings,
        told: Vec<Event>,
    }

    #[derive(Clone, Copy)]
    enum Event {
        /// A call was let through.
        Let(usize),
        /// A call ended, or (without an outcome) was cancelled.
        Ended(usize, Option<Outcome>, Instant),
    }

    /// In which state the story ends: its name, when it began, and which calls belong to it.
    #[derive(Default)]
    struct Chapter {
        open_since: Option<Instant>,
        half_open: bool,
        calls: Vec<usize>,
        /// How its calls ended, in order.
        outcomes: Vec<Outcome>,
    }

    impl Story {
        fn chapter(&self) -> Chapter {
            let mut chapter = Chapter::default();
            for event in &self.told {
                match *event {
                    Event::Let(call) => {
                        // Let through although it was open: its time was over.
                        if chapter.open_since.is_some() {
                            chapter = Chapter { half_open: true, ..Chapter::default() };
                        }
                        chapter.calls.push(call);
                    }
                    Event::Ended(call, outcome, at) => {
                        let Some(place) = chapter.calls.iter().position(|known| *known == call) else {
                            continue;
                        };
                        chapter.calls.remove(place);
                        let Some(outcome) = outcome else { continue };
                        chapter.outcomes.push(outcome);
                        let in_a_row = chapter.outcomes.iter().rev().take_while(|it| **it == outcome).count();
                        let in_a_row = u32::try_from(in_a_row).unwrap();
                        let opens = outcome == Outcome::Failure
                            && (chapter.half_open || in_a_row >= self.settings.failure_threshold);
                        let closes = outcome == Outcome::Success
                            && chapter.half_open
                            && in_a_row >= self.settings.success_threshold;
                        if opens {
                            chapter = Chapter { open_since: Some(at), ..Chapter::default() };
                        } else if closes {
                            chapter = Chapter::default();
                        }
                    }
                }
            }
            chapter
        }

        /// Whether a call may go out now.
        fn lets(&self, now: Instant) -> bool {
            let chapter = self.chapter();
            match chapter.open_since {
                Some(since) => now >= since + self.settings.timeout,
                None => !chapter.half_open || chapter.calls.is_empty(),
            }
        }
    }

    proptest! {
        /// Calls that overlap, end late, or are cancelled, in any order: the breaker does what the text says.
        #[test]
        fn it_does_what_the_text_says(
            (failure_threshold, success_threshold, timeout) in (1u32..4, 1u32..4, 0u64..50),
            steps in prop::collection::vec((0u8..6, 0u64..30, 0usize..4), 1..120),
        ) {
            let settings =
                Settings { failure_threshold, success_threshold, timeout: Duration::from_secs(timeout) };
            let (breaker, mut now) = (CircuitBreaker::new(settings), Instant::now());
            let mut story = Story { settings, told: Vec::new() };
            let mut out: Vec<(usize, Permit)> = Vec::new();
            let (mut number, mut refused, mut ended) = (0, 0, [0, 0]);
            for (step, seconds, which) in steps {
                now += Duration::from_secs(seconds);
                match step {
                    0..3 => {
                        let expected = story.lets(now);
                        let admitted = breaker.admit(now);
                        prop_assert_eq!(admitted.is_ok(), expected);
                        match admitted {
                            Ok(permit) => {
                                number += 1;
                                story.told.push(Event::Let(number));
                                out.push((number, permit));
                            }
                            Err(refusal) => {
                                refused += 1;
                                let until = story.chapter().open_since.map_or(now, |since| since + settings.timeout);
                                prop_assert_eq!(refusal.until, until);
                            }
                        }
                    }
                    _ if out.is_empty() => {}
                    _ => {
                        let (call, permit) = out.remove(which % out.len());
                        let outcome = match step {
                            3 => Some(Outcome::Success),
                            4 => Some(Outcome::Failure),
                            _ => None,
                        };
                        match outcome {
                            Some(outcome) => {
                                ended[usize::from(outcome == Outcome::Failure)] += 1;
                                permit.record(outcome, now);
                            }
                            None => drop(permit),
                        }
                        story.told.push(Event::Ended(call, outcome, now));
                    }
                }
                let chapter = story.chapter();
                match breaker.state() {
                    State::Closed { .. } => prop_assert!(chapter.open_since.is_none() && !chapter.half_open),
                    State::Open { since } => prop_assert_eq!(chapter.open_since, Some(since)),
                    State::HalfOpen { trial_out, .. } => {
                        prop_assert!(chapter.half_open);
                        prop_assert_eq!(trial_out, !chapter.calls.is_empty());
                    }
                }
                let counters = breaker.counters();
                prop_assert_eq!((counters.refused, counters.successes, counters.failures), (refused, ended[0], ended[1]));
            }
        }
    }
}
