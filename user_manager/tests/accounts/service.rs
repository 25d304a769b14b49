//! A user_manager on ports of its own, with a bus in a temporary file.

use std::time::Duration;

use clap::Parser;
use common::auth::{Feed, Verifier};
use common::bus::{Bus, Log};
use common::clock::{Clock, Manual};
use common::messages::{Letter, Message};
use common::service::Parts;
use common::testing::{TestDb, eventually, temp_path};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use user_manager::{App, Config};

/// The password of everybody here.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// When a clock that a test moves begins, Unix seconds.
pub(crate) const NOW: i64 = 1_800_000_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// The databases to run a test on, each with its name on the test's output.
pub(crate) async fn databases() -> Vec<TestDb> {
    common::testing::databases("user_manager").await
}

/// The options as the command line gives them.
fn config(database: &SecretString, node: &str, more: &[&str]) -> Config {
    let ports = ["listen", "grpc-listen", "admin-listen"].map(|port| format!("--{port}=127.0.0.1:0"));
    let own = [format!("--node={node}"), format!("--database-url={}", database.expose_secret())];
    let flags = ports.iter().chain(&own).map(String::as_str);
    Cli::try_parse_from(["user_manager"].into_iter().chain(flags).chain(more.iter().copied())).unwrap().config
}

/// A running user_manager; it stops when it is dropped.
pub(crate) struct Service {
    pub(crate) log: Log,
    api: String,
    pub(crate) grpc: String,
    admin: String,
    clock: Clock,
    http: reqwest::Client,
    running: JoinHandle<anyhow::Result<()>>,
    stop: DropGuard,
}

impl Service {
    pub(crate) async fn start(db: &TestDb) -> Service {
        eprintln!("on {}", db.name);
        Service::replica(&db.url, "one", Clock::System).await
    }

    /// With a clock that the test moves, and more options.
    pub(crate) async fn with(db: &TestDb, more: &[&str]) -> (Service, Manual) {
        eprintln!("on {}", db.name);
        let (clock, time) = Clock::manual(NOW);
        (Service::built(&db.url, "one", clock, more).await.unwrap(), time)
    }

    /// With a bus of its own, on a database that others may use too.
    pub(crate) async fn replica(database: &SecretString, node: &str, clock: Clock) -> Service {
        Service::built(database, node, clock, &[]).await.unwrap()
    }

    pub(crate) async fn built(
        database: &SecretString,
        node: &str,
        clock: Clock,
        more: &[&str],
    ) -> anyhow::Result<Service> {
        let log = Log::open(&temp_path("bus.db")).await.unwrap();
        let parts = Parts { clock: clock.clone(), bus: Some(Bus::Embedded(log.clone())), ..Parts::default() };
        let app = App::build(config(database, node, more), parts).await?;
        let [api, grpc, admin] =
            [app.addr(), app.grpc_addr(), app.admin_addr()].map(|addr| format!("http://{addr}"));
        let token = CancellationToken::new();
        let running = tokio::spawn(app.run(token.clone()));
        let http = common::http::client(Duration::from_secs(120)).unwrap();
        Ok(Service { log, api, grpc, admin, clock, http, running, stop: token.drop_guard() })
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.running.await.unwrap().unwrap();
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.api))
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path).json(body).send().await.unwrap()
    }

    pub(crate) async fn admin(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.admin)).send().await.unwrap()
    }

    /// The key feed.
    pub(crate) async fn feed(&self) -> Feed {
        self.admin("/keys").await.json().await.unwrap()
    }

    /// A verifier as every other service has one, with the present feed.
    pub(crate) async fn verifier(&self) -> Verifier {
        let verifier = Verifier::new(self.clock.clone());
        verifier.load(&self.feed().await);
        verifier
    }

    /// Registers an address; gives the profile.
    pub(crate) async fn register(&self, email: &str) -> Value {
        json_of(self.post("/register", &registration(email)).await, StatusCode::CREATED).await
    }

    /// Logs in; gives the token.
    pub(crate) async fn login(&self, email: &str, password: &str) -> String {
        let response = self.post("/login", &json!({"email": email, "password": password})).await;
        let login = json_of(response, StatusCode::OK).await;
        login["access_token"].as_str().unwrap().to_owned()
    }

    /// The mails that are in to-notifier, when there are so many.
    pub(crate) async fn mails_when(&self, count: usize) -> Vec<Letter> {
        eventually("mails", async || {
            let records = self.log.read_all(Letter::TOPIC).await.unwrap();
            let mails: Vec<Letter> =
                records.iter().map(|record| serde_json::from_slice(&record.payload).unwrap()).collect();
            (mails.len() >= count).then_some(mails)
        })
        .await
    }

    /// Opens a link out of a mail.
    pub(crate) async fn open(&self, link: &str) -> Response {
        let path = link.split_once("/user_manager").unwrap().1;
        self.request(Method::GET, path).send().await.unwrap()
    }

    /// The status that a login gets.
    pub(crate) async fn try_login(&self, email: &str, password: &str) -> StatusCode {
        self.post("/login", &json!({"email": email, "password": password})).await.status()
    }

    pub(crate) async fn me(&self, token: &str) -> Response {
        self.request(Method::GET, "/me").bearer_auth(token).send().await.unwrap()
    }
}

/// A registration that is taken.
pub(crate) fn registration(email: &str) -> Value {
    json!({"email": email, "name": "Ada", "surname": "Example", "password": PASSWORD})
}

/// The link in a mail.
pub(crate) fn link(mail: &Letter) -> String {
    let line = mail.body.lines().find(|line| line.contains("/user_manager/confirm?token="));
    line.unwrap_or_else(|| panic!("no link in {}", mail.body)).trim().to_owned()
}

/// The JSON of an answer with that status.
pub(crate) async fn json_of(response: Response, status: StatusCode) -> Value {
    let (found, text) = (response.status(), response.text().await.unwrap());
    assert_eq!(found, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The detail of a problem, after a look at everything else that a problem has.
pub(crate) async fn problem(response: Response, status: StatusCode, slug: &str) -> String {
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (kind, request_id) = (header("content-type"), header("x-request-id"));
    let body = json_of(response, status).await;
    assert_eq!(kind.as_deref(), Some("application/problem+json"));
    assert_eq!(body["type"], format!("urn:vedetta:problem:{slug}"), "{body}");
    assert_eq!(body["status"], status.as_u16());
    assert_eq!(body["request_id"].as_str(), request_id.as_deref());
    assert!(body["title"].is_string());
    body["detail"].as_str().unwrap().to_owned()
}
