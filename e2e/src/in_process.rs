//! The five services and the replay in this process, on embedded parts, with a clock that the test moves.

use std::net::SocketAddr;
use std::path::Path;

use clap::{Args, Parser};
use common::bus::{Bus, Log};
use common::clock::{Clock, Manual};
use common::service::{Parts, Tasks};
use gateway::gen_cert;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::mailbox::{Mail, Mailbox};

/// A running system.
pub struct System {
    pub gateway: SocketAddr,
    pub user_manager: SocketAddr,
    pub data_collector: SocketAddr,
    pub replay: SocketAddr,
    /// user_manager's database.
    pub user_db: SecretString,
    pub flight_time: Manual,
    pub mailbox: Mailbox,
    pub log: Log,
    token: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

/// The options of a service as its command line would give them.
fn options<C: Args>(arguments: &[String]) -> C {
    #[derive(Parser)]
    struct Line<C: Args> {
        #[command(flatten)]
        options: C,
    }
    let arguments = std::iter::once("service".to_owned()).chain(arguments.iter().cloned());
    Line::<C>::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).options
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

impl System {
    /// Starts everything; flight time is `now` (Unix seconds).
    pub async fn start(now: i64) -> System {
        System::start_with(now, &[]).await
    }

    /// Starts everything, with more options for data_collector.
    pub async fn start_with(now: i64, more: &[(&str, &str)]) -> System {
        let folder = tempfile::tempdir().unwrap();
        let (flight_clock, flight_time) = Clock::manual(now);
        let log = Log::open(&folder.path().join("bus.db")).await.unwrap();
        let parts = Parts {
            clock: Clock::System,
            flight_clock: flight_clock.clone(),
            bus: Some(Bus::Embedded(log.clone())),
        };
        let replay =
            opensky_replay::Config { listen: "127.0.0.1:0".into(), ..opensky_replay::Config::default() };
        let replay = opensky_replay::App::build(replay, flight_clock).await.unwrap();
        let database = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
        let mailbox = Mailbox(folder.path().join("mail"));

        let user_manager = flags(&[
            ("listen", "127.0.0.1:0"),
            ("grpc-listen", "127.0.0.1:0"),
            ("admin-listen", "127.0.0.1:0"),
            ("database-url", &database("user.db")),
        ]);
        let user_manager = user_manager::App::build(options(&user_manager), parts.clone()).await.unwrap();
        let usual = flags(&[
            ("listen", "127.0.0.1:0"),
            ("admin-listen", "127.0.0.1:0"),
            ("database-url", &database("data.db")),
            ("key-feed-url", &format!("http://{}/keys", user_manager.admin_addr())),
            ("user-manager-grpc-url", &format!("http://{}", user_manager.grpc_addr())),
            ("opensky-api-url", &format!("http://{}/api", replay.addr())),
            ("opensky-token-url", &format!("http://{}/token", replay.addr())),
            ("opensky-client-id", "e2e"),
            ("opensky-client-secret", "any"),
            ("collect-lag", "0s"),
            ("collect-settle", "0s"),
        ]);
        let data_collector = options(&[usual, flags(more)].concat());
        let data_collector = data_collector::App::build(data_collector, parts.clone()).await.unwrap();
        let alert_system = flags(&[("admin-listen", "127.0.0.1:0")]);
        let alert_system = alert_system::App::build(options(&alert_system), parts.clone()).await.unwrap();
        let notifier_system = flags(&[
            ("admin-listen", "127.0.0.1:0"),
            ("database-url", &database("notifier.db")),
            ("mail-url", &format!("file:{}", mailbox.0.display())),
        ]);
        let notifier_system =
            notifier_system::App::build(options(&notifier_system), parts.clone()).await.unwrap();
        let gateway = gateway_options(
            folder.path(),
            [user_manager.addr(), user_manager.admin_addr()],
            [data_collector.addr(), data_collector.admin_addr()],
        );
        let gateway = gateway::App::build(options(&gateway), parts).await.unwrap();

        let token = CancellationToken::new();
        let (gateway_addr, replay_addr) = (gateway.addr(), replay.addr());
        let (user_manager_addr, data_collector_addr) = (user_manager.addr(), data_collector.addr());
        let mut tasks = Tasks::new(&token);
        let inner = tasks.token();
        tasks.spawn(replay.run(inner.clone()));
        tasks.spawn(user_manager.run(inner.clone()));
        tasks.spawn(data_collector.run(inner.clone()));
        tasks.spawn(alert_system.run(inner.clone()));
        tasks.spawn(notifier_system.run(inner.clone()));
        tasks.spawn(gateway.run(inner));
        System {
            gateway: gateway_addr,
            user_manager: user_manager_addr,
            data_collector: data_collector_addr,
            user_db: database("user.db").into(),
            replay: replay_addr,
            flight_time,
            mailbox,
            log,
            token,
            running: tokio::spawn(tasks.join()),
            _folder: folder,
        }
    }

    /// Stops everything; nothing may be left in a queue, and nothing may have failed. Gives all mails that were sent.
    pub async fn stop(self) -> Vec<Mail> {
        for (group, topic) in [
            ("alert_group", "to-alert-system"),
            ("notifier_group", "to-notifier"),
            ("collector_group", "user-forgotten"),
            ("notifier_group", "user-forgotten"),
        ] {
            let log = &self.log;
            crate::eventually(&format!("{group} to have read {topic}"), async || {
                (log.lag(group, topic).await.unwrap() == 0).then_some(())
            })
            .await;
            let dead = log.read_all(&format!("{topic}.dead")).await.unwrap();
            assert!(dead.is_empty(), "{dead:?}");
        }
        self.token.cancel();
        self.running.await.unwrap().unwrap();
        self.mailbox.mails()
    }
}

/// The gateway's options, with a certificate of its own.
fn gateway_options(
    folder: &Path,
    [user_manager, user_manager_admin]: [SocketAddr; 2],
    [data_collector, data_collector_admin]: [SocketAddr; 2],
) -> Vec<String> {
    let made = gen_cert::generate(&gen_cert::Options::into_folder(folder), &Clock::System).unwrap();
    flags(&[
        ("listen", "127.0.0.1:0"),
        ("admin-listen", "127.0.0.1:0"),
        ("tls-cert", &made.cert.display().to_string()),
        ("tls-key", &made.key.display().to_string()),
        ("user-manager-url", &format!("http://{user_manager}")),
        ("user-manager-admin-port", &user_manager_admin.port().to_string()),
        ("data-collector-url", &format!("http://{data_collector}")),
        ("data-collector-admin-port", &data_collector_admin.port().to_string()),
        // A test is one client, and asks as fast as it can.
        ("rate-limit", "off"),
        ("rate-limit-login", "off"),
    ])
}
