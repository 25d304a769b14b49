//! Apache Kafka through librdkafka.
//!
//! A consumer lives on a thread of its own, which polls it whatever the service is doing: a long backoff is no
//! eviction, and a partition that is taken away is given back only when the batch in hand is done.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{BusArgs, Envelope, Error, Position, ProducerStyle, Record, client_options};
use crate::retry::Backoff;
use crate::service::StartError;
use crate::trace::Headers;

/// 30 days, in milliseconds.
const RETENTION_MS: &str = "2592000000";
/// How long an answer of the broker is waited for.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a partition that is taken away may wait for the batch in hand.
const HAND_BACK: Duration = Duration::from_secs(30);
/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(2);
/// Records kept ready; beyond them the partitions are paused.
const READY: usize = 2000;
/// And payload bytes: a message for a thousand users has some hundred thousand.
const READY_BYTES: usize = 16 << 20;

/// Producers and consumers of one cluster. Clones share the producer.
#[derive(Clone)]
pub struct Kafka(Arc<Inner>);

struct Inner {
    base: ClientConfig,
    consumer: Vec<(String, String)>,
    producer_config: ClientConfig,
    producer: ArcSwap<FutureProducer>,
    partitions: i32,
    replicas: i32,
}

impl std::fmt::Debug for Kafka {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kafka").field("servers", &self.0.base.get("bootstrap.servers")).finish()
    }
}

impl Kafka {
    pub(super) fn open(servers: &str, args: &BusArgs, style: ProducerStyle) -> anyhow::Result<Kafka> {
        let mut base = ClientConfig::new();
        base.set("bootstrap.servers", servers).set("client.id", "vedetta");
        let mut producer_config = base.clone();
        producer_config.set("acks", "all").set("retries", "3").set("enable.idempotence", "true");
        // Bounds how long a publish can stay without an answer.
        producer_config.set("message.timeout.ms", "30000");
        match style {
            ProducerStyle::Immediate => producer_config.set("linger.ms", "0"),
            ProducerStyle::Batching => producer_config
                .set("linger.ms", "500")
                .set("batch.size", "16384")
                .set("max.in.flight.requests.per.connection", "1"),
        };
        let (name, value) = ("BUS_PRODUCER_OPTS", args.bus_producer_opts.as_ref());
        for (key, value) in client_options(name, value, args.bus_producer_opts_file.as_deref())? {
            producer_config.set(key, value);
        }
        check(name, &producer_config)?;
        let (name, value) = ("BUS_CONSUMER_OPTS", args.bus_consumer_opts.as_ref());
        let consumer = client_options(name, value, args.bus_consumer_opts_file.as_deref())?;
        let mut consumer_config = base.clone();
        for (key, value) in &consumer {
            consumer_config.set(key, value);
        }
        check(name, &consumer_config)?;
        let producer = ArcSwap::from_pointee(producer_config.create()?);
        Ok(Kafka(Arc::new(Inner {
            base,
            consumer,
            producer_config,
            producer,
            partitions: args.bus_partitions,
            replicas: args.bus_replicas,
        })))
    }

    pub(super) async fn publish(&self, records: Vec<Record>) -> Vec<Result<(), Error>> {
        let producer = self.0.producer.load_full();
        // Handed over in order; the acknowledgements are awaited afterwards, so that they overlap.
        let mut sent = Vec::with_capacity(records.len());
        for record in &records {
            sent.push(hand_over(&producer, record).await);
        }
        let mut outcomes = Vec::with_capacity(sent.len());
        for delivery in sent {
            outcomes.push(match delivery {
                Ok(delivery) => match delivery.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(error.into()),
                    Err(_) => Err(KafkaError::Canceled.into()),
                },
                Err(error) => Err(error.into()),
            });
        }
        if outcomes.iter().any(Result::is_err) {
            self.replace_if_fatal(&producer);
        }
        outcomes
    }

    /// A producer that has met a fatal error never sends again; a new one takes its place.
    fn replace_if_fatal(&self, producer: &Arc<FutureProducer>) {
        let Some((code, why)) = producer.client().fatal_error() else { return };
        match self.0.producer_config.create::<FutureProducer>() {
            Ok(new) => {
                tracing::warn!(?code, why, "the Kafka producer failed for good; a new one takes over");
                self.0.producer.compare_and_swap(producer, Arc::new(new));
            }
            Err(error) => tracing::error!(%error, "no new Kafka producer can be made"),
        }
    }

    pub(super) async fn ensure_topics(&self, topics: &[String], token: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let made = async {
            while let Err(error) = self.create_missing(topics).await {
                tracing::warn!(%error, "Kafka's topics cannot be made yet; trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        };
        token.run_until_cancelled(made).await;
    }

    async fn create_missing(&self, topics: &[String]) -> Result<(), Error> {
        let existing = self.topics().await?;
        let missing: Vec<&String> = topics.iter().filter(|topic| !existing.contains(topic)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // As producers do, so that what they were told of TLS and logins holds here too.
        let admin: AdminClient<_> = self.0.producer_config.create()?;
        let new = missing.iter().map(|topic| {
            let retention = if topic.ends_with(".dead") { "-1" } else { RETENTION_MS };
            NewTopic::new(topic, self.0.partitions, TopicReplication::Fixed(self.0.replicas))
                .set("retention.ms", retention)
        });
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        let new: Vec<NewTopic<'_>> = new.collect();
        for outcome in admin.create_topics(&new, &options).await? {
            match outcome {
                Ok(topic) => tracing::info!(topic, "made a Kafka topic"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code).into()),
            }
        }
        Ok(())
    }

    async fn topics(&self) -> Result<Vec<String>, Error> {
        let producer = self.0.producer.load_full();
        let fetched = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(None, REQUEST)?;
            Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
        });
        fetched.await.map_err(|_| Error::Stopped)?
    }

    pub(super) async fn ready(&self) -> Result<(), String> {
        self.topics().await.map(|_| ()).map_err(|error| error.to_string())
    }

    pub(super) async fn ends(&self, topic: &str) -> Result<Vec<Position>, Error> {
        let (producer, topic) = (self.0.producer.load_full(), topic.to_owned());
        let fetched = tokio::task::spawn_blocking(move || {
            let client = producer.client();
            let metadata = client.fetch_metadata(Some(&topic), REQUEST)?;
            // A broker that has just started may not know the topic yet; that is not a topic without partitions.
            let known =
                metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
            let known = known.filter(|known| !known.partitions().is_empty());
            let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
            let partitions = known.ok_or(unknown)?.partitions().iter();
            let end = |partition: i32| {
                let (_, next) = client.fetch_watermarks(&topic, partition, REQUEST)?;
                Ok(Position { partition, next })
            };
            partitions.map(|partition| end(partition.id())).collect()
        });
        fetched.await.map_err(|_| Error::Stopped)?
    }

    pub(super) async fn has_reached(
        &self,
        group: &str,
        topic: &str,
        ends: &[Position],
    ) -> Result<bool, Error> {
        // It only asks: without a subscription it is no member of the group.
        let asking: BaseConsumer = self.consumer_config(group).create()?;
        let (topic, ends) = (topic.to_owned(), ends.to_vec());
        let asked = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            for end in &ends {
                list.add_partition(&topic, end.partition);
            }
            let committed = asking.committed_offsets(list, REQUEST)?;
            for end in ends {
                let committed = committed.find_partition(&topic, end.partition);
                let committed = committed
                    .is_some_and(|found| matches!(found.offset(), Offset::Offset(next) if next >= end.next));
                if committed {
                    continue;
                }
                // What is there no more, or was never in the topic as it is now, needs nobody to read it.
                let (low, high) = asking.fetch_watermarks(&topic, end.partition, REQUEST)?;
                if low < end.next && high >= end.next {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        asked.await.map_err(|_| Error::Stopped)?
    }

    fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.0.base.clone();
        config
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false");
        for (key, value) in &self.0.consumer {
            config.set(key, value);
        }
        config
    }

    pub(super) fn reader(&self, group: &str, topic: &str) -> Result<Reader, Error> {
        let (commands, inbox) = channel();
        let hand = Arc::new(Hand(Mutex::new(State {
            inbox,
            ready: VecDeque::new(),
            bytes: 0,
            wanted: None,
            batch_out: false,
            paused: false,
            closed: false,
            topic: topic.to_owned(),
        })));
        let config = self.consumer_config(group);
        let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks(hand.clone()))?;
        consumer.subscribe(&[topic])?;
        let thread = std::thread::Builder::new().name(format!("kafka-{group}"));
        let (end, ended) = oneshot::channel();
        // Detached: it ends when the reader's command channel closes.
        let poll = move || {
            hand.poll_until_closed(&consumer);
            // Leaves the group.
            drop(consumer);
            let _ = end.send(());
        };
        thread.spawn(poll).map_err(|_| Error::Stopped)?;
        Ok(Reader { commands, ended })
    }
}

/// Whether librdkafka knows the settings. Its complaint would repeat the value, which may be a password.
fn check(name: &str, config: &ClientConfig) -> Result<(), StartError> {
    match config.create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, _, key, _)) => {
            Err(StartError::new(format!("{name}: {key} is no setting of librdkafka, or has a wrong value")))
        }
        Err(error) => Err(StartError::new(format!("{name}: {error}"))),
    }
}

async fn hand_over(
    producer: &FutureProducer,
    record: &Record,
) -> Result<rdkafka::producer::DeliveryFuture, KafkaError> {
    let deadline = Instant::now() + REQUEST;
    loop {
        let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let future_record =
            FutureRecord::to(&record.topic).key(&record.key).payload(&record.payload).headers(headers);
        match producer.send_result(future_record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _))
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err((error, _)) => return Err(error),
        }
    }
}

/// The async side of a consumer's thread.
pub(super) struct Reader {
    commands: Sender<Command>,
    ended: oneshot::Receiver<()>,
}

enum Command {
    Next { most: usize, reply: oneshot::Sender<Vec<Envelope>> },
    Commit { positions: Vec<Position>, reply: oneshot::Sender<Result<(), KafkaError>> },
}

impl Reader {
    pub(super) async fn next(&mut self, most: usize) -> Result<Vec<Envelope>, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Next { most, reply }).map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    pub(super) async fn commit(&mut self, positions: &[Position]) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Commit { positions: positions.to_vec(), reply })
            .map_err(|_| Error::Stopped)?;
        Ok(answer.await.map_err(|_| Error::Stopped)??)
    }

    /// Leaves the group, if the broker answers in time. A process that ended before that would keep its partitions
    /// until its session has run out, and its successor would wait.
    pub(super) async fn close(self) {
        drop(self.commands);
        let _ = tokio::time::timeout(LEAVE, self.ended).await;
    }
}

/// The thread's side, shared with the rebalance callback (which runs on that thread, inside a poll).
struct Hand(Mutex<State>);

struct State {
    inbox: Receiver<Command>,
    ready: VecDeque<Envelope>,
    /// Of the payloads that are ready.
    bytes: usize,
    wanted: Option<(usize, oneshot::Sender<Vec<Envelope>>)>,
    batch_out: bool,
    paused: bool,
    closed: bool,
    topic: String,
}

/// The callback's view of the [`Hand`].
struct Callbacks(Arc<Hand>);

impl ClientContext for Callbacks {}

impl ConsumerContext for Callbacks {
    /// Before partitions are given back: forgets what was read ahead of them, lets the batch in hand finish, and
    /// commits it.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Callbacks>, rebalance: &Rebalance<'_>) {
        let mut state = self.0.state();
        state.paused = false;
        let Rebalance::Revoke(partitions) = rebalance else { return };
        state.ready.retain(|envelope| {
            partitions.find_partition(&envelope.record.topic, envelope.partition).is_none()
        });
        state.bytes = size(&state.ready);
        let deadline = Instant::now() + HAND_BACK;
        while state.batch_out && !state.closed && Instant::now() < deadline {
            state.obey(consumer, Duration::from_millis(100));
        }
    }
}

impl Hand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls the consumer and obeys the reader until the reader is gone or the consumer has failed for good. The lock
    /// is never held during a poll.
    fn poll_until_closed(&self, consumer: &BaseConsumer<Callbacks>) {
        let mut in_trouble = false;
        while !self.state().closed && consumer.client().fatal_error().is_none() {
            // With a batch out the next command is near.
            let wait = Duration::from_millis(if self.state().batch_out { 2 } else { 50 });
            let mut polled = consumer.poll(wait);
            while let Some(outcome) = polled {
                match outcome {
                    Ok(message) => {
                        in_trouble = false;
                        let mut state = self.state();
                        state.bytes += message.payload_len();
                        state.ready.push_back(envelope(&message));
                    }
                    // librdkafka tries again by itself, and reports each time; once is enough.
                    Err(error) if !in_trouble => {
                        in_trouble = true;
                        tracing::warn!(%error, "Kafka cannot be read; trying on");
                    }
                    Err(error) => tracing::debug!(%error, "Kafka cannot be read"),
                }
                let full = self.state().is_full();
                polled = if full { None } else { consumer.poll(Duration::ZERO) };
            }
            let mut state = self.state();
            while state.obey(consumer, Duration::ZERO) {}
            state.deliver();
            state.balance(consumer);
        }
    }
}

impl State {
    /// Does one command of the reader, if one comes within `wait`.
    fn obey(&mut self, consumer: &BaseConsumer<Callbacks>, wait: Duration) -> bool {
        match self.inbox.recv_timeout(wait) {
            Ok(Command::Next { most, reply }) => self.wanted = Some((most, reply)),
            Ok(Command::Commit { positions, reply }) => {
                let _ = reply.send(commit(consumer, &self.topic, &positions));
                self.batch_out = false;
            }
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                return false;
            }
        }
        true
    }

    /// Hands what is ready to a reader that waits.
    fn deliver(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let Some((most, reply)) = self.wanted.take() else { return };
        let batch: Vec<Envelope> = self.ready.drain(..most.min(self.ready.len())).collect();
        match reply.send(batch) {
            Ok(()) => self.batch_out = true,
            // The reader stopped waiting; the records keep their place.
            Err(batch) => batch.into_iter().rev().for_each(|envelope| self.ready.push_front(envelope)),
        }
        self.bytes = size(&self.ready);
    }

    fn is_full(&self) -> bool {
        self.ready.len() >= READY || self.bytes >= READY_BYTES
    }

    /// Pauses the partitions while enough is ready.
    fn balance(&mut self, consumer: &BaseConsumer<Callbacks>) {
        let full = self.is_full();
        let drained = self.ready.len() < READY / 2 && self.bytes < READY_BYTES / 2;
        if full != self.paused && (full || drained) {
            let changed = consumer.assignment().and_then(|partitions| {
                if full { consumer.pause(&partitions) } else { consumer.resume(&partitions) }
            });
            if changed.is_ok() {
                self.paused = full;
            }
        }
    }
}

fn size<'a>(envelopes: impl IntoIterator<Item = &'a Envelope>) -> usize {
    envelopes.into_iter().map(|envelope| envelope.record.payload.len()).sum()
}

fn commit(consumer: &BaseConsumer<Callbacks>, topic: &str, positions: &[Position]) -> Result<(), KafkaError> {
    let mut list = TopicPartitionList::new();
    for position in positions {
        list.add_partition_offset(topic, position.partition, Offset::Offset(position.next))?;
    }
    consumer.commit(&list, CommitMode::Sync)
}

fn envelope(message: &BorrowedMessage<'_>) -> Envelope {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Headers = message.headers().map_or_else(Headers::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
            .collect()
    });
    Envelope {
        partition: message.partition(),
        offset: message.offset(),
        record: Record {
            topic: message.topic().to_owned(),
            key: message.key().map(text).unwrap_or_default(),
            payload: message.payload().unwrap_or_default().to_vec(),
            headers,
        },
    }
}
