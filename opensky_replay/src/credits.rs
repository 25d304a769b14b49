//! Credits: what a call costs, and what a client has left of its UTC day.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use common::clock::DAY;

use crate::lock;

/// What a caller without a token has for a day, as at OpenSky.
const ANONYMOUS: u32 = 400;
/// Buckets of one day at most; a further client finds its bucket empty.
const BUCKETS: usize = 10_000;

/// Who pays for a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// A caller without a token.
    Anonymous,
    /// The client of that id.
    Client(Arc<str>),
}

/// The bucket is empty, or holds less than the call costs.
pub(crate) struct Empty;

/// A bucket for each caller, full again at midnight UTC.
pub(crate) struct Credits {
    allowance: u32,
    today: Mutex<Today>,
}

struct Today {
    /// Days since 1970.
    day: i64,
    allowance: u32,
    spent: HashMap<Caller, u32>,
}

/// What a call for the flights from `begin` to `end` (Unix seconds, `begin <= end`) costs. It goes by the UTC days
/// that the interval touches, so an interval over midnight is dearer than its length says.
pub(crate) fn cost(begin: i64, end: i64) -> u32 {
    match end.div_euclid(DAY) - begin.div_euclid(DAY) + 1 {
        1 => 4,
        2 => 30,
        days => u32::try_from(days).unwrap_or(u32::MAX).saturating_mul(60),
    }
}

/// Time until the buckets are full again.
pub(crate) fn until_refill(now: i64) -> Duration {
    Duration::from_secs((DAY - now.rem_euclid(DAY)).unsigned_abs())
}

impl Credits {
    /// Buckets of `allowance` credits a day.
    pub(crate) fn new(allowance: u32) -> Credits {
        Credits { allowance, today: Mutex::new(Today { day: 0, allowance, spent: HashMap::new() }) }
    }

    /// Takes the cost of a call from the caller's bucket.
    pub(crate) fn charge(&self, caller: &Caller, cost: u32, now: i64) -> Result<(), Empty> {
        let mut today = self.today(now);
        let full = today.spent.len() == BUCKETS && !today.spent.contains_key(caller);
        if full || cost > today.remaining(caller) {
            return Err(Empty);
        }
        *today.spent.entry(caller.clone()).or_default() += cost;
        Ok(())
    }

    /// What the caller has left today.
    pub(crate) fn remaining(&self, caller: &Caller, now: i64) -> u32 {
        self.today(now).remaining(caller)
    }

    /// The least that any client has left today.
    pub(crate) fn least(&self, now: i64) -> u32 {
        let today = self.today(now);
        let most =
            today.spent.iter().filter(|(caller, _)| **caller != Caller::Anonymous).map(|(_, spent)| *spent);
        today.allowance.saturating_sub(most.max().unwrap_or(0))
    }

    /// Leaves every client that much for the rest of the day, whatever it has spent.
    pub(crate) fn set_remaining(&self, remaining: u32, now: i64) {
        let mut today = self.today(now);
        today.allowance = remaining;
        today.spent.clear();
    }

    /// Today's buckets: new ones if the day is another than at the last look.
    fn today(&self, now: i64) -> MutexGuard<'_, Today> {
        let day = now.div_euclid(DAY);
        let mut today = lock(&self.today);
        if today.day != day {
            *today = Today { day, allowance: self.allowance, spent: HashMap::new() };
        }
        today
    }
}

impl Today {
    fn remaining(&self, caller: &Caller) -> u32 {
        let allowance = match caller {
            Caller::Anonymous => self.allowance.min(ANONYMOUS),
            Caller::Client(_) => self.allowance,
        };
        allowance.saturating_sub(self.spent.get(caller).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_costs_by_the_days_it_touches() {
        assert_eq!(cost(0, 0), 4);
        assert_eq!(cost(0, DAY - 1), 4);
        assert_eq!(cost(0, DAY), 30);
        assert_eq!(cost(DAY - 1, DAY), 30);
        assert_eq!(cost(0, 2 * DAY - 1), 30);
        assert_eq!(cost(0, 2 * DAY), 180);
        assert_eq!(cost(1, 2 * DAY + 1), 180);
    }

    #[test]
    fn buckets_are_bounded() {
        let credits = Credits::new(10);
        let caller = |n: usize| Caller::Client(n.to_string().into());
        assert!((0..BUCKETS).all(|n| credits.charge(&caller(n), 4, 0).is_ok()));
        assert!(credits.charge(&caller(BUCKETS), 4, 0).is_err());
        assert!(credits.charge(&caller(0), 4, 0).is_ok());
        assert!(credits.charge(&caller(BUCKETS), 4, DAY).is_ok());
    }
}
