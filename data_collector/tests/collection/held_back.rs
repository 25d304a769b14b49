//! Windows of an airport are announced oldest first, whatever the order in which they arrive.

use common::clock::rfc3339;
use reqwest::Method;
use serde_json::json;

use crate::expected::{self, DAY};
use crate::world::{NOON, TODAY, World, databases, eventually, expected_days};

#[tokio::test]
async fn a_window_that_fails_holds_back_the_messages_of_later_ones_but_not_their_counts() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        world.messages_when(1).await;

        // Two more days close; the first of them gets no answer.
        world.proxy.fail(|_, begin| begin == TODAY);
        world.time.set(NOON + 2 * DAY);
        let status = ada
            .status_when("the later window is stored", |status| {
                status["airports"][0]["last_window"]["end"] == rfc3339(TODAY + 2 * DAY)
            })
            .await;
        assert_eq!(status["airports"][0]["lag"], 1);
        let mut days = expected_days("KBTV", TODAY - 2 * DAY, TODAY);
        days.extend(expected_days("KBTV", TODAY + DAY, TODAY + 2 * DAY));
        assert_eq!(ada.daily("KBTV").await, days);
        // A person who comes now is told of the later window only, and when it is its turn.
        bob.put("KBTV", json!({})).await;
        assert_eq!(world.messages().await.len(), 1);

        world.proxy.fail(|_, _| false);
        ada.send(Method::POST, "/collect", json!({})).await;
        ada.collected().await;
        let messages = world.messages_when(3).await;
        let begins: Vec<i64> = messages.iter().map(|message| message.window_begin).collect();
        assert_eq!(begins, [TODAY - DAY, TODAY, TODAY + DAY]);
        let users: Vec<usize> = messages.iter().map(|message| message.users.len()).collect();
        assert_eq!(users, [1, 1, 2]);
        let (arrivals, departures) = expected::day("KBTV", TODAY);
        let previous = messages[2].previous.unwrap();
        assert_eq!((previous.arrival_count, previous.departure_count), (arrivals, departures));
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 2 * DAY, TODAY + 2 * DAY));
    }
}

#[tokio::test]
async fn a_window_that_is_given_up_holds_back_nothing_any_more() {
    for db in databases().await {
        let flags =
            ["--collect-backfill", "3d", "--collect-give-up", "36h", "--breaker-failure-threshold", "100"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        world.replay.faults(json!({"outage": true})).await;
        ada.put("KBTV", json!({})).await;
        // The oldest window ended 60 hours ago. The one before the latest ended 36 hours ago: its time is not over.
        ada.status_when("one is given up", |status| status["waiting"] == 2).await;
        eventually("the others were tried", async || {
            (world.replay.answered("token", 503).await == 3).then_some(())
        })
        .await;
        world.replay.faults(json!({"outage": false})).await;
        ada.send(Method::POST, "/collect", json!({})).await;
        ada.collected().await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 2 * DAY, TODAY));
        let average = ada.json("/airports/KBTV/average?days=3").await;
        assert_eq!(average["days_with_data"], 2);
        assert_eq!(world.messages_when(1).await[0].window_begin, TODAY - DAY);
    }
}
