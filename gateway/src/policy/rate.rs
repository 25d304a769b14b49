//! How often a client may ask: the generic cell rate algorithm (GCRA), in whole nanoseconds.
//!
//! Of each client one instant is kept, its *theoretical arrival time*: when it will have paid for all that it has
//! asked. A request costs `1 / rate`; it is admitted if the client then owes no more than its burst. So in any
//! interval of length t a client is admitted at most `burst + rate · t` times, and it is refused only where one
//! more would break that.
//!
//! # When there are too many clients
//! The number of clients that are remembered is bounded, and nobody is ever refused because of others. Where a new
//! one finds no place, the client that owes least is forgotten: first those that owe nothing, which changes
//! nothing. So a client that is at its limit is among the last to be forgotten, and addresses that asked once push
//! out each other rather than it. To be forgotten it needs as many other addresses as there are places, each of
//! which owes as much as it does; to keep all places taken by clients that owe something takes `places · rate`
//! admitted requests a second. Whoever has these addresses has that rate anyway, one address after the other:
//! limits per client do not help against him, only the bound on requests in flight does.

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue, header};

use super::client::Client;

/// A sustained rate with a burst on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    per_second: f64,
    burst: u32,
}

/// The most of either: so no product of the two overflows.
const MOST: u32 = 1_000_000;
/// One request in a thousand seconds.
const LEAST: f64 = 0.001;

impl Rate {
    /// `per_second` requests a second in the long run (0.001 to a million), `burst` at once (1 to a million); what
    /// lies outside is brought to the nearest bound.
    pub(crate) fn new(per_second: f64, burst: u32) -> Rate {
        // In this order NaN becomes the least.
        let per_second = per_second.max(LEAST).min(f64::from(MOST));
        Rate { per_second, burst: burst.clamp(1, MOST) }
    }

    /// What a request costs: `1 / rate`, rounded up to nanoseconds, so that the rate is never exceeded.
    fn interval(self) -> Duration {
        Duration::from_nanos((1e9 / self.per_second).ceil() as u64)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s burst {}", self.per_second, self.burst)
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `50/s burst 200`; without a burst it is one second's worth.
    fn from_str(text: &str) -> Result<Rate, String> {
        let refusal = || format!("{text:?} is not of the form \"50/s burst 200\"");
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst.trim().parse().map_err(|_| refusal())?)),
            None => (text, None),
        };
        let per_second: f64 =
            rate.trim().strip_suffix("/s").and_then(|rate| rate.parse().ok()).ok_or_else(refusal)?;
        if !(LEAST..=f64::from(MOST)).contains(&per_second) {
            return Err(format!("{text:?}: the rate must be {LEAST}/s to {MOST}/s"));
        }
        let burst = burst.unwrap_or(per_second.ceil() as u32);
        if !(1..=MOST).contains(&burst) {
            return Err(format!("{text:?}: the burst must be 1 to {MOST}"));
        }
        Ok(Rate { per_second, burst })
    }
}

/// Why a request was refused: its client has asked too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exceeded {
    policy: &'static str,
    burst: u32,
    window: Duration,
    wait: Duration,
}

impl Exceeded {
    /// When the next request will be admitted: whole seconds, rounded up, at least 1.
    pub(crate) fn retry_after(&self) -> u64 {
        whole_seconds(self.wait)
    }

    /// `Retry-After`, and `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let (policy, wait) = (self.policy, self.retry_after());
        let quota = format!("\"{policy}\";q={};w={}", self.burst, whole_seconds(self.window));
        let left = format!("\"{policy}\";r=0;t={wait}");
        let fields = [
            (header::RETRY_AFTER, Ok(wait.into())),
            (HeaderName::from_static("ratelimit-policy"), quota.try_into()),
            (HeaderName::from_static("ratelimit"), left.try_into()),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value.ok()?)))
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_secs() + u64::from(duration.subsec_nanos() > 0)).max(1)
}

/// A rate, and what each client has used of it.
pub(crate) struct Limiter {
    policy: &'static str,
    burst: u32,
    interval: Duration,
    /// What a client may owe and still be admitted.
    tolerance: Duration,
    /// Chooses a shard; a secret, so that nobody can aim at one.
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

/// A share of the clients, behind a lock of its own.
struct Shard {
    places: usize,
    /// Theoretical arrival times.
    arrivals: HashMap<Client, Instant>,
    /// Every client once, the one that owes least on top. The instants may lie behind `arrivals`, which only grow:
    /// they are brought up to date when they come to the top, so a known client costs no more than a look into
    /// `arrivals`.
    by_debt: BinaryHeap<Reverse<(Instant, Client)>>,
}

impl Limiter {
    /// Remembers at most `clients` clients (at least 1). `policy` is the name of this limit in headers.
    pub(crate) fn new(policy: &'static str, rate: Rate, clients: usize) -> Limiter {
        let interval = rate.interval();
        // Few clients are not worth a division: each shard can be full before the others.
        let shards = if clients < 4_096 { 1 } else { 16 };
        let shard = || Shard {
            places: (clients / shards).max(1),
            arrivals: HashMap::new(),
            by_debt: BinaryHeap::new(),
        };
        Limiter {
            policy,
            burst: rate.burst,
            interval,
            tolerance: interval * (rate.burst - 1),
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(|| Mutex::new(shard())).take(shards).collect(),
        }
    }

    /// Counts a request of `client` at `now`. One that is refused costs nothing.
    pub(crate) fn check(&self, client: Client, now: Instant) -> Result<(), Exceeded> {
        let place = self.hasher.hash_one(client) as usize % self.shards.len();
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        let owed = match shard.arrivals.get_mut(&client) {
            Some(arrival) => {
                let due = (*arrival).max(now);
                let owed = due.saturating_duration_since(now);
                if owed <= self.tolerance {
                    *arrival = due + self.interval;
                }
                owed
            }
            None => {
                shard.make_place(now);
                shard.add(client, now + self.interval);
                Duration::ZERO
            }
        };
        match owed.checked_sub(self.tolerance) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => {
                let window = self.interval * self.burst;
                Err(Exceeded { policy: self.policy, burst: self.burst, window, wait })
            }
        }
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        let lock = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap();
            assert_eq!(shard.arrivals.len(), shard.by_debt.len());
            shard.arrivals.len()
        };
        self.shards.iter().map(lock).sum()
    }
}

impl Shard {
    fn add(&mut self, client: Client, arrival: Instant) {
        self.arrivals.insert(client, arrival);
        self.by_debt.push(Reverse((arrival, client)));
    }

    /// Forgets up to two clients that owe nothing, so that there are fewer and fewer of them, and then, if there is
    /// still no place, the one that owes least. Bringing an instant up to date was paid for by the request that
    /// moved it.
    fn make_place(&mut self, now: Instant) {
        let mut looks = 2_u8;
        while let Some(mut top) = self.by_debt.peek_mut() {
            let full = self.arrivals.len() >= self.places;
            if looks == 0 && !full {
                return;
            }
            let Reverse((seen, client)) = *top;
            match self.arrivals.get(&client) {
                Some(arrival) if *arrival > seen => *top = Reverse((*arrival, client)),
                _ if full || seen <= now => {
                    PeekMut::pop(top);
                    self.arrivals.remove(&client);
                }
                _ => return,
            }
            looks = looks.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[path = "rate_tests.rs"]
mod tests;
