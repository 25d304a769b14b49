//! The OpenAPI documents are true: they name every route and no other, are served as they stand, and every answer is one
//! that they know. (The client looks at each answer, here and in all other tests.)
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use e2e::client::{Client, PASSWORD};
use e2e::in_process::System;
use e2e::openapi::{DOCUMENTS, Operation};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Wednesday, 25 November 2026, 09:00 UTC.
const NOW: i64 = 1_795_597_200;

/// A method that no route takes: the answer lists those that it does.
fn trace() -> Method {
    Method::TRACE
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_takes_the_methods_that_are_documented_and_no_others() {
    let system = System::start(NOW).await;
    let http = common::http::client(std::time::Duration::from_secs(20)).unwrap();
    let addresses = [system.user_manager, system.data_collector];
    for (document, address) in DOCUMENTS.iter().zip(addresses) {
        let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for operation in document.operations() {
            let methods = documented.entry(operation.path).or_default();
            // What can be got can be asked for its head.
            if operation.method == "GET" {
                methods.insert("HEAD".to_owned());
            }
            methods.insert(operation.method);
        }
        for (path, methods) in documented {
            let url = format!("http://{address}{}", path.replace("{icao}", "KJFK"));
            let answer = http.request(trace(), url).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            let allowed =
                answer.headers()["allow"].to_str().unwrap().split(',').map(|name| name.trim().to_owned());
            assert_eq!(allowed.collect::<BTreeSet<_>>(), methods, "{}{path}", document.prefix);
        }
    }
    system.stop().await;
}

/// The signed link in the first mail of somebody.
async fn unsubscribe_link(system: &System, email: &str) -> String {
    let mail = system.mailbox.wait_for(email, 1).await.remove(0);
    let line = mail.body.lines().find_map(|line| line.strip_prefix("No more of these mails: ")).unwrap();
    line.split_once("8443").unwrap().1.to_owned()
}

/// Asks everything that can be asked, in a way that succeeds, and the ways in which it may fail.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_answers_as_documented() {
    let system = System::start(NOW).await;
    let anyone = Client::of(system.gateway);
    anyone.until_served().await;
    for document in DOCUMENTS.iter() {
        let served = anyone.get(&format!("{}/openapi.json", document.prefix)).await;
        assert_eq!((served.status, &served.body), (StatusCode::OK, &document.value));
    }
    accounts(&system, &anyone).await;
    let ada = anyone.registered("ada@example.com").await;
    interests(&system, &ada).await;
    flights(&ada).await;
    ada.call(Method::DELETE, "/user_manager/delete", Some(json!({"email": "ada@example.com"}))).await;
    anyone.call(Method::DELETE, "/user_manager/me", None).await;

    let succeeded: BTreeSet<Operation> = anyone
        .seen()
        .into_iter()
        .filter(|(_, status)| (200..300).contains(status))
        .map(|(operation, _)| operation)
        .collect();
    let all: BTreeSet<Operation> = DOCUMENTS.iter().flat_map(|document| document.operations()).collect();
    assert_eq!(succeeded, all);
    system.stop().await;
}

async fn expect(client: &Client, method: Method, path: &str, body: Option<Value>, status: u16) -> Value {
    let answer = client.call(method.clone(), path, body).await;
    assert_eq!(answer.status.as_u16(), status, "{method} {path}: {answer:?}");
    answer.body
}

async fn accounts(system: &System, anyone: &Client) {
    let person = |email: &str| json!({"id": "{{$uuid}}", "email": email, "name": "Eve", "surname": "Example", "password": PASSWORD});
    let register = "/user_manager/register";
    expect(anyone, Method::POST, register, Some(person("eve@example.com")), 201).await;
    expect(anyone, Method::POST, register, Some(person("eve@example.com")), 201).await;
    let mut other = person("eve@example.com");
    other["name"] = "Ada".into();
    expect(anyone, Method::POST, register, Some(other.clone()), 422).await;
    other["id"] = "another".into();
    expect(anyone, Method::POST, register, Some(other), 409).await;
    expect(anyone, Method::POST, register, Some(json!(["eve@example.com"])), 422).await;
    expect(anyone, Method::POST, register, None, 415).await;
    let wrong = json!({"email": "eve@example.com", "password": "wrong"});
    expect(anyone, Method::POST, "/user_manager/login", Some(wrong), 401).await;
    expect(anyone, Method::GET, "/user_manager/me", None, 401).await;
    let large = json!({"email": "eve@example.com", "password": "x".repeat(20_000)});
    expect(anyone, Method::POST, "/user_manager/login", Some(large), 413).await;

    // The link in a mail is signed with a secret of the database.
    let secret = common::testing::TestDb { name: "sqlite", url: system.user_db.clone() };
    let secret = secret.texts("SELECT value FROM secret WHERE name = 'confirm'").await.remove(0);
    let secret = String::from_utf8(base64(&secret)).unwrap();
    let signer = common::signed::Signer::new(&secret).unwrap();
    let eve = anyone.logged_in("eve@example.com").await;
    let profile = expect(&eve, Method::GET, "/user_manager/me", None, 200).await;
    let confirm = |account: &str| format!("/user_manager/confirm?token={}", signer.sign(account));
    expect(anyone, Method::GET, &confirm(profile["id"].as_str().unwrap()), None, 200).await;
    expect(anyone, Method::GET, &confirm(&uuid(7)), None, 410).await;
    expect(anyone, Method::GET, "/user_manager/confirm?token=x", None, 422).await;
    expect(anyone, Method::GET, "/user_manager/confirm", None, 400).await;

    let password = "/user_manager/password";
    let change = |current: &str| Some(json!({"current": current, "new": "another good password"}));
    expect(&eve, Method::POST, password, change("wrong"), 401).await;
    let mut others = change(PASSWORD).unwrap();
    others["email"] = "ada@example.com".into();
    expect(&eve, Method::POST, password, Some(others), 403).await;
    expect(&eve, Method::POST, password, change(PASSWORD), 204).await;
    expect(&eve, Method::GET, "/user_manager/me", None, 401).await;

    let bob = anyone.registered("bob@example.com").await;
    expect(&bob, Method::DELETE, "/user_manager/me", None, 204).await;
    expect(&bob, Method::DELETE, "/user_manager/me", None, 401).await;
}

fn base64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

/// A UUID that no account has.
fn uuid(number: u8) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

async fn interests(system: &System, ada: &Client) {
    let one = "/data_collector/interests/KJFK";
    expect(ada, Method::GET, one, None, 404).await;
    expect(ada, Method::PATCH, one, Some(json!({"high_value": 5})), 404).await;
    expect(ada, Method::PUT, one, Some(json!({"high_value": 5, "low_value": 6})), 422).await;
    expect(ada, Method::PUT, one, Some(json!({"high_value": 5, "email": "eve@example.com"})), 403).await;
    expect(ada, Method::PUT, "/data_collector/interests/JFK", None, 422).await;
    expect(ada, Method::PUT, one, Some(json!({"high_value": 200})), 201).await;
    let link = unsubscribe_link(system, "ada@example.com").await;
    expect(ada, Method::PUT, one, Some(json!({"metric": "total", "low_value": null})), 200).await;
    expect(ada, Method::PATCH, one, Some(json!({"notify": "on_change"})), 200).await;
    expect(ada, Method::GET, one, None, 200).await;
    expect(ada, Method::GET, "/data_collector/interests", None, 200).await;
    expect(ada, Method::GET, "/data_collector/status", None, 200).await;
    expect(ada, Method::POST, "/data_collector/collect", Some(json!({"icao": "KJFK"})), 202).await;
    expect(ada, Method::POST, "/data_collector/collect", None, 429).await;

    expect(ada, Method::GET, &link, None, 200).await;
    expect(ada, Method::POST, &link, None, 200).await;
    expect(ada, Method::GET, "/data_collector/unsubscribe?token=x", None, 422).await;
    expect(ada, Method::GET, one, None, 404).await;
    expect(ada, Method::PUT, one, None, 201).await;
    expect(ada, Method::DELETE, one, None, 204).await;
    expect(ada, Method::DELETE, one, None, 404).await;

    let several = json!({"email": "ada@example.com", "interessi": ["KBOS", "kbos", "XX"], "high_value": 300});
    expect(ada, Method::POST, "/data_collector/subscribeInterest", Some(several), 200).await;
    let wrong = json!({"interessi": 7});
    expect(ada, Method::POST, "/data_collector/subscribeInterest", Some(wrong), 422).await;
    for path in ["/data_collector/modifieTreshold", "/data_collector/modifyTreshold"] {
        expect(ada, Method::POST, path, Some(json!({"icao": "KBOS", "high_value": 301})), 200).await;
        expect(ada, Method::POST, path, Some(json!({"icao": "KBOS"})), 422).await;
        expect(ada, Method::POST, path, Some(json!({"icao": "KJFK", "high_value": 301})), 404).await;
    }
    let removal = json!({"interessi": ["KBOS", "KJFK"]});
    expect(ada, Method::DELETE, "/data_collector/removeInterest", Some(removal), 200).await;
}

async fn flights(ada: &Client) {
    let airport = |rest: &str| format!("/data_collector/airports/KJFK/{rest}");
    let found = expect(ada, Method::GET, &airport("flights?limit=2&direction=all"), None, 200).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 2);
    let cursor = found["next_cursor"].as_str().unwrap();
    expect(ada, Method::GET, &airport(&format!("flights?cursor={cursor}&limit=2")), None, 200).await;
    expect(ada, Method::GET, &airport("flights?limit=0"), None, 422).await;
    expect(ada, Method::GET, &airport("flights?from=never"), None, 400).await;
    expect(ada, Method::GET, &airport("last"), None, 200).await;
    expect(ada, Method::GET, &airport("last?direction=arrivals"), None, 200).await;
    expect(ada, Method::GET, &airport("average?days=7"), None, 200).await;
    expect(ada, Method::GET, &airport("average?days=0"), None, 422).await;
    expect(ada, Method::GET, &airport("daily?days=7"), None, 200).await;
    expect(ada, Method::GET, "/data_collector/airports/KJFKX/daily?days=7", None, 422).await;
    expect(ada, Method::GET, "/data_collector/airports?query=new%20york&limit=3", None, 200).await;
    expect(ada, Method::GET, "/data_collector/airports?query=", None, 422).await;
    expect(ada, Method::GET, "/data_collector/flights/info?icao=KJFK", None, 200).await;
    expect(ada, Method::GET, "/data_collector/flights/last?airport=KJFK&type=departure", None, 200).await;
    expect(ada, Method::GET, "/data_collector/flights/average?airport=KJFK&days=3&type=arrival", None, 200)
        .await;
    expect(ada, Method::GET, "/data_collector/flights/average", None, 400).await;
}
