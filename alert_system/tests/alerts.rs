//! alert_system from outside: its options, its admin port, and what it makes of counted windows.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use alert_system::{App, Config};
use clap::Parser;
use common::bus::{Bus, Log, Record};
use common::service::Parts;
use common::testing::{complaint, temp_path};
use common::trace::Trace;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Long enough for any machine.
const LONG: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// A running alert_system with a bus in a temporary file; it stops when it is dropped.
struct Service {
    log: Log,
    admin: String,
    running: JoinHandle<anyhow::Result<()>>,
    stop: DropGuard,
}

impl Service {
    async fn start() -> Service {
        Service::on(Log::open(&temp_path("bus.db")).await.unwrap()).await
    }

    /// On a log that is there already.
    async fn on(log: Log) -> Service {
        let options = ["alert_system", "--admin-listen=127.0.0.1:0", "--node=one"];
        let parts = Parts { bus: Some(Bus::Embedded(log.clone())), ..Parts::default() };
        let app = App::build(Cli::parse_from(options).config, parts).await.unwrap();
        let admin = format!("http://{}", app.addr());
        let token = CancellationToken::new();
        let running = tokio::spawn(app.run(token.clone()));
        Service { log, admin, running, stop: token.drop_guard() }
    }

    /// Puts a message into the topic of counted windows, as the request `r-1`, and waits until it is handled.
    async fn handle(&self, message: &str) {
        let trace = Trace { request_id: "r-1".into(), traceparent: None };
        let (topic, key) = ("to-alert-system".into(), "KJFK".into());
        let record = Record { topic, key, payload: message.into(), headers: trace.headers() };
        Bus::Embedded(self.log.clone()).publish(vec![record]).await.remove(0).unwrap();
        let handled = async {
            while self.log.lag("alert_group", "to-alert-system").await.unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, handled).await.unwrap();
    }

    async fn records(&self, topic: &str) -> Vec<Record> {
        self.log.read_all(topic).await.unwrap()
    }

    /// The letters ordered so far.
    async fn letters(&self) -> Vec<Value> {
        let records = self.records("to-notifier").await;
        records.iter().map(|record| serde_json::from_slice(&record.payload).unwrap()).collect()
    }

    /// Status and body of a page of the admin port.
    async fn admin(&self, path: &str) -> (u16, String) {
        let http = common::http::client(LONG).unwrap();
        let answer = http.get(format!("{}{path}", self.admin)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Stops it, waits until it has, and gives the log back.
    async fn stop(self) -> Log {
        drop(self.stop);
        tokio::time::timeout(LONG, self.running).await.unwrap().unwrap().unwrap();
        self.log
    }
}

/// A window that is out of two people's ranges and within a third one's.
fn counted() -> String {
    let watching = |account: &str, email: &str, high: Option<i64>, low: Option<i64>| {
        let account = format!("6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c{account}");
        json!({"account": account, "email": email, "high_value": high, "low_value": low, "unsubscribe": "signed"})
    };
    let message = json!({
        "id": "KJFK/2001-04-03T00:00:00Z/24h/0", "airport": "KJFK",
        "window_begin": 986_256_000, "window_end": 986_342_400, "arrival_count": 172, "departure_count": 179,
        "users": [
            watching("01", "ada@example.com", Some(200), None),
            watching("02", "grace@example.com", Some(400), Some(300)),
            watching("03", "edsger@example.com", Some(900), Some(400)),
        ]
    });
    message.to_string()
}

/// As the assignment has it.
const MINIMAL: &str = r#"{"airport": "KJFK", "arrival_count": 3, "departure_count": 4,
    "users": [{"email": "ada@example.com", "high_value": 5, "low_value": null}]}"#;

fn ids(letters: &[Value]) -> Vec<&str> {
    letters.iter().map(|letter| letter["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn everybody_whose_range_is_left_gets_a_letter() {
    let service = Service::start().await;
    service.handle(&counted()).await;
    let letters = service.letters().await;
    let told: Vec<_> = letters
        .iter()
        .map(|letter| (letter["email"].as_str().unwrap(), &letter["condition"], &letter["threshold"]))
        .collect();
    let (high, low) = (json!("high"), json!("low"));
    assert_eq!(told, [("ada@example.com", &high, &json!(200)), ("edsger@example.com", &low, &json!(400))]);
    assert_eq!(letters[0]["subject"], "KJFK: 351 flights, above your high threshold of 200");
    let records = service.records("to-notifier").await;
    assert_eq!(records[0].key, "ada@example.com", "one person's mails stay in order");
    assert_eq!(records[0].headers["request_id"], "r-1");
    assert!(service.records("to-alert-system.dead").await.is_empty());
}

#[tokio::test]
async fn the_same_message_leads_to_the_same_ids() {
    let service = Service::start().await;
    service.handle(&counted()).await;
    // The second time to a service that was started again.
    let service = Service::on(service.stop().await).await;
    service.handle(&counted()).await;
    let letters = service.letters().await;
    let ids = ids(&letters);
    assert_eq!(ids.len(), 4);
    assert_eq!(ids[..2], ids[2..]);
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn the_assignments_message_becomes_a_letter_with_the_id_of_its_place() {
    let mut seen = Vec::new();
    for _ in 0..2 {
        let service = Service::start().await;
        service.handle(MINIMAL).await;
        service.handle(MINIMAL).await;
        let letters = service.letters().await;
        assert_eq!(letters[0]["subject"], "KJFK: 7 flights, above your high threshold of 5");
        assert_eq!((&letters[0]["email"], letters[0].get("account")), (&json!("ada@example.com"), None));
        seen.push(letters);
    }
    // Read anew from the same places they have the same ids; a message without an id that comes twice is two.
    assert_eq!(ids(&seen[0]), ids(&seen[1]));
    assert_eq!(seen[0].len(), 2);
    assert_ne!(seen[0][0]["id"], seen[0][1]["id"]);
}

#[tokio::test]
async fn what_is_no_counted_window_lies_in_the_dead_topic_with_the_reason() {
    let service = Service::start().await;
    let bad = [
        ("{", "not a message of to-alert-system"),
        (r#"{"airport": "New York", "arrival_count": 1, "departure_count": 2, "users": []}"#, "New York"),
        (r#"{"airport": "KJFK", "departure_count": 2, "users": []}"#, "arrival_count"),
    ];
    for (message, _) in bad {
        service.handle(message).await;
    }
    service.handle(MINIMAL).await;
    let dead = service.records("to-alert-system.dead").await;
    assert_eq!(dead.len(), bad.len());
    for (record, (message, reason)) in dead.iter().zip(bad) {
        assert_eq!(record.payload, message.as_bytes());
        assert!(record.headers["reason"].contains(reason), "{:?}", record.headers);
    }
    assert_eq!(service.letters().await.len(), 1, "those behind it are handled");
}

#[tokio::test]
async fn the_admin_port_answers() {
    let service = Service::start().await;
    service.handle(&counted()).await;
    assert_eq!(service.admin("/healthz").await.0, 200);
    assert_eq!(service.admin("/readyz").await.0, 200);
    let (status, text) = service.admin("/metrics").await;
    assert_eq!(status, 200);
    for (counter, value) in [("evaluated_interests", 3), ("ordered_mails", 2), ("consumed_messages", 1)] {
        let start = format!("vedetta_alert_system_{counter}_total");
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
        assert!(line.contains("node=\"one\"") && line.ends_with(&format!(" {value}")), "{line}");
    }
}

#[test]
fn a_wrong_option_stops_the_start_with_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, value) in [
        ("ADMIN_LISTEN", "nowhere"),
        ("ADMIN_LISTEN", &address),
        ("BUS_URL", "smtp://localhost"),
        ("PUBLIC_URL", "flights"),
        ("PUBLIC_URL", "mailto:ada@example.com"),
        ("LOG_FORMAT", "xml"),
    ] {
        let bus = temp_path("bus.db");
        let mut process = Command::new(env!("CARGO_BIN_EXE_alert_system"));
        process
            .env_clear()
            .env("ADMIN_LISTEN", "127.0.0.1:0")
            .env("BUS_URL", format!("log:{}", bus.display()))
            .env("LOG", "error")
            .env(option, value);
        let text = complaint(&mut process);
        let flag = option.to_lowercase().replace('_', "-");
        assert!(text.starts_with("alert_system: "), "{text}");
        assert!(text.contains(option) || text.contains(&flag), "{option}={value}: {text}");
    }
}
