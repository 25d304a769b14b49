//! Brokers of the tests: librdkafka's mock, and Apache Kafka where it can be had.

use std::time::Duration;

use common::bus::{BusArgs, Record};
use common::messages::dead_topic;
use common::testing::eventually;
use common::trace::Headers;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};

use crate::stage::{CONSUMER_OPTS, Stage, args};

/// A broker of the tests.
pub(crate) struct Broker {
    servers: String,
    pub(crate) mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    pub(crate) fn mock() -> Broker {
        let mock = MockCluster::new(1).unwrap();
        Broker { servers: mock.bootstrap_servers(), mock: Some(mock) }
    }

    pub(crate) fn real() -> Option<Broker> {
        common::testing::kafka("the bus on Apache Kafka").map(|servers| Broker { servers, mock: None })
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().unwrap()
    }

    /// Removes a topic and its dead topic, which an earlier run may have left on a real broker.
    pub(crate) async fn remove(&self, topic: &str) {
        let names = [topic, &dead_topic(topic)];
        let admin = self.admin();
        eventually("the topics are gone", async || {
            admin.delete_topics(&names, &AdminOptions::new()).await.unwrap();
            let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
            metadata.topics().iter().all(|topic| !names.contains(&topic.name())).then_some(())
        })
        .await;
    }

    /// Makes a topic and its dead topic, both empty.
    pub(crate) async fn create(&self, topic: &str, partitions: i32) {
        let names = [topic, &dead_topic(topic)];
        if let Some(mock) = &self.mock {
            return names.iter().for_each(|name| mock.create_topic(name, partitions, 1).unwrap());
        }
        self.remove(topic).await;
        let new = names.map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(1)));
        for made in self.admin().create_topics(&new, &AdminOptions::new()).await.unwrap() {
            made.unwrap();
        }
    }

    /// The records of a topic with one partition from the beginning, as soon as there are `count`.
    pub(crate) async fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", "test-reader")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut place = TopicPartitionList::new();
        place.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        reader.assign(&place).unwrap();
        let mut records = Vec::new();
        eventually("records of the topic", async || {
            while let Some(message) = reader.poll(Duration::from_millis(1)) {
                let message = message.unwrap();
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                let headers = message.headers().map(|headers| {
                    headers.iter().map(|h| (h.key.to_owned(), text(h.value.unwrap()))).collect::<Headers>()
                });
                records.push(Record {
                    topic: message.topic().to_owned(),
                    key: text(message.key().unwrap()),
                    payload: message.payload().unwrap().to_vec(),
                    headers: headers.unwrap_or_default(),
                });
            }
            (records.len() >= count).then_some(())
        })
        .await;
        records
    }

    pub(crate) fn args(&self, more: &str) -> BusArgs {
        let mut args = args(&format!("kafka://{}", self.servers));
        args.bus_consumer_opts = Some(format!("{CONSUMER_OPTS},{more}").into());
        args
    }
}

/// The mock and, where it can be had, Apache Kafka, with an empty topic; `options` of consumers beyond the usual.
pub(crate) async fn stages(topic: &str, partitions: i32, options: &str) -> Vec<Stage> {
    let brokers = [("the mock", Some(Broker::mock())), ("Apache Kafka", Broker::real())];
    let mut stages = Vec::new();
    for (name, broker) in brokers {
        let Some(broker) = broker else { continue };
        broker.create(topic, partitions).await;
        let args = broker.args(options);
        stages.push(Stage::kafka(name, broker, args).await);
    }
    stages
}

impl Stage {
    pub(crate) fn mock(&self) -> Option<&MockCluster<'static, DefaultProducerContext>> {
        self.broker.as_ref().and_then(|broker| broker.mock.as_ref())
    }
}
