//! The five services as processes of their own, over PostgreSQL and a Kafka broker, with a replay instead of OpenSky. Each
//! can be away for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::clock::Clock;
use common::testing;
use gateway::gen_cert;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use crate::eventually;
use crate::mailbox::{Mail, Mailbox};
use crate::process::{self, Process};

/// In the order in which they start.
pub const SERVICES: [&str; 5] =
    ["user_manager", "data_collector", "alert_system", "notifier_system", "gateway"];

pub struct Five {
    pub mailbox: Mailbox,
    broker: String,
    databases: BTreeMap<&'static str, SecretString>,
    folder: TempDir,
    replay: Process,
    replay_addr: SocketAddr,
    running: BTreeMap<&'static str, Process>,
    /// Where each is, also after it was away.
    addresses: BTreeMap<&'static str, Addresses>,
}

/// What a service tells at its start.
#[derive(Clone, Copy)]
struct Addresses {
    /// Of its API; the admin port where it has none.
    api: SocketAddr,
    admin: SocketAddr,
    /// user_manager's.
    grpc: Option<SocketAddr>,
}

impl Five {
    /// Starts all, if there is a PostgreSQL server.
    pub async fn start(suite: &str, broker: &str) -> Option<Five> {
        let mut databases = BTreeMap::new();
        for name in ["user_manager", "data_collector", "notifier_system"] {
            databases.insert(name, testing::postgres(suite).await?);
        }
        let folder = tempfile::tempdir().unwrap();
        let replay = Process::start("opensky_replay", &["--listen=127.0.0.1:0"], &[]);
        let replay_addr = replay.address("addr=").await;
        gen_cert::generate(&gen_cert::Options::into_folder(folder.path()), &Clock::System).unwrap();
        let mut five = Five {
            mailbox: Mailbox(folder.path().join("mail")),
            broker: broker.to_owned(),
            databases,
            folder,
            replay,
            replay_addr,
            running: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        for name in SERVICES {
            five.start_one(name).await;
        }
        Some(five)
    }

    /// Starts a service, where it was if it has been there before.
    pub async fn start_one(&mut self, name: &'static str) {
        let options = self.options(name);
        let options: Vec<(&str, &str)> =
            options.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let process = Process::start(name, &[], &options);
        let told = eventually("a service to tell its addresses", async || {
            process.log().into_iter().find(|line| line["admin"].is_string())
        })
        .await;
        let address = |field: &str| told[field].as_str().map(|text| text.parse().unwrap());
        let admin = address("admin").unwrap();
        let addresses = Addresses { api: address("addr").unwrap_or(admin), admin, grpc: address("grpc") };
        self.addresses.insert(name, addresses);
        self.running.insert(name, process);
    }

    /// Ends a service in the middle of what it does.
    pub async fn kill(&mut self, name: &str) {
        self.running.remove(name).unwrap().kill().await;
    }

    pub fn gateway(&self) -> SocketAddr {
        self.addresses["gateway"].api
    }

    pub fn admin(&self, name: &str) -> SocketAddr {
        self.addresses[name].admin
    }

    pub fn process(&self, name: &str) -> &Process {
        &self.running[name]
    }

    /// A sample of a service's metrics.
    pub async fn metric(&self, name: &str, metric: &str) -> f64 {
        process::metric(self.admin(name), name, metric).await
    }

    /// Stops all, the gateway first; they end well, and nobody's address is in what they said. Gives all mails.
    pub async fn stop(mut self) -> Vec<Mail> {
        let mut all: Vec<Process> =
            SERVICES.iter().rev().filter_map(|name| self.running.remove(name)).collect();
        all.push(self.replay);
        for process in all {
            let output = process.output();
            assert!(!output.contains("panicked"), "{output}");
            for person in ["ada@example.com", "eve@example.com"] {
                assert!(!output.contains(person), "addresses are masked: {output}");
            }
            assert_eq!(process.stop().await, Some(0));
        }
        self.mailbox.mails()
    }

    fn options(&self, name: &'static str) -> Vec<(&'static str, String)> {
        let before = self.addresses.get(name);
        let place = |addr: Option<SocketAddr>| addr.map_or("127.0.0.1:0".to_owned(), |addr| addr.to_string());
        let peer = |name: &str| self.addresses[name];
        let mut options = vec![
            ("LOG_FORMAT", "json".to_owned()),
            ("LISTEN", place(before.map(|before| before.api))),
            ("ADMIN_LISTEN", place(before.map(|before| before.admin))),
            ("KAFKA_BOOTSTRAP_SERVERS", self.broker.clone()),
            ("BUS_CONSUMER_OPTS", "session.timeout.ms=6000".to_owned()),
        ];
        if let Some(url) = self.databases.get(name) {
            options.push(("DATABASE_URL", url.expose_secret().to_owned()));
        }
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        match name {
            "user_manager" => options.push(("GRPC_LISTEN", place(before.and_then(|before| before.grpc)))),
            "data_collector" => options.extend([
                ("KEY_FEED_URL", format!("http://{}/keys", peer("user_manager").admin)),
                ("USER_MANAGER_GRPC_URL", format!("http://{}", peer("user_manager").grpc.unwrap())),
                ("OPENSKY_API_URL", format!("http://{}/api", self.replay_addr)),
                ("OPENSKY_TOKEN_URL", format!("http://{}/token", self.replay_addr)),
                ("OPENSKY_CLIENT_ID", "e2e".to_owned()),
                ("OPENSKY_CLIENT_SECRET", "any".to_owned()),
                ("COLLECT_LAG", "0s".to_owned()),
                ("COLLECT_SETTLE", "0s".to_owned()),
            ]),
            "notifier_system" => options.push(("MAIL_URL", format!("file:{}", self.mailbox.0.display()))),
            "gateway" => options.extend([
                ("TLS_CERT", file("cert.pem")),
                ("TLS_KEY", file("key.pem")),
                ("USER_MANAGER_URL", format!("http://{}", peer("user_manager").api)),
                ("USER_MANAGER_ADMIN_PORT", peer("user_manager").admin.port().to_string()),
                ("DATA_COLLECTOR_URL", format!("http://{}", peer("data_collector").api)),
                ("DATA_COLLECTOR_ADMIN_PORT", peer("data_collector").admin.port().to_string()),
            ]),
            _ => {}
        }
        options
    }
}
