use common::clock::Clock;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::service::{PASSWORD, Service, databases, problem};

const NEXT: &str = "a new password";

async fn change(service: &Service, token: &str, current: &str, new: &str) -> Response {
    let request = service.request(Method::POST, "/password").bearer_auth(token);
    request.json(&json!({"current": current, "new": new})).send().await.unwrap()
}

#[tokio::test]
async fn a_change_ends_the_old_tokens_and_the_old_password() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let old = service.login("ada@example.com", PASSWORD).await;
        assert_eq!(change(&service, &old, PASSWORD, NEXT).await.status(), StatusCode::NO_CONTENT);
        problem(service.me(&old).await, StatusCode::UNAUTHORIZED, "unauthorized").await;
        assert!(service.verifier().await.verify(&old).is_err());
        assert_eq!(service.try_login("ada@example.com", PASSWORD).await, StatusCode::UNAUTHORIZED);
        let new = service.login("ada@example.com", NEXT).await;
        assert_eq!(service.me(&new).await.status(), StatusCode::OK);
    }
}

/// The clock stands still, so all of this happens within one second.
#[tokio::test]
async fn within_one_second_each_change_and_the_deletion_end_the_tokens_before_them() {
    for db in databases().await {
        let (clock, _) = Clock::manual(1_800_000_000);
        let service = Service::replica(&db.url, "one", clock).await;
        service.register("ada@example.com").await;
        let mut passwords = [PASSWORD, NEXT];
        for _ in 0..3 {
            let token = service.login("ada@example.com", passwords[0]).await;
            assert_eq!(service.me(&token).await.status(), StatusCode::OK);
            assert_eq!(
                change(&service, &token, passwords[0], passwords[1]).await.status(),
                StatusCode::NO_CONTENT
            );
            assert_eq!(service.me(&token).await.status(), StatusCode::UNAUTHORIZED);
            passwords.reverse();
        }
        let token = service.login("ada@example.com", passwords[0]).await;
        let deleted = service.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
        assert_eq!(service.me(&token).await.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_change_needs_the_current_password_and_a_good_new_one() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        let wrong = change(&service, &token, "not the password", NEXT).await;
        problem(wrong, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
        problem(
            change(&service, &token, PASSWORD, "short").await,
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
        )
        .await;
        let body = json!({"email": "eve@example.com", "current": PASSWORD, "new": NEXT});
        let other = service.request(Method::POST, "/password").bearer_auth(&token).json(&body);
        problem(other.send().await.unwrap(), StatusCode::FORBIDDEN, "forbidden").await;
        assert_eq!(change(&service, "x", PASSWORD, NEXT).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(service.me(&token).await.status(), StatusCode::OK);
        service.login("ada@example.com", PASSWORD).await;
    }
}
