//! Mails: each is sent once; a second copy is possible only where the first one's outcome was unknown, and is then the
//! same mail by its `Message-ID`.
//!
//! `main → App → mail, mailer, store`.

mod config;
mod deletions;
mod mail;
mod mailer;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use common::bus::{Bus, Consumer, Delivery, Failure, ProducerStyle};
use common::clock::Clock;
use common::db::migrations;
use common::http::{Admin, admin, ready_when, serve};
use common::messages::{Letter, UserForgotten};
use common::retry::Backoff;
use common::service::{Parts, StartError, Tasks, bind, local_addr};
use common::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use config::{Config, MailArgs};

use crate::mail::Composer;
use crate::mailer::Mailer;
use crate::store::{Leave, Store};

/// The database's tables.
const MIGRATIONS: &[(&str, &str)] = &[("mails", include_str!("../migrations/0001_mails.sql"))];

/// The consumer group.
const GROUP: &str = "notifier_group";
/// Mails on their way at once, and with them connections to the server.
const MAILS_AT_ONCE: usize = 4;
/// Ids of sent mails are kept this long, in seconds: 30 days longer than the bus keeps its messages.
const IDS_KEPT: i64 = 60 * 86_400;

/// The service, ready to run.
pub struct App {
    admin_listener: TcpListener,
    admin_addr: SocketAddr,
    admin: Router,
    letters: Consumer,
    forgotten: Consumer,
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
        let mailer = Mailer::open(&mail_url)?;
        let db = common::db::open(&database_url, &migrations(MIGRATIONS)).await?;
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Immediate).await?,
        };
        let mut metrics = Metrics::new("notifier_system", &config.node.node);
        let letters = Consumer::new(bus.clone(), GROUP, &mut metrics);
        let forgotten = letters.clone();
        let notifier = Notifier {
            store: Store::new(db, &config.node.node),
            mailer: Arc::new(mailer),
            places: Arc::new(Semaphore::new(MAILS_AT_ONCE)),
            composer: Arc::new(Composer { from, public_url: config.public_url }),
            clock: parts.clock,
            sent: Counter::default(),
            unrecorded: Counter::default(),
        };
        metrics.register("sent_mails", "Mails that the server has taken", notifier.sent.clone());
        let help = "Attempts to record a sent mail that failed and are repeated";
        metrics.register("failed_recordings", help, notifier.unrecorded.clone());
        let ready = {
            let (bus, store) = (bus.clone(), notifier.store.clone());
            ready_when(move || {
                let (bus, store) = (bus.clone(), store.clone());
                async move {
                    store.ping().await.map_err(|error| format!("the database: {error}"))?;
                    bus.ready().await.map_err(|error| format!("the bus: {error}"))
                }
            })
        };
        let admin = admin(Admin { metrics: Arc::new(metrics), ready });
        Ok(App { admin_listener, admin_addr, admin, letters, forgotten, bus, notifier })
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
        tasks.spawn_endless(keep_pruned(self.notifier.store.clone(), token.clone()));
        let store = self.notifier.store.clone();
        let forgotten = self.forgotten.clone();
        tasks.spawn(forgotten.run(token.clone(), move |delivery| forget(store.clone(), delivery)));
        let (letters, notifier) = (self.letters, self.notifier);
        let read = move |token| {
            let notifier = notifier.clone();
            letters.clone().run(token, move |delivery| notifier.clone().notify(delivery))
        };
        tasks.spawn(deletions::while_known(self.forgotten, self.bus, token, read));
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

/// Sends letters.
#[derive(Clone)]
struct Notifier {
    store: Store,
    mailer: Arc<Mailer>,
    /// Mails on their way at once: a server that sees more connections from one client may send it away.
    places: Arc<Semaphore>,
    composer: Arc<Composer>,
    clock: Clock,
    sent: Counter,
    unrecorded: Counter,
}

impl Notifier {
    /// Records that a mail was taken, however long the database is away: to give up would be to send it again.
    async fn record(&self, id: &str) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while let Err(error) = self.store.sent(id).await {
            self.unrecorded.inc();
            tracing::warn!(id, %error, "the mail was sent, which cannot be recorded; trying again");
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn notify(self, delivery: Delivery<Letter>) -> Result<(), Failure> {
        let Delivery { message: letter, trace } = delivery;
        let mail = self
            .composer
            .compose(&letter, &trace, self.clock.now())
            .map_err(|error| Failure::Reject(format!("no mail can be made of it: {error:#}")))?;
        // Before the lease on the mail, which must not run out while waiting here.
        let _place = self.places.acquire().await?;
        match self.store.begin(&letter.id, letter.account).await? {
            Leave::Send => {}
            Leave::Sent => return Ok(()),
            Leave::Forgotten => {
                tracing::info!(id = letter.id, "not sent: the account was deleted");
                return Ok(());
            }
            Leave::Elsewhere => {
                return Err(Failure::Retry(anyhow::anyhow!("another replica is sending this mail")));
            }
        }
        match self.mailer.send(&Composer::name(&letter), mail).await {
            Ok(()) => {
                self.record(&letter.id).await;
                self.sent.inc();
                tracing::info!(to = letter.email.masked(), subject = letter.subject, "sent");
                Ok(())
            }
            Err(error) => {
                self.store.release(&letter.id).await?;
                // Servers repeat the address in what they answer.
                let masked = |text: String| text.replace(letter.email.as_str(), &letter.email.masked());
                Err(match error {
                    mailer::Failure::Everything(error) => {
                        Failure::Retry(anyhow::anyhow!(masked(format!("{error:#}"))))
                    }
                    mailer::Failure::Refused(_) => Failure::Reject(masked(error.to_string())),
                })
            }
        }
    }
}
