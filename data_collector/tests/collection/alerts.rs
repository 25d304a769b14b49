//! Which messages go to alert_system, and what they say.

use std::time::Duration;

use common::clock::rfc3339;
use common::messages::{PreviousCounts, WindowCounted};
use common::types::{Account, Metric, Notify};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::expected::{self, DAY};
use crate::world::{NOON, Setup, TODAY, World, databases, json_of};
use common::testing::eventually;

/// The id of a message about a day of KBTV.
fn id(midnight: i64, part: &str) -> String {
    format!("KBTV/{}/24h/{part}", rfc3339(midnight))
}

fn ids(messages: &[WindowCounted]) -> Vec<&str> {
    messages.iter().map(|message| message.id.as_str()).collect()
}

#[tokio::test]
async fn the_latest_closed_window_makes_one_message_the_backfill_none_and_each_day_one_more() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({"high_value": 20, "metric": "arrivals"})).await;
        ada.collected().await;
        let messages = world.messages_when(1).await;
        let latest = TODAY - DAY;
        let (arrivals, departures) = expected::day("KBTV", latest);
        let before = expected::day("KBTV", latest - DAY);
        let total = |midnight: i64| {
            let (arrivals, departures) = expected::day("KBTV", midnight);
            arrivals + departures
        };
        let message = &messages[0];
        assert_eq!(message.id, id(latest, "0"));
        assert_eq!((message.window_begin, message.window_end), (latest, TODAY));
        assert_eq!((message.arrival_count, message.departure_count), (arrivals, departures));
        assert_eq!(
            message.previous,
            Some(PreviousCounts { arrival_count: before.0, departure_count: before.1 })
        );
        let history: Vec<i64> = (0..7).map(|n| total(TODAY - (7 - n) * DAY)).collect();
        assert_eq!(message.history, history);
        assert!(message.airport_name.as_deref().unwrap().contains("Burlington"));
        let user = &message.users[0];
        assert_eq!((message.users.len(), user.account, &user.email), (1, Some(ada.account), &ada.email));
        assert_eq!((user.high_value, user.low_value), (Some(20), Some(0)));
        assert_eq!((user.metric, user.notify), (Metric::Arrivals, Notify::EveryWindow));
        assert!(user.unsubscribe.is_some());
        let record = &world.log.read_all("to-alert-system").await.unwrap()[0];
        assert_eq!(record.key, "KBTV");
        assert!(!record.headers["request_id"].is_empty());

        for day in 1..=2 {
            world.time.advance(Duration::from_secs(DAY as u64));
            ada.collected().await;
            let messages = world.messages_when(1 + day).await;
            assert_eq!(messages[day].id, id(latest + day as i64 * DAY, "0"));
            assert_eq!(messages[day].history.len(), 7 + day);
        }
        // A change's own message comes after all others of its window: there were no more.
        json_of(ada.send(Method::PATCH, "/interests/KBTV", json!({"high_value": 30})).await, StatusCode::OK)
            .await;
        let messages = world.messages_when(4).await;
        let change = id(latest + 2 * DAY, &format!("s-{}-2", ada.account));
        assert_eq!(
            ids(&messages),
            [id(latest, "0"), id(latest + DAY, "0"), id(latest + 2 * DAY, "0"), change]
        );
    }
}

#[tokio::test]
async fn a_message_carries_the_id_of_the_request_that_caused_it() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        for (airport, id) in [("KBTV", "r-1"), ("KORF", "r-2")] {
            let put = ada.request(Method::PUT, &format!("/interests/{airport}"));
            let response = put.header("x-request-id", id).json(&json!({})).send().await.unwrap();
            assert_eq!(response.headers()["x-request-id"], id);
            assert_eq!(response.status(), StatusCode::CREATED);
        }
        world.messages_when(2).await;
        for record in world.log.read_all("to-alert-system").await.unwrap() {
            let id = if record.key == "KBTV" { "r-1" } else { "r-2" };
            assert_eq!(record.headers["request_id"], id);
        }
    }
}

#[tokio::test]
async fn a_second_person_causes_no_calls_and_is_evaluated_at_once() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        world.messages_when(1).await;
        let calls = world.replay.stats().await;
        let view = bob.put("KBTV", json!({"high_value": 1})).await;
        assert_eq!(view["state"], "high");
        let messages = world.messages_when(2).await;
        assert_eq!(messages[1].id, id(TODAY - DAY, &format!("s-{}-1", bob.account)));
        let users: Vec<_> = messages[1].users.iter().map(|user| user.account).collect();
        assert_eq!(users, [Some(bob.account)]);
        assert_eq!(world.replay.stats().await, calls);
        // The next window tells both in one message.
        world.time.advance(Duration::from_secs(DAY as u64));
        ada.collected().await;
        assert_eq!(world.messages_when(3).await[2].users.len(), 2);
    }
}

#[tokio::test]
async fn each_change_is_evaluated_at_once_under_a_revision_of_its_own() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        world.messages_when(1).await;
        let changes = [
            json!({"high_value": 20}),
            json!({"low_value": 10, "metric": "departures"}),
            json!({"high_value": null}),
        ];
        for change in changes {
            json_of(ada.send(Method::PATCH, "/interests/KBTV", change).await, StatusCode::OK).await;
        }
        let messages = world.messages_when(4).await;
        let part = |revision: i32| id(TODAY - DAY, &format!("s-{}-{revision}", ada.account));
        assert_eq!(ids(&messages)[1..], [part(2), part(3), part(4)]);
        let values: Vec<_> =
            messages[1..].iter().map(|m| (m.users[0].low_value, m.users[0].high_value)).collect();
        assert_eq!(values, [(Some(0), Some(20)), (Some(10), Some(20)), (Some(10), None)]);
        assert_eq!(messages[2].users[0].metric, Metric::Departures);
    }
}

#[tokio::test]
async fn an_interest_that_ends_and_is_made_again_is_evaluated_again() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        world.messages_when(1).await;
        for round in 1..=3 {
            bob.put("KBTV", json!({"high_value": round})).await;
            let messages = world.messages_when(1 + round).await;
            assert_eq!(messages[round].users[0].high_value, Some(round as i64));
            assert_eq!(bob.delete("/interests/KBTV").await.status(), StatusCode::NO_CONTENT);
        }
    }
}

#[tokio::test]
async fn the_link_in_a_mail_ends_that_interest_without_a_login() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.put("KORF", json!({})).await;
        let messages = world.messages_when(2).await;
        let kbtv = messages.iter().find(|message| message.airport.as_str() == "KBTV").unwrap();
        let token = kbtv.users[0].unsubscribe.clone().unwrap();
        let link =
            |method, token: &str| world.request(method, "/unsubscribe").query(&[("token", token)]).send();
        // A mail scanner that opens the link changes nothing.
        let page = link(Method::GET, &token).await.unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
        assert!(page.text().await.unwrap().contains("KBTV"));
        assert_eq!(ada.get("/interests/KBTV").await.status(), StatusCode::OK);
        for forged in [token.replace("KBTV", "KORF"), String::new(), "x".into()] {
            assert_eq!(link(Method::POST, &forged).await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
        }
        // One click (RFC 8058), and once more: mail programs repeat.
        for _ in 0..2 {
            let click = world.request(Method::POST, "/unsubscribe").query(&[("token", &token)]);
            let form = [("List-Unsubscribe", "One-Click")];
            assert_eq!(click.form(&form).send().await.unwrap().status(), StatusCode::OK);
        }
        assert_eq!(ada.get("/interests/KBTV").await.status(), StatusCode::NOT_FOUND);
        assert_eq!(ada.get("/interests/KORF").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn an_airport_without_data_is_shown_so_and_evaluated_for_nobody() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        // In the catalogue, but not in the recording.
        ada.put("EGLL", json!({"low_value": 5})).await;
        let view = eventually("no data", async || {
            let view = ada.json("/interests/EGLL").await;
            (view["state"] != "waiting").then_some(view)
        })
        .await;
        assert_eq!(view["state"], "no_data");
        ada.collected().await;
        assert_eq!(ada.json("/interests/EGLL").await["no_data_since"], rfc3339(TODAY - 7 * DAY));
        assert!(ada.daily("EGLL").await.is_empty());
        let average = ada.json("/airports/EGLL/average?days=7").await;
        assert_eq!(average["days_with_data"], 0);
        assert!(["arrivals", "departures", "total"].iter().all(|field| average[field].is_null()));
        // Nor is a change evaluated. What comes of an airport with data after that is all that comes.
        json_of(ada.send(Method::PATCH, "/interests/EGLL", json!({"low_value": 9})).await, StatusCode::OK)
            .await;
        ada.put("KBTV", json!({})).await;
        let messages = world.messages_when(1).await;
        assert_eq!(ids(&messages), [id(TODAY - DAY, "0")]);
    }
}

#[tokio::test]
async fn from_its_first_flight_on_a_zero_is_a_count() {
    for db in databases().await {
        // The recording has flights of KEGE on its first thirteen days, and none after them.
        let (today, now) = (TODAY + 11 * DAY, NOON + 11 * DAY);
        assert_ne!(expected::day("KEGE", today - DAY), (0, 0));
        assert_eq!(expected::day("KEGE", today), (0, 0));
        let world = World::with(&db, Setup { now, ..Setup::default() }).await;
        let ada = world.person("ada@example.com");
        ada.put("KEGE", json!({"low_value": 1})).await;
        ada.collected().await;
        assert_eq!(ada.json("/interests/KEGE").await["no_data_since"], Value::Null);
        world.time.set(now + DAY);
        ada.collected().await;
        let interest = ada.json("/interests/KEGE").await;
        assert_eq!((&interest["state"], &interest["no_data_since"]), (&json!("low"), &json!(rfc3339(today))));
        assert_eq!(ada.daily("KEGE").await.pop().unwrap(), (common::clock::date(today), 0, 0));
        let message = &world.messages_when(2).await[1];
        assert_eq!((message.window_begin, message.arrival_count, message.departure_count), (today, 0, 0));
        assert_eq!(message.history.last(), Some(&0));
    }
}

#[tokio::test]
async fn an_interest_shows_on_which_side_of_its_thresholds_the_last_window_is() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        let (arrivals, departures) = expected::day("KBTV", TODAY - DAY);
        let total = arrivals + departures;
        for (low, high, metric, state) in [
            (total, total + 1, "total", "in_range"),
            (total + 1, total + 2, "total", "low"),
            (0, total - 1, "total", "high"),
            (0, total, "total", "in_range"),
            (arrivals + 1, total, "arrivals", "low"),
            (0, departures - 1, "departures", "high"),
        ] {
            let change = json!({"low_value": low, "high_value": high, "metric": metric});
            let view = ada.send(Method::PATCH, "/interests/KBTV", change).await;
            assert_eq!(json_of(view, StatusCode::OK).await["state"], state, "{low} to {high}, {metric}");
        }
    }
}

#[tokio::test]
async fn an_interest_that_ends_and_is_made_again_has_nothing_asked_sooner() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d", "--collect-settle", "36h"]).await;
        let ada = world.person("ada@example.com");
        ada.put("EGLL", json!({})).await;
        eventually("a provisional zero", async || (world.replay.calls().await == 2).then_some(())).await;
        for _ in 0..3 {
            assert_eq!(ada.delete("/interests/EGLL").await.status(), StatusCode::NO_CONTENT);
            assert_eq!(ada.status().await["waiting"], 0);
            ada.put("EGLL", json!({})).await;
        }
        // What is asked after that is all that is asked.
        ada.put("KBTV", json!({})).await;
        world.messages_when(1).await;
        assert_eq!(world.replay.calls().await, 4);
    }
}

#[tokio::test]
async fn a_zero_is_provisional_until_the_data_has_settled() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-settle", "36h"]).await;
        let ada = world.person("ada@example.com");
        ada.put("EGLL", json!({})).await;
        ada.put("KBTV", json!({})).await;
        // Of EGLL's windows the latest ended twelve hours ago; the one before has just settled.
        let status = ada.status_when("all but one", |status| status["waiting"] == 1).await;
        let egll = status["airports"]
            .as_array()
            .unwrap()
            .iter()
            .find(|airport| airport["airport"] == "EGLL")
            .unwrap();
        assert_eq!((&egll["lag"], &egll["last_window"]["end"]), (&json!(1), &json!(rfc3339(TODAY - DAY))));
        world.time.set(NOON + DAY);
        let end = rfc3339(TODAY);
        ada.status_when("the settled zero is stored", |status| {
            let airports = status["airports"].as_array().unwrap();
            airports
                .iter()
                .any(|airport| airport["airport"] == "EGLL" && airport["last_window"]["end"] == end)
        })
        .await;
    }
}

#[tokio::test]
async fn a_window_that_many_watch_is_told_in_messages_of_a_thousand() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        world.messages_when(1).await;
        let store = common::db::connect_for_tests(&db.url);
        let mut tx = store.begin().await.unwrap();
        for _ in 1..2500 {
            let account = Account::new_random().to_string();
            common::on!(&mut tx, |tx| sqlx::query(
                "INSERT INTO user_interest SELECT $1, email, airport, low_value, high_value, metric, notify, revision, \
                 evaluate_from, created_at, updated_at FROM user_interest WHERE account = $2"
            )
            .bind(account)
            .bind(ada.account.to_string())
            .execute(&mut **tx)
            .await
            .map(|_| ()))
            .unwrap();
        }
        tx.commit().await.unwrap();
        world.time.advance(Duration::from_secs(DAY as u64));
        let messages = world.messages_when(4).await;
        let parts = &messages[1..];
        assert_eq!(ids(parts), [id(TODAY, "0"), id(TODAY, "1"), id(TODAY, "2")]);
        let sizes: Vec<usize> = parts.iter().map(|message| message.users.len()).collect();
        assert_eq!(sizes, [1000, 1000, 500]);
        let accounts: std::collections::BTreeSet<_> = parts
            .iter()
            .flat_map(|message| &message.users)
            .map(|user| user.account.unwrap().to_string())
            .collect();
        assert_eq!(accounts.len(), 2500);
    }
}
