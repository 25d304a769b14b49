//! Whether a request that failed is sent once more.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request is sent at most this many times more.
pub(crate) const MAX_RETRIES: usize = 2;
/// Thousandths: what one retry costs.
const RETRY: u64 = 1000;
/// Retries that the fewest requests allow at once, and one more each second.
const FLOOR: u32 = 10;

/// The addresses to which a request has been sent, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    addresses: [Option<SocketAddr>; MAX_RETRIES + 1],
}

impl Tried {
    /// One more; beyond the most that are tried, it is forgotten.
    pub(crate) fn push(&mut self, address: SocketAddr) {
        if let Some(place) = self.addresses.iter_mut().find(|place| place.is_none()) {
            *place = Some(address);
        }
    }

    /// The one that was tried last.
    pub(crate) fn last(&self) -> Option<SocketAddr> {
        self.addresses.iter().copied().flatten().last()
    }

    /// Whether this one was tried.
    pub(super) fn contains(&self, address: SocketAddr) -> bool {
        self.addresses.contains(&Some(address))
    }

    /// Whether it has been sent as often as it may be.
    pub(super) fn is_full(&self) -> bool {
        self.addresses.iter().all(Option::is_some)
    }
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection came about, so nothing was sent: whatever the method, another address may have it.
    Connect,
    /// Something was sent, and may have taken effect.
    Exchange {
        /// The method is idempotent, all of the request is still at hand, and the client has seen no answer.
        repeatable: bool,
    },
}

/// Bounds retries to a share of the requests, so that a service in trouble isn't asked twice as much. A bucket: each
/// request puts its share in, each retry takes a whole one out.
#[derive(Debug)]
pub(super) struct Budget {
    /// Thousandths.
    share: u64,
    most: u64,
    tokens: AtomicU64,
    floor: Mutex<Floor>,
}

/// What there is without any requests before: a share of a few requests is nothing.
#[derive(Debug)]
struct Floor {
    tokens: u32,
    /// Whole seconds since then are still to be put in.
    since: Instant,
}

impl Budget {
    /// `share` is of the requests (0.2: one in five; 0: none, not even the floor); `most` are saved up.
    pub(super) fn new(share: f64, most: usize, now: Instant) -> Budget {
        let most = u64::try_from(most).unwrap_or(u64::MAX).saturating_mul(RETRY);
        Budget {
            // A cast of a float saturates, and a budget is small.
            share: (share * RETRY as f64) as u64,
            most,
            tokens: AtomicU64::new(0),
            floor: Mutex::new(Floor { tokens: FLOOR, since: now }),
        }
    }

    /// A request came.
    pub(super) fn deposit(&self) {
        // Threads may put in a little above the bound together, which is bounded, too.
        if self.tokens.load(Ordering::Relaxed) < self.most {
            self.tokens.fetch_add(self.share, Ordering::Relaxed);
        }
    }

    /// Takes a retry out, if there is one.
    pub(super) fn withdraw(&self, now: Instant) -> bool {
        let take = |tokens: u64| tokens.checked_sub(RETRY);
        self.share > 0
            && (self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
                || self.floor.lock().unwrap_or_else(PoisonError::into_inner).withdraw(now))
    }
}

impl Floor {
    fn withdraw(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(seconds).unwrap_or(FLOOR)).min(FLOOR);
            self.since += Duration::from_secs(seconds);
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawals(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let now = Instant::now();
        let budget = Budget::new(0.2, 512, now);
        assert_eq!(withdrawals(&budget, now), 10, "the floor");
        for _ in 0..100 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget, now), 20);
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let now = Instant::now();
        let budget = Budget::new(0.5, 4, now);
        for _ in 0..1000 {
            budget.deposit();
        }
        assert_eq!(withdrawals(&budget, now), 4 + 10);
    }

    #[test]
    fn the_floor_fills_with_time_and_not_beyond() {
        let now = Instant::now();
        let budget = Budget::new(0.2, 512, now);
        assert_eq!(withdrawals(&budget, now), 10);
        assert_eq!(withdrawals(&budget, now + Duration::from_millis(900)), 0);
        assert_eq!(withdrawals(&budget, now + Duration::from_secs(2)), 2);
        assert_eq!(withdrawals(&budget, now + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        let now = Instant::now();
        let budget = Budget::new(0.0, 512, now);
        budget.deposit();
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn a_request_knows_where_it_has_been() {
        let [a, b] = ["192.0.2.1:80", "192.0.2.2:80"].map(|text| text.parse::<SocketAddr>().unwrap());
        let mut tried = Tried::default();
        assert_eq!(tried.last(), None);
        tried.push(a);
        assert!(tried.contains(a) && !tried.contains(b));
        tried.push(b);
        assert!(!tried.is_full());
        tried.push(a);
        assert_eq!(tried.last(), Some(a));
        assert!(tried.is_full());
    }
}
