//! Which flights are there, and when.

use common::clock::DAY;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::server::{MONDAY, NOON, Server, week};

#[tokio::test]
async fn known_days_of_jfk() {
    let server = Server::embedded(&[]).await;
    let client = server.client("id").await;
    // 2001-04-03.
    let (begin, end) = (MONDAY + DAY, MONDAY + 2 * DAY - 1);
    assert_eq!(client.count("arrival", "KJFK", begin, end).await, 172);
    assert_eq!(client.count("departure", "KJFK", begin, end).await, 179);
    // 2001-04-02: 149 as recorded, and the 34 that land after the last midnight of the tape.
    assert_eq!(client.count("arrival", "KJFK", MONDAY, MONDAY + DAY - 1).await, 183);
    assert_eq!(client.count("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await, 180);
    // The Tuesday 330 turns later.
    let shift = 330 * 28 * DAY;
    assert!(end + shift < NOON);
    assert_eq!(client.count("arrival", "KJFK", begin + shift, end + shift).await, 172);
}

#[tokio::test]
async fn flights_of_the_embedded_tape_are_in_order_and_within_the_interval() {
    let server = Server::embedded(&[]).await;
    let client = server.client("id").await;
    let begin = MONDAY + 27 * DAY;
    for (side, time, place) in
        [("arrival", "lastSeen", "estArrivalAirport"), ("departure", "firstSeen", "estDepartureAirport")]
    {
        let flights: Vec<Value> =
            client.flights(side, "KORD", begin, begin + 2 * DAY).await.json().await.unwrap();
        let times: Vec<i64> = flights.iter().map(|flight| flight[time].as_i64().unwrap()).collect();
        assert!(times.is_sorted());
        assert!(times.iter().all(|time| (begin..=begin + 2 * DAY).contains(time)));
        assert!(
            flights
                .iter()
                .all(|flight| flight[place] == "KORD" && flight["icao24"].as_str().unwrap().len() == 6)
        );
        assert!(flights.len() > 1500);
    }
}

#[tokio::test]
async fn a_flight_has_the_fields_of_opensky() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let response = server.client("id").await.flights("arrival", "KBOS", MONDAY, MONDAY + DAY - 1).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let expected = json!([{
        "icao24": "f00000", "firstSeen": MONDAY + 36_000, "estDepartureAirport": "KJFK",
        "lastSeen": MONDAY + 39_600, "estArrivalAirport": "KBOS", "callsign": "DAY0",
        "estDepartureAirportHorizDistance": null, "estDepartureAirportVertDistance": null,
        "estArrivalAirportHorizDistance": null, "estArrivalAirportVertDistance": null,
        "departureAirportCandidatesCount": 0, "arrivalAirportCandidatesCount": 0,
    }]);
    assert_eq!(response.json::<Value>().await.unwrap(), expected);
}

#[tokio::test]
async fn arrivals_are_there_when_their_day_is_over_and_departures_at_once() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let client = server.client("id").await;
    let midnight = NOON - DAY / 2;
    let (begin, end) = (midnight - DAY, midnight + DAY - 1);
    // At noon today's flight has landed, but only yesterday's is told.
    assert_eq!(client.count("arrival", "KBOS", begin, end).await, 1);
    assert_eq!(client.count("departure", "KJFK", begin, end).await, 2);
    // Today's leaves at ten.
    server.time.set(midnight + 36_000 - 1);
    assert_eq!(client.count("departure", "KJFK", begin, end).await, 1);
    server.time.set(midnight + 36_000);
    assert_eq!(client.count("departure", "KJFK", begin, end).await, 2);
    server.time.set(midnight + DAY - 1);
    let client = server.client("id").await;
    assert_eq!(client.count("arrival", "KBOS", begin, end).await, 1);
    server.time.set(midnight + DAY);
    assert_eq!(client.count("arrival", "KBOS", begin, end).await, 2);
    // Nobody has seen tomorrow.
    assert_eq!(client.count("departure", "KJFK", midnight + 2 * DAY, midnight + 3 * DAY).await, 0);
}

#[tokio::test]
async fn no_flights_are_404_with_an_empty_body() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let client = server.client("id").await;
    for (side, airport) in [("arrival", "KJFK"), ("departure", "KBOS"), ("arrival", "EDDF")] {
        let response = client.flights(side, airport, MONDAY, MONDAY + DAY - 1).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(response.headers().contains_key("x-rate-limit-remaining"));
        assert_eq!(response.bytes().await.unwrap().len(), 0);
    }
    // A wrong path is no answer about flights: it has a body.
    let response = server.request(reqwest::Method::GET, "/api/flights/arrivals").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert!(!response.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn bad_parameters_are_400() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let client = server.client("id").await;
    let longer = format!("airport=KJFK&begin={MONDAY}&end={}", MONDAY + 2 * DAY + 1);
    for query in [
        "",
        "airport=KJFK",
        "begin=1&end=2",
        "airport=JFK&begin=1&end=2",
        "airport=KJFK&begin=one&end=2",
        "airport=KJFK&begin=1&end=2.5",
        "airport=KJFK&begin=-1&end=2",
        "airport=KJFK&begin=1&end=99999999999999999999",
        "airport=KJFK&begin=2&end=1",
        &longer,
    ] {
        let response = client.ask("arrival", query).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
        // It costs nothing.
        assert_eq!(response.headers()["x-rate-limit-remaining"], "4000");
        assert!(!response.text().await.unwrap().is_empty());
    }
    // Two days are not longer than two days.
    assert_eq!(client.count("departure", "KJFK", MONDAY, MONDAY + 2 * DAY).await, 2);
}
