//! Flights are stored once, whoever tells of them, and go when they are old.

use std::collections::{BTreeSet, HashMap};

use axum::extract::{Path, Query};
use axum::{Json, Router, routing::get};
use common::clock::rfc3339;
use common::testing::eventually;
use serde_json::{Value, json};

use crate::expected::{self, DAY};
use crate::world::{NOON, Person, TODAY, World, databases, expected_days};

/// Left KJFK yesterday at ten and reached KBTV at eleven.
const LEFT: i64 = TODAY - 14 * 3600;
const REACHED: i64 = LEFT + 3600;

/// An OpenSky that knows one flight, of which each airport tells what it saw.
async fn two_views_of_one_flight(
    Path(side): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let at_kjfk = json!([{
        "icao24": "a00001", "firstSeen": LEFT, "lastSeen": REACHED, "callsign": "VED123  ",
        "estDepartureAirport": "KJFK", "estArrivalAirport": null
    }]);
    let at_kbtv = json!([{
        "icao24": "a00001", "firstSeen": LEFT, "lastSeen": REACHED, "callsign": null,
        "estDepartureAirport": null, "estArrivalAirport": "KBTV"
    }]);
    Json(match (side.as_str(), query["airport"].as_str()) {
        ("departure", "KJFK") => at_kjfk,
        ("arrival", "KBTV") => at_kbtv,
        _ => json!([]),
    })
}

#[tokio::test]
async fn a_flight_between_two_airports_is_one_and_an_answer_takes_nothing_from_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/flights/{side}", get(two_views_of_one_flight));
    tokio::spawn(async move { axum::serve(listener, router).await });
    for (first, second) in [("KJFK", "KBTV"), ("KBTV", "KJFK")] {
        for db in databases().await {
            let world = World::new(&db, &["--opensky-api-url", &url, "--collect-backfill", "1d"]).await;
            let ada = world.person("ada@example.com");
            for airport in [first, second] {
                ada.put(airport, json!({})).await;
                ada.collected().await;
            }
            for (airport, direction, other) in
                [("KJFK", "departures", "arrivals"), ("KBTV", "arrivals", "departures")]
            {
                let flight = json!({
                    "direction": direction, "icao24": "a00001", "callsign": "VED123",
                    "first_seen": rfc3339(LEFT), "last_seen": rfc3339(REACHED),
                    "departure_airport": "KJFK", "arrival_airport": "KBTV"
                });
                let page = ada.json(&format!("/airports/{airport}/flights")).await;
                assert_eq!(page["items"], json!([flight]), "{first} first, at {airport}");
                let page = ada.json(&format!("/airports/{airport}/flights?direction={other}")).await;
                assert_eq!(page["items"], json!([]), "{first} first, at {airport}");
            }
        }
    }
}

/// What tells the flights of an airport's list apart.
type Seen = (String, String, String);

fn seen(item: &Value) -> Seen {
    let text = |field: &str| item[field].as_str().unwrap().to_owned();
    (text("direction"), text("icao24"), text("first_seen"))
}

/// One page, and the next one's cursor.
async fn page(ada: &Person<'_>, cursor: Option<&str>) -> (Vec<Seen>, Option<String>) {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let page = ada.json(&format!("/airports/KJFK/flights?limit=100{cursor}")).await;
    let items = page["items"].as_array().unwrap().iter().map(seen).collect();
    (items, page["next_cursor"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn a_list_that_is_read_while_windows_are_stored_leaves_nothing_out_and_gives_nothing_twice() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({})).await;
        ada.collected().await;
        let known = expected::known(&["KJFK"], TODAY - 2 * DAY, TODAY);
        let sides = known.iter().flat_map(|flight| {
            let side =
                |direction: &str| (direction.to_owned(), flight.icao24.clone(), rfc3339(flight.first_seen));
            let arrived = (flight.est_arrival_airport == "KJFK").then(|| side("arrivals"));
            let departed = (flight.est_departure_airport == "KJFK").then(|| side("departures"));
            arrived.into_iter().chain(departed)
        });
        let known: BTreeSet<Seen> = sides.collect();

        let (mut found, mut cursor) = page(&ada, None).await;
        // A newer day of KJFK, and an older flight that was seen at another airport only.
        world.time.set(NOON + DAY);
        ada.put("KORF", json!({})).await;
        ada.collected().await;
        assert_ne!(page(&ada, None).await.0[0], found[0], "the list begins with newer flights");
        while let Some(next) = cursor {
            let (more, after) = page(&ada, Some(&next)).await;
            found.extend(more);
            cursor = after;
        }
        let set: BTreeSet<Seen> = found.iter().cloned().collect();
        assert_eq!(set.len(), found.len(), "none came twice");
        assert!(set.is_superset(&known), "none is left out");
    }
}

#[tokio::test]
async fn flights_go_after_their_retention_and_counts_stay() {
    for db in databases().await {
        let flags = ["--collect-backfill", "3d", "--collect-every", "1h", "--flight-retention", "36h"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        // The next cycle; no window has closed since.
        world.time.set(NOON + 2 * 3600);
        let known = expected::known(&["KBTV"], TODAY - 3 * DAY, TODAY);
        // Counted from the end of the newest window.
        let kept: BTreeSet<String> = known
            .iter()
            .filter(|flight| flight.first_seen >= TODAY - 36 * 3600)
            .map(|flight| rfc3339(flight.first_seen))
            .collect();
        eventually("old flights are gone", async || {
            let page = ada.json("/airports/KBTV/flights?limit=1000").await;
            let items = page["items"].as_array().unwrap().iter();
            let there: BTreeSet<String> =
                items.map(|item| item["first_seen"].as_str().unwrap().to_owned()).collect();
            (there == kept).then_some(())
        })
        .await;
        assert_eq!(ada.daily("KBTV").await, expected_days("KBTV", TODAY - 3 * DAY, TODAY));
    }
}
