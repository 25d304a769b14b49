//! Every number is the recording's.

use std::collections::BTreeSet;

use common::clock::rfc3339;
use serde_json::{Value, json};

use crate::expected::{self, DAY, Flight};
use crate::world::{Person, TODAY, World, databases, expected_days};

const AIRPORTS: [&str; 3] = ["KJFK", "KBTV", "KORF"];
const BEGIN: i64 = TODAY - 7 * DAY;

#[tokio::test]
async fn seven_windows_of_three_airports_are_collected_and_every_answer_is_exact() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        for airport in AIRPORTS {
            ada.put(airport, json!({})).await;
        }
        ada.collected().await;
        // One call for each airport, window and direction.
        assert_eq!(world.replay.calls().await, 3 * 7 * 2);
        for airport in AIRPORTS {
            assert_eq!(ada.daily(airport).await, expected_days(airport, BEGIN, TODAY), "{airport}");
            averages(&ada, airport).await;
            last(&ada, airport).await;
            flights(&ada, airport).await;
        }
    }
}

async fn averages(ada: &Person<'_>, airport: &str) {
    for (days, collected) in [(1, 1), (3, 3), (7, 7), (30, 7)] {
        let (arrivals, departures) = expected::counts(airport, TODAY - collected * DAY, TODAY);
        // Hundredths: JSON parsers differ in a float's last digit.
        let mean = |sum: i64| (sum as f64 * 100.0 / collected as f64).round();
        let ask = async |direction: &str| {
            let mut answer = ada.json(&format!("/airports/{airport}/average?days={days}{direction}")).await;
            for field in ["arrivals", "departures", "total"] {
                if let Some(mean) = answer[field].as_f64() {
                    answer[field] = json!((mean * 100.0).round());
                }
            }
            answer
        };
        let all = json!({
            "airport": airport, "days": days, "days_with_data": collected,
            "arrivals": mean(arrivals), "departures": mean(departures), "total": mean(arrivals + departures)
        });
        assert_eq!(ask("").await, all);
        assert_eq!(ask("&direction=all").await, all);
        let mut one = all.clone();
        (one["departures"], one["total"]) = (Value::Null, Value::Null);
        assert_eq!(ask("&direction=arrivals").await, one);
        let mut one = all.clone();
        (one["arrivals"], one["total"]) = (Value::Null, Value::Null);
        assert_eq!(ask("&direction=departures").await, one);
    }
}

async fn last(ada: &Person<'_>, airport: &str) {
    let known = expected::known(&AIRPORTS, BEGIN, TODAY);
    let arrived =
        known.iter().filter(|flight| flight.est_arrival_airport == airport).map(|flight| flight.last_seen);
    let departed =
        known.iter().filter(|flight| flight.est_departure_airport == airport).map(|flight| flight.first_seen);
    let last = ada.json(&format!("/airports/{airport}/last")).await;
    assert_eq!(last["arrival"]["last_seen"], rfc3339(arrived.max().unwrap()));
    assert_eq!(last["arrival"]["arrival_airport"], airport);
    assert_eq!(last["departure"]["first_seen"], rfc3339(departed.max().unwrap()));
    assert_eq!(last["departure"]["departure_airport"], airport);
    let one = ada.json(&format!("/airports/{airport}/last?direction=departures")).await;
    assert_eq!((&one["arrival"], &one["departure"]), (&Value::Null, &last["departure"]));
}

/// Direction, aircraft and first time of a flight, as the API tells it: what tells flights of a list apart.
type Seen = (String, String, String);

fn arrival(flight: &Flight) -> (i64, Seen) {
    (flight.last_seen, ("arrivals".into(), flight.icao24.clone(), rfc3339(flight.first_seen)))
}

fn departure(flight: &Flight) -> (i64, Seen) {
    (flight.first_seen, ("departures".into(), flight.icao24.clone(), rfc3339(flight.first_seen)))
}

/// All pages of a list, in the order in which they come.
async fn pages(ada: &Person<'_>, path: &str, limit: usize) -> Vec<Seen> {
    let mut all = Vec::new();
    let (mut cursor, mut times) = (String::new(), Vec::new());
    loop {
        let page = ada.json(&format!("{path}limit={limit}{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        let text = |item: &Value, field: &str| item[field].as_str().unwrap().to_owned();
        for item in items {
            let direction = text(item, "direction");
            times.push(text(item, if direction == "arrivals" { "last_seen" } else { "first_seen" }));
            all.push((direction, text(item, "icao24"), text(item, "first_seen")));
        }
        assert!(times.is_sorted_by(|a, b| a >= b), "newest first");
        match page["next_cursor"].as_str() {
            Some(next) => {
                assert_eq!(items.len(), limit, "a page is full but for the last");
                cursor = format!("&cursor={next}");
            }
            None => return all,
        }
    }
}

async fn flights(ada: &Person<'_>, airport: &str) {
    let known = expected::known(&AIRPORTS, BEGIN, TODAY);
    let arrivals = known.iter().filter(|flight| flight.est_arrival_airport == airport).map(arrival);
    let departures = known.iter().filter(|flight| flight.est_departure_airport == airport).map(departure);
    let all: Vec<(i64, Seen)> = arrivals.chain(departures).collect();
    let of = |direction: &str, from: i64, to: i64| -> BTreeSet<Seen> {
        let seen = all.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, seen)| seen);
        seen.filter(|seen| direction == "all" || seen.0 == direction).cloned().collect()
    };
    let (begin, end) = (TODAY - 5 * DAY - 3600, TODAY - 2 * DAY + 60);
    let between =
        [format!("from={begin}&to={end}&"), format!("from={}&to={}&", rfc3339(begin), rfc3339(end))];
    for direction in ["all", "arrivals", "departures"] {
        for limit in [7, 100, 1000] {
            let path = format!("/airports/{airport}/flights?direction={direction}&");
            let found = pages(ada, &path, limit).await;
            let set: BTreeSet<Seen> = found.iter().cloned().collect();
            assert_eq!(found.len(), set.len(), "{airport} {direction} by {limit}: a flight came twice");
            assert_eq!(set, of(direction, i64::MIN, i64::MAX), "{airport} {direction} by {limit}");
        }
        for between in &between {
            let found =
                pages(ada, &format!("/airports/{airport}/flights?direction={direction}&{between}"), 50).await;
            let set: BTreeSet<Seen> = found.iter().cloned().collect();
            assert_eq!(
                (found.len(), &set),
                (set.len(), &of(direction, begin, end)),
                "{airport} {direction} {between}"
            );
        }
    }
}
