//! Credits: OpenSky's bucket, and our own plan within it.

use std::time::Duration;

use common::clock::rfc3339;
use reqwest::Method;
use serde_json::json;

use crate::expected::DAY;
use crate::world::{Setup, TODAY, World, databases, expected_days};
use common::testing::eventually;

#[tokio::test]
async fn an_empty_bucket_pauses_until_retry_after_and_is_no_failure() {
    for db in databases().await {
        // Three seconds before midnight, when the bucket is full again.
        let now = TODAY - 3;
        let setup = Setup {
            flags: &["--collect-backfill", "2d", "--breaker-failure-threshold", "1"],
            now,
            ..Setup::default()
        };
        let world = World::with(&db, setup).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"credits_remaining": 0})).await;
        ada.put("KBTV", json!({})).await;
        let status = ada.status_when("an obstacle", |status| status["obstacle"].is_string()).await;
        assert!(status["obstacle"].as_str().unwrap().contains("credits"), "{status}");
        assert_eq!(
            (&status["breaker"]["state"], &status["breaker"]["counters"]["failures"]),
            (&json!("closed"), &json!(0))
        );
        assert_eq!(world.replay.stats().await["arrival"], json!({"429": 1}));
        world.time.advance(Duration::from_secs(3));
        ada.send(Method::POST, "/collect", json!({})).await;
        let status = ada.collected().await;
        assert!(status["obstacle"].is_null());
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY));
        assert_eq!(world.replay.answered("arrival", 429).await, 1);
    }
}

#[tokio::test]
async fn the_days_credits_are_never_overdrawn_and_come_back_with_the_flight_day() {
    for db in databases().await {
        // OpenSky would give more: the plan holds nevertheless. A window costs 8.
        let world = World::new(&db, &["--opensky-daily-credits", "20"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        for day in 0..2 {
            // A new day's window may be planned a moment after the new day's credits are spent.
            let used_up = |status: &serde_json::Value| {
                status["obstacle"].as_str().is_some_and(|text| text.contains("credits"))
                    && status["waiting"] == 5 - day
            };
            eventually("two windows a day", async || {
                (ada.daily("KBTV").await.len() == 2 * (day + 1)).then_some(())
            })
            .await;
            let status = ada.status_when("an obstacle", used_up).await;
            let credits = &status["credits"];
            assert_eq!((&credits["remaining"], &credits["daily"]), (&json!(4), &json!(20)));
            // What has to wait, and until when.
            assert_eq!(credits["windows_waiting"], 5 - day);
            assert_eq!(credits["renewed_at"], rfc3339(TODAY + (day as i64 + 1) * DAY));
            ada.send(Method::POST, "/collect", json!({})).await;
            assert_eq!(
                world.replay.calls().await - world.replay.answered("arrival", 401).await,
                4 * (day as u64 + 1)
            );
            world.time.advance(Duration::from_secs(DAY as u64));
        }
    }
}

#[tokio::test]
async fn calls_without_an_answer_use_up_no_credits() {
    for db in databases().await {
        let flags =
            ["--opensky-daily-credits", "100", "--breaker-failure-threshold", "3", "--breaker-timeout", "1h"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"outage": true})).await;
        ada.put("KBTV", json!({})).await;
        let status = ada.status_when("open", |status| status["breaker"]["state"] == "open").await;
        assert_eq!(status["breaker"]["counters"]["failures"], 3);
        let whole = |status: &serde_json::Value| status["credits"]["remaining"] == 100;
        ada.status_when("the credits are back", whole).await;
    }
}

#[tokio::test]
async fn a_pause_outlives_a_restart_and_ends_when_the_operator_says_so() {
    for db in databases().await {
        let mut world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"credits_remaining": 0})).await;
        ada.put("KBTV", json!({})).await;
        ada.status_when("a pause", |status| status["credits"]["paused_until"].is_string()).await;
        drop(ada);
        world.stop().await;
        // There would be credits again, but nobody is to ask before midnight.
        world.replay.faults(json!({"credits_remaining": 1000})).await;
        world.start().await;
        let ada = world.person("ada@example.com");
        let status = ada.status_when("an obstacle", |status| status["obstacle"].is_string()).await;
        assert!(status["obstacle"].as_str().unwrap().contains("used up"), "{status}");
        assert_eq!(world.replay.stats().await["arrival"], json!({"429": 1}));
        db.execute("UPDATE credit SET paused_until = 0, remaining = 1000").await;
        let status = ada.collected().await;
        assert!(status["credits"]["paused_until"].is_null(), "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_charged_and_what_was_not_asked_is_not() {
    for db in databases().await {
        let flags =
            ["--opensky-daily-credits", "100", "--breaker-failure-threshold", "1", "--breaker-timeout", "1h"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"truncate_rate": 1.0})).await;
        ada.put("KBTV", json!({})).await;
        ada.status_when("open", |status| status["breaker"]["state"] == "open").await;
        // Arrivals were answered, departures not asked for any more.
        let charged = |status: &serde_json::Value| status["credits"]["remaining"] == 96;
        ada.status_when("one call is charged", charged).await;
    }
}

#[tokio::test]
async fn what_opensky_says_is_left_overrules_the_plan() {
    for db in databases().await {
        let world = World::new(&db, &["--opensky-daily-credits", "4000"]).await;
        let ada = world.person("ada@example.com");
        // Somebody else has used the account.
        world.replay.faults(json!({"credits_remaining": 60})).await;
        ada.put("KBTV", json!({})).await;
        let status = ada.collected().await;
        assert_eq!(status["credits"]["remaining"], 60 - 7 * 8);
    }
}
