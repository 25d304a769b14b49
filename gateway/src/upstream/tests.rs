use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings(ports: &[u16]) -> UpstreamSettings {
    let addresses = ports.iter().map(|port| Endpoint::new("192.0.2.1", *port)).collect();
    UpstreamSettings { eject_after: 2, eject_for: SECOND, ..UpstreamSettings::new("service", addresses, 9) }
}

fn upstream(ports: &[u16]) -> Arc<Upstream> {
    Upstream::new(&settings(ports), Counters::default())
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::new("192.0.2.1".parse().unwrap(), port)
}

fn tried(ports: &[u16]) -> Tried {
    let mut tried = Tried::default();
    for port in ports {
        tried.push(at(*port));
    }
    tried
}

fn picks(upstream: &Upstream, times: usize, now: Instant) -> Vec<u16> {
    (0..times).map(|_| upstream.pick(&Tried::default(), now).unwrap().port()).collect()
}

fn eject(upstream: &Upstream, port: u16, now: Instant) {
    let before = upstream.counters.ejections.get();
    upstream.failed(at(port), now);
    upstream.failed(at(port), now);
    assert_eq!(upstream.counters.ejections.get(), before + 1);
}

fn down(upstream: &Upstream, port: u16, now: Instant) {
    for _ in 0..3 {
        upstream.checked(at(port), false, now);
    }
}

#[test]
fn addresses_are_taken_in_turn() {
    assert_eq!(picks(&upstream(&[1, 2]), 4, Instant::now()), [1, 2, 1, 2]);
}

#[test]
fn a_request_goes_where_it_has_not_been() {
    let (upstream, now) = (upstream(&[1, 2, 3]), Instant::now());
    for _ in 0..6 {
        assert_eq!(upstream.pick(&tried(&[1, 3]), now), Some(at(2)));
    }
    assert!(upstream.pick(&tried(&[1, 2, 3]), now).is_some(), "somewhere again, rather than nowhere");
}

#[test]
fn the_others_share_an_ejected_ones_requests_evenly() {
    let (upstream, now) = (upstream(&[1, 2, 3]), Instant::now());
    eject(&upstream, 2, now);
    assert_eq!(upstream.counters.healthy.get(), 2);
    let mut counts = BTreeMap::new();
    for port in picks(&upstream, 100, now) {
        *counts.entry(port).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([(1, 50), (3, 50)]));
}

#[test]
fn an_ejected_one_is_tried_by_one_request_and_comes_back_with_its_answer() {
    let (upstream, now) = (upstream(&[1, 2]), Instant::now());
    eject(&upstream, 1, now);
    assert_eq!(picks(&upstream, 4, now), [2; 4]);
    let due = now + SECOND;
    assert_eq!(picks(&upstream, 8, due).iter().filter(|port| **port == 1).count(), 1);
    assert_eq!(upstream.counters.healthy.get(), 1, "not known yet");
    upstream.succeeded(at(1));
    assert_eq!(upstream.counters.healthy.get(), 2);
    assert_eq!(picks(&upstream, 8, due).iter().filter(|port| **port == 1).count(), 4);
}

#[test]
fn the_last_good_address_is_not_ejected() {
    let (upstream, now) = (upstream(&[1, 2]), Instant::now());
    eject(&upstream, 1, now);
    for _ in 0..10 {
        upstream.failed(at(2), now);
    }
    assert_eq!(upstream.counters.ejections.get(), 1);
    assert_eq!(picks(&upstream, 4, now), [2; 4]);
}

#[test]
fn an_ejected_address_is_better_than_a_tried_one_or_none() {
    let (upstream, now) = (upstream(&[1, 2]), Instant::now());
    eject(&upstream, 1, now);
    assert_eq!(upstream.pick(&tried(&[2]), now), Some(at(1)));
    down(&upstream, 2, now);
    assert_eq!(picks(&upstream, 4, now), [1; 4]);
}

#[test]
fn there_is_nowhere_to_go_only_when_all_are_down() {
    let (upstream, now) = (upstream(&[1, 2]), Instant::now());
    down(&upstream, 1, now);
    assert_eq!(picks(&upstream, 4, now), [2; 4]);
    down(&upstream, 2, now);
    assert_eq!(upstream.pick(&Tried::default(), now), None);
    assert_eq!(upstream.counters.healthy.get(), 0);
    upstream.checked(at(1), true, now);
    assert_eq!(picks(&upstream, 4, now), [1; 4]);
    assert_eq!(upstream.counters.healthy.get(), 1);
}

#[test]
fn what_is_known_of_an_address_survives_a_resolution() {
    let (upstream, now) = (upstream(&[1, 2, 3]), Instant::now());
    eject(&upstream, 1, now);
    upstream.resolved(vec![at(4), at(1), at(4)]);
    assert_eq!(picks(&upstream, 4, now), [4; 4]);
    assert_eq!(upstream.counters.healthy.get(), 1);
    upstream.resolved(vec![]);
    assert_eq!(picks(&upstream, 4, now), [4; 4], "the last known ones stay");
    upstream.failed(at(3), now);
    upstream.succeeded(at(3));
}

#[test]
fn a_request_without_a_connection_is_sent_elsewhere_whatever_its_method() {
    let (upstream, now) = (upstream(&[1, 2, 3]), Instant::now());
    assert!(upstream.may_retry(Failure::Connect, &tried(&[1]), now));
    assert!(upstream.may_retry(Failure::Connect, &tried(&[1, 2]), now));
    assert!(!upstream.may_retry(Failure::Connect, &tried(&[1, 2, 3]), now), "twice is enough");
    down(&upstream, 3, now);
    assert!(!upstream.may_retry(Failure::Connect, &tried(&[1, 2]), now), "there is no other");
    assert_eq!(upstream.counters.retries.get(), 2);
}

#[test]
fn a_request_that_was_sent_is_repeated_if_that_does_no_harm() {
    let (upstream, now) = (upstream(&[1]), Instant::now());
    assert!(!upstream.may_retry(Failure::Exchange { repeatable: false }, &tried(&[1]), now));
    assert!(upstream.may_retry(Failure::Exchange { repeatable: true }, &tried(&[1]), now));
    assert!(upstream.may_retry(Failure::Exchange { repeatable: true }, &tried(&[1, 1]), now));
    assert!(!upstream.may_retry(Failure::Exchange { repeatable: true }, &tried(&[1, 1, 1]), now));
}

#[test]
fn retries_stop_with_the_budget() {
    let (upstream, now) = (upstream(&[1, 2]), Instant::now());
    let retries = || (0..1000).filter(|_| upstream.may_retry(Failure::Connect, &tried(&[1]), now)).count();
    let floor = retries();
    for _ in 0..100 {
        drop(upstream.admit(false));
    }
    assert_eq!(retries(), 20, "a fifth of the requests");
    assert_eq!(upstream.counters.retries.get(), floor as u64 + 20);
    let none =
        Upstream::new(&UpstreamSettings { retry_budget: 0.0, ..settings(&[1, 2]) }, Counters::default());
    assert!(!none.may_retry(Failure::Connect, &tried(&[1]), now));
}

#[test]
fn no_more_than_the_bound_are_ever_in_flight() {
    const BOUND: usize = 7;
    const THREADS: usize = 16;
    let upstream =
        Upstream::new(&UpstreamSettings { max_in_flight: BOUND, ..settings(&[1]) }, Counters::default());
    let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (refused, start) = (AtomicUsize::new(0), Barrier::new(THREADS));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..2000 {
                    let Some(place) = upstream.admit(false) else {
                        refused.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(place);
                }
            });
        }
    });
    assert_eq!(most.into_inner(), BOUND);
    assert!(refused.into_inner() > 0, "otherwise the bound was not tested");
    let places: Vec<InFlight> = std::iter::from_fn(|| upstream.admit(false)).collect();
    assert_eq!(places.len(), BOUND, "every place was given back");
}

#[tokio::test]
async fn a_name_has_no_address_until_it_was_resolved() {
    let settings = UpstreamSettings {
        health_interval: None,
        ..UpstreamSettings::new("service", vec!["http://localhost:1".parse().unwrap()], 9)
    };
    let upstream = Upstream::new(&settings, Counters::default());
    let pick = || upstream.pick(&Tried::default(), Instant::now());
    assert_eq!(pick(), None);
    tokio::select! {
        () = upstream.watch() => unreachable!("it goes on for ever"),
        () = async { while pick().is_none() { tokio::task::yield_now().await } } => {}
    }
}
