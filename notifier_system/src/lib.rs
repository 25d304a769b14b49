//! Mails: each is sent once; a second copy is possible only where the first one's outcome was unknown, and is then the
//! same mail by its `Message-ID`.
//!
//! `main → App → notifier → gate, mail, mailer, store`; what the server does not take for now waits in the database.

mod config;
mod deletions;
mod gate;
mod html;
mod in_hand;
mod mail;
mod mailer;
mod notifier;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use common::bus::{Bus, Consumer, DeadLetters, Delivery, Failure, ProducerStyle};
use common::db::migrations;
use common::http::{Admin, admin, ready_when, serve};
use common::messages::{Letter, UserForgotten};
use common::service::{Parts, StartError, Tasks, bind, local_addr};
use common::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::{Config, LimitArgs, MailArgs};

use crate::mail::Composer;
use crate::mailer::Mailer;
use crate::notifier::Notifier;
use crate::store::Store;

/// The database's tables.
const MIGRATIONS: &[(&str, &str)] = &[
    ("mails", include_str!("../migrations/0001_mails.sql")),
    ("parking", include_str!("../migrations/0002_parking.sql")),
];

/// The consumer group.
const GROUP: &str = "notifier_group";
/// Ids of sent mails are kept this long, in seconds: 30 days longer than the bus keeps its messages.
const IDS_KEPT: i64 = 60 * 86_400;

/// The service, ready to run.
pub struct App {
    admin_listener: TcpListener,
    admin_addr: SocketAddr,
    admin: Router,
    consumer: Consumer,
    bus: Bus,
    notifier: Notifier,
}

impl App {
    /// Opens the database, the bus and the way out for mails, and binds the admin port.
    pub async fn build(config: Config, parts: Parts) -> anyhow::Result<App> {
        if !matches!(config.public_url.scheme(), "http" | "https") {
            return Err(StartError::new("PUBLIC_URL must be http://… or https://…").into());
        }
        let mail_url = config.mail.url()?;
        let from = config.mail.from(&mail_url)?;
        let database_url = config.database.url()?;
        let admin_listener = bind("ADMIN_LISTEN", &config.admin_listen).await?;
        let admin_addr = local_addr(&admin_listener)?;
        let mailer = Mailer::open(&mail_url, &from.email)?;
        let db = common::db::open(&database_url, &migrations(MIGRATIONS)).await?;
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Immediate).await?,
        };
        let mut metrics = Metrics::new("notifier_system", &config.node.node);
        let consumer = Consumer::new(bus.clone(), GROUP, &mut metrics);
        let store = Store::new(db, &config.node.node, config.mail.limits());
        let composer = Composer { from, public_url: config.public_url };
        let notifier = Notifier::new(
            store,
            mailer,
            composer,
            parts.clock,
            consumer.clone(),
            &config.mail.limits,
            &mut metrics,
        );
        let ready = {
            let (bus, store) = (bus.clone(), notifier.store().clone());
            ready_when(move || {
                let (bus, store) = (bus.clone(), store.clone());
                async move {
                    store.ping().await.map_err(|error| format!("the database: {error}"))?;
                    bus.ready().await.map_err(|error| format!("the bus: {error}"))
                }
            })
        };
        let dead = DeadLetters::new::<Letter>(bus.clone());
        let admin = admin(Admin { metrics: Arc::new(metrics), ready }).merge(dead.routes());
        Ok(App { admin_listener, admin_addr, admin, consumer, bus, notifier })
    }

    /// Where the admin port listens.
    pub fn addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Sends until cancelled.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(admin = %self.admin_addr, "notifier_system runs");
        let mut tasks = Tasks::new(&token);
        let token = tasks.token();
        tasks.spawn(serve(self.admin_listener, self.admin, token.clone()));
        let App { consumer, bus, notifier, .. } = self;
        let store = notifier.store().clone();
        tasks.spawn_endless(keep_pruned(store.clone(), token.clone()));
        let forgotten = consumer.clone();
        tasks.spawn(forgotten.run(token.clone(), move |delivery| forget(store.clone(), delivery)));
        let letters = consumer.clone();
        let read = move |token: CancellationToken| {
            let (letters, notifier) = (letters.clone(), notifier.clone());
            async move {
                let waiting = notifier.clone();
                let (read, ()) = tokio::join!(
                    letters.run(token.clone(), move |delivery| notifier.clone().notify(delivery)),
                    waiting.retry_parked(token),
                );
                read
            }
        };
        tasks.spawn(deletions::while_known(consumer, bus, token, read));
        tasks.join().await
    }
}

async fn forget(store: Store, delivery: Delivery<UserForgotten>) -> Result<(), Failure> {
    Ok(store.forget(delivery.message.account).await?)
}

async fn keep_pruned(store: Store, token: CancellationToken) {
    loop {
        if let Err(error) = store.prune(IDS_KEPT).await {
            tracing::warn!(%error, "old ids were not removed");
        }
        if token.run_until_cancelled(tokio::time::sleep(Duration::from_secs(3600))).await.is_none() {
            return;
        }
    }
}
