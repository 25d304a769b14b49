//! The services as processes of their own, over PostgreSQL and Apache Kafka: two who judge, two who send.

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;

use common::testing::database_on;
use e2e::process::Process;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::bus::Bus;
use crate::ledger::Ledger;
use crate::load::Entrance;
use crate::mail_server::MailServer;
use crate::path::Path;
use crate::plan::Plan;
use crate::port;
use crate::servers::Servers;
use crate::service::{Environment, Service};
use crate::world::{Databases, World};

/// Starts everything, if PostgreSQL and Kafka are to be had here.
pub(crate) async fn world(suite: &str, plan: &Plan) -> Option<World> {
    common::tls::install();
    let broker = port::listener().await;
    let servers = Servers::start(suite, broker.local_addr().unwrap()).await?;
    let databases = Databases {
        user_manager: database_on(&servers.postgres).await,
        data_collector: database_on(&servers.postgres).await,
        notifier_system: database_on(&servers.postgres).await,
    };
    let broker = Path::on("way to the broker", broker, servers.kafka).await;
    let folder = tempfile::tempdir().unwrap().keep();
    let mail_server = MailServer::start(plan.latency()).await;
    let replay = Process::start("opensky_replay", &["--listen=127.0.0.1:0", "--credits=1000000"], &[]);
    let mut pipeline = Pipeline {
        replay: replay.address("addr=").await,
        folder: &folder,
        services: Vec::new(),
        paths: vec![broker],
    };
    let entrance = pipeline.entrance(&databases).await;
    for node in ["alert_system_one", "alert_system_two"] {
        pipeline.start("alert_system", node, Environment::new()).await;
    }
    for node in ["notifier_system_one", "notifier_system_two"] {
        let database = pipeline.database(node, &databases.notifier_system).await;
        let mails = Path::to(format!("way of {node} to the mail server"), mail_server.addr()).await;
        let environment = vec![database, ("MAIL_URL", format!("smtp://{}", mails.addr()))];
        pipeline.paths.push(mails.of_mails());
        pipeline.start("notifier_system", node, environment).await;
    }
    let Pipeline { services, paths, .. } = pipeline;
    Some(World {
        name: "the pipeline on Kafka",
        entrance: Arc::new(entrance),
        services,
        paths,
        mail_server,
        databases,
        bus: Bus::Kafka(servers.kafka.to_string()),
        servers: Some(servers),
        letters_wait: true,
        ledger: Ledger::default(),
        folder,
        _beside: Some(replay),
    })
}

/// The services as they come.
struct Pipeline<'a> {
    replay: SocketAddr,
    folder: &'a FilePath,
    services: Vec<Service>,
    /// The first is the broker's.
    paths: Vec<Path>,
}

impl Pipeline<'_> {
    /// Starts those whom people ask.
    async fn entrance(&mut self, databases: &Databases) -> Entrance {
        let (user_manager, data_collector) = (port::address().await, port::address().await);
        let (keys, grpc) = (port::address().await, port::address().await);
        let environment = vec![
            self.database("user_manager", &databases.user_manager).await,
            ("LISTEN", user_manager.to_string()),
            ("ADMIN_LISTEN", keys.to_string()),
            ("GRPC_LISTEN", grpc.to_string()),
            ("AUTH", "off".to_owned()),
        ];
        self.start("user_manager", "user_manager", environment).await;
        let environment = vec![
            self.database("data_collector", &databases.data_collector).await,
            ("LISTEN", data_collector.to_string()),
            ("KEY_FEED_URL", format!("http://{keys}/keys")),
            ("USER_MANAGER_GRPC_URL", format!("http://{grpc}")),
            ("AUTH", "off".to_owned()),
            ("OPENSKY_API_URL", format!("http://{}/api", self.replay)),
            ("OPENSKY_TOKEN_URL", format!("http://{}/token", self.replay)),
            ("OPENSKY_CLIENT_ID", "chaos".to_owned()),
            ("OPENSKY_CLIENT_SECRET", "any".to_owned()),
            ("OPENSKY_DAILY_CREDITS", "1000000".to_owned()),
            ("COLLECT_LAG", "0s".to_owned()),
            ("COLLECT_SETTLE", "0s".to_owned()),
            ("COLLECT_BACKFILL", "1d".to_owned()),
            ("BREAKER_TIMEOUT", "1s".to_owned()),
            // Each airport's messages leave one after another: half a second for each would be minutes.
            ("BUS_PRODUCER_OPTS", "linger.ms=5".to_owned()),
        ];
        self.start("data_collector", "data_collector", environment).await;
        Entrance {
            user_manager: format!("http://{user_manager}"),
            data_collector: format!("http://{data_collector}"),
        }
    }

    /// A way to a database, as the service's variable.
    async fn database(&mut self, node: &str, database: &SecretString) -> (&'static str, String) {
        let mut url = Url::parse(database.expose_secret()).unwrap();
        let host = url.host_str().unwrap();
        let target = format!("{host}:{}", url.port().unwrap()).parse().unwrap();
        let way = Path::to(format!("way of {node} to PostgreSQL"), target).await;
        url.set_port(Some(way.addr().port())).unwrap();
        self.paths.push(way);
        ("DATABASE_URL", url.to_string())
    }

    async fn start(&mut self, name: &'static str, node: &'static str, own: Environment) {
        let mut environment = vec![
            ("NODE", node.to_owned()),
            ("KAFKA_BOOTSTRAP_SERVERS", self.paths[0].addr().to_string()),
            ("BUS_PARTITIONS", "3".to_owned()),
            ("BUS_CONSUMER_OPTS", "session.timeout.ms=6000,heartbeat.interval.ms=500".to_owned()),
        ];
        if !own.iter().any(|(name, _)| *name == "ADMIN_LISTEN") {
            environment.push(("ADMIN_LISTEN", port::address().await.to_string()));
        }
        environment.extend(own);
        let sends = name == "notifier_system";
        self.services.push(Service::start(name, node, sends, environment, self.folder));
    }
}
