//! Clocks that move, and clocks that are wrong: nothing is counted twice, nothing too early.

use common::clock::rfc3339;
use common::testing::eventually;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::expected::DAY;
use crate::world::{NOON, Setup, TODAY, World, databases, expected_days};

#[tokio::test]
async fn a_clock_that_jumps_back_and_forth_stores_each_window_once() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "3d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        for moved in [2, -3, 1, -10, -1, 3] {
            world.time.set(NOON + moved * DAY);
            // Backwards too a cycle begins: the next one would be days away.
            let cycle = rfc3339(NOON + moved * DAY);
            ada.status_when("a cycle", |status| status["last_cycle"] == cycle && status["waiting"] == 0)
                .await;
        }
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY + 3 * DAY));
        assert_eq!(world.replay.answered("departure", 200).await, 6);
        // The interest was made on the first of these days.
        let messages = world.messages_when(4).await;
        let begins: Vec<i64> = messages.iter().map(|message| message.window_begin).collect();
        assert_eq!(begins, [TODAY - DAY, TODAY, TODAY + DAY, TODAY + 2 * DAY]);
    }
}

#[tokio::test]
async fn an_interest_made_while_the_clock_was_ahead_is_evaluated_again_once_it_is_changed() {
    for db in databases().await {
        let setup = Setup { flags: &["--collect-backfill", "1d"], two_clocks: true, ..Setup::default() };
        let world = World::with(&db, setup).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        world.messages_when(1).await;
        world.time.set(NOON + 30 * DAY);
        bob.put("KBTV", json!({})).await;
        world.time.set(NOON);
        let change = bob.send(Method::PATCH, "/interests/KBTV", json!({"high_value": 1})).await;
        assert_eq!(change.status(), StatusCode::OK);
        let message = &world.messages_when(2).await[1];
        let who: Vec<_> = message.users.iter().map(|user| user.account).collect();
        assert_eq!((message.window_begin, who), (TODAY - DAY, vec![Some(bob.account)]));
        for time in [&world.time, &world.replay_time] {
            time.set(NOON + DAY);
        }
        let next = &world.messages_when(3).await[2];
        assert_eq!((next.window_begin, next.users.len()), (TODAY, 2));
    }
}

#[tokio::test]
async fn what_has_not_happened_by_openskys_clock_is_not_counted() {
    for db in databases().await {
        let setup = Setup { flags: &["--collect-backfill", "2d"], two_clocks: true, ..Setup::default() };
        let world = World::with(&db, setup).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        let flights = ada.json("/airports/KBTV/flights").await;
        // Four hundred days ahead, and OpenSky has no flights there.
        world.time.set(NOON + 400 * DAY);
        let wrong = |status: &serde_json::Value| {
            status["obstacle"].as_str().is_some_and(|text| text.contains("clock")) && status["waiting"] == 400
        };
        ada.status_when("an obstacle", wrong).await;
        // Only the window of today was asked for.
        assert_eq!(world.replay.answered("departure", 200).await, 3);
        assert_eq!(ada.json("/interests/KBTV").await["last_window"]["end"], rfc3339(TODAY));
        assert_eq!(world.messages().await.len(), 1);

        // Nor are flights removed as if they were old.
        assert_eq!(ada.json("/airports/KBTV/flights").await, flights);

        // It is put right, and time goes on: what was planned is collected when it has closed, and not before.
        world.time.set(NOON);
        ada.status_when("a cycle", |status| status["last_cycle"] == rfc3339(NOON)).await;
        for time in [&world.time, &world.replay_time] {
            time.set(NOON + DAY);
        }
        eventually("the next day", async || {
            (ada.daily("KBTV").await == expected_days("KBTV", TODAY - 2 * DAY, TODAY + DAY)).then_some(())
        })
        .await;
        assert_eq!(world.replay.answered("departure", 200).await, 4);
        assert_eq!(world.messages_when(2).await.len(), 2);
    }
}

#[tokio::test]
async fn an_airport_first_watched_while_the_clock_was_ahead_is_collected_once_it_is_right() {
    for db in databases().await {
        let world = World::with(&db, Setup { two_clocks: true, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        let mut told = 0;
        for (airport, ahead) in [("KBTV", 400), ("KORF", 3), ("KTYR", 1)] {
            world.time.set(NOON + ahead * DAY);
            ada.put(airport, json!({})).await;
            ada.status_when("an obstacle", |status| status["obstacle"].is_string()).await;
            world.time.set(NOON);
            ada.collected().await;
            assert_eq!(ada.daily(airport).await, expected_days(airport, TODAY - 7 * DAY, TODAY));
            told += 1;
            let message = &world.messages_when(told).await[told - 1];
            assert_eq!((message.airport.as_str(), message.window_begin), (airport, TODAY - DAY));
        }
        for time in [&world.time, &world.replay_time] {
            time.set(NOON + DAY);
        }
        ada.collected().await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 7 * DAY, TODAY + DAY));
    }
}

#[tokio::test]
async fn what_was_given_up_while_the_clock_was_ahead_is_asked_for_again() {
    for db in databases().await {
        let flags = ["--breaker-failure-threshold", "1000000", "--collect-backfill", "3d"];
        let world = World::with(&db, Setup { flags: &flags, two_clocks: true, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        // There is no answer whose date would tell.
        world.proxy.fail(|_, _, _| true);
        ada.put("KBTV", json!({})).await;
        world.time.set(NOON + 400 * DAY);
        let cycle = rfc3339(NOON + 400 * DAY);
        ada.status_when("a cycle", |status| status["last_cycle"] == cycle).await;
        eventually("the last days are given up", async || {
            db.execute("UPDATE airport_window SET retry_at = 1 WHERE retry_at > 1").await;
            (ada.status().await["airports"][0]["missing"].as_i64() >= Some(3)).then_some(())
        })
        .await;
        world.proxy.fail(|_, _, _| false);
        world.time.set(NOON);
        ada.collected().await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY));
        assert_eq!(ada.status().await["airports"][0]["missing"], 0);
    }
}

#[tokio::test]
async fn no_flights_seen_while_the_clock_is_ahead_wait_no_longer_than_otherwise() {
    for db in databases().await {
        let flags = ["--collect-backfill", "1d", "--collect-settle", "36h"];
        let world = World::with(&db, Setup { flags: &flags, two_clocks: true, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        // In the catalogue, but not in the recording.
        ada.put("EGLL", json!({})).await;
        eventually("a provisional zero", async || {
            (world.replay.answered("departure", 404).await == 1).then_some(())
        })
        .await;
        // It is put aside alone; what has closed is collected all the same.
        world.time.set(NOON + 400 * DAY);
        let cycle = rfc3339(NOON + 400 * DAY);
        ada.status_when("a cycle", |status| status["last_cycle"] == cycle).await;
        eventually("it was asked for again, and put aside", async || {
            let tried =
                db.number("SELECT COUNT(*) FROM airport_window WHERE airport = 'EGLL' AND attempts > 0");
            (tried.await == 1).then_some(())
        })
        .await;
        world.time.set(NOON);
        ada.put("KBTV", json!({})).await;
        eventually("another airport", async || {
            (ada.daily("KBTV").await == expected_days("KBTV", TODAY - DAY, TODAY)).then_some(())
        })
        .await;
        for time in [&world.time, &world.replay_time] {
            time.set(NOON + DAY);
        }
        let end = rfc3339(TODAY);
        ada.status_when("the zero has settled", |status| status["airports"][0]["last_window"]["end"] == end)
            .await;
        assert_eq!(ada.json("/interests/EGLL").await["state"], "no_data");
    }
}

#[tokio::test]
async fn no_flights_yet_by_openskys_clock_is_not_a_zero() {
    for db in databases().await {
        let setup = Setup {
            flags: &["--collect-backfill", "1d", "--collect-lag", "0s", "--collect-settle", "36h"],
            // Arrivals of the day that ends now come at night: there are none yet.
            now: TODAY + DAY,
            two_clocks: true,
            ..Setup::default()
        };
        let world = World::with(&db, setup).await;
        // A minute is within what clocks may differ.
        world.replay_time.set(TODAY + DAY - 30);
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        eventually("both directions were asked for", async || {
            (world.replay.answered("departure", 200).await == 1).then_some(())
        })
        .await;
        assert_eq!(world.replay.answered("arrival", 404).await, 1);
        let status = ada.status_when("given back", |status| status["waiting"] == 1).await;
        assert!(status["obstacle"].is_null(), "{status}");
        assert!(ada.daily("KBTV").await.is_empty());
        for time in [&world.time, &world.replay_time] {
            time.set(NOON + 3 * DAY);
        }
        eventually("the days", async || {
            (ada.daily("KBTV").await == expected_days("KBTV", TODAY, TODAY + 3 * DAY)).then_some(())
        })
        .await;
    }
}
