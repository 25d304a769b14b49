use common::types::Account;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{PASSWORD, Service, databases, problem, registration};

#[tokio::test]
async fn a_registration_answers_with_the_profile_under_the_normalised_address() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let profile = service.register(" Ada@Bücher.Example ").await;
        assert_eq!(profile["email"], "ada@xn--bcher-kva.example");
        assert_eq!((&profile["name"], &profile["surname"]), (&json!("Ada"), &json!("Example")));
        profile["id"].as_str().unwrap().parse::<Account>().unwrap();
        assert!(profile["created_at"].as_str().unwrap().ends_with('Z'));
        assert!(!profile.to_string().contains("password"), "{profile}");
    }
}

#[tokio::test]
async fn an_address_has_one_account_in_whatever_case_it_is_written() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        for same in ["ada@example.com", "ADA@Example.Com"] {
            let response = service.post("/register", &registration(same)).await;
            problem(response, StatusCode::CONFLICT, "email-taken").await;
        }
    }
}

/// A good registration with one field set to something else, or removed.
fn with(field: &str, value: Option<Value>) -> Value {
    let mut body = registration("ada@example.com");
    match value {
        Some(value) => body[field] = value,
        None => drop(body.as_object_mut().unwrap().remove(field)),
    }
    body
}

#[tokio::test]
async fn each_bad_value_is_refused_by_name() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let long = "x".repeat(1025);
        for (field, bad) in [
            ("email", json!("ada")),
            ("email", json!("ada@example")),
            ("email", json!("ada@192.0.2.1")),
            ("email", json!("ada@[192.0.2.1]")),
            ("email", json!(format!("{}@example.com", "a".repeat(65)))),
            ("email", json!("ada@example.com\r\nBcc: eve@example.com")),
            ("email", json!(null)),
            ("email", json!(7)),
            ("name", json!("")),
            ("name", json!("   ")),
            ("name", json!("x".repeat(101))),
            ("name", json!("a\u{0}b")),
            ("surname", json!("line\nbreak")),
            ("surname", json!(["Example"])),
            ("password", json!("seven77")),
            ("password", json!(long)),
            ("password", json!(12_345_678)),
        ] {
            let response = service.post("/register", &with(field, Some(bad.clone()))).await;
            let detail = problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
            assert!(detail.contains(field), "{field} {bad}: {detail}");
            assert!(!detail.contains("seven77"), "a password is repeated: {detail}");
        }
        for field in ["email", "name", "surname", "password"] {
            let response = service.post("/register", &with(field, None)).await;
            let detail = problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
            assert!(detail.contains(field), "{detail}");
        }
        // None of them left anything behind; unknown fields do no harm.
        let mut good = registration("ada@example.com");
        good["nickname"] = json!("ada");
        assert_eq!(service.post("/register", &good).await.status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn what_is_no_json_request_is_told_so() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let send = |kind: Option<&'static str>, body: String| {
            let request = service.request(Method::POST, "/register").body(body);
            let request =
                kind.map_or(request.try_clone().unwrap(), |kind| request.header("content-type", kind));
            async move { request.send().await.unwrap() }
        };
        let json = Some("application/json");
        problem(send(json, "{\"email\":".into()).await, StatusCode::BAD_REQUEST, "bad-request").await;
        problem(send(json, String::new()).await, StatusCode::BAD_REQUEST, "bad-request").await;
        let form = Some("application/x-www-form-urlencoded");
        for kind in [None, form] {
            let response = send(kind, registration("ada@example.com").to_string()).await;
            problem(response, StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type").await;
        }
        let large = with("name", Some(json!("x".repeat(1 << 20)))).to_string();
        problem(send(json, large).await, StatusCode::PAYLOAD_TOO_LARGE, "too-large").await;
        let response = service.request(Method::GET, "/register").send().await.unwrap();
        problem(response, StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed").await;
        let response = service.request(Method::GET, "/nothing").send().await.unwrap();
        problem(response, StatusCode::NOT_FOUND, "not-found").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once_make_one_account() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let body = registration("ada@example.com");
        let answers = join_all((0..200).map(|_| service.post("/register", &body))).await;
        let with = |status| answers.iter().filter(|answer| answer.status() == status).count();
        let (made, taken) = (with(StatusCode::CREATED), with(StatusCode::CONFLICT));
        // Who has to wait too long for a password to be hashed is told to come again.
        let busy = with(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!((made, made + taken + busy), (1, 200), "{taken} taken, {busy} busy");
        service.login("ada@example.com", PASSWORD).await;
    }
}
