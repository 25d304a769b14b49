//! Several replicas on one PostgreSQL share the work.

use std::collections::BTreeSet;

use common::db::Backend;
use common::testing::{TestDb, eventually};
use reqwest::Method;
use serde_json::json;

use crate::expected::DAY;
use crate::world::{Setup, TODAY, World, databases, expected_days};

const AIRPORTS: [&str; 4] = ["KJFK", "KBTV", "KORF", "KABE"];

async fn postgres() -> Option<TestDb> {
    databases().await.into_iter().find(|db| db.name == "postgres")
}

/// Every window of the week is as recorded, and each airport's latest one was told once.
async fn the_week_is_complete(world: &World) {
    let ada = world.person("ada@example.com");
    for airport in AIRPORTS {
        let week = expected_days(airport, TODAY - 7 * DAY, TODAY);
        eventually(airport, async || (ada.daily(airport).await == week).then_some(())).await;
    }
    let messages = world.messages_when(AIRPORTS.len()).await;
    let ids: BTreeSet<&str> = messages.iter().map(|message| message.id.as_str()).collect();
    assert_eq!((messages.len(), ids.len()), (AIRPORTS.len(), AIRPORTS.len()));
}

#[tokio::test]
async fn three_replicas_fetch_each_window_once() {
    let Some(db) = postgres().await else { return };
    let world = World::new(&db, &[]).await;
    let (two, three) = (world.start_as("two").await, world.start_as("three").await);
    world.replay.faults(json!({"latency_ms": 20})).await;
    let ada = world.person("ada@example.com");
    for airport in AIRPORTS {
        ada.put(airport, json!({})).await;
    }
    the_week_is_complete(&world).await;
    assert_eq!(world.replay.calls().await, 4 * 7 * 2);
    for replica in [two, three] {
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_a_killed_replica_had_in_hand_is_taken_over_when_its_claim_ends() {
    let Some(db) = postgres().await else { return };
    let world = World::new(&db, &[]).await;
    let two = world.start_as("two").await;
    // Long enough to be killed in the middle of a call.
    world.replay.faults(json!({"latency_ms": 3000})).await;
    let ada = world.person("ada@example.com");
    for airport in AIRPORTS {
        ada.put(airport, json!({})).await;
    }
    eventually("the other one has a window in hand", async || (claims(&db, "two").await == 1).then_some(()))
        .await;
    two.kill().await;
    world.replay.faults(json!({"latency_ms": 0})).await;
    ada.status_when("only its window is left", |status| status["waiting"] == 1).await;
    assert_eq!(claims(&db, "two").await, 1);
    // Minutes later by the database's clock.
    db.execute("UPDATE airport_window SET claimed_until = 1 WHERE state = 'due'").await;
    ada.send(Method::POST, "/collect", json!({})).await;
    the_week_is_complete(&world).await;
}

#[tokio::test]
async fn replicas_share_the_days_credits_and_a_429() {
    let Some(db) = postgres().await else { return };
    let flags = ["--opensky-daily-credits", "80"];
    let world = World::with(&db, Setup { flags: &flags, ..Setup::default() }).await;
    let two = world.start_as("two").await;
    let ada = world.person("ada@example.com");
    for airport in AIRPORTS {
        ada.put(airport, json!({})).await;
    }
    ada.status_when("ten windows of 28", |status| {
        status["waiting"] == 18 && status["credits"]["remaining"] == 0
    })
    .await;
    assert_eq!(world.replay.calls().await, 2 * 10);
    assert_eq!(ada.status().await["credits"]["windows_waiting"], 18);

    // The next day OpenSky says that it is enough: who comes later does not even ask.
    world.replay.faults(json!({"latency_ms": 1000})).await;
    world.time.set(TODAY + DAY + 60);
    world.replay.faults(json!({"latency_ms": 0, "credits_remaining": 0})).await;
    ada.send(Method::POST, "/collect", json!({})).await;
    ada.status_when("a pause", |status| status["credits"]["paused_until"].is_string()).await;
    two.stop().await;
    let asked = world.replay.calls().await;
    let three = world.start_as("three").await;
    ada.put("KORD", json!({})).await;
    eventually("the new one has had its turn", async || {
        let metrics = three.admin("/metrics").await.text().await.unwrap();
        metrics.contains("due_windows{service=\"data_collector\",node=\"three\"} 2").then_some(())
    })
    .await;
    assert_eq!(world.replay.calls().await, asked);
    three.stop().await;
}

/// Windows that a replica has claimed, for the five minutes at most that calls may take.
async fn claims(db: &TestDb, node: &str) -> i64 {
    let Backend::Postgres(pool) = common::db::connect_for_tests(&db.url) else { unreachable!() };
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM airport_window WHERE state = 'due' AND claimed_by = $1 AND claimed_until > 1 \
         AND claimed_until <= EXTRACT(EPOCH FROM now()) + 300",
    )
    .bind(node)
    .fetch_one(&pool)
    .await
    .unwrap()
}
