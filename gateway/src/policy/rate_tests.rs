use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::problem::Refusal;

const SECOND: Duration = Duration::from_secs(1);
const NANOSECOND: Duration = Duration::from_nanos(1);

fn client(n: u32) -> Client {
    Client::V4(n.to_be_bytes())
}

fn limiter(rate: &str, clients: usize) -> Limiter {
    Limiter::new("default", rate.parse().unwrap(), clients)
}

/// How many of `tries` requests at `now` are admitted.
fn admitted(limiter: &Limiter, client: Client, now: Instant, tries: u32) -> u32 {
    (0..tries).filter(|_| limiter.check(client, now).is_ok()).count() as u32
}

#[test]
fn a_rate_is_read_and_written_in_one_form() {
    for text in ["50/s burst 200", "0.001/s burst 1", "1000000/s burst 1000000", "0.5/s burst 7"] {
        assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
    }
    assert_eq!("2.5/s".parse::<Rate>().unwrap().to_string(), "2.5/s burst 3");
    assert_eq!(" 50/s burst  200 ".parse(), Ok(Rate::new(50.0, 200)));
    for text in [
        "",
        "50",
        "50/m",
        "/s",
        "x/s",
        "50/s burst",
        "50/s burst x",
        "50/s burst -1",
        "50/s burst 0",
        "0/s",
        "-1/s",
        "0.0009/s",
        "NaN/s",
        "inf/s",
        "1000001/s",
        "1/s burst 1000001",
        "50/s burst 4294967296",
    ] {
        assert!(text.parse::<Rate>().is_err(), "{text:?}");
    }
    assert_eq!(Rate::new(f64::NAN, 0), "0.001/s burst 1".parse().unwrap());
    assert_eq!(Rate::new(f64::INFINITY, u32::MAX), "1000000/s burst 1000000".parse().unwrap());
}

#[test]
fn a_request_costs_the_rate_s_inverse_rounded_up() {
    for (rate, nanos) in [
        ("50/s", 20_000_000),
        ("3/s", 333_333_334),
        ("1000000/s", 1_000),
        ("0.001/s", 1_000_000_000_000),
        ("0.1/s", 10_000_000_000),
    ] {
        assert_eq!(rate.parse::<Rate>().unwrap().interval(), Duration::from_nanos(nanos), "{rate}");
    }
}

#[test]
fn the_burst_is_admitted_at_once_and_then_one_at_each_interval_to_the_nanosecond() {
    for (rate, burst, interval) in [("50/s burst 200", 200, 20_000_000), ("3/s burst 1", 1, 333_333_334)] {
        let (limiter, begin) = (limiter(rate, 10), Instant::now());
        let interval = Duration::from_nanos(interval);
        assert_eq!(admitted(&limiter, client(1), begin, burst + 5), burst, "{rate}");
        assert_eq!(admitted(&limiter, client(2), begin, burst + 5), burst, "{rate}: another client");
        assert_eq!(admitted(&limiter, client(1), begin + interval - NANOSECOND, 1), 0, "{rate}");
        assert_eq!(admitted(&limiter, client(1), begin + interval, 2), 1, "{rate}");
        let later = begin + interval * (burst + 1);
        assert_eq!(admitted(&limiter, client(1), later - NANOSECOND, burst + 5), burst - 1, "{rate}");
        assert_eq!(admitted(&limiter, client(1), later, 5), 1, "{rate}");
    }
}

#[test]
fn the_slowest_rate_with_the_largest_burst_does_not_overflow() {
    let (limiter, begin) = (limiter("0.001/s burst 1000000", 10), Instant::now());
    assert_eq!(admitted(&limiter, client(1), begin, 1_000_001), 1_000_000);
    assert_eq!(limiter.check(client(1), begin).unwrap_err().retry_after(), 1_000);
}

#[test]
fn an_instant_before_the_last_one_is_no_gift() {
    let (limiter, begin) = (limiter("1/s burst 2", 10), Instant::now());
    assert_eq!(admitted(&limiter, client(1), begin + SECOND, 2), 2);
    assert_eq!(admitted(&limiter, client(1), begin, 1), 0);
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let headers = |limiter: &Limiter, now| -> Vec<String> {
        let refused = limiter.check(client(1), now).unwrap_err();
        refused.headers().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    };
    let (fast, begin) = (limiter("50/s burst 200", 10), Instant::now());
    admitted(&fast, client(1), begin, 200);
    assert_eq!(
        headers(&fast, begin),
        ["retry-after: 1", "ratelimit-policy: \"default\";q=200;w=4", "ratelimit: \"default\";r=0;t=1"]
    );
    let slow = Limiter::new("login", "0.4/s burst 1".parse().unwrap(), 10);
    admitted(&slow, client(1), begin, 1);
    assert_eq!(
        headers(&slow, begin),
        ["retry-after: 3", "ratelimit-policy: \"login\";q=1;w=3", "ratelimit: \"login\";r=0;t=3"]
    );
    // 2.5 s are left; at exactly 2 s it is 2, a nanosecond earlier 3.
    let at = begin + SECOND / 2;
    assert_eq!(slow.check(client(1), at).unwrap_err().retry_after(), 2);
    assert_eq!(slow.check(client(1), at - NANOSECOND).unwrap_err().retry_after(), 3);
    assert_eq!(slow.check(client(1), begin + SECOND * 5 / 2), Ok(()), "and then it is admitted");
}

#[test]
fn the_answer_is_a_429_with_these_headers() {
    let (limiter, begin) = (limiter("1/s burst 1", 10), Instant::now());
    admitted(&limiter, client(1), begin, 1);
    let reply = Refusal::Rate(limiter.check(client(1), begin).unwrap_err()).reply("r");
    assert_eq!(reply.status, http::StatusCode::TOO_MANY_REQUESTS);
    let names: Vec<_> = reply.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-type", "cache-control", "retry-after", "ratelimit-policy", "ratelimit"]);
}

#[test]
fn many_addresses_take_no_more_places_than_there_are() {
    let begin = Instant::now();
    for clients in [0, 1, 7, 4_095, 5_000] {
        let limiter = limiter("50/s burst 200", clients);
        for n in 0..20_000 {
            let now = begin + NANOSECOND * n;
            assert_eq!(limiter.check(client(n), now), Ok(()), "a newcomer is admitted");
        }
        assert!(limiter.remembered() <= clients.max(1), "{} of {clients}", limiter.remembered());
        assert!(limiter.remembered() >= clients / 2);
    }
}

#[test]
fn who_owes_nothing_is_forgotten_when_others_come() {
    let (limiter, begin) = (limiter("1/s burst 5", 1_000), Instant::now());
    for n in 0..500 {
        limiter.check(client(n), begin).unwrap();
    }
    for n in 500..1_000 {
        limiter.check(client(n), begin + SECOND).unwrap();
    }
    assert!(limiter.remembered() <= 501, "{} are remembered", limiter.remembered());
}

#[test]
fn a_flood_of_addresses_does_not_free_one_that_is_limited() {
    let (limiter, begin) = (limiter("50/s burst 20", 100), Instant::now());
    assert_eq!(admitted(&limiter, client(0), begin, 20), 20);
    for n in 1..10_000 {
        assert_eq!(limiter.check(client(n), begin), Ok(()));
    }
    assert_eq!(admitted(&limiter, client(0), begin, 1), 0);
    // Nor do addresses that ask almost as often.
    for n in 1..1_000 {
        assert_eq!(admitted(&limiter, client(n), begin, 19), 19);
    }
    assert_eq!(admitted(&limiter, client(0), begin, 1), 0);
    // The price: every place taken by one that owes as much.
    for n in 10_000..10_100 {
        admitted(&limiter, client(n), begin + NANOSECOND, 20);
    }
    assert_eq!(limiter.remembered(), 100);
    assert_eq!(admitted(&limiter, client(0), begin + NANOSECOND, 1), 1);
}

#[test]
fn threads_that_ask_at_once_share_one_burst() {
    let (limiter, begin) = (limiter("1/s burst 100", 5_000), Instant::now());
    let counts = [const { AtomicU32::new(0) }; 3];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..300 {
                    let who = n % 3;
                    let passed = admitted(&limiter, client(who), begin, 1);
                    counts[who as usize].fetch_add(passed, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(counts.map(AtomicU32::into_inner), [100; 3]);
}

/// What the limit promises, by its definition and not by GCRA: a request is admitted exactly if, with it, no interval
/// that ends now has more than `burst + rate · t`.
struct Promise {
    interval: u128,
    burst: u128,
    admitted: Vec<u128>,
}

impl Promise {
    fn check(&mut self, now: u128) -> bool {
        let kept = self
            .admitted
            .iter()
            .rev()
            .zip(2_u128..)
            .all(|(earlier, count)| count <= self.burst + (now - earlier) / self.interval);
        if kept {
            self.admitted.push(now);
        }
        kept
    }
}

proptest! {
    #[test]
    fn exactly_what_the_limit_promises_is_admitted(
        per_second in prop_oneof![Just(1.0), Just(3.0), Just(50.0), Just(1_000_000.0), 0.001_f64..1_000_000.0],
        burst in 1_u32..6,
        // In quarters of an interval and a nanosecond more or less, so that boundaries are met.
        steps in prop::collection::vec((0_u64..10, -1_i64..=1), 1..120),
    ) {
        let rate = Rate::new(per_second, burst);
        let interval = rate.interval().as_nanos() as u64;
        let (limiter, begin) = (Limiter::new("default", rate, 10), Instant::now());
        let mut promise = Promise { interval: interval.into(), burst: burst.into(), admitted: Vec::new() };
        let mut nanos = 0_u64;
        for (quarters, more) in steps {
            nanos += (interval / 4 * quarters).saturating_add_signed(more);
            let verdict = limiter.check(client(1), begin + Duration::from_nanos(nanos));
            prop_assert_eq!(verdict.is_ok(), promise.check(nanos.into()), "after {} ns", nanos);
            if let Err(refused) = verdict {
                let early = limiter.check(client(1), begin + Duration::from_nanos(nanos) + refused.wait - NANOSECOND);
                prop_assert!(early.is_err(), "admitted before {:?}", refused.wait);
            }
        }
    }

    #[test]
    fn as_long_as_there_are_places_the_others_do_not_matter(
        steps in prop::collection::vec((0_u32..8, 0_u64..3), 1..200),
    ) {
        let (crowd, begin) = (limiter("4/s burst 3", 8), Instant::now());
        let alone: Vec<Limiter> = (0..8).map(|_| limiter("4/s burst 3", 1)).collect();
        let mut now = begin;
        for (who, quarters) in steps {
            now += SECOND / 8 * quarters as u32;
            prop_assert_eq!(crowd.check(client(who), now), alone[who as usize].check(client(who), now));
        }
    }
}
