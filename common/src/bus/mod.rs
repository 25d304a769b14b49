//! The bus: topics of messages with keys, read by groups, each message at least once.
//!
//! [`Bus`] is a log in a SQLite file for one process, or Apache Kafka; [`consume`] is the one loop that reads either.

mod consume;
mod dead;
mod embedded;
#[cfg(feature = "kafka")]
mod kafka;
mod record;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub use consume::{Consumer, Delivery, Failure};
pub use dead::{DeadCommand, DeadLetter, DeadLetters};
pub use embedded::Log;
#[cfg(feature = "kafka")]
pub use kafka::Kafka;
pub use record::Record;

use crate::service::StartError;
use record::{Envelope, ORIGIN, Position, REASON};

/// Where the bus is, and how its clients behave.
#[derive(Args, Clone, Debug)]
pub struct BusArgs {
    /// The bus: kafka://host:port[,host:port] or log:FILE (one process)
    #[arg(long, env = "BUS_URL")]
    pub bus_url: Option<BusUrl>,
    /// The assignment's name for a Kafka bus, host:port[,host:port]
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", conflicts_with = "bus_url")]
    pub kafka_bootstrap_servers: Option<String>,
    /// librdkafka settings of producers, key=value[,key=value]; they may hold a password
    #[arg(long, env = "BUS_PRODUCER_OPTS", hide_env_values = true)]
    pub bus_producer_opts: Option<SecretString>,
    /// A file that holds BUS_PRODUCER_OPTS
    #[arg(long, env = "BUS_PRODUCER_OPTS_FILE")]
    pub bus_producer_opts_file: Option<PathBuf>,
    /// librdkafka settings of consumers, key=value[,key=value]; they may hold a password
    #[arg(long, env = "BUS_CONSUMER_OPTS", hide_env_values = true)]
    pub bus_consumer_opts: Option<SecretString>,
    /// A file that holds BUS_CONSUMER_OPTS
    #[arg(long, env = "BUS_CONSUMER_OPTS_FILE")]
    pub bus_consumer_opts_file: Option<PathBuf>,
    /// Partitions of the topics that are made at start
    #[arg(long, env = "BUS_PARTITIONS", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub bus_partitions: i32,
    /// Replicas of the topics that are made at start
    #[arg(long, env = "BUS_REPLICAS", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
    pub bus_replicas: i32,
}

/// What the options are when none is given: no bus, for services that are handed one.
impl Default for BusArgs {
    fn default() -> BusArgs {
        BusArgs {
            bus_url: None,
            kafka_bootstrap_servers: None,
            bus_producer_opts: None,
            bus_producer_opts_file: None,
            bus_consumer_opts: None,
            bus_consumer_opts_file: None,
            bus_partitions: 1,
            bus_replicas: 1,
        }
    }
}

impl BusArgs {
    /// The configured bus, under either name.
    pub fn url(&self) -> Result<BusUrl, StartError> {
        match (&self.bus_url, &self.kafka_bootstrap_servers) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(servers)) => format!("kafka://{servers}").parse().map_err(StartError::new),
            (None, None) => Err(StartError::new(
                "BUS_URL is needed: kafka://host:port or log:FILE (or KAFKA_BOOTSTRAP_SERVERS)",
            )),
        }
    }
}

/// A parsed `BUS_URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BusUrl {
    /// `log:FILE`
    Log(String),
    /// `kafka://host:port[,host:port]`, without the scheme
    Kafka(String),
}

impl FromStr for BusUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<BusUrl, String> {
        let place = |server: &str| {
            server
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        };
        if let Some(file) = text.strip_prefix("log:").filter(|file| !file.is_empty()) {
            return Ok(BusUrl::Log(file.to_owned()));
        }
        match text.strip_prefix("kafka://").map(|servers| servers.trim_end_matches('/')) {
            Some(servers) if servers.split(',').all(place) => Ok(BusUrl::Kafka(servers.to_owned())),
            _ => Err(format!("'{text}' is not kafka://host:port[,host:port] or log:FILE")),
        }
    }
}

/// Settings of a Kafka client: names and values.
#[cfg(feature = "kafka")]
type ClientOptions = Vec<(String, String)>;

/// The settings in an option or its file, `key=value[,key=value]`. A complaint does not repeat them.
#[cfg(feature = "kafka")]
fn client_options(
    name: &str,
    value: Option<&SecretString>,
    file: Option<&Path>,
) -> Result<ClientOptions, StartError> {
    use secrecy::ExposeSecret;
    let Some(text) = crate::service::secret(name, value, file)? else { return Ok(ClientOptions::new()) };
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(StartError::new(format!("{name} must be key=value[,key=value]"))),
    };
    text.expose_secret().split(',').filter(|part| !part.trim().is_empty()).map(pair).collect()
}

/// How a service's producer behaves unless configured otherwise.
#[derive(Clone, Copy, Debug)]
pub enum ProducerStyle {
    /// Waits up to 500 ms to fill a batch, one request in flight (the assignment's data_collector).
    Batching,
    /// Sends at once (the assignment's alert_system).
    Immediate,
}

/// Why the bus did not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The embedded log's file.
    #[error("the log: {0}")]
    Log(#[from] sqlx::Error),
    /// The log's content is not what was written.
    #[error("the log holds a damaged record: {0}")]
    Damaged(#[from] serde_json::Error),
    /// Apache Kafka.
    #[cfg(feature = "kafka")]
    #[error("Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The reader's thread has ended.
    #[error("the reader has stopped")]
    Stopped,
}

impl Error {
    /// Whether a record was refused for its size. It always will be.
    pub fn is_too_large(&self) -> bool {
        match self {
            #[cfg(feature = "kafka")]
            Error::Kafka(error) => {
                error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::MessageSizeTooLarge)
            }
            _ => false,
        }
    }
}

/// The bus. Clones share it.
#[derive(Clone, Debug)]
pub enum Bus {
    /// A log in a SQLite file, for one process.
    Embedded(Log),
    /// Apache Kafka.
    #[cfg(feature = "kafka")]
    Kafka(Kafka),
}

impl Bus {
    /// Opens the configured bus. A broker that does not answer yet is no error.
    pub async fn open(args: &BusArgs, style: ProducerStyle) -> anyhow::Result<Bus> {
        match args.url()? {
            BusUrl::Log(file) => Ok(Bus::Embedded(Log::open(Path::new(&file)).await.context("BUS_URL")?)),
            #[cfg(feature = "kafka")]
            BusUrl::Kafka(servers) => Ok(Bus::Kafka(Kafka::open(&servers, args, style)?)),
            #[cfg(not(feature = "kafka"))]
            BusUrl::Kafka(_) => {
                let _ = style;
                Err(StartError::new("BUS_URL: this build has no Kafka; build with --features kafka").into())
            }
        }
    }

    /// Publishes records, keeping their order; answers for each whether it is durable.
    pub async fn publish(&self, records: Vec<Record>) -> Vec<Result<(), Error>> {
        match self {
            Bus::Embedded(log) => log.publish(records).await,
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.publish(records).await,
        }
    }

    /// Creates the topics that do not exist, each with its dead topic. Tries until it is done or cancelled: the broker
    /// may be away.
    #[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "only Kafka's topics are made"))]
    pub async fn ensure_topics(&self, topics: &[&str], token: &CancellationToken) {
        match self {
            // The embedded log's topics come into being with their first record.
            Bus::Embedded(_) => {}
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => {
                let all: Vec<String> = topics
                    .iter()
                    .flat_map(|topic| [(*topic).to_owned(), crate::messages::dead_topic(topic)])
                    .collect();
                kafka.ensure_topics(&all, token).await;
            }
        }
    }

    /// Whether the bus answers.
    pub async fn ready(&self) -> Result<(), String> {
        match self {
            Bus::Embedded(log) => log.ready().await.map_err(|error| error.to_string()),
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.ready().await,
        }
    }

    /// Where a topic ends at this moment: the offsets that its next records will have.
    async fn ends(&self, topic: &str) -> Result<Vec<Position>, Error> {
        match self {
            Bus::Embedded(log) => log.ends(topic).await,
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.ends(topic).await,
        }
    }

    /// Whether a group has committed everything before these offsets.
    async fn has_reached(&self, group: &str, topic: &str, ends: &[Position]) -> Result<bool, Error> {
        match self {
            Bus::Embedded(log) => log.has_reached(group, topic, ends).await,
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.has_reached(group, topic, ends).await,
        }
    }

    /// Records of a topic from where `from` is on, or its beginning, up to `ends`; oldest first within a partition, at most
    /// `most`.
    async fn read_between(
        &self,
        topic: &str,
        from: &[Position],
        ends: &[Position],
        most: usize,
    ) -> Result<Vec<Envelope>, Error> {
        match self {
            Bus::Embedded(log) => {
                let next = |positions: &[Position]| positions.first().map_or(0, |position| position.next);
                let mut read = log.read_from(topic, next(from), most, &CancellationToken::new()).await?;
                read.retain(|envelope| envelope.offset < next(ends));
                Ok(read)
            }
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.read_between(topic, from, ends, most).await,
        }
    }

    /// Removes what is before these positions from a topic that no group reads.
    async fn remove_before(&self, topic: &str, positions: &[Position]) -> Result<(), Error> {
        match self {
            Bus::Embedded(log) => log.remove_before(topic, positions).await,
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => kafka.remove_before(topic, positions).await,
        }
    }

    /// A reader; what it reads is held until `token` is cancelled.
    async fn reader(&self, group: &str, topic: &str, token: &CancellationToken) -> Result<Reader, Error> {
        match self {
            Bus::Embedded(log) => Ok(Reader::Embedded(log.reader(group, topic, token).await?)),
            #[cfg(feature = "kafka")]
            Bus::Kafka(kafka) => Ok(Reader::Kafka(kafka.reader(group, topic, token)?)),
        }
    }
}

/// Reads one topic for one group.
enum Reader {
    Embedded(embedded::Reader),
    #[cfg(feature = "kafka")]
    Kafka(kafka::Reader),
}

impl Reader {
    /// The next records, at least one, at most `most`; waits for them. Dropping the future loses nothing.
    async fn next(&mut self, most: usize) -> Result<Vec<Envelope>, Error> {
        match self {
            Reader::Embedded(reader) => reader.next(most).await,
            #[cfg(feature = "kafka")]
            Reader::Kafka(reader) => reader.next(most).await,
        }
    }

    /// Stores how far the group has got, and ends the batch that `next` gave.
    async fn commit(&mut self, positions: &[Position]) -> Result<(), Error> {
        match self {
            Reader::Embedded(reader) => reader.commit(positions).await,
            #[cfg(feature = "kafka")]
            Reader::Kafka(reader) => reader.commit(positions).await,
        }
    }

    /// Makes room for the group's next reader.
    async fn close(self) {
        match self {
            Reader::Embedded(_) => {}
            #[cfg(feature = "kafka")]
            Reader::Kafka(reader) => reader.close().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_chosen_by_its_scheme() {
        assert_eq!("log:/x/bus.db".parse(), Ok(BusUrl::Log("/x/bus.db".into())));
        assert_eq!("kafka://a:9092,b:9093".parse(), Ok(BusUrl::Kafka("a:9092,b:9093".into())));
        for bad in ["", "log:", "kafka://", "kafka://a", "kafka://a:9092,b", "amqp://a:1", "kafka://:9092"] {
            assert!(bad.parse::<BusUrl>().is_err(), "{bad} was taken");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn client_options_are_pairs_and_a_complaint_keeps_them_secret() {
        let parse = |text: &str| client_options("BUS_PRODUCER_OPTS", Some(&text.to_owned().into()), None);
        let pairs = parse("linger.ms=0, acks=all").unwrap();
        assert_eq!(pairs, [("linger.ms".into(), "0".into()), ("acks".into(), "all".into())]);
        let complaint = parse("sasl.password=a,hunter2").unwrap_err().to_string();
        assert!(complaint.contains("BUS_PRODUCER_OPTS") && !complaint.contains("hunter2"), "{complaint}");
    }
}
