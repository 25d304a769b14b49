//! A replay and data_collectors as real processes, and somebody who asks them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::{Json, Router, routing::get};
use common::auth::{Feed, Signer};
use common::bus::Log;
use common::clock::Clock;
use common::messages::{Message, WindowCounted};
use common::on;
use common::testing::{Directory, TestDb, temp_path};
use common::types::{Account, Email};
use e2e::eventually;
use e2e::process::Process;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

/// How long a call to OpenSky may take.
const TIMEOUT: &str = "1s";
/// How a log's URL begins.
const LOG: &str = "log:";
/// The replay's endpoints that tell flights.
pub(crate) const FLIGHTS: [&str; 2] = ["arrival", "departure"];

pub(crate) struct Field {
    pub(crate) db: TestDb,
    /// Where the messages go.
    bus: String,
    feed: String,
    directory: Directory,
    /// The one who watches everything.
    pub(crate) account: Account,
    pub(crate) email: Email,
    token: String,
    pub(crate) replay: Replay,
    http: reqwest::Client,
}

impl Field {
    /// A replay, and nobody yet who asks it; messages go to a log.
    pub(crate) async fn new(db: TestDb) -> Field {
        Field::over(db, format!("{LOG}{}", temp_path("bus.db").display())).await
    }

    /// The same; messages go to `bus`, a URL.
    pub(crate) async fn over(db: TestDb, bus: String) -> Field {
        let signer = Signer::from_pkcs8("test", &Signer::generate().unwrap()).unwrap();
        let email = "ada@example.com".parse::<Email>().unwrap();
        let account = Account::new_random();
        let token = signer.token(account, &email, Clock::System.now()).unwrap();
        let feed = serve(Feed { keys: vec![signer.public().clone()], revoked: Vec::new() }).await;
        let directory = Directory::start().await;
        directory.add(account, &email);
        let http = common::http::client(Duration::from_secs(60)).unwrap();
        let replay = Replay::start("127.0.0.1:0", &["--latency=5ms"]).await;
        Field { db, bus, feed, directory, account, email, token, replay, http }
    }

    /// Starts a data_collector that looks `days` back.
    pub(crate) async fn collector(&self, node: &str, days: i64) -> Collector {
        let backfill = format!("{days}d");
        let (api, token) = (format!("{}/api", self.replay.url()), format!("{}/token", self.replay.url()));
        let environment = [
            ("LISTEN", "127.0.0.1:0"),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("LOG_FORMAT", "json"),
            ("NODE", node),
            ("DATABASE_URL", self.db.url.expose_secret()),
            ("BUS_URL", &self.bus),
            ("KEY_FEED_URL", &self.feed),
            ("USER_MANAGER_GRPC_URL", &self.directory.url),
            ("OPENSKY_API_URL", &api),
            ("OPENSKY_TOKEN_URL", &token),
            ("OPENSKY_CLIENT_ID", "e2e"),
            ("OPENSKY_CLIENT_SECRET", "any"),
            ("OPENSKY_DAILY_CREDITS", "1000000"),
            ("OPENSKY_TIMEOUT", TIMEOUT),
            ("COLLECT_LAG", "0s"),
            ("COLLECT_SETTLE", "0s"),
            ("COLLECT_BACKFILL", &backfill),
            ("BREAKER_FAILURE_THRESHOLD", "2"),
            ("BREAKER_TIMEOUT", "1s"),
            ("MAX_INTERESTS", "1000"),
        ];
        let process = Process::start("data_collector", &[], &environment);
        let (addr, admin) = addresses(&process).await;
        let collector = Collector {
            node: node.to_owned(),
            process,
            addr,
            admin,
            http: self.http.clone(),
            token: self.token.clone(),
        };
        eventually("the keys", async || {
            (collector.send(Method::GET, "/interests", json!({})).await.0 == StatusCode::OK).then_some(())
        })
        .await;
        collector
    }

    /// The messages in the log, which nobody may have open.
    pub(crate) async fn told(&self) -> Vec<Vec<u8>> {
        let log = Log::open(Path::new(self.bus.strip_prefix(LOG).unwrap())).await.unwrap();
        let records = log.read_all(WindowCounted::TOPIC).await.unwrap();
        records.into_iter().map(|record| record.payload).collect()
    }

    /// How many messages are not known to have left: those may come again from somebody else.
    pub(crate) async fn unacknowledged(&self) -> i64 {
        let db = common::db::connect_for_tests(&self.db.url);
        let text = "SELECT COUNT(*) FROM outbox WHERE published_at IS NULL";
        let count = on!(db.reader(), |pool| sqlx::query_scalar(text).fetch_one(pool).await).unwrap();
        db.close().await;
        count
    }

    /// The names of those who have stored windows.
    #[cfg(feature = "kafka")]
    pub(crate) async fn stored_by(&self) -> Vec<String> {
        let db = common::db::connect_for_tests(&self.db.url);
        let text =
            "SELECT DISTINCT claimed_by FROM airport_window WHERE state = 'stored' ORDER BY claimed_by";
        let names = on!(db.reader(), |pool| sqlx::query_scalar(text).fetch_all(pool).await).unwrap();
        db.close().await;
        names
    }

    /// The operator knows that OpenSky can be asked again.
    pub(crate) async fn end_pause(&self) {
        self.sql("UPDATE credit SET paused_until = 0, remaining = 1000000").await;
    }

    /// What has failed is tried again now, also if its last attempt cost credits.
    pub(crate) async fn end_waits(&self) {
        self.sql("UPDATE airport_window SET retry_at = 0 WHERE state = 'due'").await;
    }

    async fn sql(&self, text: &'static str) {
        let db = common::db::connect_for_tests(&self.db.url);
        on!(db.writer(), |pool| sqlx::query(text).execute(pool).await.map(|_| ())).unwrap();
        db.close().await;
    }
}

pub(crate) struct Replay {
    process: Process,
    addr: SocketAddr,
    http: reqwest::Client,
    /// What those before it have answered, by endpoint and status.
    before: Vec<Value>,
}

impl Replay {
    async fn start(listen: &str, options: &[&str]) -> Replay {
        let listen = format!("--listen={listen}");
        let process = Process::start(
            "opensky_replay",
            &[&[listen.as_str(), "--credits=4000000"], options].concat(),
            &[],
        );
        let addr = process.address("addr=").await;
        let http = common::http::client(Duration::from_secs(60)).unwrap();
        let replay = Replay { process, addr, http, before: Vec::new() };
        // Its first answers wait for the recording to be read, longer than a call may take.
        eventually("the recording", async || {
            let ready = replay.http.get(format!("{}/readyz", replay.url())).send().await.unwrap();
            ready.status().is_success().then_some(())
        })
        .await;
        replay
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Kills it and starts another in its place, which knows none of the tokens that were given out.
    pub(crate) async fn restart(&mut self, options: &[&str]) {
        let mut before = std::mem::take(&mut self.before);
        before.push(self.stats().await);
        self.process.kill().await;
        *self = Replay { before, ..Replay::start(&self.addr.to_string(), options).await };
    }

    /// Changes what goes wrong.
    pub(crate) async fn faults(&self, change: Value) {
        let url = format!("{}/admin/faults", self.url());
        let changed = self.http.patch(url).json(&change).send().await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
    }

    async fn stats(&self) -> Value {
        let stats = self.http.get(format!("{}/admin/stats", self.url())).send().await.unwrap();
        stats.json().await.unwrap()
    }

    /// How many calls of these endpoints were answered with that status.
    pub(crate) async fn answered(&self, endpoints: &[&str], status: u16) -> i64 {
        let now = self.stats().await;
        let all = self.before.iter().chain([&now]);
        let count = |stats: &Value| -> i64 {
            let answered = |endpoint: &&str| stats[*endpoint][status.to_string()].as_i64();
            endpoints.iter().filter_map(answered).sum()
        };
        all.map(count).sum()
    }
}

/// A running data_collector, and somebody with an account.
pub(crate) struct Collector {
    pub(crate) node: String,
    pub(crate) process: Process,
    addr: SocketAddr,
    admin: SocketAddr,
    http: reqwest::Client,
    token: String,
}

impl Collector {
    async fn send(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.addr);
        let answer =
            self.http.request(method, url).bearer_auth(&self.token).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(Method::GET, path, json!({})).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    /// Watches all of them.
    pub(crate) async fn watch(&self, airports: &[String]) {
        for airport in airports {
            let (status, body) = self.send(Method::PUT, &format!("/interests/{airport}"), json!({})).await;
            assert_eq!(status, StatusCode::CREATED, "{airport}: {body}");
        }
    }

    /// Windows that are still to be collected.
    pub(crate) async fn waiting(&self) -> usize {
        self.get("/status").await["waiting"].as_u64().unwrap() as usize
    }

    /// Waits until at most so many windows are left; takes as long as windows come.
    pub(crate) async fn waits_for(&self, most: usize) {
        let mut least = usize::MAX;
        while least > most {
            least = eventually("further windows", async || {
                let waiting = self.waiting().await;
                (waiting < least || waiting <= most).then_some(waiting)
            })
            .await;
        }
    }

    async fn metrics(&self) -> String {
        let metrics = reqwest::get(format!("http://{}/metrics", self.admin)).await.unwrap();
        metrics.text().await.unwrap()
    }

    /// A counter or a gauge that has no labels of its own.
    pub(crate) async fn metric(&self, name: &str) -> i64 {
        let text = self.metrics().await;
        let line = text.lines().find(|line| line.contains(&format!("{name}{{"))).unwrap();
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    /// How its calls to OpenSky ended.
    pub(crate) async fn outcomes(&self) -> BTreeMap<String, i64> {
        let text = self.metrics().await;
        let calls = text.lines().filter_map(|line| {
            let (_, rest) = line.split_once("opensky_calls_total{")?;
            let (outcome, count) = rest.split_once("outcome=\"")?.1.split_once("\"} ")?;
            Some((outcome.to_owned(), count.parse().unwrap()))
        });
        calls.collect()
    }

    /// How many calls have ended so.
    pub(crate) async fn ended(&self, outcome: &str) -> i64 {
        self.outcomes().await.get(outcome).copied().unwrap_or(0)
    }

    /// Waits until more than `before` have.
    pub(crate) async fn another_ends(&self, outcome: &str, before: i64) {
        eventually(outcome, async || (self.ended(outcome).await > before).then_some(())).await;
    }

    /// Waits until the breaker is as `is` wants its part of the status.
    pub(crate) async fn breaker(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || Some(self.get("/status").await["breaker"].clone()).filter(|it| is(it)))
            .await
    }

    /// Stops it when every message is on the bus.
    pub(crate) async fn stops_with_everything_told(self) {
        eventually("everything told", async || {
            (self.metric("outbox_waiting_messages").await == 0).then_some(())
        })
        .await;
        assert!(!self.process.output().contains("panicked"), "{}", self.process.output());
        assert_eq!(self.process.stop().await, Some(0));
    }
}

/// The address of a service and of its admin port, as its log tells them.
async fn addresses(process: &Process) -> (SocketAddr, SocketAddr) {
    let told = eventually("a service to tell its addresses", async || {
        process.log().into_iter().find(|line| line["admin"].is_string())
    })
    .await;
    let address = |field: &str| told[field].as_str().unwrap().parse().unwrap();
    (address("addr"), address("admin"))
}

async fn serve(feed: Feed) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = Router::new().route("/keys", get(move || async move { Json(feed) }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}
