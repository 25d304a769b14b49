//! Addresses that have to be confirmed.

use std::time::Duration;

use common::messages::UserForgotten;
use common::testing::eventually;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{NOW, PASSWORD, Service, databases, json_of, link, problem, registration};

/// In seconds.
const DAY: u64 = 86_400;
const ON: &[&str] = &["--confirm-email=on", "--public-url=https://vedetta.example.com:8443/"];

async fn login(service: &Service, password: &str) -> reqwest::Response {
    service.post("/login", &json!({"email": "ada@example.com", "password": password})).await
}

#[tokio::test]
async fn no_login_before_the_link_in_the_mail_was_opened() {
    for db in databases().await {
        let (service, _) = Service::with(&db, ON).await;
        let request = service.request(Method::POST, "/register").header("x-request-id", "r-42");
        let sent = request.json(&registration("ada@example.com")).send().await.unwrap();
        let profile = json_of(sent, StatusCode::CREATED).await;
        assert_eq!(profile["confirmed"], false);

        let mail = service.mails_when(1).await.remove(0);
        assert_eq!(mail.email.as_str(), "ada@example.com");
        assert_eq!(mail.account.unwrap().to_string(), profile["id"].as_str().unwrap());
        assert_eq!((&mail.alert, &mail.unsubscribe), (&None, &None));
        // Nothing that the sender chose is in it: it may go to somebody else.
        assert!(!mail.body.contains("Ada") && !mail.body.contains("Example\n"), "{}", mail.body);
        let link = link(&mail);
        assert!(link.starts_with("https://vedetta.example.com:8443/user_manager/confirm?token="), "{link}");
        let record = service.log.read_all("to-notifier").await.unwrap().remove(0);
        assert_eq!(record.headers["request_id"], "r-42");

        problem(login(&service, PASSWORD).await, StatusCode::FORBIDDEN, "unconfirmed").await;
        // Only who knows the password learns that the address waits.
        problem(login(&service, "wrong password").await, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
        // To look whether there is something behind the link is not to open it.
        let head = service.request(Method::HEAD, link.split_once("/user_manager").unwrap().1);
        assert_eq!(head.send().await.unwrap().status(), StatusCode::OK);
        problem(login(&service, PASSWORD).await, StatusCode::FORBIDDEN, "unconfirmed").await;
        // Twice: mail scanners open links, too.
        for _ in 0..2 {
            let page = service.open(&link).await;
            assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
            assert_eq!(page.status(), StatusCode::OK);
        }
        let token = service.login("ada@example.com", PASSWORD).await;
        assert_eq!(json_of(service.me(&token).await, StatusCode::OK).await["confirmed"], true);
        let again = service.post("/register", &registration("ada@example.com")).await;
        problem(again, StatusCode::CONFLICT, "email-taken").await;
    }
}

#[tokio::test]
async fn a_link_is_good_for_one_account_and_for_a_week() {
    for db in databases().await {
        let (service, time) = Service::with(&db, ON).await;
        service.register("ada@example.com").await;
        let link = link(&service.mails_when(1).await[0]);
        let (head, token) = link.split_once('=').unwrap();
        for bad in ["", "x", "a.b", &token[1..], &format!("{token}A")] {
            let response = service.open(&format!("{head}={bad}")).await;
            problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        }
        let without = service.open("/user_manager/confirm").await;
        problem(without, StatusCode::BAD_REQUEST, "bad-request").await;
        time.advance(Duration::from_secs(7 * DAY));
        let head = service.request(Method::HEAD, link.split_once("/user_manager").unwrap().1);
        assert_eq!(head.send().await.unwrap().status(), StatusCode::GONE);
        problem(service.open(&link).await, StatusCode::GONE, "link-expired").await;
        problem(login(&service, PASSWORD).await, StatusCode::FORBIDDEN, "unconfirmed").await;
    }
}

/// Whoever registers an address first need not be the one whose address it is.
#[tokio::test]
async fn an_unconfirmed_address_is_not_taken_and_a_later_registration_voids_the_earlier_link() {
    for db in databases().await {
        let (service, _) = Service::with(&db, ON).await;
        let mut body = registration("ada@example.com");
        body["password"] = "the other's password".into();
        body["id"] = "k1".into();
        let first = json_of(service.post("/register", &body).await, StatusCode::CREATED).await;
        let second = service.register("ada@example.com").await;
        assert_ne!(first["id"], second["id"]);
        let mails = service.mails_when(2).await;
        problem(service.open(&link(&mails[0])).await, StatusCode::GONE, "link-expired").await;
        assert_eq!(service.open(&link(&mails[1])).await.status(), StatusCode::OK);
        let other = login(&service, "the other's password").await;
        problem(other, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
        service.login("ada@example.com", PASSWORD).await;
        // Its key is gone with the first account, whose mail is not sent any more.
        problem(service.post("/register", &body).await, StatusCode::CONFLICT, "email-taken").await;
        let forgotten = forgotten_when(&service, 1).await;
        assert_eq!(forgotten[0].account.to_string(), first["id"].as_str().unwrap());
    }
}

async fn forgotten_when(service: &Service, count: usize) -> Vec<UserForgotten> {
    eventually("user-forgotten", async || {
        let records = service.log.read_all("user-forgotten").await.unwrap();
        let messages = records.iter().map(|record| serde_json::from_slice(&record.payload).unwrap());
        (records.len() >= count).then(|| messages.collect())
    })
    .await
}

#[tokio::test]
async fn an_address_gets_three_mails_a_day() {
    for db in databases().await {
        let (service, time) = Service::with(&db, ON).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(service.register("ada@example.com").await["id"].clone());
            time.advance(Duration::from_secs(100));
        }
        let refused = service.post("/register", &registration("ada@example.com")).await;
        assert_eq!(refused.headers()["retry-after"], (DAY - 300).to_string());
        problem(refused, StatusCode::TOO_MANY_REQUESTS, "too-many-mails").await;
        // What was refused changed nothing: the last link is good.
        let mails = service.mails_when(3).await;
        assert_eq!(service.open(&link(&mails[2])).await.status(), StatusCode::OK);
        service.login("ada@example.com", PASSWORD).await;
        // Others are not concerned, and a day after the first mail there are mails again.
        service.register("eve@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        service.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        let refused = service.post("/register", &registration("ada@example.com")).await;
        problem(refused, StatusCode::TOO_MANY_REQUESTS, "too-many-mails").await;
        time.advance(Duration::from_secs(DAY - 300));
        service.register("ada@example.com").await;
        assert_eq!(service.mails_when(5).await.len(), 5);
    }
}

#[tokio::test]
async fn a_repetition_sends_no_second_mail() {
    for db in databases().await {
        let (service, _) = Service::with(&db, ON).await;
        let mut body = registration("ada@example.com");
        body["id"] = "k1".into();
        let mut answers = Vec::<Value>::new();
        for _ in 0..5 {
            answers.push(json_of(service.post("/register", &body).await, StatusCode::CREATED).await);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]));
        service.register("eve@example.com").await;
        let to: Vec<String> =
            service.mails_when(2).await.iter().map(|mail| mail.email.as_str().to_owned()).collect();
        assert_eq!(to, ["ada@example.com", "eve@example.com"]);
    }
}

#[tokio::test]
async fn who_never_confirms_is_forgotten_after_a_week() {
    for db in databases().await {
        let (service, _) = Service::with(&db, ON).await;
        let ada = service.register("ada@example.com").await;
        let eve = service.register("eve@example.com").await;
        assert_eq!(service.open(&link(&service.mails_when(1).await[0])).await.status(), StatusCode::OK);
        // What is pruned every hour is pruned at the start, too.
        service.stop().await;
        let clock = common::clock::Clock::manual(NOW + 7 * DAY as i64).0;
        let service = Service::built(&db.url, "one", clock, ON).await.unwrap();
        let forgotten = forgotten_when(&service, 1).await;
        assert_eq!(forgotten[0].account.to_string(), eve["id"].as_str().unwrap());
        let late = service.post("/login", &json!({"email": "eve@example.com", "password": PASSWORD})).await;
        problem(late, StatusCode::UNAUTHORIZED, "wrong-credentials").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        assert_eq!(json_of(service.me(&token).await, StatusCode::OK).await["id"], ada["id"]);
    }
}
