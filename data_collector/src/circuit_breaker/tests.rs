//! What the breaker does, told one by one, and that it does what the model does.

use proptest::prelude::*;

use super::model::{Model, Phase, Seen};
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

/// A thing that happens. Numbers choose among the calls that are out.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    End(usize, Outcome),
    Cancel(usize),
    /// Time passes, stands still, or is told out of order, as it is by threads that looked at the clock before others.
    Time(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Ask),
        1 => any::<usize>().prop_map(|call| Step::End(call, Outcome::Success)),
        3 => any::<usize>().prop_map(|call| Step::End(call, Outcome::Failure)),
        1 => any::<usize>().prop_map(Step::Cancel),
        2 => (-1i64..5).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 1..150)
}

fn settings() -> impl Strategy<Value = Settings> {
    (1u32..=4, 1u32..=4, 0u64..=6).prop_map(|(failure_threshold, success_threshold, timeout)| Settings {
        failure_threshold,
        success_threshold,
        timeout: Duration::from_secs(timeout),
    })
}

/// What the machine shows, in the model's words.
fn seen(breaker: &CircuitBreaker, now: Instant) -> Seen {
    let (phase, in_a_row, trial_out, open_since) = match breaker.state() {
        State::Closed { failures } => (Phase::Closed, failures, false, None),
        State::Open { since } => (Phase::Open, 0, false, Some(since)),
        State::HalfOpen { successes, trial_out } => (Phase::HalfOpen, successes, trial_out, None),
    };
    Seen {
        phase,
        open_since,
        in_a_row,
        trial_out,
        refuses_until: breaker.refuses_until(now),
        wants_trial: breaker.wants_trial(),
        counters: breaker.counters(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn it_does_what_the_model_does(settings in settings(), steps in steps()) {
        // Far from the beginning of time, so that it can go back.
        let mut now = Instant::now() + Duration::from_secs(3600);
        let (breaker, mut model) = (CircuitBreaker::new(settings), Model::new(settings, now));
        let mut out: Vec<(Permit, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Ask => match (breaker.admit(now), model.ask(now)) {
                    (Ok(permit), Ok(call)) => out.push((permit, call)),
                    (Err(refused), Err(until)) => prop_assert_eq!(refused.until, until),
                    (machine, model) => prop_assert!(false, "{:?}, but the model {:?}", machine, model),
                },
                Step::End(which, outcome) if !out.is_empty() => {
                    let (permit, call) = out.swap_remove(which % out.len());
                    permit.record(outcome, now);
                    model.end(call, outcome, now);
                }
                Step::Cancel(which) if !out.is_empty() => {
                    let (permit, call) = out.swap_remove(which % out.len());
                    drop(permit);
                    model.cancel(call);
                }
                Step::End(..) | Step::Cancel(_) => {}
                Step::Time(seconds) if seconds < 0 => now -= Duration::from_secs(1),
                Step::Time(seconds) => now += Duration::from_secs(seconds.unsigned_abs()),
            }
            prop_assert_eq!(seen(&breaker, now), model.see(now), "after {:?}", step);
        }
    }
}
