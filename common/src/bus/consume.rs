//! The one loop that reads the bus.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Bus, Envelope, Error, ORIGIN, Position, Record};
use crate::messages::{Message, Origin};
use crate::retry::Backoff;
use crate::telemetry::Metrics;
use crate::trace::Trace;

/// Records a batch holds at most.
const BATCH: usize = 500;
/// Keys of a batch that are worked on at once.
const KEYS: usize = 64;

/// Characters of a reason that are kept.
const LONGEST_REASON: usize = 1000;

/// A message, and where it comes from.
#[derive(Clone, Debug)]
pub struct Delivery<M> {
    /// The message.
    pub message: M,
    /// The request that caused it.
    pub trace: Trace,
    /// Where it stood, `<topic>/<partition>/<offset>`; of one that was put back from the dead topic where it stood first.
    pub origin: String,
    /// Cancelled when the message is no longer this consumer's: at a stop, and when its partition goes to another one. A
    /// handler that waits for something may then end with [`Failure::Retry`].
    pub held: CancellationToken,
}

/// Why a message was not handled.
#[derive(Debug)]
pub enum Failure {
    /// Later it may work: the message is tried again, with backoff, and nothing after it is committed.
    Retry(anyhow::Error),
    /// It never will: the message goes to the dead topic with this reason.
    Reject(String),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Retry(error.into())
    }
}

/// Reads one topic for one group.
#[derive(Clone, Debug)]
pub struct Consumer {
    bus: Bus,
    group: &'static str,
    handled: Counter,
    retried: Counter,
    rejected: Counter,
}

impl Consumer {
    /// A consumer of `group`.
    pub fn new(bus: Bus, group: &'static str, metrics: &mut Metrics) -> Consumer {
        let consumer = Consumer {
            bus,
            group,
            handled: Counter::default(),
            retried: Counter::default(),
            rejected: Counter::default(),
        };
        metrics.register("consumed_messages", "Messages handled", consumer.handled.clone());
        metrics.register(
            "retried_messages",
            "Attempts that failed and are repeated",
            consumer.retried.clone(),
        );
        metrics.register("dead_messages", "Messages put into the dead topic", consumer.rejected.clone());
        consumer
    }

    /// Hands every message of `M`'s topic to `handle` until cancelled: one after another within a key, keys side by
    /// side. A batch is committed when all of it is handled; cancelled in the middle, as far as everything before is.
    pub async fn run<M, H, F>(self, token: CancellationToken, handle: H) -> anyhow::Result<()>
    where
        M: Message,
        H: Fn(Delivery<M>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        self.bus.ensure_topics(&[M::TOPIC], &token).await;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        while !token.is_cancelled() {
            if let Err(error) = self.read(&token, &handle, &mut backoff).await {
                tracing::warn!(topic = M::TOPIC, %error, "the bus cannot be read; trying again");
                token.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await;
            }
        }
        Ok(())
    }

    /// Waits until this group, by whichever of its readers, has handled what `M`'s topic holds now; or until cancelled.
    pub async fn caught_up<M: Message>(&self, token: &CancellationToken) {
        self.bus.ensure_topics(&[M::TOPIC], token).await;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut ends = None;
        while let Some(asked) = token.run_until_cancelled(self.has_caught_up(M::TOPIC, &mut ends)).await {
            let wait = backoff.next_wait();
            match asked {
                Ok(true) => return,
                // Most often it is a matter of milliseconds.
                Ok(false) if wait < Duration::from_secs(1) => {}
                Ok(false) => tracing::info!(topic = M::TOPIC, group = self.group, "still to be read"),
                Err(error) => {
                    tracing::warn!(topic = M::TOPIC, %error, "the bus cannot be asked; trying again");
                }
            }
            token.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// `ends` is where the topic ended when it could be asked first.
    async fn has_caught_up(&self, topic: &str, ends: &mut Option<Vec<Position>>) -> Result<bool, Error> {
        let ends = match ends {
            Some(ends) => ends,
            None => ends.insert(self.bus.ends(topic).await?),
        };
        self.bus.has_reached(self.group, topic, ends).await
    }

    async fn read<M, H, F>(
        &self,
        token: &CancellationToken,
        handle: &H,
        backoff: &mut Backoff,
    ) -> Result<(), Error>
    where
        M: Message,
        H: Fn(Delivery<M>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let mut reader = self.bus.reader(self.group, M::TOPIC, token).await?;
        while let Some(batch) = token.run_until_cancelled(reader.next(BATCH)).await {
            let batch = batch?;
            backoff.reset();
            let done: Vec<AtomicBool> = batch.iter().map(|_| AtomicBool::new(false)).collect();
            stream::iter(by_key(&batch))
                .for_each_concurrent(KEYS, async |places| {
                    for place in places {
                        if !self.settle(&batch[place], handle).await {
                            return;
                        }
                        done[place].store(true, Ordering::Relaxed);
                    }
                })
                .await;
            reader.commit(&low_watermark(&batch, &done)).await?;
        }
        reader.close().await;
        Ok(())
    }

    /// Works on one message until it is handled or dead; `false` when it was taken away before that.
    async fn settle<M, H, F>(&self, envelope: &Envelope, handle: &H) -> bool
    where
        M: Message,
        H: Fn(Delivery<M>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let trace = Trace::of_message(&envelope.record.headers);
        let span = tracing::info_span!("message", topic = M::TOPIC, request_id = %trace.request_id);
        async {
            let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
            while !envelope.held.is_cancelled() {
                let outcome = match parse::<M>(envelope) {
                    Ok((message, origin)) => {
                        let (trace, held) = (trace.clone(), envelope.held.clone());
                        let delivery = Delivery { message, trace, origin: origin.to_string(), held };
                        // In a block of its own: `handle` may panic before it has made its future.
                        guarded(async { handle(delivery).await }).await
                    }
                    Err(reason) => Err(Failure::Reject(reason)),
                };
                let failed = match outcome {
                    Ok(()) => {
                        self.handled.inc();
                        return true;
                    }
                    Err(Failure::Retry(_)) if envelope.held.is_cancelled() => return false,
                    Err(Failure::Retry(error)) => error,
                    Err(Failure::Reject(reason)) => match self.bury(envelope, &reason).await {
                        Ok(()) => return true,
                        Err(error) => error.into(),
                    },
                };
                let wait = backoff.next_wait();
                tracing::warn!(error = format!("{failed:#}"), wait_s = wait.as_secs_f64(), "trying again");
                self.retried.inc();
                envelope.held.run_until_cancelled(tokio::time::sleep(wait)).await;
            }
            false
        }
        .instrument(span)
        .await
    }

    async fn bury(&self, envelope: &Envelope, reason: &str) -> Result<(), Error> {
        self.bury_record(envelope.record.clone(), &origin(envelope).to_string(), reason).await
    }

    /// Puts a record that stood at `origin` into the dead topic. For messages that a service has kept for later; those that
    /// it rejects at once need nothing.
    pub async fn bury_record(&self, record: Record, origin: &str, reason: &str) -> Result<(), Error> {
        // What is wrong with a value may repeat the value.
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        let buried = record.buried(origin, &reason);
        match self.publish(buried.clone()).await {
            Err(error) if error.is_too_large() => self.publish(buried.cut()).await?,
            outcome => outcome?,
        }
        tracing::error!(%origin, reason, "the message cannot be handled; it lies in the dead topic");
        self.rejected.inc();
        Ok(())
    }

    async fn publish(&self, record: Record) -> Result<(), Error> {
        self.bus.publish(vec![record]).await.into_iter().collect()
    }
}

fn parse<M: Message>(envelope: &Envelope) -> Result<(M, Origin), String> {
    let record = &envelope.record;
    let mut message: M = serde_json::from_slice(&record.payload)
        .map_err(|error| format!("not a message of {}: {error}", record.topic))?;
    let origin = origin(envelope);
    message.adopt(&origin);
    Ok((message, origin))
}

/// Where a record stood; for one that was put back from the dead topic, where it stood first.
fn origin(envelope: &Envelope) -> Origin {
    let first = envelope.record.headers.get(ORIGIN).and_then(|first| first.parse().ok());
    let (topic, partition, offset) = (envelope.record.topic.clone(), envelope.partition, envelope.offset);
    first.unwrap_or(Origin { topic, partition, offset })
}

/// A panic concerns its message, not the others of the batch.
async fn guarded(handling: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    AssertUnwindSafe(handling)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(Failure::Reject("the handler panicked".into())))
}

/// The places of a batch, grouped by key, in order within each.
fn by_key(batch: &[Envelope]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of: HashMap<&str, usize> = HashMap::new();
    for (place, envelope) in batch.iter().enumerate() {
        let group = *group_of.entry(&envelope.record.key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(place);
    }
    groups
}

/// For each partition of the batch the offset after the last record before which all are done.
fn low_watermark(batch: &[Envelope], done: &[AtomicBool]) -> Vec<Position> {
    let mut next: BTreeMap<i32, (i64, bool)> = BTreeMap::new();
    for (envelope, done) in batch.iter().zip(done) {
        let (offset, open) = next.entry(envelope.partition).or_insert((envelope.offset, true));
        *open &= done.load(Ordering::Relaxed);
        if *open {
            *offset = envelope.offset + 1;
        }
    }
    next.into_iter().map(|(partition, (next, _))| Position { partition, next }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_stops_before_the_first_that_is_not_done() {
        let envelope = |partition, offset| Envelope {
            partition,
            offset,
            record: Record {
                topic: "t".into(),
                key: "k".into(),
                payload: vec![],
                headers: Trace::start().headers(),
            },
            held: CancellationToken::new(),
        };
        let batch = [envelope(0, 10), envelope(0, 11), envelope(1, 5), envelope(0, 12), envelope(1, 6)];
        let done = [true, false, true, true, true].map(AtomicBool::new);
        let expected = [Position { partition: 0, next: 11 }, Position { partition: 1, next: 7 }];
        assert_eq!(low_watermark(&batch, &done), expected);
    }
}
