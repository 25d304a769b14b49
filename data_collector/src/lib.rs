//! Flights: who wants to know about which airport, and how many flights it had.
//!
//! `main → App → api, seed_routes | collector | users → store`. The collector fetches closed windows through the
//! circuit breaker; a stored window's messages leave through the outbox.

mod airports;
mod api;
#[doc(hidden)]
pub mod bench;
mod circuit_breaker;
mod collector;
mod config;
mod dto;
mod error;
mod opensky;
mod seed_routes;
mod store;
mod unsubscribe;
mod users;
mod window;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use common::auth::{Auth, Verifier, poll_feed};
use common::bus::{Bus, Consumer, ProducerStyle};
use common::clock::Clock;
use common::db::migrations;
use common::http::{Admin, admin, layers, openapi, ready_when, serve};
use common::messages::{Message, WindowCounted};
use common::outbox::Relay;
use common::service::{Parts, StartError, Tasks, bind, local_addr};
use common::signed;
use common::telemetry::Metrics;
use common::types::{Direction, Thresholds};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use config::{BreakerArgs, CollectArgs, Config, OpenSkyArgs, WindowLength};
pub use opensky::Fault;

use crate::airports::Catalogue;
use crate::circuit_breaker::CircuitBreaker;
use crate::collector::{Collector, Meters, Progress};
use crate::opensky::OpenSky;
use crate::store::{Announcer, Store};
use crate::users::Users;

/// The database's tables.
const MIGRATIONS: &[(&str, &str)] = &[
    ("flights", include_str!("../migrations/0001_flights.sql")),
    ("outbox", include_str!("../migrations/0002_outbox.sql")),
    ("flights_by_time", include_str!("../migrations/0003_flights_by_time.sql")),
    ("pause", include_str!("../migrations/0004_pause.sql")),
    ("planning", include_str!("../migrations/0005_planning.sql")),
];

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) flight_clock: Clock,
    pub(crate) store: Store,
    pub(crate) announcer: Announcer,
    pub(crate) verifier: Verifier,
    pub(crate) auth: Auth,
    pub(crate) users: Users,
    /// The description of the API, as JSON.
    pub(crate) openapi: Bytes,
    /// How long after its end a window is closed, in seconds.
    pub(crate) lag: i64,
    /// How far back a newly watched airport is collected, in seconds.
    pub(crate) backfill: i64,
    pub(crate) defaults: Thresholds,
    pub(crate) max_interests: i64,
    pub(crate) breaker: CircuitBreaker,
    pub(crate) daily_credits: i64,
    pub(crate) progress: Arc<Progress>,
    /// Wakes the collector.
    pub(crate) collect: Arc<Notify>,
    /// Wakes the relay.
    pub(crate) outbox: Arc<Notify>,
}

/// The service, ready to run.
pub struct App {
    listener: TcpListener,
    admin_listener: TcpListener,
    addr: SocketAddr,
    admin_addr: SocketAddr,
    key_feed_url: String,
    api: Router,
    admin: Router,
    bus: Bus,
    relay: Relay,
    collector: Collector,
    forgotten: Consumer,
    state: State,
}

impl App {
    /// Opens the database and the bus, reads the catalogue, and binds the ports.
    pub async fn build(config: Config, parts: Parts) -> anyhow::Result<App> {
        config.check_urls()?;
        config.collect.check()?;
        config.auth.warn_when_off();
        let credentials = config.opensky.credentials()?;
        let defaults = config.default_thresholds()?;
        let database_url = config.database.url()?;
        let listener = bind("LISTEN", &config.listen).await?;
        let admin_listener = bind("ADMIN_LISTEN", &config.admin_listen).await?;
        let db = common::db::open(&database_url, &migrations(MIGRATIONS)).await?;
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Batching).await?,
        };
        let mut metrics = Metrics::new("data_collector", &config.node.node);
        let relay = Relay::new(db.clone(), bus.clone(), &config.node.node, &mut metrics);
        let forgotten = Consumer::new(bus.clone(), users::GROUP, &mut metrics);
        let store = Store::new(db);
        store.set_window_length(config.collect.collect_window.seconds(), parts.flight_clock.now()).await?;
        let secret = store.signing_key("unsubscribe", &signed::fresh_secret()?).await?;
        let announcer = Announcer {
            catalogue: Arc::new(Catalogue::load()?),
            signer: unsubscribe::Signer::new(&secret).context("the key of unsubscribe links")?,
        };
        let breaker = CircuitBreaker::new(config.breaker.settings());
        let opensky = match credentials {
            Some(credentials) => {
                let counted = config.breaker.breaker_expected_errors.clone();
                let client = OpenSky::new(&config.opensky, credentials, breaker.clone(), counted);
                Some(client.map_err(|error| StartError::new(format!("OPENSKY_API_URL: {error}")))?)
            }
            None => None,
        };
        let progress = Arc::new(Progress::default());
        if opensky.is_none() {
            progress.lacks_credentials();
        }
        let state = State {
            verifier: Verifier::new(parts.clock.clone()),
            auth: config.auth,
            users: Users::of(&config.user_manager_grpc_url)?,
            openapi: openapi(include_str!("../../docs/openapi/data_collector.yaml"))?,
            clock: parts.clock,
            flight_clock: parts.flight_clock.clone(),
            store: store.clone(),
            announcer: announcer.clone(),
            lag: config::seconds(config.collect.collect_lag),
            backfill: config::seconds(config.collect.collect_backfill),
            defaults,
            max_interests: config.max_interests,
            breaker: breaker.clone(),
            daily_credits: config.opensky.opensky_daily_credits,
            progress: progress.clone(),
            collect: Arc::default(),
            outbox: relay.wake(),
        };
        let collector = Collector {
            store: store.clone(),
            opensky,
            breaker,
            announcer,
            lag: config::seconds(config.collect.collect_lag),
            daily_credits: config.opensky.opensky_daily_credits,
            claim_for: collector::claim_for(config.opensky.opensky_timeout),
            collect: config.collect,
            clock: parts.flight_clock,
            node: config.node.node,
            wake: state.collect.clone(),
            outbox: relay.wake(),
            progress,
            meters: Meters::new(&mut metrics),
            first: Mutex::new(Direction::Arrivals),
        };
        let api = layers(api::router(state.clone()), &mut metrics);
        let ready = ready_when(move || {
            let store = store.clone();
            async move { store.ping().await.map_err(|error| format!("the database: {error}")) }
        });
        let admin = admin(Admin { metrics: Arc::new(metrics), ready });
        let (addr, admin_addr) = (local_addr(&listener)?, local_addr(&admin_listener)?);
        Ok(App {
            listener,
            admin_listener,
            addr,
            admin_addr,
            key_feed_url: config.key_feed_url,
            api,
            admin,
            bus,
            relay,
            collector,
            forgotten,
            state,
        })
    }

    /// Where the API listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where the admin port listens.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Serves and collects until cancelled.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, admin = %self.admin_addr, "data_collector serves");
        let mut tasks = Tasks::new(&token);
        let token = tasks.token();
        let verifier = self.state.verifier.clone();
        tasks.spawn(serve(self.listener, self.api, token.clone()));
        tasks.spawn(serve(self.admin_listener, self.admin, token.clone()));
        tasks.spawn(poll_feed(self.key_feed_url, verifier, token.clone()));
        tasks.spawn(self.collector.run(token.clone()));
        tasks.spawn(users::forget_deleted(self.forgotten, self.state, token.clone()));
        let (bus, relay) = (self.bus, self.relay);
        tasks.spawn_endless(async move {
            bus.ensure_topics(&[WindowCounted::TOPIC], &token).await;
            relay.run(token).await;
        });
        tasks.join().await
    }
}
