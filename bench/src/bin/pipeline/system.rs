//! All that is between a commit and a mail, as processes of their own on Kafka and PostgreSQL, in the classroom mode: there
//! the header `email` says who asks.

use anyhow::Context as _;
use bench::database::Database;
use bench::process::Process;
use faults::smtp::Sink;
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::mails;
use crate::setup::Setup;

/// Who judges and who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    Vedetta,
    Python,
}

impl Pair {
    pub(crate) fn programs(self) -> [&'static str; 2] {
        match self {
            Pair::Vedetta => ["alert_system", "notifier_system"],
            Pair::Python => ["alerts.py", "mails.py"],
        }
    }
}

pub(crate) struct System {
    http: reqwest::Client,
    /// `http://host:port` of each API.
    user_manager: String,
    data_collector: String,
    databases: Vec<Database>,
    /// Whoever is before the two.
    before: Vec<Process>,
    alerts: Process,
    mails: Process,
}

impl System {
    /// Starts it with nothing stored. `producer` is data_collector's BUS_PRODUCER_OPTS.
    pub(crate) async fn start(
        setup: &Setup,
        pair: Pair,
        producer: Option<&str>,
        sink: &Sink,
    ) -> anyhow::Result<System> {
        setup.broker.renew().await?;
        let mut databases = Vec::new();
        for service in ["user_manager", "data_collector", "notifier_system"] {
            databases.push(Database::of(&setup.server, service).await?);
        }
        let options = |database: &Database| {
            vec![
                ("AUTH", "off".to_owned()),
                ("BUS_URL", setup.broker.url()),
                ("DATABASE_URL", database.url.expose_secret().to_owned()),
            ]
        };
        let mut user_manager = setup.service("user_manager", &options(&databases[0]))?;
        let users = user_manager.tells("grpc").await?;
        let mut replay = setup.service("opensky_replay", &[("OPENSKY_REPLAY_LISTEN", "127.0.0.1:0")])?;
        let replay_url = url(&replay.tells("addr").await?, "addr")?;
        let mut of_collector = options(&databases[1]);
        of_collector.extend(collecting(&users, &replay_url)?);
        of_collector.extend(producer.map(|options| ("BUS_PRODUCER_OPTS", options.to_owned())));
        let mut data_collector = setup.service("data_collector", &of_collector)?;
        let flights = data_collector.tells("addr").await?;
        let (alerts, mails) = match pair {
            Pair::Vedetta => {
                let mut of_notifier = options(&databases[2]);
                of_notifier.push(("MAIL_URL", sink.url()));
                let alerts = setup.service("alert_system", &[("BUS_URL", setup.broker.url())])?;
                (alerts, setup.service("notifier_system", &of_notifier)?)
            }
            Pair::Python => {
                let alerts = setup.script("alerts.py", &[&setup.broker.servers])?;
                (alerts, setup.script("mails.py", &[&setup.broker.servers, &sink.addr().to_string()])?)
            }
        };
        Ok(System {
            http: setup.http.clone(),
            user_manager: url(&users, "addr")?,
            data_collector: url(&flights, "addr")?,
            databases,
            before: vec![user_manager, replay, data_collector],
            alerts,
            mails,
        })
    }

    pub(crate) async fn register(&self, email: &str) -> anyhow::Result<()> {
        let person = json!({"id": email, "email": email, "name": "Ada", "surname": "Example"});
        let request = self.http.post(format!("{}/register", self.user_manager)).json(&person);
        request.send().await?.error_for_status()?.bytes().await?;
        Ok(())
    }

    /// Has somebody watch an airport.
    pub(crate) async fn watch(
        &self,
        email: &str,
        airport: &str,
        high_value: i64,
    ) -> anyhow::Result<StatusCode> {
        let request = self.http.put(format!("{}/interests/{airport}", self.data_collector));
        let request = request.header("email", email).json(&json!({"high_value": high_value}));
        let answer = request.send().await?.error_for_status().with_context(|| airport.to_owned())?;
        let status = answer.status();
        // Read whole, so that the connection can be used again.
        answer.bytes().await?;
        Ok(status)
    }

    /// What somebody watches.
    pub(crate) async fn interests(&self, email: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}/interests", self.data_collector)).header("email", email);
        let answer = request.send().await?.error_for_status()?.bytes().await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Fails when one of the processes has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.before.iter_mut().chain([&mut self.alerts, &mut self.mails]).try_for_each(Process::check)
    }

    pub(crate) async fn wait_for(&mut self, sink: &Sink, mails: usize) -> anyhow::Result<()> {
        self.check()?;
        mails::wait_for(&mut self.mails, sink, mails).await
    }

    /// The most memory that the two have held, in MB.
    pub(crate) fn peaks_mb(&self) -> anyhow::Result<[f64; 2]> {
        Ok([self.alerts.peak_mb()?, self.mails.peak_mb()?])
    }

    /// Stops all, and removes what they stored.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        for process in self.before.into_iter().chain([self.alerts, self.mails]) {
            process.stop().await?;
        }
        for database in self.databases {
            database.remove().await?;
        }
        Ok(())
    }
}

/// data_collector's own options: the latest window of an airport is collected as soon as somebody watches it.
fn collecting(users: &Value, replay: &str) -> anyhow::Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("KEY_FEED_URL", format!("{}/keys", url(users, "admin")?)),
        ("USER_MANAGER_GRPC_URL", url(users, "grpc")?),
        ("OPENSKY_API_URL", format!("{replay}/api")),
        ("OPENSKY_TOKEN_URL", format!("{replay}/token")),
        ("OPENSKY_CLIENT_ID", "bench".to_owned()),
        ("OPENSKY_CLIENT_SECRET", "any".to_owned()),
        ("COLLECT_LAG", "0s".to_owned()),
        ("COLLECT_SETTLE", "0s".to_owned()),
        ("COLLECT_BACKFILL", "1d".to_owned()),
    ])
}

/// The address in a line of a log, as a URL.
fn url(line: &Value, field: &str) -> anyhow::Result<String> {
    Ok(format!("http://{}", line[field].as_str().with_context(|| format!("no {field} in {line}"))?))
}
