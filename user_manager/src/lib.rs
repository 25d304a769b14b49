//! Accounts: who is registered, who is logged in, who has gone.
//!
//! `main → App → api, registration | rpc → store`; tokens are signed here ([`common::auth::Signer`]) and verified by
//! everybody, with the key feed on the admin port.

mod api;
mod config;
mod error;
mod password;
mod registration;
mod rpc;
mod store;
mod tokens;
mod vault;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Bytes;
use common::auth::{Auth, Verifier};
use common::bus::{Bus, ProducerStyle};
use common::clock::Clock;
use common::db::migrations;
use common::http::{Admin, admin, layers, openapi, ready_when, serve};
use common::messages::{Letter, Message, UserForgotten};
use common::outbox::Relay;
use common::service::{Parts, Tasks, bind, local_addr};
use common::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use config::{Config, Confirm, ConfirmArgs, KeyArgs};

use crate::config::Confirmation;
use crate::password::Passwords;
use crate::registration::Links;
use crate::store::Store;
use crate::tokens::Tokens;
use crate::vault::Vault;

/// The database's tables.
const MIGRATIONS: &[(&str, &str)] = &[
    ("accounts", include_str!("../migrations/0001_accounts.sql")),
    ("outbox", include_str!("../migrations/0002_outbox.sql")),
    ("registration", include_str!("../migrations/0003_registration.sql")),
];

/// How often what has had its time is removed.
const PRUNE: Duration = Duration::from_secs(3600);

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) passwords: Passwords,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) verifier: Verifier,
    pub(crate) auth: Auth,
    pub(crate) confirmation: Confirmation,
    pub(crate) links: Links,
    /// The description of the API, as JSON.
    pub(crate) openapi: Bytes,
    /// Wakes the relay after a commit that put something into the outbox.
    pub(crate) outbox: Arc<Notify>,
}

/// The service, ready to run.
pub struct App {
    listener: TcpListener,
    grpc_listener: TcpListener,
    admin_listener: TcpListener,
    addr: SocketAddr,
    grpc_addr: SocketAddr,
    admin_addr: SocketAddr,
    metrics: Metrics,
    bus: Bus,
    relay: Relay,
    state: State,
}

impl App {
    /// Opens the database, makes the first signing key if there is none, and binds the ports.
    pub async fn build(config: Config, parts: Parts) -> anyhow::Result<App> {
        let (confirmation, why) = config.confirmation()?;
        tracing::info!(?confirmation, why, "what becomes of addresses");
        config.auth.warn_when_off();
        let vault = Arc::new(Vault::new(config.keys.encryption_keys()?.as_ref())?);
        let database_url = config.database.url()?;
        let listener = bind("LISTEN", &config.listen).await?;
        let grpc_listener = bind("GRPC_LISTEN", &config.grpc_listen).await?;
        let admin_listener = bind("ADMIN_LISTEN", &config.admin_listen).await?;
        let db = common::db::open(&database_url, &migrations(MIGRATIONS)).await?;
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Immediate).await?,
        };
        let mut metrics = Metrics::new("user_manager", &config.node.node);
        let relay = Relay::new(db.clone(), bus.clone(), &config.node.node, &mut metrics);
        let store = Store::new(db);
        let now = parts.clock.now();
        let tokens = Tokens::open(&store, vault.clone(), &config, now)
            .await
            .context("the signing keys cannot be read")?;
        let links = Links::open(&store, &vault, &config.public_url).await?;
        let state = State {
            verifier: Verifier::new(parts.clock.clone()),
            clock: parts.clock,
            store,
            passwords: Passwords::new(&mut metrics)?,
            tokens: Arc::new(tokens),
            auth: config.auth,
            confirmation,
            links,
            openapi: openapi(include_str!("../../docs/openapi/user_manager.yaml"))?,
            outbox: relay.wake(),
        };
        tokens::refresh(&state).await;
        // Before anybody is answered: what was made in the classroom does not count any more.
        prune(&state).await;
        let addr = local_addr(&listener)?;
        let (grpc_addr, admin_addr) = (local_addr(&grpc_listener)?, local_addr(&admin_listener)?);
        Ok(App {
            listener,
            grpc_listener,
            admin_listener,
            addr,
            grpc_addr,
            admin_addr,
            metrics,
            bus,
            relay,
            state,
        })
    }

    /// Where the API listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where VerifyUser listens.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Where the admin port listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Tells where people reach the gateway, if that is known only now.
    pub fn set_public_url(&mut self, url: &Url) {
        self.state.links.set_base(url);
    }

    /// Serves until cancelled.
    pub async fn run(mut self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(
            addr = %self.addr, grpc = %self.grpc_addr, admin = %self.admin_addr, "user_manager serves"
        );
        let state = self.state;
        let api = layers(api::router(state.clone()), &mut self.metrics);
        let store = state.store.clone();
        let ready = ready_when(move || {
            let store = store.clone();
            async move { store.ping().await.map_err(|error| format!("the database: {error}")) }
        });
        let admin =
            admin(Admin { metrics: Arc::new(self.metrics), ready }).merge(tokens::router(state.clone()));
        let mut tasks = Tasks::new(&token);
        let token = tasks.token();
        tasks.spawn(serve(self.listener, api, token.clone()));
        let (grpc_listener, grpc_state, grpc_token) = (self.grpc_listener, state.clone(), token.clone());
        tasks.spawn(async move { rpc::serve(grpc_listener, &grpc_state, grpc_token).await });
        tasks.spawn(serve(self.admin_listener, admin, token.clone()));
        tasks.spawn_endless(keep_pruned(state.clone(), token.clone()));
        tasks.spawn_endless(tokens::keep_fresh(state, token.clone()));
        let (bus, relay) = (self.bus, self.relay);
        tasks.spawn_endless(async move {
            bus.ensure_topics(&[UserForgotten::TOPIC, Letter::TOPIC], &token).await;
            relay.run(token).await;
        });
        tasks.join().await
    }
}

/// Removes what has had its time, and says so in the log when that fails.
async fn prune(state: &State) {
    let now = state.clock.now();
    let pruned = async {
        state.store.prune(now).await?;
        // In the classroom nobody is asked to confirm, so nobody is late.
        if state.asks_for_tokens() {
            state.store.forget_unconfirmed(now).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = pruned.await {
        tracing::warn!(error = format!("{error:#}"), "old accounts and keys were not removed");
    }
    state.outbox.notify_one();
}

async fn keep_pruned(state: State, token: CancellationToken) {
    let keeping = async {
        loop {
            tokio::time::sleep(PRUNE).await;
            prune(&state).await;
        }
    };
    token.run_until_cancelled(keeping).await;
}
