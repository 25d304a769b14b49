//! What is left on the bus.

use std::path::PathBuf;
use std::time::Duration;

use common::bus::Log;
use common::testing::TestDb;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Message, Offset, TopicPartitionList};

/// How long the broker is waited for.
const ANSWER: Duration = Duration::from_secs(30);

pub(crate) enum Bus {
    /// The embedded log's file.
    Log(PathBuf),
    /// `host:port`.
    Kafka(String),
}

/// A reader that alerts pass.
pub(crate) struct Reader {
    pub(crate) group: &'static str,
    pub(crate) topic: &'static str,
    /// How many records it has before it, in the embedded log.
    lag: &'static str,
}

/// In the order in which alerts pass them.
pub(crate) const READERS: [Reader; 2] = [
    Reader {
        group: "alert_group",
        topic: "to-alert-system",
        lag: "SELECT COUNT(*) FROM record WHERE topic = 'to-alert-system' AND position >= COALESCE( \
              (SELECT next FROM reader WHERE grp = 'alert_group' AND topic = 'to-alert-system'), 0)",
    },
    Reader {
        group: "notifier_group",
        topic: "to-notifier",
        lag: "SELECT COUNT(*) FROM record WHERE topic = 'to-notifier' AND position >= COALESCE( \
              (SELECT next FROM reader WHERE grp = 'notifier_group' AND topic = 'to-notifier'), 0)",
    },
];

impl Bus {
    /// How many records a reader has not done with.
    pub(crate) async fn lag(&self, reader: &'static Reader) -> Result<i64, String> {
        match self {
            Bus::Log(file) => {
                let url = format!("sqlite:{}", file.display()).into();
                Ok(TestDb { name: "the log", url }.number(reader.lag).await)
            }
            Bus::Kafka(broker) => {
                let broker = broker.clone();
                let asked = tokio::task::spawn_blocking(move || lag(&broker, reader.group, reader.topic));
                asked.await.unwrap().map_err(|error| error.to_string())
            }
        }
    }

    /// The payloads of all records of a topic. Nobody may have the embedded log open.
    pub(crate) async fn read_all(&self, topic: &str) -> Vec<Vec<u8>> {
        match self {
            Bus::Log(file) => {
                let records = Log::open(file).await.unwrap().read_all(topic).await.unwrap();
                records.into_iter().map(|record| record.payload).collect()
            }
            Bus::Kafka(broker) => {
                let (broker, topic) = (broker.clone(), topic.to_owned());
                tokio::task::spawn_blocking(move || read_all(&broker, &topic).unwrap()).await.unwrap()
            }
        }
    }
}

fn client(broker: &str, group: &str) -> KafkaResult<BaseConsumer> {
    ClientConfig::new().set("bootstrap.servers", broker).set("group.id", group).create()
}

fn partitions(client: &BaseConsumer, topic: &str) -> KafkaResult<Vec<i32>> {
    let metadata = client.fetch_metadata(Some(topic), ANSWER)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    Ok(partitions.map(|partition| partition.id()).collect())
}

fn lag(broker: &str, group: &str, topic: &str) -> KafkaResult<i64> {
    let client = client(broker, group)?;
    let mut places = TopicPartitionList::new();
    for partition in partitions(&client, topic)? {
        places.add_partition(topic, partition);
    }
    let mut lag = 0;
    for committed in client.committed_offsets(places, ANSWER)?.elements() {
        let (low, high) = client.fetch_watermarks(topic, committed.partition(), ANSWER)?;
        let next = if let Offset::Offset(next) = committed.offset() { next } else { low };
        lag += high - next;
    }
    Ok(lag)
}

fn read_all(broker: &str, topic: &str) -> KafkaResult<Vec<Vec<u8>>> {
    let client = client(broker, "chaos")?;
    let (mut places, mut count) = (TopicPartitionList::new(), 0);
    for partition in partitions(&client, topic)? {
        let (low, high) = client.fetch_watermarks(topic, partition, ANSWER)?;
        places.add_partition_offset(topic, partition, Offset::Offset(low))?;
        count += high - low;
    }
    client.assign(&places)?;
    let payload = |_| {
        let record = client.poll(ANSWER).expect("a record within that time")?;
        Ok(record.payload().unwrap_or_default().to_vec())
    };
    (0..count).map(payload).collect()
}
