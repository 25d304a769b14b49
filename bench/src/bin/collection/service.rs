//! A data_collector that serves a database, and a client with a token.

use std::time::Duration;

use anyhow::Context as _;
use axum::{Json, Router, routing::get};
use clap::Parser;
use common::auth::{Feed, Signer};
use common::bus::{Bus, Log};
use common::clock::Clock;
use common::service::Parts;
use common::types::Account;
use data_collector::{App, Config};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::{CancellationToken, DropGuard};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

pub(crate) struct Service {
    api: String,
    token: String,
    http: reqwest::Client,
    _stop: DropGuard,
}

impl Service {
    /// Starts it, without credentials for OpenSky, at flight time `now`.
    pub(crate) async fn start(database: &SecretString, now: i64) -> anyhow::Result<Service> {
        let signer = Signer::from_pkcs8("bench", &Signer::generate()?)?;
        let feed = Feed { keys: vec![signer.public().clone()], revoked: Vec::new() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let feed_url = format!("http://{}/keys", listener.local_addr()?);
        let router = Router::new().route("/keys", get(move || async move { Json(feed) }));
        tokio::spawn(async move { axum::serve(listener, router).await });

        let config = Cli::try_parse_from([
            "data_collector",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--collect-lag=0s",
            "--flight-retention=36500d",
            &format!("--key-feed-url={feed_url}"),
            &format!("--database-url={}", database.expose_secret()),
        ])?
        .config;
        let log = std::env::temp_dir().join(format!("vedetta-bench-{}.db", std::process::id()));
        let bus = Some(Bus::Embedded(Log::open(&log).await?));
        let (flight_clock, _) = Clock::manual(now);
        let app = App::build(config, Parts { flight_clock, bus, ..Parts::default() }).await?;
        let api = format!("http://{}", app.addr());
        let stop = CancellationToken::new();
        tokio::spawn(app.run(stop.clone()));

        let email = "bench@example.com".parse()?;
        let token = signer.token(Account::new_random(), &email, Clock::System.now())?;
        let http = common::http::client(Duration::from_secs(30))?;
        let service = Service { api, token, http, _stop: stop.drop_guard() };
        service.wait_for_keys().await?;
        Ok(service)
    }

    async fn wait_for_keys(&self) -> anyhow::Result<()> {
        for _ in 0..200 {
            if self.get("/interests").await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the service did not read the keys")
    }

    /// The answer to a GET, which must be 200.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let request = self.http.get(format!("{}{path}", self.api)).bearer_auth(&self.token);
        let answer = request.send().await?.error_for_status().with_context(|| path.to_owned())?;
        Ok(serde_json::from_slice(&answer.bytes().await?)?)
    }
}
