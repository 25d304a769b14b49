//! Collections as they go at night: real processes, faults of every kind, kills; afterwards every number is the
//! recording's. How much: COLLECTION_AIRPORTS (8), COLLECTION_DAYS (7), COLLECTION_KILLS (3), COLLECTION_ROUNDS (1) of
//! faults, COLLECTION_SEED. At most 28 days, after which the recording begins again.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod faults;
mod field;
mod kills;
mod plan;
mod recording;
#[cfg(feature = "kafka")]
mod replicas;

use common::testing::databases;

use crate::field::Field;
use crate::plan::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn undisturbed_every_airports_every_number_is_the_recordings() {
    for db in databases("collection").await {
        let plan = Plan::new().await;
        let field = Field::new(db).await;
        let collector = field.collector("one", plan.days).await;
        collector.watch(&plan.airports).await;
        collector.waits_for(0).await;
        plan.everything_is_right(&collector).await;
        // Two calls a window, and no more.
        let calls = collector.outcomes().await.into_values().sum::<i64>();
        assert_eq!(calls, 2 * plan.windows() as i64);
        eprintln!("{}: {} windows of {} airports", field.db.name, plan.windows(), plan.airports.len());
        collector.stops_with_everything_told().await;
        assert_eq!(plan.messages_are_right(&field, &field.told().await), 0, "a message came twice");
    }
}
