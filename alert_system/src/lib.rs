//! The rule: reads counted windows, judges them for everybody who watches, and orders mails.
//!
//! `main → App → rule, letter`. A message is committed when all the mails it leads to are acknowledged by the bus.

mod config;
mod letter;
mod rule;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use common::bus::{Bus, Consumer, DeadLetters, Delivery, Error, Failure, ProducerStyle, Record};
use common::http::{Admin, admin, ready_when, serve};
use common::messages::{Letter, Message, WindowCounted};
use common::service::{Parts, StartError, Tasks, bind, local_addr};
use common::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::letter::Writer;

/// The consumer group.
const GROUP: &str = "alert_group";

/// The service, ready to run.
pub struct App {
    admin_listener: TcpListener,
    admin_addr: SocketAddr,
    admin: Router,
    bus: Bus,
    consumer: Consumer,
    judge: Judge,
}

impl App {
    /// Opens the bus and binds the admin port.
    pub async fn build(config: Config, parts: Parts) -> anyhow::Result<App> {
        if !matches!(config.public_url.scheme(), "http" | "https") {
            return Err(StartError::new("PUBLIC_URL must be http://… or https://…").into());
        }
        let bus = match parts.bus {
            Some(bus) => bus,
            None => Bus::open(&config.bus, ProducerStyle::Immediate).await?,
        };
        let admin_listener = bind("ADMIN_LISTEN", &config.admin_listen).await?;
        let admin_addr = local_addr(&admin_listener)?;
        let mut metrics = Metrics::new("alert_system", &config.node.node);
        let consumer = Consumer::new(bus.clone(), GROUP, &mut metrics);
        let judge = Judge {
            bus: bus.clone(),
            writer: Arc::new(Writer::new(&config.public_url, config.data_note)),
            evaluated: Counter::default(),
            alerts: Counter::default(),
        };
        metrics.register("evaluated_interests", "Interests judged", judge.evaluated.clone());
        metrics.register("ordered_mails", "Alerts handed to the notifier", judge.alerts.clone());
        let ready = {
            let bus = bus.clone();
            ready_when(move || {
                let bus = bus.clone();
                async move { bus.ready().await.map_err(|error| format!("the bus: {error}")) }
            })
        };
        let dead = DeadLetters::new::<WindowCounted>(bus.clone());
        let admin = admin(Admin { metrics: Arc::new(metrics), ready }).merge(dead.routes());
        Ok(App { admin_listener, admin_addr, admin, bus, consumer, judge })
    }

    /// Where the admin port listens.
    pub fn addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Judges until cancelled.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(admin = %self.admin_addr, "alert_system runs");
        let mut tasks = Tasks::new(&token);
        let token = tasks.token();
        tasks.spawn(serve(self.admin_listener, self.admin, token.clone()));
        let App { bus, consumer, judge, .. } = self;
        tasks.spawn(async move {
            bus.ensure_topics(&[Letter::TOPIC], &token).await;
            consumer.run(token, move |delivery| judge.clone().judge(delivery)).await
        });
        tasks.join().await
    }
}

/// Turns counted windows into mails.
#[derive(Clone)]
struct Judge {
    bus: Bus,
    writer: Arc<Writer>,
    evaluated: Counter,
    alerts: Counter,
}

impl Judge {
    async fn judge(self, delivery: Delivery<WindowCounted>) -> Result<(), Failure> {
        let window = &delivery.message;
        let crossings = window.users.iter().enumerate().filter_map(|(place, user)| {
            Some(self.writer.write(window, place, user, rule::judge(window, user)?))
        });
        let letters: Vec<Letter> = crossings.collect();
        let records = letters.iter().map(|letter| Record::of(letter, &delivery.trace));
        let published = self.bus.publish(records.collect::<Result<_, _>>()?).await;
        if published.iter().any(|outcome| outcome.as_ref().is_err_and(Error::is_too_large)) {
            return Err(Failure::Reject("a mail about it is larger than the bus takes".into()));
        }
        published.into_iter().collect::<Result<(), _>>()?;
        self.evaluated.inc_by(window.users.len() as u64);
        self.alerts.inc_by(letters.len() as u64);
        let (airport, users, mails) = (window.airport, window.users.len(), letters.len());
        tracing::info!(%airport, window = window.id, users, mails, "judged");
        Ok(())
    }
}
