//! A failure is not a zero: what goes wrong at OpenSky, and what the breaker makes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::auth::TOKEN_LIFETIME;
use reqwest::Method;
use serde_json::{Value, json};

use crate::expected::DAY;
use crate::world::{Person, Setup, TODAY, World, databases, expected_days};
use common::testing::eventually;

/// What has failed would be tried again hours later.
const LATER: &str = "UPDATE airport_window SET retry_at = retry_at + 80000 WHERE retry_at > 0";

/// Nothing is counted for KBTV.
async fn nothing_is_counted(world: &World, ada: &Person<'_>) {
    assert!(ada.daily("KBTV").await.is_empty());
    assert_eq!(ada.json("/interests/KBTV").await["state"], "waiting");
    assert!(world.messages().await.is_empty());
}

/// The last three days are counted as recorded, and the latest one was told once.
async fn all_is_well(world: &World, ada: &Person<'_>) {
    ada.collected().await;
    assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY));
    assert_eq!(world.messages_when(1).await.len(), 1);
}

fn breaker(state: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["breaker"]["state"] == state
}

#[tokio::test]
async fn the_breaker_opens_after_exactly_the_threshold_and_then_lets_nothing_through() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--breaker-failure-threshold", "2", "--breaker-timeout", "1h"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"outage": true})).await;
        ada.put("KBTV", json!({})).await;
        let status = ada.status_when("open", breaker("open")).await;
        assert_eq!(status["breaker"]["counters"]["failures"], 2);
        assert!(status["breaker"]["trial_in_s"].as_i64().unwrap() > 3000);
        // Each call failed at its token.
        let seen = json!({"token": {"503": 2}});
        assert_eq!(world.replay.stats().await, seen);
        eventually("the gauge says so", async || {
            let metrics = world.admin("/metrics").await.text().await.unwrap();
            metrics.contains("breaker_state{service=\"data_collector\",node=\"one\"} 2\n").then_some(())
        })
        .await;
        ada.send(Method::POST, "/collect", json!({})).await;
        ada.put("KORF", json!({})).await;
        nothing_is_counted(&world, &ada).await;
        let status = ada.status().await;
        assert_eq!((&status["breaker"]["state"], &status["waiting"]), (&json!("open"), &json!(6)));
        assert_eq!(world.replay.stats().await, seen);
    }
}

#[tokio::test]
async fn after_an_outage_a_trial_closes_the_breaker_and_everything_arrives() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--breaker-failure-threshold", "2", "--breaker-timeout", "1s"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"outage": true})).await;
        ada.put("KBTV", json!({})).await;
        let opened = |times: i64| {
            move |status: &Value| status["breaker"]["counters"]["opened"].as_i64() >= Some(times)
        };
        let status = ada.status_when("a failed trial", opened(2)).await;
        // Two failures opened it, each further one was the only call of its trial.
        let counters = &status["breaker"]["counters"];
        assert_eq!(counters["failures"].as_i64().unwrap(), counters["opened"].as_i64().unwrap() + 1);
        nothing_is_counted(&world, &ada).await;
        // Neither the trial nor what has failed waits for its next attempt.
        db.execute(LATER).await;
        world.replay.faults(json!({"outage": false})).await;
        ada.status_when("closed", breaker("closed")).await;
        all_is_well(&world, &ada).await;
        let counters = ada.status().await["breaker"]["counters"].clone();
        assert_eq!(world.replay.answered("token", 503).await, counters["failures"].as_u64().unwrap());
        let metric = |name: &str, labels: &str, value: &Value| {
            format!(
                "vedetta_data_collector_{name}{{service=\"data_collector\",node=\"one\"{labels}}} {value}\n"
            )
        };
        let metrics = eventually("the gauge is up to date", async || {
            let text = world.admin("/metrics").await.text().await.unwrap();
            text.contains(&metric("breaker_state", "", &json!(0))).then_some(text)
        })
        .await;
        for (to, counter) in [("open", "opened"), ("half_open", "half_opened"), ("closed", "closed")] {
            let line = metric("breaker_transitions_total", &format!(",to=\"{to}\""), &counters[counter]);
            assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
        }
    }
}

#[tokio::test]
async fn a_broken_answer_is_a_failure_and_no_count() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--breaker-failure-threshold", "2", "--breaker-timeout", "1s"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"truncate_rate": 1.0})).await;
        ada.put("KBTV", json!({})).await;
        ada.status_when("open", breaker("open")).await;
        nothing_is_counted(&world, &ada).await;
        world.replay.faults(json!({"truncate_rate": 0.0})).await;
        all_is_well(&world, &ada).await;
    }
}

#[tokio::test]
async fn an_answer_in_one_direction_only_is_no_count() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "3d"]).await;
        let ada = world.person("ada@example.com");
        world.proxy.fail(|side, _, begin| side == "departure" && begin == TODAY - 3 * DAY);
        ada.put("KBTV", json!({})).await;
        // The oldest is tried first: when the others are there, it has failed.
        let others = expected_days("KBTV", TODAY - 2 * DAY, TODAY);
        eventually("the others", async || (ada.daily("KBTV").await == others).then_some(())).await;
        assert_eq!(ada.status().await["waiting"], 1);
        db.execute(LATER).await;
        world.proxy.fail(|_, _, _| false);
        ada.send(Method::POST, "/collect", json!({})).await;
        all_is_well(&world, &ada).await;
    }
}

/// Seconds until the next attempt at the one window that has failed, by the database's clock.
async fn wait_of_attempt(db: &common::testing::TestDb, attempt: i64) -> i64 {
    eventually("a failed attempt", async || {
        (db.number("SELECT MAX(attempts) FROM airport_window").await == attempt).then_some(())
    })
    .await;
    let now = common::clock::Clock::System.now();
    db.number("SELECT MAX(retry_at) FROM airport_window").await - now
}

#[tokio::test]
async fn a_failed_window_is_tried_again_after_a_minute_then_after_two_by_itself() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        world.proxy.fail(|_, _, _| true);
        ada.put("KBTV", json!({})).await;
        // Less what this test took to look; the two clocks round differently.
        let first = wait_of_attempt(&db, 1).await;
        assert!((0..=61).contains(&first), "{first} s");
        db.execute("UPDATE airport_window SET retry_at = 1").await;
        let second = wait_of_attempt(&db, 2).await;
        assert!((62..=121).contains(&second), "{second} s");
        world.proxy.fail(|_, _, _| false);
        // No wait lasts ten days: a clock that was ahead has made it.
        db.execute("UPDATE airport_window SET retry_at = retry_at + 864000").await;
        ada.collected().await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - DAY, TODAY));
    }
}

#[tokio::test]
async fn where_one_direction_fails_the_other_is_not_asked_again_and_again() {
    for db in databases().await {
        let flags =
            ["--breaker-failure-threshold", "3", "--breaker-timeout", "1h", "--opensky-daily-credits", "100"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.proxy.fail(|side, _, _| side == "departure");
        ada.put("KBTV", json!({})).await;
        let status = ada.status_when("open", breaker("open")).await;
        assert_eq!(status["breaker"]["counters"]["failures"], 3);
        assert_eq!(world.replay.stats().await["arrival"], json!({"200": 1}));
        ada.status_when("one call is charged", |status| status["credits"]["remaining"] == 96).await;
        nothing_is_counted(&world, &ada).await;
    }
}

#[tokio::test]
async fn what_can_never_be_read_costs_credits_only_as_often_as_its_backoff_says() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--breaker-failure-threshold", "2", "--breaker-timeout", "1s"];
        let world = World::new(&db, &flags).await;
        let asked = Arc::new(AtomicUsize::new(0));
        world.proxy.garble({
            let asked = asked.clone();
            move |_, airport, _| {
                let garbled = airport == "KORF";
                asked.fetch_add(usize::from(garbled), Ordering::SeqCst);
                garbled
            }
        });
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        bob.put("KORF", json!({})).await;
        ada.status_when("open", breaker("open")).await;
        let collected = async |airport: &str| {
            let days = expected_days(airport, TODAY - 3 * DAY, TODAY);
            eventually(airport, async || (ada.daily(airport).await == days).then_some(())).await;
        };
        // The breaker closes by a healthy window's trial, and opens again by those that come before.
        for airport in ["KBTV", "KTYR"] {
            ada.put(airport, json!({})).await;
            collected(airport).await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 3, "each of them was asked for once");
    }
}

#[tokio::test]
async fn an_unreachable_or_silent_service_opens_the_breaker_too() {
    for db in databases().await {
        // Nobody listens there, and the first answer of the replay would take longer than a call may.
        let unreachable = ["--opensky-api-url", "http://127.0.0.1:9/api"];
        let silent = ["--opensky-timeout", "100ms"];
        for flags in [unreachable, silent] {
            let flags =
                [&flags[..], &["--breaker-failure-threshold", "2", "--breaker-timeout", "1h"]].concat();
            let world = World::new(&db, &flags).await;
            let ada = world.person("ada@example.com");
            if flags.contains(&"100ms") {
                world.replay.faults(json!({"latency_ms": 500})).await;
            }
            ada.put("KBTV", json!({})).await;
            let status = ada.status_when("open", breaker("open")).await;
            assert_eq!(status["breaker"]["counters"]["failures"], 2);
            nothing_is_counted(&world, &ada).await;
            assert_eq!(ada.delete("/interests/KBTV").await.status(), 204);
        }
    }
}

#[tokio::test]
async fn a_trial_whose_failure_does_not_count_is_not_repeated_without_end() {
    for db in databases().await {
        let flags = [
            "--breaker-failure-threshold",
            "1",
            "--breaker-timeout",
            "1s",
            "--breaker-expected-errors",
            "server",
        ];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"outage": true})).await;
        ada.put("KBTV", json!({})).await;
        ada.status_when("open", breaker("open")).await;
        world.replay.faults(json!({"outage": false, "truncate_rate": 1.0})).await;
        ada.status_when("half open", breaker("half_open")).await;
        eventually("the trial", async || (world.replay.calls().await > 0).then_some(())).await;
        for _ in 0..50 {
            ada.status().await;
        }
        assert_eq!(world.replay.calls().await, 1);
    }
}

#[tokio::test]
async fn windows_that_are_never_answered_do_not_keep_the_breaker_open_for_the_others() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--breaker-failure-threshold", "1", "--breaker-timeout", "1s"];
        let world = World::new(&db, &flags).await;
        world.proxy.fail(|_, airport, _| airport == "KORF");
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        bob.put("KORF", json!({})).await;
        ada.status_when("open", breaker("open")).await;
        ada.put("KBTV", json!({})).await;
        eventually("KBTV is collected", async || {
            (ada.daily("KBTV").await == expected_days("KBTV", TODAY - 3 * DAY, TODAY)).then_some(())
        })
        .await;
        assert!(bob.daily("KORF").await.is_empty());
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed_and_the_call_repeated_once() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "3d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        all_is_well(&world, &ada).await;
        assert_eq!(world.replay.answered("token", 200).await, 1);
        // By the replay's clock the token is a day old; our own knows nothing of that.
        const { assert!(DAY > TOKEN_LIFETIME) };
        world.time.advance(Duration::from_secs(DAY as u64));
        let status = ada.collected().await;
        let stats = world.replay.stats().await;
        assert_eq!(stats["arrival"], json!({"200": 4, "401": 1}));
        assert_eq!((&stats["departure"], &stats["token"]), (&json!({"200": 4}), &json!({"200": 2})));
        assert_eq!(status["breaker"]["counters"]["failures"], 0);
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY + DAY));
    }
}

#[tokio::test]
async fn tokens_that_live_for_no_time_at_all_cost_a_call_and_count_as_failures() {
    for db in databases().await {
        let replay = opensky_replay::Config { token_lifetime: Duration::ZERO, ..Setup::default().replay };
        let flags = ["--breaker-failure-threshold", "2", "--breaker-timeout", "1h"];
        let world = World::with(&db, Setup { flags: &flags, replay, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.status_when("open", breaker("open")).await;
        nothing_is_counted(&world, &ada).await;
        // Two attempts, each repeated once and no more.
        assert_eq!(world.replay.stats().await, json!({"arrival": {"401": 4}, "token": {"200": 4}}));
    }
}

#[tokio::test]
async fn rejected_credentials_stop_collection_and_say_so() {
    for db in databases().await {
        let clients = vec!["id:right".parse().unwrap()];
        let replay = opensky_replay::Config { clients, ..Setup::default().replay };
        let setup = Setup {
            flags: &["--breaker-failure-threshold", "1"],
            replay,
            credentials: Some(("id", "wrong")),
            ..Setup::default()
        };
        let world = World::with(&db, setup).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        let status = ada.status_when("an obstacle", |status| status["obstacle"].is_string()).await;
        assert!(status["obstacle"].as_str().unwrap().contains("OPENSKY_CLIENT_SECRET"), "{status}");
        assert!(!status.to_string().contains("wrong"));
        assert_eq!(
            (&status["breaker"]["state"], &status["breaker"]["counters"]["failures"]),
            (&json!("closed"), &json!(0))
        );
        ada.send(Method::POST, "/collect", json!({})).await;
        ada.put("KORF", json!({})).await;
        nothing_is_counted(&world, &ada).await;
        assert_eq!(world.replay.stats().await, json!({"token": {"401": 1}}));
    }
}

#[tokio::test]
async fn without_credentials_windows_wait_and_the_status_says_why() {
    for db in databases().await {
        let world = World::with(&db, Setup { credentials: None, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        let status = ada.status().await;
        assert_eq!(status["waiting"], 7);
        assert!(status["obstacle"].as_str().unwrap().contains("OPENSKY_CLIENT_ID"), "{status}");
        assert_eq!(world.replay.stats().await, json!({}));
    }
}
