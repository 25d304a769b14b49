//! A data_collector, the replay it asks, a key feed, and people with tokens.

use std::time::Duration;

use axum::{Json, Router, routing::get};
use clap::Parser;
use common::auth::{Feed, Signer};
use common::bus::{Bus, Log, Record};
use common::clock::{Clock, Manual};
use common::messages::{Message, UserForgotten, WindowCounted};
use common::service::Parts;
use common::testing::{Directory, TestDb, eventually, temp_path};
use common::trace::Trace;
use common::types::{Account, Email};
use data_collector::{App, Config};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::expected::DAY;
use crate::proxy::Proxy;

/// Noon of Wednesday 22 July 2026; the tape shows Wednesday 4 April 2001.
pub(crate) const NOON: i64 = 986_169_600 + 9242 * DAY + DAY / 2;
/// The midnight before: the end of the latest closed window.
pub(crate) const TODAY: i64 = NOON - DAY / 2;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// The databases to run a test on.
pub(crate) async fn databases() -> Vec<TestDb> {
    common::testing::databases("data_collector").await
}

pub(crate) struct Replay {
    pub(crate) url: String,
    http: reqwest::Client,
    _stop: DropGuard,
}

impl Replay {
    async fn start(config: opensky_replay::Config, clock: Clock) -> Replay {
        let config = opensky_replay::Config { listen: "127.0.0.1:0".into(), ..config };
        let app = opensky_replay::App::build(config, clock).await.unwrap();
        let url = format!("http://{}", app.addr());
        let token = CancellationToken::new();
        tokio::spawn(app.run(token.clone()));
        let http = common::http::client(Duration::from_secs(30)).unwrap();
        Replay { url, http, _stop: token.drop_guard() }
    }

    /// Changes what goes wrong.
    pub(crate) async fn faults(&self, change: Value) {
        let response =
            self.http.patch(format!("{}/admin/faults", self.url)).json(&change).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }

    /// Answers so far by endpoint (`arrival`, `departure`, `token`) and status.
    pub(crate) async fn stats(&self) -> Value {
        self.http.get(format!("{}/admin/stats", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// How many calls of the endpoint were answered with that status.
    pub(crate) async fn answered(&self, endpoint: &str, status: u16) -> u64 {
        self.stats().await[endpoint][status.to_string()].as_u64().unwrap_or(0)
    }

    /// All calls for flights.
    pub(crate) async fn calls(&self) -> u64 {
        let stats = self.stats().await;
        let endpoints = ["arrival", "departure"].map(|endpoint| stats[endpoint].as_object().cloned());
        endpoints.into_iter().flatten().flat_map(|by| by.into_values()).map(|n| n.as_u64().unwrap()).sum()
    }
}

/// How a world begins.
pub(crate) struct Setup<'a> {
    pub(crate) flags: &'a [&'a str],
    pub(crate) replay: opensky_replay::Config,
    pub(crate) now: i64,
    /// OpenSky's id and secret.
    pub(crate) credentials: Option<(&'a str, &'a str)>,
    /// The replay's clock is not the service's.
    pub(crate) two_clocks: bool,
    /// Instead of the log.
    pub(crate) bus: Option<Bus>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let replay = opensky_replay::Config { credits: 100_000, ..opensky_replay::Config::default() };
        let credentials = Some(("id", "secret"));
        Setup { flags: &[], replay, now: NOON, credentials, two_clocks: false, bus: None }
    }
}

pub(crate) struct World {
    pub(crate) replay: Replay,
    /// In front of the replay's flights.
    pub(crate) proxy: Proxy,
    /// The service's clock, and the replay's where they are not two.
    pub(crate) time: Manual,
    pub(crate) replay_time: Manual,
    pub(crate) log: Log,
    bus: Bus,
    clock: Clock,
    signer: Signer,
    /// Who has an account.
    pub(crate) directory: Directory,
    flags: Vec<String>,
    http: reqwest::Client,
    service: Option<Service>,
}

/// A running data_collector.
pub(crate) struct Service {
    api: String,
    admin: String,
    running: JoinHandle<anyhow::Result<()>>,
    stop: DropGuard,
}

impl Service {
    pub(crate) async fn admin(&self, path: &str) -> Response {
        reqwest::get(format!("{}{path}", self.admin)).await.unwrap()
    }

    /// Ends it in the middle of what it does.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Lets it end.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
    }
}

impl World {
    pub(crate) async fn new(db: &TestDb, flags: &[&str]) -> World {
        World::with(db, Setup { flags, ..Setup::default() }).await
    }

    pub(crate) async fn with(db: &TestDb, setup: Setup<'_>) -> World {
        eprintln!("on {}", db.name);
        let (clock, time) = Clock::manual(setup.now);
        let (replay_clock, replay_time) = match setup.two_clocks {
            true => Clock::manual(setup.now),
            false => (clock.clone(), time.clone()),
        };
        let replay = Replay::start(setup.replay, replay_clock).await;
        let signer = Signer::from_pkcs8("test", &Signer::generate().unwrap()).unwrap();
        let feed = serve_feed(Feed { keys: vec![signer.public().clone()], revoked: Vec::new() }).await;
        let directory = Directory::start().await;
        let log = Log::open(&temp_path("bus.db")).await.unwrap();
        let bus = setup.bus.unwrap_or_else(|| Bus::Embedded(log.clone()));
        let (proxy, proxied) = Proxy::start(&replay.url).await;
        let (api, token) = (format!("{proxied}/api"), format!("{}/token", replay.url));
        let defaults = [
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--collect-lag", "0s"),
            ("--collect-settle", "0s"),
            ("--opensky-daily-credits", "100000"),
            ("--opensky-api-url", &api),
            ("--opensky-token-url", &token),
            ("--key-feed-url", &feed),
            ("--user-manager-grpc-url", &directory.url),
            ("--database-url", db.url.expose_secret()),
        ];
        // What the test says comes first.
        let defaults = defaults.into_iter().filter(|(flag, _)| !setup.flags.contains(flag));
        let mut flags: Vec<&str> =
            setup.flags.iter().copied().chain(defaults.flat_map(<[&str; 2]>::from)).collect();
        if let Some((id, secret)) = setup.credentials {
            flags.extend(["--opensky-client-id", id, "--opensky-client-secret", secret]);
        }
        let flags = flags.into_iter().map(str::to_owned).collect();
        let http = common::http::client(Duration::from_secs(60)).unwrap();
        let mut world = World {
            replay,
            proxy,
            time,
            replay_time,
            log,
            bus,
            clock,
            signer,
            directory,
            flags,
            http,
            service: None,
        };
        world.start().await;
        world
    }

    /// Starts the service, with the options of before.
    pub(crate) async fn start(&mut self) {
        self.service = Some(self.start_as("one").await);
        // The keys have been read when a token is accepted.
        let nobody = self.person("nobody@example.com");
        eventually("keys", async || {
            (nobody.get("/airports?query=KJFK").await.status() == StatusCode::OK).then_some(())
        })
        .await;
    }

    /// Starts a replica under this name.
    pub(crate) async fn start_as(&self, node: &str) -> Service {
        let flags = std::iter::once("data_collector").chain(self.flags.iter().map(String::as_str));
        let config = Cli::try_parse_from(flags.chain(["--node", node])).unwrap().config;
        let (flight_clock, bus) = (self.clock.clone(), Some(self.bus.clone()));
        let parts = Parts { flight_clock, bus, ..Parts::default() };
        let app = App::build(config, parts).await.unwrap();
        let (api, admin) = (format!("http://{}", app.addr()), format!("http://{}", app.admin_addr()));
        let token = CancellationToken::new();
        let running = tokio::spawn(app.run(token.clone()));
        Service { api, admin, running, stop: token.drop_guard() }
    }

    /// Sets an option for the next start.
    pub(crate) fn set(&mut self, flag: &str, value: &str) {
        let place = self.flags.iter().position(|given| given == flag).unwrap();
        self.flags[place + 1] = value.to_owned();
    }

    /// Ends the service in the middle of what it does.
    pub(crate) async fn kill(&mut self) {
        self.service.take().unwrap().kill().await;
    }

    /// Lets the service end.
    pub(crate) async fn stop(&mut self) {
        self.service.take().unwrap().stop().await;
    }

    pub(crate) fn person(&self, email: &str) -> Person<'_> {
        let (account, email) = (Account::new_random(), email.parse::<Email>().unwrap());
        let token = self.signer.token(account, &email, Clock::System.now()).unwrap();
        self.directory.add(account, &email);
        Person { world: self, account, email, token }
    }

    /// A request without a token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.service.as_ref().unwrap().api))
    }

    pub(crate) async fn admin(&self, path: &str) -> Response {
        self.service.as_ref().unwrap().admin(path).await
    }

    /// What lies in the topic to-alert-system.
    pub(crate) async fn messages(&self) -> Vec<WindowCounted> {
        let records = self.log.read_all(WindowCounted::TOPIC).await.unwrap();
        records.iter().map(|record| serde_json::from_slice(&record.payload).unwrap()).collect()
    }

    /// The messages, when there are so many.
    pub(crate) async fn messages_when(&self, count: usize) -> Vec<WindowCounted> {
        eventually("messages", async || {
            let messages = self.messages().await;
            (messages.len() >= count).then_some(messages)
        })
        .await
    }

    /// Tells the bus that an account was deleted.
    pub(crate) async fn forget(&self, person: &Person<'_>) {
        let message = UserForgotten { account: person.account, email: person.email.clone() };
        let record = Record::of(&message, &Trace::start()).unwrap();
        self.bus.publish(vec![record]).await.into_iter().for_each(Result::unwrap);
    }
}

/// Somebody with a token.
pub(crate) struct Person<'a> {
    world: &'a World,
    pub(crate) account: Account,
    pub(crate) email: Email,
    token: String,
}

impl Person<'_> {
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.world.request(method, path).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        json_of(self.get(path).await, StatusCode::OK).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: Value) -> Response {
        self.request(method, path).json(&body).send().await.unwrap()
    }

    pub(crate) async fn put(&self, airport: &str, body: Value) -> Value {
        let response = self.send(Method::PUT, &format!("/interests/{airport}"), body).await;
        json_of(response, StatusCode::CREATED).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path).send().await.unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        self.json("/status").await
    }

    /// Waits until the status is as `is` wants it.
    pub(crate) async fn status_when(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || Some(self.status().await).filter(|status| is(status))).await
    }

    /// Waits until the person's airports have their latest closed window.
    pub(crate) async fn collected(&self) -> Value {
        let end = common::clock::rfc3339(self.world.clock.now().div_euclid(DAY) * DAY);
        self.status_when("everything is collected", |status| {
            let airports = status["airports"].as_array().unwrap();
            status["waiting"] == 0 && airports.iter().all(|airport| airport["last_window"]["end"] == end)
        })
        .await
    }

    /// `(day, arrivals, departures)` of the last month.
    pub(crate) async fn daily(&self, airport: &str) -> Vec<(String, i64, i64)> {
        let answer = self.json(&format!("/airports/{airport}/daily?days=30")).await;
        assert_eq!(answer["airport"], airport);
        let number = |day: &Value, field: &str| day[field].as_i64().unwrap();
        let day = |day: &Value| {
            assert_eq!(number(day, "total"), number(day, "arrivals") + number(day, "departures"));
            (day["day"].as_str().unwrap().to_owned(), number(day, "arrivals"), number(day, "departures"))
        };
        answer["days"].as_array().unwrap().iter().map(day).collect()
    }
}

/// What [`Person::daily`] gives for the days from `from` up to `to`, both midnights.
pub(crate) fn expected_days(airport: &str, from: i64, to: i64) -> Vec<(String, i64, i64)> {
    let days = (from..to).step_by(DAY as usize);
    days.map(|midnight| {
        let (arrivals, departures) = crate::expected::day(airport, midnight);
        (common::clock::date(midnight), arrivals, departures)
    })
    .collect()
}

async fn serve_feed(feed: Feed) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = Router::new().route("/keys", get(move || async move { Json(feed) }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// The JSON of an answer with that status.
pub(crate) async fn json_of(response: Response, status: StatusCode) -> Value {
    let (found, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A problem of that status and kind.
pub(crate) async fn problem(response: Response, status: StatusCode, slug: &str) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = json_of(response, status).await;
    assert_eq!(body["type"], json!(format!("urn:vedetta:problem:{slug}")), "{body}");
    assert!(body["request_id"].is_string());
    body
}
