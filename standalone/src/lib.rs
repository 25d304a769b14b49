//! All of Vedetta in one process: the five services and, without OpenSky credentials, the replay of recorded flights.
//! It only builds the Apps and hands them what they share.

mod config;
mod lapse;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use common::bus::{Bus, BusArgs, Log};
use common::clock::Clock;
use common::service::{DatabaseArgs, NodeArgs, Parts, StartError, Tasks, lock};
use gateway::gen_cert;
use notifier_system::MailArgs;
use tokio_util::sync::CancellationToken;
use url::Url;
use user_manager::ConfirmArgs;

pub use config::Config;
pub use lapse::Lapse;

use crate::lapse::FlightTime;

/// Where a service of this process listens: nobody else needs to know.
const ANY_PORT: &str = "127.0.0.1:0";
/// What mails and the start say of the recorded flights.
const NOTE: &str = "These are recorded flights of April 2001, replayed as if they were today's.";
/// How long the gateway may finish what it has in flight before the services stop too.
const GATEWAY_DRAIN: Duration = Duration::from_secs(5);

/// The system, ready to run.
pub struct App {
    gateway: gateway::App,
    user_manager: user_manager::App,
    data_collector: data_collector::App,
    alert_system: alert_system::App,
    notifier_system: notifier_system::App,
    replay: Option<opensky_replay::App>,
    log: Log,
    flight_time: FlightTime,
    facts: Facts,
    _lock: File,
}

/// What the start tells the person who started it.
struct Facts {
    data_dir: PathBuf,
    public_url: Url,
    /// `None`: an SMTP server.
    mail_folder: Option<PathBuf>,
    lapse: Option<Lapse>,
    new_certificate: bool,
}

impl App {
    /// Makes what the data directory lacks, opens everything in it, and binds all ports.
    pub async fn build(mut config: Config) -> anyhow::Result<App> {
        let folder = config.data_dir.clone();
        std::fs::create_dir_all(&folder)
            .map_err(|error| StartError::new(format!("DATA_DIR: {}: {error}", folder.display())))?;
        let lock = lock(&folder.join("lock")).context("DATA_DIR")?;
        let replays = !config.opensky.has_credentials()?;
        if config.time_lapse.is_some() && !replays {
            return Err(StartError::new(
                "TIME_LAPSE: only recorded flights can run faster; unset OPENSKY_CLIENT_ID",
            )
            .into());
        }
        let flight_time = FlightTime::open(&folder, config.time_lapse, replays)?;
        let replay =
            if replays { Some(start_replay(&mut config, flight_time.clock.clone()).await?) } else { None };
        let mail_folder = settle_mail(&mut config, &folder)?;
        let log = Log::open(&folder.join("bus.db")).await?;
        let parts = Parts {
            clock: Clock::System,
            flight_clock: flight_time.clock.clone(),
            bus: Some(Bus::Embedded(log.clone())),
        };
        let mut user_manager = user_manager::App::build(user_manager_config(&config)?, parts.clone()).await?;
        let data_collector =
            data_collector::App::build(data_collector_config(&config, &user_manager), parts.clone()).await?;
        let (tls, new_certificate) = certificate(&folder.join("tls"))?;
        let gateway = gateway_config(&config, tls, &user_manager, &data_collector)?;
        let gateway = gateway::App::build(gateway, parts.clone()).await?;
        let public_url = public_url(&config, gateway.addr().port())?;
        user_manager.set_public_url(&public_url);
        let note = replays.then(|| NOTE.to_owned());
        let alert_system =
            alert_system::App::build(alert_system_config(&config, &public_url, note), parts.clone()).await?;
        let notifier_system =
            notifier_system::App::build(notifier_system_config(&config, &public_url), parts.clone()).await?;
        Ok(App {
            gateway,
            user_manager,
            data_collector,
            alert_system,
            notifier_system,
            replay,
            log,
            flight_time,
            facts: Facts {
                data_dir: folder,
                public_url,
                mail_folder,
                lapse: config.time_lapse,
                new_certificate,
            },
            _lock: lock,
        })
    }

    /// Says in a few lines what runs where.
    #[expect(clippy::print_stdout, reason = "for the person who started it, apart from the log")]
    pub fn introduce(&self) {
        let Facts { data_dir, public_url, mail_folder, lapse, new_certificate } = &self.facts;
        let certificate = if *new_certificate { "just made" } else { "from an earlier start" };
        println!("Vedetta");
        let public_url = public_url.as_str().trim_end_matches('/');
        println!("  gateway   {public_url}  (self-signed certificate, {certificate}: use curl -k)");
        match &self.replay {
            Some(replay) => {
                println!(
                    "  flights   recorded ones of April 2001, replayed as if they were today's (no OpenSky credentials)"
                );
                println!("  replay    http://{}  (its faults: /admin/faults)", replay.addr());
            }
            None => println!("  flights   OpenSky Network"),
        }
        if let Some(lapse) = lapse {
            println!(
                "  time      {lapse}; it is now {}",
                common::clock::rfc3339(self.flight_time.clock.now())
            );
        }
        match mail_folder {
            Some(folder) => println!("  mails     {}/*.eml", folder.display()),
            None => println!("  mails     by SMTP"),
        }
        let admin = [
            ("gateway", self.gateway.admin_addr()),
            ("user_manager", self.user_manager.admin_addr()),
            ("data_collector", self.data_collector.admin_addr()),
            ("alert_system", self.alert_system.addr()),
            ("notifier_system", self.notifier_system.addr()),
        ];
        let ports: Vec<String> = admin.iter().map(|(name, addr)| format!("{name} {}", addr.port())).collect();
        println!("  health    http://127.0.0.1:PORT/readyz, /metrics: {}", ports.join(", "));
        println!("  data      {}  (Ctrl-C stops; the next start goes on from here)", data_dir.display());
    }

    /// Runs until cancelled: first the gateway finishes what it has in flight, then the services stop.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        let services = CancellationToken::new();
        let mut tasks = Tasks::new(&services);
        let inner = tasks.token();
        tasks.spawn(self.user_manager.run(inner.clone()));
        tasks.spawn(self.data_collector.run(inner.clone()));
        tasks.spawn(self.alert_system.run(inner.clone()));
        tasks.spawn(self.notifier_system.run(inner.clone()));
        if let Some(replay) = self.replay {
            tasks.spawn(replay.run(inner.clone()));
        }
        tasks.spawn_endless(self.flight_time.keep(inner.clone()));
        let log = self.log;
        tasks.spawn_endless(async move { log.keep_pruned(inner).await });
        let gateway = self.gateway;
        let (stop, failed) = (token.clone(), tasks.token());
        tasks.spawn(async move {
            let serving = gateway.run(token);
            let drained = async {
                stop.cancelled().await;
                tokio::time::sleep(GATEWAY_DRAIN).await;
                Ok(())
            };
            let ended = tokio::select! {
                ended = serving => ended,
                cut = drained => cut,
                // A service has failed; the others end with it.
                () = failed.cancelled() => Ok(()),
            };
            services.cancel();
            ended
        });
        tasks.join().await
    }
}

/// Starts the replay and points the collector to it. What it replays is complete, so nothing has to settle.
async fn start_replay(config: &mut Config, clock: Clock) -> anyhow::Result<opensky_replay::App> {
    let wanted =
        opensky_replay::Config { listen: config.replay_listen.clone(), ..opensky_replay::Config::default() };
    let replay = opensky_replay::App::build(wanted, clock).await.context("REPLAY_LISTEN")?;
    let opensky = &mut config.opensky;
    opensky.opensky_api_url = format!("http://{}/api", replay.addr());
    opensky.opensky_token_url = format!("http://{}/token", replay.addr());
    opensky.opensky_client_id = Some("standalone".to_owned());
    opensky.opensky_client_secret = Some("any".to_owned().into());
    config.collect.collect_lag = Duration::ZERO;
    config.collect.collect_settle = Duration::ZERO;
    Ok(replay)
}

/// Without other orders mails go to a folder of the data directory. Says to which folder they go, if to one.
fn settle_mail(config: &mut Config, data_dir: &Path) -> Result<Option<PathBuf>, StartError> {
    if !config.mail.is_configured()? {
        config.mail.mail_url = Some(format!("file:{}", data_dir.join("mail").display()).into());
        config.mail.mail_url_file = None;
    }
    config.mail.folder()
}

/// The certificate in `folder`, made if there is none; says whether it was.
fn certificate(folder: &Path) -> anyhow::Result<((PathBuf, PathBuf), bool)> {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    // The key is written first: one without a certificate is left by a start that was killed.
    let missing = !cert.exists();
    if missing {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let options = gen_cert::Options { force: true, ..gen_cert::Options::into_folder(folder) };
        gen_cert::generate(&options, &Clock::System).context("a certificate")?;
    }
    Ok(((cert, key), missing))
}

fn endpoint(addr: SocketAddr) -> anyhow::Result<gateway::upstream::Endpoint> {
    format!("http://{addr}").parse().map_err(|why| anyhow::anyhow!("{addr}: {why}"))
}

/// The address of the `place`th admin port.
fn admin_listen(config: &Config, place: u16) -> String {
    let port = if config.admin_port == 0 { 0 } else { config.admin_port + place };
    format!("127.0.0.1:{port}")
}

fn node() -> NodeArgs {
    NodeArgs { node: "standalone".to_owned() }
}

fn public_url(config: &Config, gateway_port: u16) -> anyhow::Result<Url> {
    match &config.public_url {
        Some(url) => Ok(url.clone()),
        None => Ok(Url::parse(&format!("https://localhost:{gateway_port}"))?),
    }
}

fn gateway_config(
    config: &Config,
    (tls_cert, tls_key): (PathBuf, PathBuf),
    user_manager: &user_manager::App,
    data_collector: &data_collector::App,
) -> anyhow::Result<gateway::Config> {
    Ok(gateway::Config {
        listen: Some(config.listen.clone()),
        tls_cert: Some(tls_cert),
        tls_key: Some(tls_key),
        user_manager_url: vec![endpoint(user_manager.addr())?],
        data_collector_url: vec![endpoint(data_collector.addr())?],
        user_manager_admin_port: Some(user_manager.admin_addr().port()),
        data_collector_admin_port: Some(data_collector.admin_addr().port()),
        admin_listen: Some(admin_listen(config, 0)),
        auth: Some(config.auth),
        node: Some(node().node),
        ..gateway::Config::default()
    })
}

fn user_manager_config(config: &Config) -> anyhow::Result<user_manager::Config> {
    let MailArgs { mail_url, mail_url_file, gmail_user, .. } = config.mail.clone();
    Ok(user_manager::Config {
        listen: ANY_PORT.to_owned(),
        grpc_listen: ANY_PORT.to_owned(),
        admin_listen: admin_listen(config, 1),
        // The port is known when the gateway listens; then it is told.
        public_url: public_url(config, 0)?,
        auth: config.auth,
        confirm: ConfirmArgs { confirm_email: config.confirm_email, mail_url, mail_url_file, gmail_user },
        keys: config.keys.clone(),
        node: node(),
        database: DatabaseArgs::file(&config.data_dir.join("user.db")),
        bus: BusArgs::default(),
    })
}

fn data_collector_config(config: &Config, user_manager: &user_manager::App) -> data_collector::Config {
    data_collector::Config {
        listen: ANY_PORT.to_owned(),
        admin_listen: admin_listen(config, 2),
        key_feed_url: format!("http://{}/keys", user_manager.admin_addr()),
        user_manager_grpc_url: format!("http://{}", user_manager.grpc_addr()),
        auth: config.auth,
        node: node(),
        database: DatabaseArgs::file(&config.data_dir.join("data.db")),
        bus: BusArgs::default(),
        opensky: config.opensky.clone(),
        collect: config.collect.clone(),
        breaker: config.breaker.clone(),
        default_low_value: config.default_low_value,
        default_high_value: config.default_high_value,
        max_interests: config.max_interests,
    }
}

fn alert_system_config(config: &Config, public_url: &Url, data_note: Option<String>) -> alert_system::Config {
    alert_system::Config {
        admin_listen: admin_listen(config, 3),
        public_url: public_url.clone(),
        data_note,
        node: node(),
        bus: BusArgs::default(),
    }
}

fn notifier_system_config(config: &Config, public_url: &Url) -> notifier_system::Config {
    notifier_system::Config {
        admin_listen: admin_listen(config, 4),
        public_url: public_url.clone(),
        node: node(),
        database: DatabaseArgs::file(&config.data_dir.join("notifier.db")),
        bus: BusArgs::default(),
        mail: config.mail.clone(),
    }
}
