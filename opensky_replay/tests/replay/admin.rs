//! Faults on demand.

use common::clock::DAY;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Client, MONDAY, Server, week};

async fn ask(client: &Client<'_>) -> StatusCode {
    client.flights("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await.status()
}

#[tokio::test]
async fn faults_are_shown_and_changed_one_by_one() {
    let data = week();
    let server = Server::with(&data, &["--error-rate", "0.25", "--latency", "5ms"]).await;
    let start = json!({"outage": false, "error_rate": 0.25, "latency_ms": 5, "truncate_rate": 0.0,
        "credits_remaining": 4000});
    assert_eq!(server.admin("/admin/faults").await, start);
    assert_eq!(server.patch(json!({})).await, start);
    let all = json!({"outage": true, "error_rate": 1.0, "latency_ms": 0, "truncate_rate": 0.5,
        "credits_remaining": 7});
    assert_eq!(server.patch(json!({"outage": true, "error_rate": 1, "latency_ms": 0})).await["outage"], true);
    assert_eq!(server.patch(json!({"truncate_rate": 0.5, "credits_remaining": 7})).await, all);
    assert_eq!(server.admin("/admin/faults").await, all);
}

#[tokio::test]
async fn invalid_faults_are_refused_and_change_nothing() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let before = server.admin("/admin/faults").await;
    for (change, complaint) in [
        (json!({"error_rate": 1.5}), "a rate is from 0 to 1, not 1.5"),
        (json!({"outage": true, "truncate_rate": -0.1}), "a rate is from 0 to 1, not -0.1"),
        (json!({"latency_ms": 20_001}), "a latency is at most 20 s"),
        (json!({"latency_ms": -1}), "latency_ms"),
        (json!({"credits_remaining": -1}), "credits_remaining"),
        (json!({"outage": "yes"}), "outage"),
        (json!({"outrage": true}), "outrage"),
    ] {
        let response = server.request(Method::PATCH, "/admin/faults").json(&change).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{change}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["type"], "urn:vedetta:problem:invalid");
        assert_eq!(problem["status"], 422);
        assert!(problem["detail"].as_str().unwrap().contains(complaint), "{problem}");
    }
    assert_eq!(server.admin("/admin/faults").await, before);
}

#[tokio::test]
async fn an_outage_takes_the_token_endpoint_too_and_ends() {
    let data = week();
    let server = Server::with(&data, &["--outage"]).await;
    assert_eq!(server.grant("/token", "id", "secret").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.patch(json!({"outage": false})).await;
    let client = server.client("id").await;
    assert_eq!(ask(&client).await, StatusCode::OK);
    server.patch(json!({"outage": true})).await;
    assert_eq!(ask(&client).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn errors_come_at_their_rate_and_as_the_seed_says() {
    let data = week();
    let run = async |seed: &str| {
        let server = Server::with(&data, &["--error-rate", "0.5", "--seed", seed]).await;
        let client = server.client("id").await;
        let mut failed = Vec::new();
        for _ in 0..64 {
            failed.push(ask(&client).await == StatusCode::INTERNAL_SERVER_ERROR);
        }
        failed
    };
    let first = run("1").await;
    assert!((16..=48).contains(&first.iter().filter(|failed| **failed).count()));
    assert_eq!(run("1").await, first);
    assert_ne!(run("2").await, first);
}

#[tokio::test]
async fn truncated_answers_are_no_json() {
    let data = week();
    let server = Server::with(&data, &["--truncate-rate", "1"]).await;
    let client = server.client("id").await;
    let response = client.flights("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await;
    assert_eq!(response.status(), StatusCode::OK);
    let text = response.text().await.unwrap();
    assert!(text.starts_with("[{\"icao24\"") && serde_json::from_str::<Value>(&text).is_err());
    // Nothing to cut in an answer without flights.
    assert_eq!(client.count("departure", "EDDF", MONDAY, MONDAY + DAY - 1).await, 0);
}

#[tokio::test]
async fn calls_are_counted_by_endpoint_and_status() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    assert_eq!(server.admin("/admin/stats").await, json!({}));
    let client = server.client("id").await;
    client.count("departure", "KJFK", MONDAY, MONDAY + DAY - 1).await;
    client.count("arrival", "KBOS", MONDAY, MONDAY + DAY - 1).await;
    client.count("arrival", "KBOS", MONDAY, MONDAY + DAY - 1).await;
    client.count("arrival", "EDDF", MONDAY, MONDAY + DAY - 1).await;
    client.ask("arrival", "airport=KBOS").await;
    server.patch(json!({"outage": true})).await;
    server.grant("/token", "id", "secret").await;
    let expected = json!({"arrival": {"200": 2, "400": 1, "404": 1}, "departure": {"200": 1},
        "token": {"200": 1, "503": 1}});
    assert_eq!(server.admin("/admin/stats").await, expected);
}

#[tokio::test]
async fn health_is_told_also_in_an_outage() {
    let data = week();
    let server = Server::with(&data, &["--outage"]).await;
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(server.request(Method::GET, path).send().await.unwrap().status(), StatusCode::OK);
    }
}
