//! Windows of other lengths, and what a restart leaves behind.

use common::clock::rfc3339;
use serde_json::json;

use crate::expected::{self, DAY};
use crate::world::{NOON, TODAY, World, databases, expected_days};
use common::testing::eventually;

#[tokio::test]
async fn a_process_that_ends_in_the_middle_stores_each_window_once() {
    for db in databases().await {
        let mut world = World::new(&db, &[]).await;
        let (kill, stop) = (2, 4);
        let ada_has = async |world: &World, days: usize| {
            let ada = world.person("ada@example.com");
            eventually("some windows", async || (ada.daily("KBTV").await.len() >= days).then_some(())).await;
        };
        world.replay.faults(json!({"latency_ms": 100})).await;
        let bob = world.person("bob@example.com");
        let account = bob.account;
        bob.put("KBTV", json!({})).await;
        drop(bob);
        ada_has(&world, kill).await;
        world.kill().await;
        world.start().await;
        ada_has(&world, stop).await;
        world.stop().await;
        world.replay.faults(json!({"latency_ms": 0})).await;
        world.start().await;
        ada_has(&world, 7).await;
        let carol = world.person("carol@example.com");
        assert_eq!(carol.daily("KBTV").await, expected_days("KBTV", TODAY - 7 * DAY, TODAY));
        // What was being fetched when it ended may be fetched again, and nothing else.
        assert!(world.replay.calls().await <= 2 * (7 + 2));
        let messages = world.messages_when(1).await;
        assert_eq!((messages.len(), messages[0].users[0].account), (1, Some(account)));
        assert_eq!(messages[0].history.len(), 7);
    }
}

#[tokio::test]
async fn windows_of_six_hours_add_up_to_the_same_days() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-window", "6h", "--collect-backfill", "2d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        // At noon the morning's two windows are closed as well; of the day before yesterday half is collected. Arrivals
        // of today are not there yet: a batch at night finds them.
        let end = rfc3339(NOON);
        ada.status_when("all windows", |status| {
            status["waiting"] == 0 && status["airports"][0]["last_window"]["end"] == end
        })
        .await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - DAY, TODAY));
        let message = &world.messages_when(1).await[0];
        assert_eq!(message.id, format!("KBTV/{}/6h/0", rfc3339(NOON - 6 * 3600)));
        let (_, departures) = expected::counts("KBTV", NOON - 6 * 3600, NOON);
        assert_eq!(message.departure_count, departures);
        assert_eq!(ada.json("/interests/KBTV").await["last_window"]["begin"], rfc3339(NOON - 6 * 3600));
    }
}

#[tokio::test]
async fn an_airport_is_taken_up_again_where_it_was_left_without_a_window_twice() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "3d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        assert_eq!(ada.delete("/interests/KBTV").await.status(), 204);
        // Nobody watches for five days.
        world.time.set(NOON + 5 * DAY);
        eventually("a cycle", async || {
            (ada.status().await["last_cycle"] == rfc3339(NOON + 5 * DAY)).then_some(())
        })
        .await;
        assert_eq!(world.replay.answered("departure", 200).await, 3);
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        let mut days = expected_days("KBTV", TODAY - 3 * DAY, TODAY);
        days.extend(expected_days("KBTV", TODAY + 2 * DAY, TODAY + 5 * DAY));
        assert_eq!(ada.daily("KBTV").await, days);
        assert_eq!(world.replay.answered("departure", 200).await, 6);
    }
}

#[tokio::test]
async fn another_window_length_begins_at_the_next_midnight_and_no_hour_is_left_out() {
    const HOUR: i64 = 3600;
    for (before, after) in [("6h", "24h"), ("24h", "6h"), ("4h", "6h"), ("6h", "4h"), ("6h", "1h")] {
        for db in databases().await {
            // Arrivals are there a day later.
            let flags = [
                "--collect-window",
                before,
                "--collect-lag",
                "24h",
                "--collect-backfill",
                "24h",
                "--collect-every",
                "1h",
            ];
            let mut world = World::new(&db, &flags).await;
            let ada = world.person("ada@example.com");
            ada.put("KBTV", json!({})).await;
            let first = ada.status_when("the first windows", |status| status["waiting"] == 0).await;
            drop((ada, first));
            world.stop().await;
            world.set("--collect-window", after);
            let evening = NOON + 8 * HOUR;
            world.time.set(evening);
            world.start().await;
            let ada = world.person("ada@example.com");
            // Through the evening, the midnight and the days after it.
            for now in (evening..NOON + 3 * DAY).step_by(5 * HOUR as usize) {
                world.time.set(now);
                let cycle = common::clock::rfc3339(now);
                ada.status_when("a cycle", |status| status["last_cycle"] == cycle && status["waiting"] == 0)
                    .await;
            }
            let days = expected_days("KBTV", TODAY - DAY, TODAY + 2 * DAY);
            let daily = ada.daily("KBTV").await;
            assert!(
                days.iter().all(|day| daily.contains(day)),
                "{before} to {after}: {daily:?} lacks some of {days:?}"
            );
            // Nothing was told with a gap before it, nor twice.
            let messages = world.messages().await;
            assert!(messages.windows(2).all(|pair| pair[0].window_end == pair[1].window_begin));
            let lengths =
                [before, after].map(|text| text.trim_end_matches('h').parse::<i64>().unwrap() * HOUR);
            for message in &messages {
                let length = lengths[usize::from(message.window_begin >= TODAY + DAY)];
                assert_eq!(
                    message.window_end - message.window_begin,
                    length,
                    "{before} to {after}: {}",
                    message.id
                );
            }
        }
    }
}

#[tokio::test]
async fn a_service_that_starts_days_late_catches_up_oldest_first() {
    for db in databases().await {
        let mut world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        drop(ada);
        world.stop().await;
        world.time.set(NOON + 9 * DAY);
        world.start().await;
        let ada = world.person("ada@example.com");
        ada.collected().await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - DAY, TODAY + 9 * DAY));
        let begins: Vec<i64> =
            world.messages_when(10).await.iter().map(|message| message.window_begin).collect();
        assert_eq!(begins, (-1..9).map(|day| TODAY + day * DAY).collect::<Vec<_>>());
    }
}
