//! Nobody acts on another's account: every operation, straight at its service and through the gateway.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use common::auth::{Signer, TOKEN_LIFETIME};
use common::clock::Clock;
use common::testing::TestDb;
use common::types::Account;
use e2e::client::{Client, PASSWORD};
use e2e::in_process::System;
use e2e::openapi::{DOCUMENTS, Operation};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// Wednesday, 25 November 2026, 09:00 UTC.
const NOW: i64 = 1_795_597_200;

/// Whoever believes one of these believes anybody.
const SPOOFED: [&str; 11] = [
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-account",
    "x-account-id",
    "x-auth-user",
    "x-authenticated-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "remote-user",
    "sub",
];

/// What a password is changed to.
const NEXT: &str = "another good password";

/// Ways to the services.
struct Ways {
    http: reqwest::Client,
    /// For each document, in their order: the service itself, and the gateway.
    bases: [[String; 2]; 2],
}

impl Ways {
    fn to(system: &System) -> Ways {
        common::tls::install();
        let http =
            reqwest::Client::builder().tls_danger_accept_invalid_certs(true).timeout(Duration::from_secs(20));
        let gateway = |prefix: &str| format!("https://{}{prefix}", system.gateway);
        let bases = [
            [format!("http://{}", system.user_manager), gateway("/user_manager")],
            [format!("http://{}", system.data_collector), gateway("/data_collector")],
        ];
        Ways { http: http.build().unwrap(), bases }
    }

    /// The same request on each way, with a body as good as the operation wants.
    fn requests(&self, operation: &Operation, email: Option<&str>) -> Vec<RequestBuilder> {
        let place = DOCUMENTS.iter().position(|document| document.prefix == operation.prefix).unwrap();
        let path = operation.path.replace("{icao}", "KJFK");
        let method: reqwest::Method = operation.method.parse().unwrap();
        let request = |base: &String| {
            let request = self.http.request(method.clone(), format!("{base}{path}{}", query(operation)));
            match body(operation, email) {
                Some(body) => request.json(&body),
                None => request,
            }
        };
        self.bases[place].iter().map(request).collect()
    }
}

fn query(operation: &Operation) -> &'static str {
    match operation.path.as_str() {
        "/airports" => "?query=KJFK",
        "/flights/info" => "?icao=KJFK",
        "/flights/last" | "/flights/average" => "?airport=KJFK",
        _ => "",
    }
}

fn body(operation: &Operation, email: Option<&str>) -> Option<Value> {
    let mut body = match (operation.method.as_str(), operation.path.as_str()) {
        ("DELETE", "/delete") => json!({"email": "ada@example.com"}),
        ("POST", "/password") => json!({"current": PASSWORD, "new": NEXT}),
        ("PUT" | "PATCH", _) => json!({"high_value": 1}),
        ("POST", "/collect") => json!({"icao": "KJFK"}),
        ("POST", "/subscribeInterest") | ("DELETE", "/removeInterest") => json!({"interessi": ["KJFK"]}),
        ("POST", "/modifieTreshold" | "/modifyTreshold") => json!({"icao": "KJFK", "high_value": 1}),
        _ => return None,
    };
    if let Some(email) = email {
        body["email"] = email.into();
    }
    Some(body)
}

/// Every operation that is not public.
fn guarded() -> Vec<Operation> {
    let documents = DOCUMENTS.iter();
    let all = documents
        .flat_map(|document| document.operations().into_iter().map(move |operation| (document, operation)));
    let guarded = all.filter(|(document, operation)| document.describes(operation)["security"] != json!([]));
    let guarded: Vec<Operation> = guarded.map(|(_, operation)| operation).collect();
    assert_eq!(guarded.len(), 23, "{guarded:?}");
    guarded
}

async fn slug(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    (status, body["type"].as_str().unwrap_or_default().trim_start_matches("urn:vedetta:problem:").to_owned())
}

/// What Ada has: nothing that anybody else does may change it.
async fn possessions(ada: &Client) -> [Value; 2] {
    let interests = ada.get("/data_collector/interests").await;
    let profile = ada.get("/user_manager/me").await;
    assert_eq!((interests.status, profile.status), (StatusCode::OK, StatusCode::OK));
    let mut interests = interests.body;
    // What is collected meanwhile changes by itself.
    for interest in interests["items"].as_array_mut().unwrap() {
        for moving in ["last_window", "state", "no_data_since"] {
            interest[moving] = Value::Null;
        }
    }
    [interests, profile.body]
}

/// A signer with the key that lies in user_manager's database.
async fn signer(system: &System) -> Signer {
    use base64::Engine as _;
    let db = TestDb { name: "sqlite", url: system.user_db.clone() };
    let (kid, key) =
        (db.texts("SELECT kid FROM signing_key").await, db.texts("SELECT pkcs8 FROM signing_key").await);
    Signer::from_pkcs8(&kid[0], &base64::engine::general_purpose::STANDARD.decode(&key[0]).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_acts_on_anothers_account() {
    let system = System::start(NOW).await;
    let anyone = Client::of(system.gateway);
    anyone.until_served().await;
    let ada = anyone.registered("ada@example.com").await;
    let watches = json!({"high_value": 5000});
    ada.call(reqwest::Method::PUT, "/data_collector/interests/KJFK", Some(watches)).await;
    let eve = anyone.registered("eve@example.com").await;
    let before = possessions(&ada).await;
    let id = before[1]["id"].as_str().unwrap().to_owned();
    let ways = Ways::to(&system);

    let signer = signer(&system).await;
    let (now, email) = (Clock::System.now(), "ada@example.com".parse().unwrap());
    let account: Account = id.parse().unwrap();
    let expired = signer.token(account, &email, now - TOKEN_LIFETIME - 31).unwrap();
    let early = signer.token(account, &email, now + 3600).unwrap();
    let other_key = Signer::from_pkcs8("other", &Signer::generate().unwrap()).unwrap();
    let unknown_key = other_key.token(account, &email, now).unwrap();
    let same_name = Signer::from_pkcs8(&signer.public().kid, &Signer::generate().unwrap()).unwrap();
    let forged = same_name.token(account, &email, now).unwrap();
    // The key is right: what is refused is what the tokens above have of their own.
    let good = signer.token(account, &email, now).unwrap();
    let me = ways.http.get(format!("{}/me", ways.bases[0][0])).bearer_auth(&good).send().await.unwrap();
    assert_eq!(me.status(), StatusCode::OK);

    let unauthorized = (StatusCode::UNAUTHORIZED, "unauthorized".to_owned());
    let forbidden = (StatusCode::FORBIDDEN, "forbidden".to_owned());
    let spoofed =
        |request: RequestBuilder| SPOOFED.iter().fold(request, |request, name| request.header(*name, &id));
    for operation in guarded() {
        let asked = |email| ways.requests(&operation, email);
        // Without a token, whatever else the request says of its sender.
        for request in asked(None) {
            assert_eq!(
                slug(request.send().await.unwrap()).await,
                unauthorized,
                "{operation:?} without a token"
            );
        }
        for request in asked(Some("ada@example.com")) {
            let spoofed =
                spoofed(request).header("email", "ada@example.com").query(&[("email", "ada@example.com")]);
            assert_eq!(slug(spoofed.send().await.unwrap()).await, unauthorized, "{operation:?} spoofed");
        }
        for (name, token) in
            [("expired", &expired), ("early", &early), ("unknown key", &unknown_key), ("forged", &forged)]
        {
            for request in asked(None) {
                let answer = slug(request.bearer_auth(token).send().await.unwrap()).await;
                assert_eq!(answer, unauthorized, "{operation:?}, {name}");
            }
        }
        // With the token of somebody else, naming Ada wherever an address can be named.
        for request in asked(Some("ada@example.com")) {
            if body(&operation, None).is_some() {
                let answer = slug(request.bearer_auth(eve.token()).send().await.unwrap()).await;
                assert_eq!(answer, forbidden, "{operation:?}, in the body");
            }
        }
        for request in asked(None) {
            let request = request.bearer_auth(eve.token());
            let by_header = request.try_clone().unwrap().header("email", "ada@example.com");
            let by_query = request.query(&[("email", "ada@example.com")]);
            for request in [by_header, by_query] {
                assert_eq!(slug(request.send().await.unwrap()).await, forbidden, "{operation:?}");
            }
        }
    }
    assert_eq!(possessions(&ada).await, before);

    // With one's own token and no name, a request concerns oneself, whatever the other headers say. What ends the account
    // or its tokens comes last.
    let ends = |operation: &Operation| ["/me", "/delete", "/password"].contains(&operation.path.as_str());
    for operation in guarded().iter().filter(|operation| !ends(operation) || operation.method == "GET") {
        for request in ways.requests(operation, None) {
            let answer = spoofed(request).bearer_auth(eve.token()).send().await.unwrap();
            assert!(![401, 403].contains(&answer.status().as_u16()), "{operation:?}: {}", answer.status());
            let text = answer.text().await.unwrap();
            assert!(!text.contains("ada@example.com") && !text.contains(&id), "{operation:?}: {text}");
        }
    }
    let change = ways.requests(&operation("POST", "/password"), None).remove(1);
    let changed = spoofed(change).bearer_auth(eve.token()).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::NO_CONTENT);
    let eve = anyone.logged_in_with("eve@example.com", NEXT).await;
    let deletion = ways.requests(&operation("DELETE", "/me"), None).remove(0);
    let deleted = spoofed(deletion).bearer_auth(eve.token()).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(possessions(&ada).await, before);
    anyone.logged_in("ada@example.com").await;
    system.stop().await;
}

fn operation(method: &str, path: &str) -> Operation {
    Operation { prefix: "/user_manager", path: path.to_owned(), method: method.to_owned() }
}
