//! Starting and stopping.

use std::process::Command;

use common::clock::Clock;
use common::service::StartError;
use opensky_replay::{App, Config};
use reqwest::Method;

use crate::server::{Server, config, recording, week};

/// Why it does not start; one line, and the kind of error that ends the process with 2.
async fn complaint(flags: &[&str]) -> String {
    let error = App::build(config(flags).unwrap(), Clock::System).await.err().expect("it has started");
    assert!(error.is::<StartError>());
    let text = format!("{error:#}");
    assert!(!text.contains('\n'));
    text
}

#[tokio::test]
async fn a_bad_recording_stops_the_start_and_names_the_line_and_the_field() {
    let good = r#"{"icao24":"f00001","firstSeen":986169600,"lastSeen":986169601}"#;
    let data = recording(&format!("{good}\n{}", good.replace("986169601", "\"noon\"")));
    let path = data.path().to_str().unwrap();
    let expected = format!("--data: {path}: line 2: lastSeen: must be a whole number of Unix seconds");
    assert_eq!(complaint(&["--data", path]).await, expected);
    assert!(complaint(&["--data", "no/such/file"]).await.starts_with("--data: no/such/file: "));
}

#[tokio::test]
async fn an_address_in_use_stops_the_start() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    let addr = server.addr.to_string();
    let taken = common::service::bind("--listen", &addr).await;
    assert!(taken.is_err());
    let flags = ["--data", data.path().to_str().unwrap()];
    let mut config = config(&flags).unwrap();
    config.listen = addr;
    assert!(App::build(config, Clock::System).await.err().unwrap().is::<StartError>());
}

#[test]
fn bad_options_are_refused() {
    for flags in [
        ["--error-rate", "1.1"],
        ["--error-rate", "NaN"],
        ["--truncate-rate", "much"],
        ["--latency", "21s"],
        ["--token-lifetime", "soon"],
        ["--credits", "-1"],
        ["--client", "nocolon"],
        ["--client", ":secret"],
    ] {
        assert!(config(&flags).is_err(), "{flags:?} were taken");
    }
    assert!(!format!("{:?}", config(&["--client", "id:hush"]).unwrap()).contains("hush"));
}

#[test]
fn without_options_it_is_the_default() {
    let mut default = Config::default();
    assert_eq!(default.listen, "127.0.0.1:5010");
    default.listen = "127.0.0.1:0".into();
    assert_eq!(format!("{:?}", config(&[]).unwrap()), format!("{default:?}"));
}

#[test]
fn the_process_ends_with_2_and_one_line() {
    for flags in
        [["--error-rate", "2"], ["--data", "no/such/file"], ["--listen", "nowhere"], ["--unknown", "1"]]
    {
        let mut process = Command::new(env!("CARGO_BIN_EXE_opensky_replay"));
        let complaint = common::testing::complaint(process.args(flags));
        assert!(complaint.starts_with("opensky_replay: ") && complaint.contains(flags[0]), "{complaint}");
    }
}

#[tokio::test]
async fn it_stops_when_it_is_told_to() {
    let data = week();
    let server = Server::with(&data, &[]).await;
    assert!(server.request(Method::GET, "/healthz").send().await.unwrap().status().is_success());
    drop(server.stop);
    server.running.await.unwrap().unwrap();
}
