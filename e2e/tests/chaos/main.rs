//! Alerts by the thousand, while everything that they pass is killed or cut off at random and comes back: at the end every
//! one is in the mail server's hands. A copy is the same mail, and there is one only where nobody could know what had
//! become of the first.
//!
//! How much: CHAOS_ALERTS (300), CHAOS_FAULTS (as many as there are things to befall), CHAOS_SEED, CHAOS_SEEDS (1) of them in
//! a row, CHAOS_MINUTES (10) that a run may take at most, CHAOS_BINARIES (a folder with other binaries than those beside this test).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod bus;
mod embedded;
mod fault;
mod kafka;
mod ledger;
mod load;
mod mail_server;
mod path;
mod people;
mod plan;
mod port;
mod run;
mod servers;
mod service;
mod verdict;
mod world;

use crate::plan::{Plan, seeds};

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_on_kafka_loses_nothing_and_sends_copies_only_where_it_could_not_know() {
    for seed in seeds() {
        let plan = Plan::new(seed).await;
        let suite = "chaos over PostgreSQL and Apache Kafka";
        let Some(world) = kafka::world(suite, &plan).await else { return };
        run::run(plan, world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_loses_nothing_and_sends_copies_only_where_it_could_not_know() {
    for seed in seeds() {
        let plan = Plan::new(seed).await;
        let world = embedded::world(&plan).await;
        run::run(plan, world).await;
    }
}
