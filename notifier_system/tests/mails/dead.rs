//! Dead letters, as whoever runs the service sees them.

use std::process::Command;

use common::testing::run;
use faults::smtp::Sink;
use serde_json::{Value, json};

use crate::service::{Service, answers, databases, letter};

/// What the command prints, which succeeds.
async fn dead(service: &Service, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notifier_system"));
    command.env_clear().env("ADMIN_LISTEN", service.admin_addr()).arg("dead").args(arguments);
    let output = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn dead_letters_are_listed_and_mailed_after_a_replay() {
    for db in databases().await {
        let sink = Sink::start().await;
        answers(&sink, |to| (to == "gone@example.com").then(|| "550 5.1.1 no such mailbox".to_owned()));
        let service = Service::start(&db, &sink.url()).await;
        assert_eq!(dead(&service, &["list"]).await, "");
        for id in ["a", "b"] {
            service.post(&letter(id, "gone@example.com")).await;
        }
        service.settled().await;
        let listed = dead(&service, &["list", "--limit", "10"]).await;
        let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&listed[0]["id"], &listed[1]["id"], listed.len()), (&json!("a"), &json!("b"), 2));
        assert!(listed[0]["reason"].as_str().unwrap().contains("no such mailbox"), "{listed:?}");
        assert!(!listed[0].to_string().contains("gone@"), "addresses are masked: {listed:?}");

        answers(&sink, |_| None);
        assert_eq!(dead(&service, &["replay", "--limit", "1"]).await, "1 put back\n");
        assert_eq!(dead(&service, &["replay"]).await, "1 put back\n");
        service.settled().await;
        assert_eq!(sink.count(), 2);
        assert_eq!(dead(&service, &["list"]).await, "");
        assert_eq!(dead(&service, &["replay"]).await, "0 put back\n");
    }
}

#[test]
fn with_nobody_there_the_command_says_so() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_notifier_system"));
    let output = run(command.env_clear().env("ADMIN_LISTEN", "127.0.0.1:1").args(["dead", "list"]));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nobody answers") && text.lines().count() == 1, "{text}");
}
