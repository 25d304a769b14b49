use common::auth::TOKEN_LIFETIME;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::service::{PASSWORD, Service, databases, json_of, problem};

#[tokio::test]
async fn a_login_gives_a_token_that_every_service_accepts_by_the_feed() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let profile = service.register("ada@example.com").await;
        let body = json!({"email": "ADA@example.com", "password": PASSWORD});
        let login = json_of(service.post("/login", &body).await, StatusCode::OK).await;
        assert_eq!((&login["token_type"], &login["expires_in"]), (&json!("Bearer"), &json!(TOKEN_LIFETIME)));
        let token = login["access_token"].as_str().unwrap();
        let claims = service.verifier().await.verify(token).unwrap();
        assert_eq!(claims.sub.to_string(), profile["id"].as_str().unwrap());
        assert_eq!(claims.email.as_str(), "ada@example.com");
        assert_eq!(claims.exp - claims.iat, TOKEN_LIFETIME);
        assert_eq!(json_of(service.me(token).await, StatusCode::OK).await, profile);
    }
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_are_answered_alike() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let attempt = async |email: &str, password: &str| {
            let response = service.post("/login", &json!({"email": email, "password": password})).await;
            let mut names: Vec<String> = response.headers().keys().map(ToString::to_string).collect();
            names.sort();
            (names, problem(response, StatusCode::UNAUTHORIZED, "wrong-credentials").await)
        };
        let wrong = attempt("ada@example.com", "wrong password").await;
        // A comparison is what takes the time, so each attempt has one.
        for (email, password) in
            [("eve@example.com", PASSWORD), ("ada@example.com", ""), ("eve@example.com", "")]
        {
            let before = hashed(&service).await;
            assert_eq!(attempt(email, password).await, wrong);
            assert_eq!(hashed(&service).await, before + 1, "{email}");
        }
    }
}

#[tokio::test]
async fn without_a_valid_token_there_is_no_profile() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        let mut parts: Vec<&str> = token.split('.').collect();
        let unsigned = format!("{}.{}.", parts[0], parts[1]);
        parts[2] = "AAAA";
        for bad in ["", "x", &unsigned, &parts.join(".")] {
            problem(service.me(bad).await, StatusCode::UNAUTHORIZED, "unauthorized").await;
        }
        let none = service.request(Method::GET, "/me").send().await.unwrap();
        assert_eq!(none.headers()["www-authenticate"], "Bearer");
        problem(none, StatusCode::UNAUTHORIZED, "unauthorized").await;
        let basic = service.request(Method::GET, "/me").basic_auth("ada@example.com", Some(PASSWORD));
        problem(basic.send().await.unwrap(), StatusCode::UNAUTHORIZED, "unauthorized").await;
    }
}

/// How many passwords have been hashed or compared.
async fn hashed(service: &Service) -> u64 {
    let metrics = service.admin("/metrics").await.text().await.unwrap();
    let line = metrics.lines().find(|line| line.starts_with("vedetta_user_manager_hashed_passwords_total{"));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}
