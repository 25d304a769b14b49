//! Many callers at once: threads, and tasks that wait while their call is under way.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::testing::eventually;
use tokio::sync::Semaphore;

use super::*;

const CALLERS: usize = 100;

/// A breaker that lets one trial through from `now` on.
fn half_open(success_threshold: u32, now: Instant) -> CircuitBreaker {
    let settings = Settings { failure_threshold: 1, success_threshold, timeout: Duration::ZERO };
    let breaker = CircuitBreaker::new(settings);
    breaker.admit(now).unwrap().record(Outcome::Failure, now);
    assert!(matches!(breaker.state(), State::Open { .. }));
    breaker
}

/// A hundred threads ask at the same moment; the permits they got.
fn rush(breaker: &CircuitBreaker, now: Instant) -> Vec<Permit> {
    let barrier = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            breaker.admit(now).ok()
        };
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(ask)).collect();
        callers.into_iter().filter_map(|caller| caller.join().unwrap()).collect()
    })
}

#[test]
fn of_a_hundred_threads_one_gets_the_trial_whenever_there_is_one() {
    let now = Instant::now();
    let breaker = half_open(3, now);
    for _ in 0..10 {
        // Cancelled: the next trial follows at once.
        assert_eq!(rush(&breaker, now).len(), 1);
    }
    for successes in 1..=2 {
        let mut trial = rush(&breaker, now);
        assert_eq!(trial.len(), 1);
        trial.remove(0).record(Outcome::Success, now);
        assert_eq!(breaker.state(), State::HalfOpen { successes, trial_out: false });
    }
    assert_eq!(breaker.counters().refused, 12 * (CALLERS as u64 - 1));
    rush(&breaker, now).remove(0).record(Outcome::Success, now);
    assert_eq!(rush(&breaker, now).len(), CALLERS);
}

#[test]
fn results_from_many_threads_open_and_close_it_once() {
    let now = Instant::now();
    let settings =
        Settings { failure_threshold: CALLERS as u32, success_threshold: 1, timeout: Duration::ZERO };
    let breaker = CircuitBreaker::new(settings);
    let permits = rush(&breaker, now);
    assert_eq!(permits.len(), CALLERS);
    std::thread::scope(|scope| {
        for permit in permits {
            scope.spawn(move || permit.record(Outcome::Failure, now));
        }
    });
    let counters = breaker.counters();
    assert_eq!((counters.failures, counters.opened), (CALLERS as u64, 1));
    assert_eq!(breaker.state(), State::Open { since: now });
}

/// A service that is called through the breaker, and answers when it is let.
struct Service {
    breaker: CircuitBreaker,
    called: AtomicUsize,
    answers: Semaphore,
}

impl Service {
    fn new(breaker: CircuitBreaker) -> Arc<Service> {
        Arc::new(Service { breaker, called: AtomicUsize::new(0), answers: Semaphore::new(0) })
    }

    /// `false` if the breaker refused.
    async fn call(&self, now: Instant) -> bool {
        let Ok(permit) = self.breaker.admit(now) else { return false };
        self.called.fetch_add(1, Ordering::SeqCst);
        self.answers.acquire().await.unwrap().forget();
        permit.record(Outcome::Success, now);
        true
    }

    async fn is_called(&self, times: usize) {
        let called = || self.called.load(Ordering::SeqCst);
        eventually("a call", async || (called() == times).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_tasks_one_makes_the_trial_and_no_lock_is_held_meanwhile() {
    let now = Instant::now();
    let service = Service::new(half_open(1, now));
    let tasks: Vec<_> = (0..CALLERS)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { service.call(now).await })
        })
        .collect();
    // The refused ones end while the trial is under way; a lock held by it would keep them.
    let refused = || tasks.iter().filter(|task| task.is_finished()).count();
    eventually("the refusals", async || (refused() == CALLERS - 1).then_some(())).await;
    assert_eq!(service.breaker.counters().refused, CALLERS as u64 - 1);
    assert_eq!(service.breaker.state(), State::HalfOpen { successes: 0, trial_out: true });
    service.answers.add_permits(1);
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!((made, service.called.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(service.breaker.state(), State::Closed { failures: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trial_that_is_cancelled_in_the_middle_of_its_call_leaves_its_place() {
    let now = Instant::now();
    let service = Service::new(half_open(1, now));
    let spawn = || {
        let service = service.clone();
        tokio::spawn(async move { service.call(now).await })
    };
    for trial in 1..=5 {
        let hanging = spawn();
        service.is_called(trial).await;
        assert!(service.breaker.admit(now).is_err());
        hanging.abort();
        assert!(hanging.await.unwrap_err().is_cancelled());
    }
    service.answers.add_permits(1);
    assert!(service.call(now).await);
    assert_eq!(service.breaker.state(), State::Closed { failures: 0 });
}

#[tokio::test]
async fn a_trial_that_hangs_until_its_time_is_over_is_followed_by_the_next() {
    let now = Instant::now();
    let service = Service::new(half_open(1, now));
    // The time-out that a caller sets, which is over when the service has been called and does not answer.
    let time_out = async |trial| service.is_called(trial).await;
    for trial in 1..=3 {
        let hung = tokio::select! {
            _ = service.call(now) => false,
            () = time_out(trial) => true,
        };
        assert!(hung);
        assert_eq!(service.breaker.state(), State::HalfOpen { successes: 0, trial_out: false });
    }
    // A client that counts the time-out as a failure opens it again, and the next trial follows the breaker's own time.
    service.breaker.admit(now).unwrap().record(Outcome::Failure, now);
    assert_eq!(service.breaker.state(), State::Open { since: now });
    service.answers.add_permits(1);
    assert!(service.call(now).await);
    assert_eq!(service.breaker.state(), State::Closed { failures: 0 });
}
