//! Who is answered.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::server::{MONDAY, Server, week};

const LONG_PATH: &str = "/auth/realms/opensky-network/protocol/openid-connect/token";

fn path() -> String {
    format!("/api/flights/departure?airport=KJFK&begin={MONDAY}&end={}", MONDAY + 86_399)
}

async fn status(server: &Server, authorization: Option<&str>) -> StatusCode {
    let request = server.request(Method::GET, &path());
    let request =
        authorization.into_iter().fold(request, |request, value| request.header("authorization", value));
    request.send().await.unwrap().status()
}

#[tokio::test]
async fn any_client_gets_a_token_on_both_paths() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    for path in ["/token", LONG_PATH] {
        let answer: Value = server.grant(path, "anyone", "anything").await.json().await.unwrap();
        assert_eq!(answer["expires_in"], 1800);
        let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
        assert_eq!(status(&server, Some(&bearer)).await, StatusCode::OK);
    }
}

#[tokio::test]
async fn only_listed_clients_get_one_when_there_is_a_list() {
    let data = week();
    let server = Server::with(&data, &["--client", "one:secret", "--client", "two:with:colon"]).await;
    assert_eq!(server.grant("/token", "one", "secret").await.status(), StatusCode::OK);
    assert_eq!(server.grant("/token", "two", "with:colon").await.status(), StatusCode::OK);
    for (id, secret) in [("one", "with:colon"), ("three", "secret"), ("one", "")] {
        let response = server.grant(LONG_PATH, id, secret).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.json::<Value>().await.unwrap()["error"], "invalid_client");
    }
}

#[tokio::test]
async fn other_grants_are_refused() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let long = "a".repeat(257);
    for (form, error) in [
        (
            vec![("grant_type", "password"), ("client_id", "a"), ("client_secret", "b")],
            "unsupported_grant_type",
        ),
        (vec![("grant_type", "client_credentials"), ("client_id", "a")], "invalid_request"),
        (
            vec![("grant_type", "client_credentials"), ("client_id", &long), ("client_secret", "b")],
            "invalid_request",
        ),
        (vec![], "invalid_request"),
    ] {
        let response = server.request(Method::POST, "/token").form(&form).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.json::<Value>().await.unwrap()["error"], error);
    }
}

#[tokio::test]
async fn a_call_needs_a_valid_token() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    for authorization in [None, Some("Bearer unknown"), Some("Bearer "), Some("Basic YTpi")] {
        assert_eq!(status(&server, authorization).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_token_expires() {
    let data = week();
    let server = Server::with(&data, &["--token-lifetime", "10m"]).await;
    let answer: Value = server.grant("/token", "id", "secret").await.json().await.unwrap();
    assert_eq!(answer["expires_in"], 600);
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    server.time.advance(Duration::from_secs(599));
    assert_eq!(status(&server, Some(&bearer)).await, StatusCode::OK);
    server.time.advance(Duration::from_secs(1));
    assert_eq!(status(&server, Some(&bearer)).await, StatusCode::UNAUTHORIZED);
    let renewed = format!("Bearer {}", server.token("id").await);
    assert_eq!(status(&server, Some(&renewed)).await, StatusCode::OK);
}

#[tokio::test]
async fn anonymous_calls_only_where_they_are_allowed() {
    let data = week();
    let server = Server::with(&data, &["--anonymous"]).await;
    assert_eq!(status(&server, None).await, StatusCode::OK);
    assert_eq!(status(&server, Some("Bearer unknown")).await, StatusCode::UNAUTHORIZED);
    let response = server.request(Method::GET, &path()).send().await.unwrap();
    assert_eq!(response.headers()["x-rate-limit-remaining"], "392");
}
