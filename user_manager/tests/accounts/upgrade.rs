//! A database that an earlier version has made.

use common::db::migrations;
use common::testing::{databases, temp_path};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::service::{PASSWORD, Service, json_of};

/// The tables as they were before registrations had keys.
const EARLIER: &[(&str, &str)] = &[
    ("accounts", include_str!("../../migrations/0001_accounts.sql")),
    ("outbox", include_str!("../../migrations/0002_outbox.sql")),
];

#[tokio::test]
async fn accounts_and_tokens_of_before_go_on_and_count_as_confirmed() {
    // Where the hash of the password and the key come from.
    let file = temp_path("user.db");
    let other = common::testing::TestDb { name: "sqlite", url: format!("sqlite:{}", file.display()).into() };
    let service = Service::start(&other).await;
    service.register("ada@example.com").await;
    let token = service.login("ada@example.com", PASSWORD).await;
    service.stop().await;
    let one = async |query| other.texts(query).await.remove(0);
    let (account, hash) =
        (one("SELECT account FROM users").await, one("SELECT password_hash FROM users").await);
    let (kid, key) = (one("SELECT kid FROM signing_key").await, one("SELECT pkcs8 FROM signing_key").await);

    for db in databases("user_manager: upgrade").await {
        common::db::open(&db.url, &migrations(EARLIER)).await.unwrap().close().await;
        let now = common::clock::Clock::System.now();
        db.execute_all(format!(
            "INSERT INTO users VALUES ('{account}', 'ada@example.com', 'Ada', 'Example', '{hash}', 0, 1700000000); \
             INSERT INTO signing_key VALUES (1, '{kid}', '{key}', {now})"
        ))
        .await;
        let service = Service::start(&db).await;
        let profile = json_of(service.me(&token).await, StatusCode::OK).await;
        assert_eq!((&profile["id"], &profile["confirmed"]), (&json!(account), &json!(true)));
        let token = service.login("ada@example.com", PASSWORD).await;
        // An earlier version that still runs knows nothing of confirmations.
        db.execute_all(format!(
            "INSERT INTO users (account, email, name, surname, password_hash, tokens_not_before, created_at) VALUES \
             ('00000000-0000-4000-8000-000000000001', 'bob@example.com', 'Bob', 'Example', '{hash}', 0, 1700000000)"
        ))
        .await;
        service.login("bob@example.com", PASSWORD).await;
        let deleted = service.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    }
}
