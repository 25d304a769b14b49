//! The README's sessions, run as they stand there; only the ports differ.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::process::Stdio;

use common::clock::{Clock, date};
use e2e::expected::{Side, count};
use e2e::mailbox::Mailbox;
use e2e::process::Process;
use serde_json::Value;
use tokio::process::Command;

const DAY: i64 = 86_400;

/// The commands of a session: the block after the marker of that name.
fn session(name: &str) -> String {
    let readme = include_str!("../../README.md");
    let marker = format!("<!-- session: {name} -->\n```sh\n");
    let (_, after) = readme.split_once(&marker).unwrap_or_else(|| panic!("README has no session '{name}'"));
    after.split_once("\n```").unwrap().0.to_owned()
}

/// A shell in which sessions run one after another, as in one terminal.
struct Terminal {
    script: String,
    gateway: String,
    replay: String,
}

impl Terminal {
    /// Runs a session after those before (whose output is not repeated); gives what it prints.
    async fn run(&mut self, folder: &Path, name: &str) -> String {
        let commands = session(name);
        let script = format!("set -euo pipefail\n{{ {}\n}} >/dev/null\n{commands}\n", self.script);
        let script = script.replace("localhost:8443", &format!("localhost:{}", self.gateway));
        let script = script.replace("127.0.0.1:5010", &self.replay);
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
        let done =
            tokio::time::timeout(e2e::PATIENCE, shell.output()).await.expect("the session ends").unwrap();
        assert!(done.status.success(), "{commands}\n{}", String::from_utf8_lossy(&done.stderr));
        // Later sessions need the variables of this one, not its calls.
        let variables =
            commands.split("\n\n").filter(|command| command.starts_with(|c: char| c.is_uppercase()));
        for command in variables {
            self.script += &format!("\n{command}");
        }
        String::from_utf8(done.stdout).unwrap()
    }
}

async fn start(folder: &Path, arguments: &[&str]) -> (Process, Terminal) {
    let ports = ["--listen=127.0.0.1:0", "--admin-port=0", "--replay-listen=127.0.0.1:0"];
    let data_dir = format!("--data-dir={}", folder.display());
    let process = Process::start("standalone", &[&ports[..], &[data_dir.as_str()], arguments].concat(), &[]);
    let gateway = process.prints("https://localhost:").await;
    let replay = process.prints("replay    http://").await;
    e2e::client::Client::of(format!("127.0.0.1:{gateway}").parse().unwrap()).until_served().await;
    (process, Terminal { script: ":".to_owned(), gateway, replay })
}

/// The JSON values printed one after another.
fn values(output: &str) -> Vec<Value> {
    serde_json::Deserializer::from_str(output).into_iter().collect::<Result<_, _>>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_session_leaves_one_mail_and_exact_figures() {
    e2e::away_from_midnight().await;
    let folder = tempfile::tempdir().unwrap();
    let (standalone, mut terminal) = start(&folder.path().join("data"), &[]).await;
    let answers = values(&terminal.run(folder.path(), "try").await);
    assert_eq!(answers[0]["email"], "ada@example.com");
    assert_eq!((&answers[1]["airport"], &answers[1]["high_value"]), (&"KJFK".into(), &200.into()));
    let mails = Mailbox(folder.path().join("data/mail")).wait_for("ada@example.com", 1).await;
    assert_eq!(mails.len(), 1);

    let mail = terminal.run(folder.path(), "mail").await;
    let answers = values(&terminal.run(folder.path(), "ask").await);
    let [average, daily, last, status] = answers.as_slice() else { panic!("four answers, not {answers:?}") };
    let days = daily["days"].as_array().unwrap();
    let midnight = midnight_of(days[6]["day"].as_str().unwrap());
    let total = |day| count("KJFK", Side::Arrival, day) + count("KJFK", Side::Departure, day);
    assert!(
        mail.contains(&format!(
            "Subject: KJFK: {} flights, above your high threshold of 200",
            total(midnight)
        ))
    );
    for (n, day) in days.iter().enumerate() {
        assert_eq!(day["total"], total(midnight - (6 - n as i64) * DAY));
    }
    let sum: i64 = (0..7).map(|n| total(midnight - n * DAY)).sum();
    assert_eq!(average["total"], sum as f64 / 7.0);
    assert!(last["arrival"].is_object() && last["departure"].is_object(), "{last}");
    assert_eq!(status["breaker"]["state"], "closed");
    assert_eq!(standalone.stop().await, Some(0));
    let mails = Mailbox(folder.path().join("data/mail")).mails();
    assert_eq!(mails.len(), 1, "exactly one mail, also in the end");
}

/// The midnight of a date that is not far from now.
fn midnight_of(day: &str) -> i64 {
    let today = Clock::System.now().div_euclid(DAY);
    (today - 10..=today).map(|number| number * DAY).find(|midnight| date(*midnight) == day).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_lapse_session_shows_alerts_and_the_breaker() {
    let folder = tempfile::tempdir().unwrap();
    // Ten times as fast as in README, and with a breaker to match.
    let (standalone, mut terminal) =
        start(&folder.path().join("data-lapse"), &["--time-lapse=1d=2s", "--breaker-timeout=1s"]).await;
    let mailbox = Mailbox(folder.path().join("data-lapse/mail"));
    terminal.run(folder.path(), "lapse").await;
    e2e::eventually("a high and two low alerts of a window that closed meanwhile", async || {
        let about = |text: &str| mailbox.mails().iter().filter(|mail| mail.subject.starts_with(text)).count();
        (about("KORD: ") >= 2 && about("KBTV: ") >= 2 && about("KPWM: ") >= 2).then_some(())
    })
    .await;
    terminal.run(folder.path(), "outage").await;
    standalone.prints("the circuit breaker opens").await;
    let status = values(&terminal.run(folder.path(), "status").await).remove(0);
    assert_ne!(status["breaker"]["state"], "closed", "{status}");
    assert!(status["breaker"]["counters"]["failures"].as_i64().unwrap() >= 5, "{status}");
    terminal.run(folder.path(), "back").await;
    standalone.prints("the circuit breaker closes").await;
    let mails = mailbox.mails().len();
    mailbox.wait_for("ada@example.com", mails + 1).await;
    assert_eq!(standalone.stop().await, Some(0));
}
