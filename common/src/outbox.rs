//! The outbox: messages that commit together with the data they tell of, and leave for the bus afterwards.
//!
//! A service that has one creates the tables `outbox` and `outbox_lease` in its migrations (the same text in each).

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, Record};
use crate::db::Db;
use crate::messages::Message;
use crate::retry::Backoff;
use crate::telemetry::Metrics;
use crate::trace::Trace;
use crate::{db::Tx, on, row};

/// How long a relay holds the lease without renewing it, in seconds. Longer than a publish can take, unless
/// `message.timeout.ms` was set above its 30 s.
const LEASE: i64 = 60;
/// How long the round in hand may still take after a stop was asked for.
const LAST_ROUND: Duration = Duration::from_secs(3);
/// How many keys are pipelined.
const KEYS: i64 = 500;
/// Published rows are kept this long, in seconds.
const KEPT: i64 = 7 * 86_400;

/// Where a message belongs among those of its key: by window, then by when it was put in. The same place holds one
/// message only; putting it in again changes nothing.
#[derive(Clone, Debug)]
pub struct Place {
    /// Unix seconds; 0 for messages that tell of no window.
    pub window_begin: i64,
    /// Tells messages of one key and window apart.
    pub part: String,
}

/// Puts a message into the outbox, in the transaction that makes it true. `now` is in Unix seconds.
pub async fn put<M: Message>(
    tx: &mut Tx,
    message: &M,
    place: &Place,
    trace: &Trace,
    now: i64,
) -> anyhow::Result<()> {
    let payload = serde_json::to_string(message)?;
    let headers = serde_json::to_string(&trace.headers())?;
    on!(tx, |tx| {
        sqlx::query(
            // What was put in later is younger, within the same second too: the order in which a key leaves.
            "INSERT INTO outbox (topic, key, window_begin, part, payload, headers, created_at) \
             SELECT $1, $2, $3, $4, $5, $6, CASE WHEN youngest < $7 THEN $7 ELSE youngest + 1 END \
             FROM (SELECT COALESCE(MAX(created_at), 0) AS youngest FROM outbox \
                   WHERE topic = $1 AND key = $2 AND window_begin = $3) AS earlier \
             WHERE TRUE ON CONFLICT DO NOTHING",
        )
        .bind(M::TOPIC)
        .bind(message.key())
        .bind(place.window_begin)
        .bind(&place.part)
        .bind(payload)
        .bind(headers)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected()
    });
    Ok(())
}

/// Carries messages from the outbox to the bus. One relay works at a time, whoever holds the lease.
pub struct Relay {
    db: Db,
    bus: Bus,
    holder: String,
    wake: Arc<Notify>,
    published: Counter,
    waiting: Gauge,
}

row! {
    struct Waiting {
        topic: String,
        key: String,
        window_begin: i64,
        part: String,
        payload: String,
        headers: String,
    }
}

impl Relay {
    /// `holder` names this replica (its node): after a restart it takes its own lease up again at once.
    pub fn new(db: Db, bus: Bus, holder: &str, metrics: &mut Metrics) -> Relay {
        let (published, waiting) = (Counter::default(), Gauge::default());
        metrics.register("outbox_published_messages", "Messages handed to the bus", published.clone());
        metrics.register("outbox_waiting_messages", "Messages not yet handed to the bus", waiting.clone());
        Relay { db, bus, holder: holder.to_owned(), wake: Arc::default(), published, waiting }
    }

    /// To be notified after a commit that put something in; otherwise the relay looks every second.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Relays until cancelled.
    pub async fn run(self, token: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        let mut prune_due = tokio::time::Instant::now();
        while !token.is_cancelled() {
            // A round that is cut off has published without marking, at worst: then messages come once more.
            let late = async {
                token.cancelled().await;
                tokio::time::sleep(LAST_ROUND).await;
            };
            let round = tokio::select! {
                round = self.round() => round,
                () = late => break,
            };
            let pause = match round {
                Ok(0) => {
                    backoff.reset();
                    Duration::from_secs(1)
                }
                Ok(_) => {
                    backoff.reset();
                    Duration::ZERO
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "the outbox waits");
                    backoff.next_wait()
                }
            };
            if prune_due.elapsed() > Duration::ZERO {
                prune_due += Duration::from_secs(3600);
                self.prune()
                    .await
                    .unwrap_or_else(|error| tracing::warn!(%error, "the outbox was not pruned"));
            }
            if !pause.is_zero() {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
        // So that another replica need not wait until the lease runs out.
        if let Err(error) = self.give_lease_back().await {
            tracing::debug!(%error, "the lease on the outbox runs out by itself");
        }
    }

    /// Publishes the first waiting message of each key; says how many were acknowledged. Only one a key, so that a
    /// failed one is never overtaken.
    async fn round(&self) -> anyhow::Result<usize> {
        // An idle relay only reads.
        if self.count_waiting().await? == 0 || !self.hold_lease().await? {
            return Ok(0);
        }
        let first: Vec<Waiting> = on!(self.db.reader(), |pool| {
            sqlx::query_as(
                "SELECT topic, key, window_begin, part, payload, headers FROM ( \
                   SELECT outbox.*, ROW_NUMBER() OVER (PARTITION BY topic, key \
                     ORDER BY window_begin, created_at, part) AS place \
                   FROM outbox WHERE published_at IS NULL) AS waiting \
                 WHERE place = 1 ORDER BY created_at, topic, key LIMIT $1",
            )
            .bind(KEYS)
            .fetch_all(pool)
            .await?
        });
        let records = first.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let outcomes = self.bus.publish(records).await;
        let mut acknowledged = Vec::new();
        let mut failed = None;
        for (row, outcome) in first.iter().zip(outcomes) {
            match outcome {
                Ok(()) => acknowledged.push(row),
                Err(error) => failed = Some(error),
            }
        }
        self.mark(&acknowledged).await?;
        self.published.inc_by(acknowledged.len() as u64);
        self.count_waiting().await?;
        failed.map_or(Ok(acknowledged.len()), |error| Err(error.into()))
    }

    async fn count_waiting(&self) -> anyhow::Result<i64> {
        let count = on!(self.db.reader(), |pool| {
            sqlx::query_scalar("SELECT COUNT(*) FROM outbox WHERE published_at IS NULL")
                .fetch_one(pool)
                .await?
        });
        self.waiting.set(count);
        Ok(count)
    }

    async fn give_lease_back(&self) -> sqlx::Result<()> {
        on!(self.db.writer(), |pool| {
            sqlx::query("DELETE FROM outbox_lease WHERE holder = $1")
                .bind(&self.holder)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// Takes the lease, or keeps it. One that would last a minute longer than ours was made by a clock that was ahead.
    async fn hold_lease(&self) -> anyhow::Result<bool> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        let held = on!(&mut tx, |tx| {
            sqlx::query(
                "INSERT INTO outbox_lease (name, holder, held_until) VALUES ('relay', $1, $2) \
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until \
                 WHERE outbox_lease.held_until < $3 OR outbox_lease.held_until > $2 + 60 \
                 OR outbox_lease.holder = excluded.holder",
            )
            .bind(&self.holder)
            .bind(now + LEASE)
            .bind(now)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        tx.commit().await?;
        Ok(held == 1)
    }

    async fn mark(&self, acknowledged: &[&Waiting]) -> anyhow::Result<()> {
        if acknowledged.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        for row in acknowledged {
            on!(&mut tx, |tx| {
                sqlx::query(
                    "UPDATE outbox SET published_at = $1 \
                     WHERE topic = $2 AND key = $3 AND window_begin = $4 AND part = $5",
                )
                .bind(now)
                .bind(&row.topic)
                .bind(&row.key)
                .bind(row.window_begin)
                .bind(&row.part)
                .execute(&mut **tx)
                .await?
                .rows_affected()
            });
        }
        Ok(tx.commit().await?)
    }

    async fn prune(&self) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query("DELETE FROM outbox WHERE published_at < $1")
                .bind(now - KEPT)
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
        Ok(tx.commit().await?)
    }
}

fn record(row: &Waiting) -> anyhow::Result<Record> {
    Ok(Record {
        topic: row.topic.clone(),
        key: row.key.clone(),
        payload: row.payload.clone().into_bytes(),
        headers: serde_json::from_str(&row.headers)?,
    })
}
