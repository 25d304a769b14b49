//! AUTH=off: the email in a request says who asks.

use common::testing::{TestDb, eventually};
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{PASSWORD, Service, databases, json_of, problem, registration};

async fn classroom(db: &TestDb) -> Service {
    Service::with(db, &["--auth=off", "--confirm-email=on"]).await.0
}

async fn me(service: &Service, email: &str) -> Value {
    let response = service.request(Method::GET, "/me").header("email", email).send().await.unwrap();
    json_of(response, StatusCode::OK).await
}

#[tokio::test]
async fn a_registration_needs_no_password_and_no_confirmation() {
    for db in databases().await {
        let service = classroom(&db).await;
        let body =
            json!({"id": "{{$uuid}}", "email": "ada@example.com", "name": "Ada", "surname": "Example"});
        let profile = json_of(service.post("/register", &body).await, StatusCode::CREATED).await;
        // It does not matter here, and does not count where it will.
        assert_eq!(profile["confirmed"], false);
        let again = service.post("/register", &body).await;
        assert_eq!(again.headers()["idempotency-replayed"], "true");
        assert_eq!(json_of(again, StatusCode::CREATED).await, profile);
        let mut other = body.clone();
        other["password"] = PASSWORD.into();
        let other = service.post("/register", &other).await;
        problem(other, StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused").await;
        // Under another name, the same key is another person's.
        let mut other = body;
        other["email"] = "eve@example.com".into();
        let eve = json_of(service.post("/register", &other).await, StatusCode::CREATED).await;
        assert_ne!(eve["id"], profile["id"]);
        let token = service.post("/login", &json!({"email": "ada@example.com"})).await;
        assert_eq!(token.status(), StatusCode::OK);
        // An address is taken here, although nobody confirms it.
        let mut again =
            json!({"id": "another", "email": "ada@example.com", "name": "Ada", "surname": "Example"});
        for id in [json!("another"), Value::Null] {
            again["id"] = id;
            let again = service.post("/register", &again).await;
            problem(again, StatusCode::CONFLICT, "email-taken").await;
        }
        let unknown = service.post("/login", &json!({"email": "mia@example.com"})).await;
        problem(unknown, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
    }
}

#[tokio::test]
async fn the_email_says_who_asks_in_the_body_a_header_or_the_query() {
    for db in databases().await {
        let service = classroom(&db).await;
        let ada = service.register("ada@example.com").await;
        assert_eq!(me(&service, "ADA@example.com").await, ada);
        let by_query = service.request(Method::GET, "/me").query(&[("email", "ada@example.com")]);
        assert_eq!(json_of(by_query.send().await.unwrap(), StatusCode::OK).await, ada);
        let refused = async |email: Option<&str>, status, slug| {
            let request = service.request(Method::GET, "/me");
            let request = email.into_iter().fold(request, |request, email| request.header("email", email));
            problem(request.send().await.unwrap(), status, slug).await;
        };
        refused(None, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        refused(Some("ada"), StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        refused(Some("eve@example.com"), StatusCode::NOT_FOUND, "unknown-user").await;
        // A request that names two people is nobody's.
        service.register("eve@example.com").await;
        let two = service.request(Method::DELETE, "/delete").header("email", "eve@example.com");
        let two = two.json(&json!({"email": "ada@example.com"})).send().await.unwrap();
        problem(two, StatusCode::FORBIDDEN, "forbidden").await;
        // A token is not looked at.
        let request = service.request(Method::GET, "/me").bearer_auth("x").header("email", "ada@example.com");
        assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);

        let delete = service.request(Method::DELETE, "/delete").json(&json!({"email": "ada@example.com"}));
        assert_eq!(delete.send().await.unwrap().status(), StatusCode::NO_CONTENT);
        refused(Some("ada@example.com"), StatusCode::NOT_FOUND, "unknown-user").await;
        me(&service, "eve@example.com").await;
    }
}

#[tokio::test]
async fn a_password_that_is_there_is_asked_for() {
    for db in databases().await {
        let service = classroom(&db).await;
        service.post("/register", &json!({"email": "ada@example.com", "name": "Ada", "surname": "E"})).await;
        service.register("eve@example.com").await;
        let change = async |body: Value| service.post("/password", &body).await;
        let first = change(json!({"email": "ada@example.com", "new": PASSWORD})).await;
        assert_eq!(first.status(), StatusCode::NO_CONTENT);
        for email in ["ada@example.com", "eve@example.com"] {
            let without = service.post("/login", &json!({"email": email})).await;
            problem(without, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
            service.login(email, PASSWORD).await;
            let without = change(json!({"email": email, "new": "another password"})).await;
            problem(without, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
            let wrong = change(json!({"email": email, "current": "wrong", "new": "another password"})).await;
            problem(wrong, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
        }
    }
}

/// In the classroom anybody can make an account for any address, and be anyone. Nothing of that counts elsewhere.
#[tokio::test]
async fn what_was_made_in_the_classroom_is_nobodys_where_tokens_are_asked_for() {
    for db in databases().await {
        let service = classroom(&db).await;
        let body = json!({"email": "ada@example.com", "name": "Ada", "surname": "Example"});
        assert_eq!(service.post("/register", &body).await.status(), StatusCode::CREATED);
        let mut bob = registration("bob@example.com");
        bob["id"] = "k1".into();
        let classrooms = json_of(service.post("/register", &bob).await, StatusCode::CREATED).await;
        let tokens = [
            service.post("/login", &json!({"email": "ada@example.com"})).await,
            service.post("/login", &json!({"email": "bob@example.com", "password": PASSWORD})).await,
        ];
        let tokens = join_all(tokens.map(|login| json_of(login, StatusCode::OK))).await;
        service.stop().await;
        let service = Service::start(&db).await;
        for token in tokens {
            let token = token["access_token"].as_str().unwrap();
            problem(service.me(token).await, StatusCode::UNAUTHORIZED, "unauthorized").await;
        }
        let without = service.post("/login", &json!({"email": "ada@example.com"})).await;
        problem(without, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        for password in ["", PASSWORD] {
            assert_eq!(service.try_login("ada@example.com", password).await, StatusCode::UNAUTHORIZED);
        }
        assert_eq!(service.try_login("bob@example.com", PASSWORD).await, StatusCode::UNAUTHORIZED);
        // Their interests go with them.
        eventually("all to be told of", async || {
            (service.log.read_all("user-forgotten").await.unwrap().len() == 2).then_some(())
        })
        .await;
        // Whose address it is registers it, and nobody else is in the account.
        let mut own = registration("bob@example.com");
        own["id"] = "k1".into();
        let own = json_of(service.post("/register", &own).await, StatusCode::CREATED).await;
        assert_ne!(own["id"], classrooms["id"]);
        service.login("bob@example.com", PASSWORD).await;
        let nobody = service.request(Method::GET, "/me").header("email", "ada@example.com");
        problem(nobody.send().await.unwrap(), StatusCode::UNAUTHORIZED, "unauthorized").await;
        let without = registration("eve@example.com").as_object().unwrap().clone();
        let without = Value::from_iter(without.into_iter().filter(|(name, _)| name != "password"));
        let refused = service.post("/register", &without).await;
        problem(refused, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
    }
}
