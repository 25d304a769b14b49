//! The breaker as the design tells it, in the plainest way: a list of what has happened, in which everything is looked up
//! anew each time. It shares nothing with the machine but the words that are compared.

use std::time::Instant;

use super::{Counters, Outcome, Settings};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Closed,
    Open,
    HalfOpen,
}

enum Event {
    Entered(Phase, Instant),
    Admitted { call: usize },
    Refused,
    Ended { call: usize, outcome: Outcome },
    Cancelled { call: usize },
}

/// What is compared with the machine after each step.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) phase: Phase,
    pub(super) open_since: Option<Instant>,
    /// Failures in a row while closed, successes while half open.
    pub(super) in_a_row: u32,
    pub(super) trial_out: bool,
    pub(super) refuses_until: Option<Instant>,
    pub(super) wants_trial: bool,
    pub(super) counters: Counters,
}

pub(super) struct Model {
    settings: Settings,
    events: Vec<Event>,
}

impl Model {
    pub(super) fn new(settings: Settings, now: Instant) -> Model {
        Model { settings, events: vec![Event::Entered(Phase::Closed, now)] }
    }

    /// A call asks to pass: its number, or the time until which it is refused.
    pub(super) fn ask(&mut self, now: Instant) -> Result<usize, Instant> {
        let (phase, since) = self.phase();
        let trial_from = since + self.settings.timeout;
        if phase == Phase::Open && now >= trial_from {
            self.events.push(Event::Entered(Phase::HalfOpen, now));
        }
        let refused = match self.phase().0 {
            Phase::Closed => None,
            Phase::Open => Some(trial_from),
            Phase::HalfOpen => self.trial_out().then_some(now),
        };
        if let Some(until) = refused {
            self.events.push(Event::Refused);
            return Err(until);
        }
        let call = self.count(|event| matches!(event, Event::Admitted { .. }));
        self.events.push(Event::Admitted { call });
        Ok(call)
    }

    pub(super) fn end(&mut self, call: usize, outcome: Outcome, now: Instant) {
        let in_time = self.is_of_this_phase(call);
        self.events.push(Event::Ended { call, outcome });
        if !in_time {
            return;
        }
        let (failures, successes) =
            (self.last_in_a_row(Outcome::Failure), self.last_in_a_row(Outcome::Success));
        let next = match self.phase().0 {
            Phase::Closed if failures >= self.settings.failure_threshold => Phase::Open,
            Phase::HalfOpen if outcome == Outcome::Failure => Phase::Open,
            Phase::HalfOpen if successes >= self.settings.success_threshold => Phase::Closed,
            Phase::Closed | Phase::Open | Phase::HalfOpen => return,
        };
        self.events.push(Event::Entered(next, now));
    }

    pub(super) fn cancel(&mut self, call: usize) {
        self.events.push(Event::Cancelled { call });
    }

    pub(super) fn see(&self, now: Instant) -> Seen {
        let (phase, since) = self.phase();
        let until = since + self.settings.timeout;
        Seen {
            phase,
            open_since: (phase == Phase::Open).then_some(since),
            in_a_row: match phase {
                Phase::Closed => self.last_in_a_row(Outcome::Failure),
                Phase::Open => 0,
                Phase::HalfOpen => self.last_in_a_row(Outcome::Success),
            },
            trial_out: phase == Phase::HalfOpen && self.trial_out(),
            refuses_until: (phase == Phase::Open && now < until).then_some(until),
            wants_trial: phase != Phase::Closed,
            counters: self.counters(),
        }
    }

    fn phase(&self) -> (Phase, Instant) {
        let entered = |event: &Event| match event {
            Event::Entered(phase, at) => Some((*phase, *at)),
            _ => None,
        };
        self.events.iter().rev().find_map(entered).unwrap()
    }

    fn this_phase(&self) -> &[Event] {
        let entered = self.events.iter().rposition(|event| matches!(event, Event::Entered(..)));
        &self.events[entered.unwrap()..]
    }

    fn is_of_this_phase(&self, call: usize) -> bool {
        self.this_phase().iter().any(|event| matches!(event, Event::Admitted { call: it } if *it == call))
    }

    /// Whether a call of this phase has neither ended nor been cancelled.
    fn trial_out(&self) -> bool {
        let is_over = |call: usize| {
            self.events.iter().any(|event| match event {
                Event::Ended { call: it, .. } | Event::Cancelled { call: it } => *it == call,
                _ => false,
            })
        };
        let out = |event: &Event| matches!(event, Event::Admitted { call } if !is_over(*call));
        self.this_phase().iter().any(out)
    }

    /// How many of the latest results of this phase's calls were like this, without one of the other kind in between.
    fn last_in_a_row(&self, wanted: Outcome) -> u32 {
        let outcome = |event: &Event| match event {
            Event::Ended { call, outcome } if self.is_of_this_phase(*call) => Some(*outcome),
            _ => None,
        };
        let results = self.this_phase().iter().rev().filter_map(outcome);
        u32::try_from(results.take_while(|outcome| *outcome == wanted).count()).unwrap()
    }

    fn count(&self, which: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| which(event)).count()
    }

    fn counters(&self) -> Counters {
        let count = |which: &dyn Fn(&Event) -> bool| self.count(which) as u64;
        let ended =
            |wanted| count(&|event| matches!(event, Event::Ended { outcome, .. } if *outcome == wanted));
        // The first state was not entered from another.
        let entered = |phase| {
            self.events[1..]
                .iter()
                .filter(|event| matches!(event, Event::Entered(it, _) if *it == phase))
                .count() as u64
        };
        Counters {
            successes: ended(Outcome::Success),
            failures: ended(Outcome::Failure),
            refused: count(&|event| matches!(event, Event::Refused)),
            opened: entered(Phase::Open),
            half_opened: entered(Phase::HalfOpen),
            closed: entered(Phase::Closed),
            consecutive_failures: self.consecutive_failures(),
        }
    }

    /// Over the phases: a failed trial is one more failure in a row. Results that came too late are no part of the row.
    fn consecutive_failures(&self) -> u32 {
        let phase_at = |place: usize| {
            self.events[..place].iter().filter(|event| matches!(event, Event::Entered(..))).count()
        };
        let admitted = |call: usize| {
            let it = |event: &Event| matches!(event, Event::Admitted { call: it } if *it == call);
            self.events.iter().position(it).unwrap()
        };
        let outcome = |(place, event): (usize, &Event)| match event {
            Event::Ended { call, outcome } if phase_at(admitted(*call)) == phase_at(place) => Some(*outcome),
            _ => None,
        };
        let results = self.events.iter().enumerate().rev().filter_map(outcome);
        u32::try_from(results.take_while(|outcome| *outcome == Outcome::Failure).count()).unwrap()
    }
}
