//! Accounts: who is registered, who is logged in, who has gone.
//!
//! `main → App → api → store`; tokens are signed here ([`common::auth::Signer`]) and verified by everybody, with the
//! key feed on the admin port.

mod api;
mod config;
mod error;
mod password;
mod store;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use common::auth::Verifier;
use common::bus::{Bus, ProducerStyle};
use common::clock::Clock;
use common::db::migrations;
use common::http::{Admin, admin, layers, ready_when, serve};
use common::messages::{Message, UserForgotten};
use common::outbox::Relay;
use common::service::{Parts, Tasks, bind, local_addr};
use common::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::password::Passwords;
use crate::store::Store;
use crate::tokens::Tokens;

/// The database's tables.
const MIGRATIONS: &[(&str, &str)] = &[
    ("accounts", include_str!("../migrations/0001_accounts.sql")),
    ("outbox", include_str!("../migrations/0002_outbox.sql")),
];

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) passwords: Passwords,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) verifier: Verifier,
    /// Wakes the relay after a commit that put something into the outbox.
    pub(crate) outbox: Arc<Notify>,
}

/// The service, ready to run.
pub struct App {
    listener: TcpListener,
    admin_listener: TcpListener,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    api: Router,
    admin: Router,
    bus: Bus,
    relay: Relay,
    state: State,
}

impl App {
    /// Opens the database, makes the first signing key if there is none, and binds the ports.
    pub async fn build(config: Config, parts: Parts) -> anyhow::Result<App> {
        let database_url = config.database.url()?;
        let listener = bind("LISTEN", &config.listen).await?;
        let admin_listener = bind("ADMIN_LISTEN", &config.admin_listen).await?;
        let db = common::db::open(&database_url, &migrations(MIGRATIONS)).await?;
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Immediate).await?,
        };
        let mut metrics = Metrics::new("user_manager", &config.node.node);
        let relay = Relay::new(db.clone(), bus.clone(), &config.node.node, &mut metrics);
        let store = Store::new(db);
        let verifier = Verifier::new(parts.clock.clone());
        let tokens =
            Tokens::open(&store, parts.clock.now()).await.context("the signing keys cannot be read")?;
        let state = State {
            clock: parts.clock,
            passwords: Passwords::new()?,
            tokens: Arc::new(tokens),
            verifier,
            outbox: relay.wake(),
            store,
        };
        state.tokens.refresh(&state.store, &state.verifier, state.clock.now()).await?;
        let api = layers(api::router(state.clone()), &mut metrics);
        let ready = {
            let store = state.store.clone();
            ready_when(move || {
                let store = store.clone();
                async move { store.ping().await.map_err(|error| format!("the database: {error}")) }
            })
        };
        let admin = admin(Admin { metrics: Arc::new(metrics), ready }).merge(tokens::router(state.clone()));
        let (addr, admin_addr) = (local_addr(&listener)?, local_addr(&admin_listener)?);
        Ok(App { listener, admin_listener, addr, admin_addr, api, admin, bus, relay, state })
    }

    /// Where the API listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the admin port listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Serves until cancelled.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, admin = %self.admin_addr, "user_manager serves");
        let mut tasks = Tasks::new(&token);
        let token = tasks.token();
        tasks.spawn(serve(self.listener, self.api, token.clone()));
        tasks.spawn(serve(self.admin_listener, self.admin, token.clone()));
        tasks.spawn_endless(tokens::keep_fresh(self.state, token.clone()));
        let (bus, relay) = (self.bus, self.relay);
        tasks.spawn_endless(async move {
            bus.ensure_topics(&[UserForgotten::TOPIC], &token).await;
            relay.run(token).await;
        });
        tasks.join().await
    }
}
