//! Everything that OpenSky can do wrong.

use std::collections::BTreeMap;

use common::testing::databases;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::field::{Collector, FLIGHTS, Field};
use crate::plan::{Plan, size};

/// What goes wrong, and how the calls end that it befalls.
const FAULTS: [(&str, &str); 5] = [
    (r#"{"outage": true}"#, "server"),
    (r#"{"error_rate": 1.0}"#, "server"),
    (r#"{"error_rate": 0.3}"#, "server"),
    (r#"{"latency_ms": 3000}"#, "timeout"),
    (r#"{"truncate_rate": 0.5}"#, "decode"),
];

/// Nothing goes wrong. Where there are few windows a call takes its time, so that none is over before the next fault comes.
fn calm(windows: usize) -> Value {
    let latency = if windows < 1000 { 60 } else { 15 };
    json!({"outage": false, "error_rate": 0.0, "truncate_rate": 0.0, "latency_ms": latency})
}

#[tokio::test(flavor = "multi_thread")]
async fn through_every_fault_no_window_is_lost_none_doubled_and_no_failure_becomes_a_count() {
    for db in databases("collection").await {
        let mut plan = Plan::new().await;
        let mut field = Field::new(db).await;
        field.replay.restart(&["--token-lifetime=2s"]).await;
        field.replay.faults(calm(plan.windows())).await;
        let collector = field.collector("one", plan.days).await;
        collector.watch(&plan.airports).await;
        let mut steps: Vec<usize> =
            (0..size("COLLECTION_ROUNDS", 1)).flat_map(|_| 0..FAULTS.len() + 2).collect();
        steps.shuffle(&mut plan.random);
        tokio::select! {
            () = everything_befalls(&mut field, &collector, &steps, plan.windows()) => {}
            () = plan.counts_stay_right(&collector) => {}
        }
        collector.waits_for(0).await;
        plan.everything_is_right(&collector).await;
        assert_eq!(collector.metric("stored_windows_total").await, plan.windows() as i64);
        let outcomes: BTreeMap<String, i64> = collector.outcomes().await;
        for outcome in ["connect", "server", "timeout", "decode", "rate_limited"] {
            assert!(outcomes.contains_key(outcome), "no call ended so: {outcome}, but {outcomes:?}");
        }
        for status in [401, 429, 500, 503] {
            let answered = field.replay.answered(&["token", "arrival", "departure"], status).await;
            assert!(answered > 0, "nothing was answered with {status}");
        }
        // A window whose departures failed is asked for its arrivals once more, and no other.
        let answered: i64 =
            ["flights", "no_flights"].iter().filter_map(|outcome| outcomes.get(*outcome)).sum();
        let failed = outcomes.values().sum::<i64>() - answered;
        let again = answered - 2 * plan.windows() as i64;
        assert!((0..=failed).contains(&again), "{again} answers too many: {outcomes:?}");
        eprintln!("{}: {} windows, {outcomes:?}", field.db.name, plan.windows());
        collector.stops_with_everything_told().await;
        assert_eq!(plan.messages_are_right(&field, &field.told().await), 0, "a message came twice");
    }
}

/// Each fault in its turn, spread over the collection: there is always something left to fail.
async fn everything_befalls(field: &mut Field, collector: &Collector, steps: &[usize], windows: usize) {
    for (number, step) in steps.iter().enumerate() {
        collector.waits_for(windows * (steps.len() - number) / (steps.len() + 1)).await;
        match FAULTS.get(*step) {
            Some((fault, outcome)) => {
                befalls(field, collector, serde_json::from_str(fault).unwrap(), outcome).await;
                all_is_well_again(field, collector, windows).await;
            }
            None if *step == FAULTS.len() => {
                let refused = field.replay.answered(&FLIGHTS, 401).await;
                // Nobody listens for a moment, and then nobody knows the token.
                for _ in 0..2 {
                    field.replay.restart(&["--token-lifetime=30m", "--latency=15ms"]).await;
                    collector.another_ends("flights", collector.ended("flights").await).await;
                }
                assert!(field.replay.answered(&FLIGHTS, 401).await > refused, "the token was still known");
                all_is_well_again(field, collector, windows).await;
            }
            None => {
                befalls(field, collector, json!({"credits_remaining": 0}), "rate_limited").await;
                field.replay.faults(json!({"credits_remaining": 1_000_000})).await;
                field.end_pause().await;
            }
        }
    }
}

/// Lets a fault come, and waits for a call that ends as it makes calls end.
async fn befalls(field: &Field, collector: &Collector, fault: Value, outcome: &str) {
    let before = collector.ended(outcome).await;
    field.replay.faults(fault).await;
    collector.another_ends(outcome, before).await;
}

/// A short outage opens the breaker once more, and it closes. Nothing waits for its next attempt then.
async fn all_is_well_again(field: &Field, collector: &Collector, windows: usize) {
    let opened = |breaker: &Value| breaker["counters"]["opened"].as_u64().unwrap();
    let before = opened(&collector.breaker("the breaker", |_| true).await);
    field.replay.faults(json!({"outage": true})).await;
    collector.breaker("the breaker opens", |breaker| opened(breaker) > before).await;
    field.replay.faults(calm(windows)).await;
    collector.breaker("the breaker closes", |breaker| breaker["state"] == "closed").await;
    field.end_waits().await;
}
