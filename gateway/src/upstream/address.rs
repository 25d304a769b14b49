//! What is known of one address: what requests found out (its standing) and what checks found out (its health). The two
//! are independent, because they look at different ports.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Consecutive failed checks after which an address is down.
const DOWN_AFTER: u32 = 3;
/// An ejection grows to at most this many times its first length.
const LONGEST_EJECTION: u32 = 8;

/// When requests stop going to an address that fails them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Consecutive failures.
    pub(super) eject_after: u32,
    /// The first ejection; each further one is twice as long, up to eight times.
    pub(super) eject_for: Duration,
}

/// One address of a service.
#[derive(Debug)]
pub(super) struct Address {
    /// Where it is.
    pub(super) socket: SocketAddr,
    /// Whether nothing at all is held against it: as long as all is well, requests look at nothing else.
    spotless: AtomicBool,
    record: Mutex<Record>,
}

#[derive(Debug, Default)]
struct Record {
    standing: Standing,
    health: Health,
}

impl Record {
    fn is_good(&self) -> bool {
        !self.health.is_down() && matches!(self.standing, Standing::Good { .. })
    }
}

impl Address {
    /// An address that is up.
    pub(super) fn new(socket: SocketAddr) -> Address {
        Address { socket, spotless: AtomicBool::new(true), record: Mutex::default() }
    }

    /// Whether a request may go here; of an address whose ejection is over, one request may.
    pub(super) fn takes(&self, now: Instant, policy: &Policy) -> bool {
        self.is_spotless() || {
            let mut record = self.record();
            !record.health.is_down() && record.standing.takes(now, policy)
        }
    }

    /// Whether checks found it down.
    pub(super) fn is_down(&self) -> bool {
        !self.is_spotless() && self.record().health.is_down()
    }

    /// Whether it is neither down nor ejected.
    pub(super) fn is_good(&self) -> bool {
        self.is_spotless() || self.record().is_good()
    }

    /// A request failed. The last good address is never ejected. True when this ejects it.
    pub(super) fn failed(&self, now: Instant, policy: &Policy, is_last: bool) -> bool {
        self.change(|record| record.standing.failed(now, policy, is_last))
    }

    /// A request was answered. True when this ends an ejection.
    pub(super) fn succeeded(&self) -> bool {
        !self.is_spotless() && self.change(|record| record.standing.succeeded())
    }

    /// A check's outcome; true when it changes anything. A service that was down and is up is new: its ejection is due
    /// at once, and the next request tries it.
    pub(super) fn checked(&self, good: bool, now: Instant) -> bool {
        self.change(|record| {
            let was_down = record.health.is_down();
            record.health.checked(good);
            let is_down = record.health.is_down();
            if was_down && !is_down {
                record.standing.revive(now);
            }
            was_down != is_down
        })
    }

    fn is_spotless(&self) -> bool {
        self.spotless.load(Ordering::Acquire)
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Record) -> bool) -> bool {
        let mut record = self.record();
        let changed = change(&mut record);
        let spotless = !record.health.is_down() && record.standing == Standing::default();
        self.spotless.store(spotless, Ordering::Release);
        changed
    }
}

/// What requests found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Requests go there.
    Good {
        /// The last ones failed.
        failures: u32,
    },
    /// Requests go elsewhere.
    Ejected {
        /// The next ones wait for this.
        until: Instant,
        /// How often it was ejected since it last was good.
        times: u32,
    },
    /// One request has gone there, and decides.
    Trial {
        /// When another one may, should the first have come to nothing.
        until: Instant,
        /// How often it was ejected since it last was good.
        times: u32,
    },
}

impl Default for Standing {
    fn default() -> Standing {
        Standing::Good { failures: 0 }
    }
}

impl Standing {
    fn takes(&mut self, now: Instant, policy: &Policy) -> bool {
        match *self {
            Standing::Good { .. } => true,
            Standing::Ejected { until, times } | Standing::Trial { until, times } => {
                let due = until <= now;
                if due {
                    *self = Standing::Trial { until: now + policy.eject_for, times };
                }
                due
            }
        }
    }

    fn failed(&mut self, now: Instant, policy: &Policy, is_last: bool) -> bool {
        match *self {
            Standing::Good { failures } => {
                let failures = failures.saturating_add(1);
                let ejected = failures >= policy.eject_after && !is_last;
                *self = if ejected {
                    Standing::Ejected { until: now + policy.eject_for, times: 1 }
                } else {
                    Standing::Good { failures }
                };
                ejected
            }
            // It began before the ejection, or there was nowhere else to go: nothing new.
            Standing::Ejected { .. } => false,
            Standing::Trial { times, .. } => {
                let longer = 1_u32.checked_shl(times).unwrap_or(u32::MAX).min(LONGEST_EJECTION);
                let until = now + policy.eject_for * longer;
                *self = Standing::Ejected { until, times: times.saturating_add(1) };
                false
            }
        }
    }

    fn succeeded(&mut self) -> bool {
        match self {
            Standing::Good { failures } => {
                *failures = 0;
                false
            }
            // It began before the ejection: a service that is being stopped still answers on the connections it has.
            Standing::Ejected { .. } => false,
            Standing::Trial { .. } => {
                *self = Standing::default();
                true
            }
        }
    }

    fn revive(&mut self, now: Instant) {
        if !matches!(self, Standing::Good { .. }) {
            *self = Standing::Ejected { until: now, times: 0 };
        }
    }
}

/// What checks found out: up, until so many in a row failed; up again with the first good one.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    failed: u32,
}

impl Health {
    fn checked(&mut self, good: bool) {
        self.failed = if good { 0 } else { self.failed.saturating_add(1) };
    }

    fn is_down(self) -> bool {
        self.failed >= DOWN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { eject_after: 3, eject_for: SECOND };
    const SECOND: Duration = Duration::from_secs(1);

    fn address() -> (Address, Instant) {
        (Address::new("192.0.2.1:80".parse().unwrap()), Instant::now())
    }

    fn ejected() -> (Address, Instant) {
        let (address, now) = address();
        assert_eq!([0; 3].map(|_| address.failed(now, &POLICY, false)), [false, false, true]);
        (address, now)
    }

    #[test]
    fn consecutive_failures_eject() {
        let (address, now) = address();
        for _ in 0..3 {
            assert!(!address.failed(now, &POLICY, false));
            assert!(!address.failed(now, &POLICY, false));
            assert!(!address.succeeded(), "it was never gone");
        }
        assert!(address.is_good());
        let (address, now) = ejected();
        assert!(!address.is_good());
        assert!(!address.takes(now, &POLICY));
    }

    #[test]
    fn the_last_one_is_not_ejected_before_there_is_another() {
        let (address, now) = address();
        for _ in 0..10 {
            assert!(!address.failed(now, &POLICY, true));
            assert!(address.takes(now, &POLICY));
        }
        assert!(address.failed(now, &POLICY, false));
    }

    #[test]
    fn after_an_ejection_one_request_tries_and_brings_it_back() {
        let (address, now) = ejected();
        let due = now + SECOND;
        assert!(!address.takes(due - Duration::from_millis(1), &POLICY));
        assert!(address.takes(due, &POLICY));
        assert!(!address.takes(due, &POLICY), "only one");
        assert!(address.succeeded());
        assert!(address.takes(due, &POLICY) && address.is_good());
        assert!(!address.failed(due, &POLICY, false), "it has a clean record again");
    }

    #[test]
    fn a_trial_that_comes_to_nothing_is_followed_by_another() {
        let (address, now) = ejected();
        assert!(address.takes(now + SECOND, &POLICY));
        assert!(address.takes(now + 2 * SECOND, &POLICY));
    }

    #[test]
    fn each_failed_trial_ejects_for_twice_as_long_up_to_a_bound() {
        let (address, mut now) = ejected();
        let mut seconds = Vec::new();
        for _ in 0..40 {
            let mut waited = 0;
            while !address.takes(now, &POLICY) {
                now += SECOND;
                waited += 1;
            }
            seconds.push(waited);
            assert!(!address.failed(now, &POLICY, false), "it is told once");
        }
        assert_eq!(seconds[..6], [1, 2, 4, 8, 8, 8]);
        assert_eq!(seconds[39], 8);
    }

    #[test]
    fn what_began_before_the_ejection_changes_nothing() {
        let (address, now) = ejected();
        assert!(!address.failed(now + SECOND / 2, &POLICY, false));
        assert!(!address.succeeded());
        assert!(!address.takes(now + SECOND / 2, &POLICY));
        assert!(address.takes(now + SECOND, &POLICY));
    }

    #[test]
    fn three_failed_checks_are_down_and_one_good_is_up() {
        let (address, now) = address();
        let outcomes = [false, false, true, false, false, false, false, true, false];
        let changes = outcomes.map(|good| address.checked(good, now));
        assert_eq!(changes, [false, false, false, false, false, true, false, true, false]);
        assert!(address.is_good());
    }

    #[test]
    fn down_takes_nothing_whatever_requests_say() {
        let (address, now) = address();
        for _ in 0..3 {
            address.checked(false, now);
        }
        assert!(address.is_down() && !address.takes(now, &POLICY));
        address.succeeded();
        assert!(address.is_down() && !address.takes(now, &POLICY));
    }

    #[test]
    fn a_good_check_leaves_an_ejection_but_a_revival_makes_it_due() {
        let (address, now) = ejected();
        address.checked(true, now);
        assert!(!address.takes(now, &POLICY));
        for _ in 0..3 {
            address.checked(false, now);
        }
        assert!(address.checked(true, now));
        assert!(address.takes(now, &POLICY), "a trial");
        assert!(!address.takes(now, &POLICY), "of one request");
        assert!(!address.failed(now, &POLICY, false));
        assert!(address.takes(now + SECOND, &POLICY), "the time-outs began anew");
    }
}
