//! Windows of an airport are announced oldest first, whatever the order in which they arrive.

use common::clock::rfc3339;
use reqwest::Method;
use serde_json::json;

use crate::expected::{self, DAY};
use crate::world::{NOON, TODAY, World, databases, expected_days};

#[tokio::test]
async fn a_window_that_fails_holds_back_the_messages_of_later_ones_but_not_their_counts() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        world.messages_when(1).await;

        // Two more days close; the first of them gets no answer.
        world.proxy.fail(|_, _, begin| begin == TODAY);
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

        db.execute("UPDATE airport_window SET retry_at = retry_at + 80000 WHERE retry_at > 0").await;
        world.proxy.fail(|_, _, _| false);
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
        let world = World::new(&db, &["--collect-backfill", "2d", "--collect-give-up", "36h"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        world.messages_when(1).await;
        // It ended 36 hours ago when it first gets no answer: its time is not over.
        world.proxy.fail(|_, _, begin| begin == TODAY);
        world.time.set(NOON + 2 * DAY);
        ada.status_when("the later window is stored", |status| {
            status["airports"][0]["last_window"]["end"] == rfc3339(TODAY + 2 * DAY)
        })
        .await;
        assert_eq!((ada.status().await["waiting"].as_i64(), world.messages().await.len()), (Some(1), 1));
        // A day later it is.
        world.time.set(NOON + 3 * DAY);
        ada.send(Method::POST, "/collect", json!({})).await;
        ada.collected().await;
        let messages = world.messages_when(3).await;
        let begins: Vec<i64> = messages.iter().map(|message| message.window_begin).collect();
        assert_eq!(begins, [TODAY - DAY, TODAY + DAY, TODAY + 2 * DAY]);
        assert_eq!(messages[1].previous, None);
        assert_eq!(messages[2].history.len(), 4);
        let mut days = expected_days("KBTV", TODAY - 2 * DAY, TODAY);
        days.extend(expected_days("KBTV", TODAY + DAY, TODAY + 3 * DAY));
        assert_eq!(ada.daily("KBTV").await, days);
        assert_eq!(ada.json("/airports/KBTV/average?days=3").await["days_with_data"], 2);
    }
}
