//! The standalone as a person starts, stops, kills and starts it again.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;

use e2e::client::{Client, PASSWORD};
use e2e::journey::Traveller;
use e2e::mailbox::Mailbox;
use e2e::process::Process;
use reqwest::{Method, StatusCode};
use serde_json::json;

const ANY_PORTS: [&str; 3] = ["--listen=127.0.0.1:0", "--admin-port=0", "--replay-listen=127.0.0.1:0"];

fn start(folder: &Path, more: &[&str]) -> Process {
    let data_dir = format!("--data-dir={}", folder.display());
    Process::start("standalone", &[&ANY_PORTS[..], &[data_dir.as_str()], more].concat(), &[])
}

async fn client(standalone: &Process) -> Client {
    let port = standalone.prints("https://localhost:").await;
    let client = Client::of(format!("127.0.0.1:{port}").parse().unwrap());
    client.until_served().await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn it_makes_the_journey_and_a_second_start_goes_on() {
    e2e::away_from_midnight().await;
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox(folder.path().join("mail"));
    let first = start(folder.path(), &[]);
    let client_of_first = client(&first).await;
    let output = first.output();
    for told in ["recorded ones of April 2001", "mail/*.eml", "just made", "Ctrl-C stops"] {
        assert!(output.contains(told), "'{told}' is not said: {output}");
    }
    let (_, midnight) = Traveller::sets_out(&client_of_first, "ada@example.com", &mailbox).await;
    assert!(first.output().contains("collected airport=KJFK"), "the progress of the collection is visible");
    assert!(!first.output().contains("ada@example.com"), "addresses are masked in the log");
    assert_eq!(first.stop().await, Some(0));

    let second = start(folder.path(), &[]);
    let client_of_second = client(&second).await;
    assert!(second.output().contains("from an earlier start"));
    let ada = client_of_second.logged_in("ada@example.com").await;
    let interest = ada.get("/data_collector/interests/KJFK").await;
    assert_eq!((interest.status, &interest.body["state"]), (StatusCode::OK, &json!("high")));
    let ada = Traveller { client: ada, email: "ada@example.com".to_owned(), mailbox: mailbox.clone() };
    ada.figures_are_exact("KJFK", midnight).await;
    assert_eq!(second.interrupt().await, Some(0));
    assert_eq!(mailbox.mails().len(), 1, "what was mailed is not mailed again");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_first_collection_it_loses_nothing() {
    e2e::away_from_midnight().await;
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox(folder.path().join("mail"));
    let mut running = start(folder.path(), &[]);
    let ada = client(&running).await.registered("ada@example.com").await;
    for airport in ["KJFK", "KORD", "KLAX"] {
        let path = format!("/data_collector/interests/{airport}");
        let answer = ada.call(Method::PUT, &path, Some(json!({"high_value": 200}))).await;
        assert_eq!(answer.status, StatusCode::CREATED);
    }
    // Each life ends a little further on: before the first window, and after some.
    for windows in [0, 3, 9] {
        if windows > 0 {
            e2e::eventually("some windows", async || {
                (running.output().matches("collected airport=").count() >= windows
                    || mailbox.mails().len() == 3)
                    .then_some(())
            })
            .await;
        }
        running.kill().await;
        running = start(folder.path(), &[]);
    }
    client(&running).await;
    let mails = mailbox.wait_for("ada@example.com", 3).await;
    let mut ids: Vec<&str> = mails.iter().map(|mail| mail.message_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((mails.len(), ids.len()), (3, 3), "one mail for each airport: {mails:?}");
    let ada = client(&running).await.logged_in("ada@example.com").await;
    let status = ada.get("/data_collector/status").await.body;
    assert_eq!(status["waiting"], 0, "{status}");
    assert_eq!(running.stop().await, Some(0));
}

/// The assignment's requests as its collections send them: no token, the email says who asks.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_classroom_mode_the_assignments_requests_run_as_they_are() {
    e2e::away_from_midnight().await;
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox(folder.path().join("mail"));
    let standalone = start(folder.path(), &["--auth=off"]);
    let port = standalone.prints("https://localhost:").await;
    let anyone = Client::of(format!("127.0.0.1:{port}").parse().unwrap());
    e2e::eventually("the gateway to serve", async || {
        let answer = anyone.get("/user_manager/openapi.json").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(standalone.output().contains("AUTH=off: no token is asked for; anybody may be anyone"));
    let ask = async |method, path: &str, body, status: u16| {
        let answer = anyone.call(method, path, Some(body)).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {answer:?}");
        answer.body
    };
    let person = json!({"id": "{{$uuid}}", "email": "ada@example.com", "name": "Ada", "surname": "Example"});
    let ada = ask(Method::POST, "/user_manager/register", person.clone(), 201).await;
    assert_eq!(ask(Method::POST, "/user_manager/register", person, 201).await, ada);
    let wanted = json!({"email": "ada@example.com", "interessi": ["KJFK", "KBOS"], "high_value": 200});
    let made = ask(Method::POST, "/data_collector/subscribeInterest", wanted, 200).await;
    assert_eq!((&made["results"][0]["status"], &made["results"][1]["status"]), (&json!(201), &json!(201)));
    let change = json!({"email": "ada@example.com", "icao": "KBOS", "low_value": 0, "high_value": 100000});
    ask(Method::POST, "/data_collector/modifieTreshold", change, 200).await;
    let mail = mailbox.wait_for("ada@example.com", 1).await.remove(0);
    assert!(mail.subject.starts_with("KJFK: "), "{mail:?}");
    for path in [
        "/data_collector/flights/info?icao=KJFK",
        "/data_collector/flights/last?airport=KJFK&type=arrival",
        "/data_collector/flights/average?airport=KJFK&days=3&type=departure",
    ] {
        assert_eq!(anyone.get(path).await.status, StatusCode::OK, "{path}");
    }
    let removal = json!({"email": "ada@example.com", "interessi": "KBOS"});
    ask(Method::DELETE, "/data_collector/removeInterest", removal, 200).await;
    let stranger = json!({"email": "eve@example.com", "interessi": "KBOS"});
    ask(Method::POST, "/data_collector/subscribeInterest", stranger, 404).await;
    ask(Method::DELETE, "/user_manager/delete", json!({"email": "ada@example.com"}), 204).await;
    let gone = json!({"email": "ada@example.com", "interessi": "KJFK"});
    ask(Method::POST, "/data_collector/subscribeInterest", gone, 404).await;
    assert_eq!(standalone.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_confirmed_by_the_link_in_its_mail() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox(folder.path().join("mail"));
    let standalone = start(folder.path(), &["--confirm-email=on"]);
    let anyone = client(&standalone).await;
    let person =
        json!({"email": "ada@example.com", "name": "Ada", "surname": "Example", "password": PASSWORD});
    let registered = anyone.call(Method::POST, "/user_manager/register", Some(person)).await;
    assert_eq!((registered.status, &registered.body["confirmed"]), (StatusCode::CREATED, &json!(false)));
    let mail = mailbox.wait_for("ada@example.com", 1).await.remove(0);
    assert_eq!(mail.subject, "Confirm your address for Vedetta");
    assert_eq!(mail.request_id, registered.request_id);
    let login = json!({"email": "ada@example.com", "password": PASSWORD});
    let refused = anyone.call(Method::POST, "/user_manager/login", Some(login)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    // The link leads to where the gateway listens.
    let link = mail.body.lines().find_map(|line| line.trim().strip_prefix("https://localhost:")).unwrap();
    let (port, path) = link.split_once('/').unwrap();
    assert_eq!(port, standalone.prints("https://localhost:").await);
    assert_eq!(anyone.get(&format!("/{path}")).await.status, StatusCode::OK);
    let ada = anyone.logged_in("ada@example.com").await;
    assert_eq!(ada.get("/user_manager/me").await.body["confirmed"], true);
    assert_eq!(standalone.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_time_lapse_windows_close_while_one_watches() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox(folder.path().join("mail"));
    let lapse = ["--time-lapse=1d=2s", "--collect-every=6h"];
    let standalone = start(folder.path(), &lapse);
    let ada = client(&standalone).await.registered("ada@example.com").await;
    // Every day of the data is between these two.
    for (airport, body) in
        [("KORD", json!({"high_value": 200})), ("KBTV", json!({"low_value": 100, "high_value": 5000}))]
    {
        ada.call(Method::PUT, &format!("/data_collector/interests/{airport}"), Some(body)).await;
    }
    let mails = mailbox.wait_for("ada@example.com", 8).await;
    assert!(mails.iter().any(|mail| mail.subject.contains("above your high threshold of 200")), "{mails:?}");
    assert!(mails.iter().any(|mail| mail.subject.contains("below your low threshold of 100")), "{mails:?}");
    assert_eq!(standalone.stop().await, Some(0));

    let mut other_mode = start(folder.path(), &[]);
    assert_eq!(other_mode.ended().await, Some(2));
    other_mode.prints("TIME_LAPSE: ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time_uses_a_data_directory_and_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path(), &[]);
    client(&first).await;
    let port = first.prints("https://localhost:").await;
    let (listen, other) = (format!("--listen=127.0.0.1:{port}"), tempfile::tempdir().unwrap());
    let data_dir = format!("--data-dir={}", other.path().display());
    let mut same_port =
        Process::start("standalone", &[&listen, &data_dir, "--admin-port=0", ANY_PORTS[2]], &[]);
    assert_eq!(same_port.ended().await, Some(2));
    same_port.prints(&format!("cannot listen on 127.0.0.1:{port}")).await;
    let mut second = start(folder.path(), &[]);
    assert_eq!(second.ended().await, Some(2));
    second.prints("in use by another process").await;
    assert_eq!(first.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_option_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["--time-lapse=soon"], "--time-lapse"),
        (&["--collect-window=5h"], "--collect-window"),
        (&["--breaker-failure-threshold=0"], "--breaker-failure-threshold"),
        (&["--default-high-value=0"], "DEFAULT_HIGH_VALUE"),
        (&["--opensky-client-id=me"], "OPENSKY_CLIENT_SECRET"),
        (&["--mail-url=gopher://x"], "MAIL_URL"),
        (&["--gmail-user=ada@example.com"], "GMAIL_APP_PASSWORD"),
        (&["--mail-from=nobody at all"], "MAIL_FROM"),
        (&["--no-such-option"], "--no-such-option"),
        (&["--public-url=nowhere"], "--public-url"),
    ];
    for (number, (arguments, named)) in cases.into_iter().enumerate() {
        let mut process = start(&folder.path().join(number.to_string()), arguments);
        let code = process.ended().await;
        let complaint = e2e::eventually("a complaint", async || {
            process.output().lines().find(|line| line.starts_with("standalone: ")).map(str::to_owned)
        })
        .await;
        assert_eq!(code, Some(2), "{arguments:?}: {complaint}");
        assert!(complaint.contains(named), "{arguments:?}: {complaint}");
    }
}
