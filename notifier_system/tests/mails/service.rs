//! A notifier_system with a bus in a temporary file.

use std::time::Duration;

use clap::Parser;
use common::bus::{Bus, Log, Record};
use common::messages::{Letter, UserForgotten};
use common::service::Parts;
use common::testing::{TestDb, eventually, temp_path};
use common::trace::Trace;
use common::types::Account;
use faults::smtp::{Answer, Sink, Step};
use notifier_system::{App, Config};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Parser)]
#[command(args_override_self = true)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// The databases to run a test on.
pub(crate) async fn databases() -> Vec<TestDb> {
    common::testing::databases("notifier_system").await
}

/// The options as the command line gives them.
pub(crate) fn config(db: &TestDb, mail_url: &str, flags: &[&str]) -> Config {
    let fixed = ["notifier_system", "--admin-listen", "127.0.0.1:0", "--node", "one"];
    let given = ["--database-url", db.url.expose_secret(), "--mail-url", mail_url];
    Cli::try_parse_from(fixed.iter().chain(&given).chain(flags)).unwrap().config
}

/// A running notifier_system; it stops when it is dropped.
pub(crate) struct Service {
    pub(crate) log: Log,
    admin: String,
    running: JoinHandle<anyhow::Result<()>>,
    stop: DropGuard,
}

impl Service {
    pub(crate) async fn start(db: &TestDb, mail_url: &str) -> Service {
        eprintln!("on {}", db.name);
        let log = Log::open(&temp_path("bus.db")).await.unwrap();
        Service::on(log, db, mail_url, &[]).await
    }

    /// On a log that is there already.
    pub(crate) async fn on(log: Log, db: &TestDb, mail_url: &str, flags: &[&str]) -> Service {
        let parts = Parts { bus: Some(Bus::Embedded(log.clone())), ..Parts::default() };
        let app = App::build(config(db, mail_url, flags), parts).await.unwrap();
        let admin = format!("http://{}", app.addr());
        let token = CancellationToken::new();
        let running = tokio::spawn(app.run(token.clone()));
        Service { log, admin, running, stop: token.drop_guard() }
    }

    /// Stops it, waits until it has, and gives the log back.
    pub(crate) async fn stop(self) -> Log {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
        self.log
    }

    /// Puts JSON into the topic of letters, as the request `r-1`.
    pub(crate) async fn post(&self, letter: &Value) {
        post(&self.log, letter).await;
    }

    pub(crate) async fn forget(&self, account: Account) {
        forget(&self.log, account).await;
    }

    /// Waits until everything in both topics is handled.
    pub(crate) async fn settled(&self) {
        eventually("all is handled", async || {
            let letters = self.log.lag("notifier_group", "to-notifier").await.unwrap();
            let forgotten = self.log.lag("notifier_group", "user-forgotten").await.unwrap();
            (letters + forgotten == 0).then_some(())
        })
        .await;
    }

    /// Where the admin port listens.
    pub(crate) fn admin_addr(&self) -> &str {
        self.admin.strip_prefix("http://").unwrap()
    }

    /// Status and body of a page of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> (u16, String) {
        let http = common::http::client(Duration::from_secs(60)).unwrap();
        let answer = http.get(format!("{}{path}", self.admin)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// The value of a counter or gauge of the service; 0 while there is none.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.admin("/metrics").await;
        let start = format!("vedetta_notifier_system_{name}");
        let line = text.lines().find(|line| line.starts_with(&start));
        line.map_or(0, |line| line.split(' ').next_back().unwrap().parse().unwrap())
    }

    /// What could not be delivered, with the reason.
    pub(crate) async fn dead(&self) -> Vec<(Value, String)> {
        let records = self.log.read_all("to-notifier.dead").await.unwrap();
        let dead = |record: Record| {
            (serde_json::from_slice(&record.payload).unwrap(), record.headers["reason"].clone())
        };
        records.into_iter().map(dead).collect()
    }
}

/// What the server answers to recipients; `"greeting"` is its greeting, `"sender"` what it says to any sender.
pub(crate) fn answers(sink: &Sink, answer: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
    sink.answer(move |step| match step {
        Step::Greeting => answer("greeting").map_or(Answer::Yes, Answer::No),
        Step::Sender(_) => answer("sender").map_or(Answer::Yes, Answer::No),
        Step::Recipient(to) => answer(to).map_or(Answer::Yes, Answer::No),
        _ => Answer::Yes,
    });
}

/// Waits until no mail waits in the database.
pub(crate) async fn nothing_waits(db: &TestDb) {
    eventually("no mail waits", async || (db.number("SELECT COUNT(*) FROM parked").await == 0).then_some(()))
        .await;
}

pub(crate) async fn post(log: &Log, letter: &Value) {
    post_under(log, &[letter["email"].as_str().unwrap_or_default()], letter).await;
}

/// Together, under each of these keys, as somebody else's producer may.
pub(crate) async fn post_under(log: &Log, keys: &[&str], letter: &Value) {
    let trace = Trace { request_id: "r-1".into(), traceparent: None };
    let payload = letter.to_string().into_bytes();
    let record = |key: &&str| Record {
        topic: "to-notifier".into(),
        key: (*key).to_owned(),
        payload: payload.clone(),
        headers: trace.headers(),
    };
    publish(log, keys.iter().map(record).collect()).await;
}

async fn publish(log: &Log, records: Vec<Record>) {
    let bus = Bus::Embedded(log.clone());
    bus.publish(records).await.into_iter().for_each(Result::unwrap);
}

/// An alert as alert_system makes it.
pub(crate) fn letter(id: &str, email: &str) -> Value {
    let letter = json!({
        "id": id, "account": "6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22", "email": email,
        "subject": "KJFK: 351 flights, above your high threshold of 200", "body": "Monday – 351 flights.\n",
        "airport": "KJFK", "condition": "high", "metric": "total", "value": 351, "threshold": 200,
        "window_begin": 986_256_000, "window_end": 986_342_400, "history": [329, 351], "unsubscribe": "a.KJFK.s"
    });
    serde_json::from_value::<Letter>(letter.clone()).unwrap();
    letter
}

/// Tells a log that an account is gone.
pub(crate) async fn forget(log: &Log, account: Account) {
    let message = UserForgotten { account, email: "ada@example.com".parse().unwrap() };
    publish(log, vec![Record::of(&message, &Trace::start()).unwrap()]).await;
}
