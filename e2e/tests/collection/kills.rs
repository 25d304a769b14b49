//! Kills at any moment.

use std::time::Duration;

use common::testing::databases;
use rand::RngExt;

use crate::field::{Collector, FLIGHTS, Field};
use crate::plan::{Plan, size};

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_and_counts_nothing_twice() {
    for db in databases("collection").await {
        let mut plan = Plan::new().await;
        let field = Field::new(db).await;
        let mut collectors = [field.collector("one", plan.days).await];
        collectors[0].watch(&plan.airports).await;
        let on_their_way = killed_again_and_again(&mut plan, &field, &mut collectors).await;
        let [collector] = collectors;
        collector.stops_with_everything_told().await;
        messages_are_right(&plan, &field, &field.told().await, on_their_way);
    }
}

/// How often somebody is killed.
fn kills() -> usize {
    size("COLLECTION_KILLS", 3) as usize
}

/// Kills one of the collectors at random again and again while they collect everything, and starts it anew. Gives how many
/// messages were on their way at those moments.
pub(crate) async fn killed_again_and_again(
    plan: &mut Plan,
    field: &Field,
    collectors: &mut [Collector],
) -> i64 {
    let mut on_their_way = 0;
    for number in 0..kills() {
        // Half of them while the latest windows are collected: those have messages.
        let left = match number.checked_sub(kills() / 2) {
            None => plan.windows() * (kills() - number) / (kills() + 1),
            Some(number) => plan.airports.len() * (kills() - kills() / 2 - number) / (kills() + 1),
        };
        collectors[0].waits_for(left).await;
        // Somewhere within the next windows.
        tokio::time::sleep(Duration::from_micros(plan.random.random_range(0..40_000))).await;
        let victim = plan.random.random_range(0..collectors.len());
        collectors[victim].process.kill().await;
        on_their_way += field.unacknowledged().await;
        collectors[victim] = field.collector(&collectors[victim].node, plan.days).await;
    }
    collectors[0].waits_for(0).await;
    plan.everything_is_right(&collectors[0]).await;
    let asked = field.replay.answered(&FLIGHTS, 200).await + field.replay.answered(&FLIGHTS, 404).await;
    let again = asked - 2 * plan.windows() as i64;
    assert!((0..=2 * kills() as i64).contains(&again), "{again} calls were repeated over {} kills", kills());
    eprintln!("{}: {} windows, {} kills, {again} calls repeated", field.db.name, plan.windows(), kills());
    on_their_way
}

/// Only what was on its way when somebody was killed may be told twice.
pub(crate) fn messages_are_right(plan: &Plan, field: &Field, payloads: &[Vec<u8>], on_their_way: i64) {
    let copies = plan.messages_are_right(field, payloads);
    assert!(copies as i64 <= on_their_way, "{copies} copies of {on_their_way} that were on their way");
    eprintln!("{}: {copies} messages told twice, {on_their_way} on their way", field.db.name);
}
