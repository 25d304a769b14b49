//! Apache Kafka through librdkafka.

mod positions;
mod reader;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

pub(super) use self::reader::Reader;
use super::{BusArgs, Error, Position, ProducerStyle, Record, client_options};
use crate::retry::Backoff;
use crate::service::StartError;
use crate::trace::Headers;

/// 30 days, in milliseconds.
const RETENTION_MS: &str = "2592000000";
/// How long an answer of the broker is waited for.
const REQUEST: Duration = Duration::from_secs(10);
/// What the assignment sets, and what a publish's bound hangs on; they are told at the start.
const PRODUCER_SETTINGS: [&str; 7] = [
    "acks",
    "retries",
    "enable.idempotence",
    "linger.ms",
    "batch.size",
    "max.in.flight.requests.per.connection",
    "message.timeout.ms",
];
const CONSUMER_SETTINGS: [&str; 3] = ["auto.offset.reset", "enable.auto.commit", "enable.auto.offset.store"];

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
        let kafka = Kafka(Arc::new(Inner {
            base,
            consumer,
            producer_config,
            producer,
            partitions: args.bus_partitions,
            replicas: args.bus_replicas,
        }));
        let producer = effective(&kafka.0.producer_config, &PRODUCER_SETTINGS)?;
        let consumer = effective(&kafka.consumer_config(""), &CONSUMER_SETTINGS)?;
        tracing::info!(servers, producer, consumer, "the bus is Kafka");
        Ok(kafka)
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
        let admin = self.admin()?;
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

    /// As producers are, so that what they were told of TLS and logins holds here too.
    fn admin(&self) -> Result<AdminClient<DefaultClientContext>, KafkaError> {
        self.0.producer_config.create()
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

    pub(in crate::bus) fn reader(
        &self,
        group: &str,
        topic: &str,
        token: &CancellationToken,
    ) -> Result<Reader, Error> {
        Reader::start(&self.consumer_config(group), topic, token)
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

/// Settings as librdkafka has taken them, defaults and overrides and all.
fn effective(config: &ClientConfig, names: &[&str]) -> anyhow::Result<String> {
    let native = config.create_native_config()?;
    let setting = |name: &&str| Ok(format!("{name}={}", native.get(name)?));
    Ok(names.iter().map(setting).collect::<Result<Vec<String>, KafkaError>>()?.join(" "))
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

fn list_of(topic: &str, positions: &[Position]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for position in positions {
        list.add_partition_offset(topic, position.partition, Offset::Offset(position.next))?;
    }
    Ok(list)
}

fn as_record(message: &BorrowedMessage<'_>) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // rdkafka panics at a header whose name is not UTF-8, which would stop the topic for good.
    let headers = catch_unwind(AssertUnwindSafe(|| {
        let headers = message.headers()?.iter();
        Some(
            headers
                .map(|header| (header.key.to_owned(), header.value.map(text).unwrap_or_default()))
                .collect(),
        )
    }));
    let headers: Option<Headers> = headers.unwrap_or_else(|_| {
        tracing::warn!(
            topic = message.topic(),
            offset = message.offset(),
            "headers that cannot be read are left out"
        );
        None
    });
    Record {
        topic: message.topic().to_owned(),
        key: message.key().map(text).unwrap_or_default(),
        payload: message.payload().unwrap_or_default().to_vec(),
        headers: headers.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kafka(args: &BusArgs, style: ProducerStyle) -> Kafka {
        Kafka::open("127.0.0.1:9092", args, style).unwrap()
    }

    fn producer(kafka: &Kafka) -> String {
        effective(&kafka.0.producer_config, &PRODUCER_SETTINGS).unwrap()
    }

    fn consumer(kafka: &Kafka) -> String {
        effective(&kafka.consumer_config("g"), &CONSUMER_SETTINGS).unwrap()
    }

    #[tokio::test]
    async fn the_settings_in_effect_are_the_assignments() {
        let batching = kafka(&BusArgs::default(), ProducerStyle::Batching);
        assert_eq!(
            producer(&batching),
            "acks=-1 retries=3 enable.idempotence=true linger.ms=500 batch.size=16384 \
             max.in.flight.requests.per.connection=1 message.timeout.ms=30000"
        );
        let immediate = producer(&kafka(&BusArgs::default(), ProducerStyle::Immediate));
        assert!(
            immediate.starts_with("acks=-1 retries=3 enable.idempotence=true linger.ms=0 "),
            "{immediate}"
        );
        assert_eq!(
            consumer(&batching),
            "auto.offset.reset=smallest enable.auto.commit=false enable.auto.offset.store=false"
        );
    }

    #[tokio::test]
    async fn every_setting_can_be_overridden() {
        let args = BusArgs {
            bus_producer_opts: Some("linger.ms=7,retries=9".to_owned().into()),
            bus_consumer_opts: Some("auto.offset.reset=latest".to_owned().into()),
            ..BusArgs::default()
        };
        let kafka = kafka(&args, ProducerStyle::Batching);
        let told = producer(&kafka);
        assert!(told.contains("retries=9 enable.idempotence=true linger.ms=7 batch.size=16384"), "{told}");
        assert!(consumer(&kafka).contains("auto.offset.reset=largest"));
    }
}
