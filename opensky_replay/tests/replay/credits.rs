//! What calls cost.

use common::clock::{Clock, DAY};
use reqwest::StatusCode;
use serde_json::json;

use crate::server::{MONDAY, NOON, Server, header, week};

#[tokio::test]
async fn a_call_costs_by_the_days_it_touches() {
    let data = week();
    let server = Server::with(&data, &["--credits", "1000"]).await;
    let client = server.client("id").await;
    for (begin, end, remaining) in [
        (MONDAY, MONDAY + DAY - 1, "996"),
        (MONDAY, MONDAY + DAY, "966"),
        (MONDAY + DAY / 2, MONDAY + 2 * DAY - 1, "936"),
        (MONDAY, MONDAY + 2 * DAY, "756"),
    ] {
        let response = client.flights("departure", "KJFK", begin, end).await;
        assert_eq!(header(&response, "x-rate-limit-remaining"), Some(remaining));
    }
    // No flights are an answer, and cost as one.
    let response = client.flights("departure", "EDDF", MONDAY, MONDAY + DAY - 1).await;
    assert_eq!(header(&response, "x-rate-limit-remaining"), Some("752"));
}

#[tokio::test]
async fn an_empty_bucket_is_429_until_midnight_and_each_client_has_its_own() {
    let data = week();
    let server = Server::with(&data, &["--credits", "10"]).await;
    let (one, two) = (server.client("one").await, server.client("two").await);
    let ask = async |client: &crate::server::Client<'_>| {
        client.flights("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await
    };
    assert_eq!(ask(&one).await.status(), StatusCode::OK);
    assert_eq!(ask(&one).await.status(), StatusCode::OK);
    let response = ask(&one).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&response, "x-rate-limit-remaining"), Some("2"));
    assert_eq!(header(&response, "x-rate-limit-retry-after-seconds"), Some("43200"));
    assert_eq!(header(&ask(&two).await, "x-rate-limit-remaining"), Some("6"));

    server.time.set(NOON + DAY / 2 - 1);
    let one = server.client("one").await;
    assert_eq!(header(&ask(&one).await, "x-rate-limit-retry-after-seconds"), Some("1"));
    server.time.set(NOON + DAY / 2);
    assert_eq!(header(&ask(&one).await, "x-rate-limit-remaining"), Some("6"));
}

#[tokio::test]
async fn the_wait_is_in_real_seconds_on_a_clock_that_runs_faster() {
    let data = week();
    // A day in twenty seconds: half a day is left, ten seconds.
    let flags = ["--data", data.path().to_str().unwrap(), "--credits", "0"];
    let server = Server::start(&flags, Clock::scaled(NOON, 4320), Clock::manual(0).1).await;
    let client = server.client("id").await;
    let response = client.flights("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = header(&response, "x-rate-limit-retry-after-seconds").unwrap().parse().unwrap();
    // Up to a whole lapsed day if this machine was busy for half of one; in lapsed seconds it would be thousands.
    assert!((1..=20).contains(&wait), "{wait}");
}

#[tokio::test]
async fn credits_can_be_set_while_running() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let client = server.client("id").await;
    assert_eq!(client.count("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await, 1);
    assert_eq!(server.admin("/admin/faults").await["credits_remaining"], 3996);
    assert_eq!(server.patch(json!({"credits_remaining": 5})).await["credits_remaining"], 5);
    assert_eq!(client.count("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await, 1);
    let response = client.flights("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(server.admin("/admin/faults").await["credits_remaining"], 1);
    // The next day is like any other.
    server.time.set(NOON + DAY);
    assert_eq!(server.admin("/admin/faults").await["credits_remaining"], 4000);
}
