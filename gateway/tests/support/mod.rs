//! A gateway as its users see it: on a port of its own, with a certificate, two services that echo what reaches
//! them, and a key feed.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses a part of it"
)]

pub mod echo;
pub mod frames;
pub mod process;
pub mod raw;
pub mod streaming;
pub mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use common::auth::{Feed, Signer};
use common::clock::{Clock, Manual};
use common::service::Parts;
use common::types::Account;
use gateway::gen_cert::{self, Options};
use gateway::{App, Config};
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::echo::{AdminPort, Echo};

/// Long enough for any machine, and longer than the gateway waits for a service.
pub const LONG: Duration = Duration::from_secs(120);

/// The time at which every test begins.
pub const NOW: i64 = 1_000_000_000;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// Options as they come from a command line, on free ports.
pub fn config(flags: &[String]) -> Config {
    let free = ["gateway", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"].map(str::to_owned);
    Cli::parse_from(free.iter().chain(flags)).config
}

pub struct World {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    /// The plain port, if there is one.
    pub redirect: Option<SocketAddr>,
    pub user_manager: Echo,
    pub data_collector: Echo,
    /// Of data_collector.
    pub admin_port: AdminPort,
    /// Of user_manager, with the key feed.
    pub keys: AdminPort,
    pub clock: Manual,
    /// The private key of `signer`, PKCS#8.
    pub key: Vec<u8>,
    pub signer: Signer,
    pub cert: PathBuf,
    pub stop: CancellationToken,
    pub running: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

impl World {
    /// A gateway that is ready.
    pub async fn start() -> World {
        let world = World::start_with(&[]).await;
        world.becomes_ready().await;
        world
    }

    /// A gateway with flags that overrule those for the echoing services.
    pub async fn start_with(flags: &[String]) -> World {
        let key = Signer::generate().unwrap();
        let signer = Signer::from_pkcs8("k1", &key).unwrap();
        let feed = Feed { keys: vec![signer.public().clone()], revoked: vec![] };
        let user_manager = Echo::start("user_manager").await;
        let data_collector = Echo::start("data_collector").await;
        let keys = AdminPort::start(Some(feed)).await;
        let admin_port = AdminPort::start(None).await;
        let folder = TempDir::new().unwrap();
        let cert = gen_cert::generate(&Options::into_folder(folder.path()), &Clock::System).unwrap();
        let given = |name: &str| flags.iter().any(|flag| flag.starts_with(name));
        let mut all = flags.to_vec();
        for (flag, value) in [
            ("--tls-cert", cert.cert.display().to_string()),
            ("--tls-key", cert.key.display().to_string()),
            ("--user-manager-url", format!("http://{}", user_manager.addr)),
            ("--data-collector-url", format!("http://{}", data_collector.addr)),
            ("--user-manager-admin-port", keys.addr.port().to_string()),
            ("--data-collector-admin-port", admin_port.addr.port().to_string()),
        ] {
            if !given(flag) {
                all.push(format!("{flag}={value}"));
            }
        }
        let (clock, manual) = Clock::manual(NOW);
        let app = App::build(config(&all), Parts { clock, ..Parts::default() }).await.unwrap();
        let (addr, admin, redirect) = (app.addr(), app.admin_addr(), app.redirect_addr());
        let stop = CancellationToken::new();
        World {
            addr,
            admin,
            redirect,
            user_manager,
            data_collector,
            admin_port,
            keys,
            clock: manual,
            key,
            signer,
            cert: cert.cert,
            running: tokio::spawn(app.run(stop.clone())),
            stop,
            _folder: folder,
        }
    }

    /// A gateway with a configuration file, that is ready.
    pub async fn with_config(toml: &str) -> World {
        World::with_config_and(toml, &[]).await
    }

    /// A gateway with a configuration file and flags, that is ready.
    pub async fn with_config_and(toml: &str, flags: &[String]) -> World {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, toml).unwrap();
        let config = format!("--config={}", file.display());
        let world = World::start_with(&[&[config], flags].concat()).await;
        world.becomes_ready().await;
        world
    }

    pub async fn becomes_ready(&self) {
        eventually(async || self.admin("/readyz").await.0 == StatusCode::OK).await;
    }

    /// A metric of one upstream.
    pub async fn upstream_metric(&self, name: &str, upstream: &str) -> u64 {
        let (name, label) = (format!("vedetta_gateway_{name}{{"), format!("upstream=\"{upstream}\""));
        let (_, metrics) = self.admin("/metrics").await;
        let line = metrics.lines().find(|line| line.starts_with(&name) && line.contains(&label)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Status and body of a page of the admin port.
    pub async fn admin(&self, path: &str) -> (StatusCode, String) {
        let answer = Client::new().get(format!("http://{}{path}", self.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.addr.port())
    }

    /// A client that trusts the gateway's certificate and follows no redirect.
    pub fn client(&self) -> Client {
        self.client_builder().build().unwrap()
    }

    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        let pem = std::fs::read(&self.cert).unwrap();
        Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(LONG)
            .resolve("localhost", self.addr)
    }

    /// A token that is valid now.
    pub fn token(&self) -> String {
        self.token_of(Account::new_random())
    }

    /// A token of this account that is valid now.
    pub fn token_of(&self, account: Account) -> String {
        self.signer.token(account, &"ada@example.com".parse().unwrap(), NOW).unwrap()
    }

    /// GET with a valid token.
    pub async fn get(&self, path: &str) -> Response {
        self.client().get(self.url(path)).bearer_auth(self.token()).send().await.unwrap()
    }

    /// Writes bytes on a fresh TLS connection and reads until the gateway closes it.
    pub async fn raw(&self, request: impl Into<Vec<u8>>) -> String {
        let (addr, cert, request) = (self.addr, self.cert.clone(), request.into());
        tokio::task::spawn_blocking(move || raw::exchange(addr, &cert, &request)).await.unwrap()
    }
}

/// The time-outs of a configuration file: these, and an hour for each other that could end what is under test.
pub fn timeouts(short: &[(&str, &str)]) -> String {
    let all =
        ["handshake", "head", "idle", "body", "write", "stream_idle", "upstream_read", "upstream_write"];
    let line = |name: &&str| {
        let given = short.iter().find(|(short, _)| short == name);
        format!("{name} = \"{}\"\n", given.map_or("1h", |(_, time)| time))
    };
    format!("[timeouts]\n{}", all.iter().map(line).collect::<String>())
}

/// An address that refuses connections. The socket keeps it from being taken by somebody who would accept them.
pub fn refusing() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (socket.local_addr().unwrap(), socket)
}

/// A listener whose queue is full: further connection attempts get no answer at all.
pub async fn deaf_listener() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // One attempt may time out because the machine is slow.
    let mut unanswered = 0;
    while unanswered < 2 {
        match timeout(Duration::from_secs(2), TcpStream::connect(addr)).await {
            Ok(stream) => {
                queued.push(stream.unwrap());
                unanswered = 0;
            }
            Err(_) => unanswered += 1,
        }
    }
    (addr, (listener, queued))
}

/// Waits until `condition` holds.
pub async fn eventually(condition: impl AsyncFn() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, holds).await.expect("the condition never came to hold");
}

/// Asserts that an answer is a problem of this kind, made by the gateway, and gives its body.
pub async fn problem(answer: Response, status: u16, slug: &str) -> Value {
    assert_eq!(answer.status().as_u16(), status);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["type"], format!("urn:vedetta:problem:{slug}"));
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], id);
    assert!(body["title"].is_string() && body["detail"].is_string());
    body
}
