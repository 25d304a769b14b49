//! The broker: topics and groups that are as new before each round, and how far a group has got.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bench::process::{PATIENCE, until};
use common::bus::{Bus, BusArgs, BusUrl, ProducerStyle};
use common::messages::{Letter, Message, UserForgotten, WindowCounted, dead_topic};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use tokio_util::sync::CancellationToken;

/// Of our services and of the Python ones.
pub(crate) const ALERT_GROUP: &str = "alert_group";
const GROUPS: [&str; 3] = [ALERT_GROUP, "notifier_group", "collector_group"];
const TOPICS: [&str; 3] = [WindowCounted::TOPIC, Letter::TOPIC, UserForgotten::TOPIC];
/// How long an answer is waited for.
const REQUEST: Duration = Duration::from_secs(10);

pub(crate) struct Broker {
    /// `host:port`
    pub(crate) servers: String,
    client: ClientConfig,
}

impl Broker {
    /// Only a broker of this machine: its topics are deleted.
    pub(crate) fn new(servers: &str) -> anyhow::Result<Broker> {
        let (host, _) = servers.rsplit_once(':').context("--kafka must be host:port")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_here =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        anyhow::ensure!(
            is_here,
            "--kafka: {servers} is not on this machine, and its topics would be deleted"
        );
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", servers);
        Ok(Broker { servers: servers.to_owned(), client })
    }

    /// As `BUS_URL`.
    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.servers)
    }

    /// The product's own way in.
    pub(crate) async fn bus(&self) -> anyhow::Result<Bus> {
        let bus_url = Some(BusUrl::Kafka(self.servers.clone()));
        Bus::open(&BusArgs { bus_url, ..BusArgs::default() }, ProducerStyle::Immediate).await
    }

    /// Empty topics, and groups that have read nothing.
    pub(crate) async fn renew(&self) -> anyhow::Result<()> {
        self.remove().await?;
        let (bus, token) = (self.bus().await?, CancellationToken::new());
        let made = tokio::time::timeout(PATIENCE, bus.ensure_topics(&TOPICS, &token)).await;
        made.context("the topics cannot be made")?;
        until("the topics to be there", async || {
            let there = self.topics()?;
            Ok(names().iter().all(|name| there.contains(name)).then_some(()))
        })
        .await
    }

    /// Removes the topics and the groups; a group can go when its last member has left.
    pub(crate) async fn remove(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client.create()?;
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        let names = names();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        until("the topics to go", async || {
            let outcomes = admin.delete_topics(&names, &options).await?;
            let unknown = |code| code == RDKafkaErrorCode::UnknownTopicOrPartition;
            let gone = outcomes.into_iter().all(|outcome| outcome.is_err_and(|(_, code)| unknown(code)));
            // The brokers hear of it a little later than the controller.
            let there = self.topics()?;
            Ok((gone && !names.iter().any(|name| there.iter().any(|topic| topic == name))).then_some(()))
        })
        .await?;
        until("the groups to go", async || {
            let outcomes = admin.delete_groups(&GROUPS, &options).await?;
            let unknown = |code| code == RDKafkaErrorCode::GroupIdNotFound;
            let mut gone = outcomes.into_iter();
            Ok(gone.all(|outcome| outcome.map_or_else(|(_, code)| unknown(code), |_| true)).then_some(()))
        })
        .await
    }

    /// How many records a topic of one partition holds.
    pub(crate) fn records(&self, topic: &str) -> anyhow::Result<u64> {
        let consumer: BaseConsumer = self.client.create()?;
        let (low, high) = consumer.fetch_watermarks(topic, 0, REQUEST)?;
        Ok(u64::try_from(high - low)?)
    }

    /// Asks how far a group has got in a topic of one partition.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> anyhow::Result<Committed> {
        // Without a subscription it is no member of the group.
        let consumer = self.client.clone().set("group.id", group).create()?;
        Ok(Committed { consumer: Arc::new(consumer), topic: topic.to_owned() })
    }

    fn topics(&self) -> anyhow::Result<Vec<String>> {
        let consumer: BaseConsumer = self.client.create()?;
        let metadata = consumer.fetch_metadata(None, REQUEST)?;
        let ready = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(ready.map(|topic| topic.name().to_owned()).collect())
    }
}

/// All that the services make.
fn names() -> Vec<String> {
    TOPICS.iter().flat_map(|topic| [(*topic).to_owned(), dead_topic(topic)]).collect()
}

/// A group's progress.
pub(crate) struct Committed {
    consumer: Arc<BaseConsumer>,
    topic: String,
}

impl Committed {
    /// Records that the group has done with.
    pub(crate) async fn records(&self) -> anyhow::Result<u64> {
        let (consumer, topic) = (self.consumer.clone(), self.topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, 0);
            let found = consumer.committed_offsets(list, REQUEST)?;
            let next = found.find_partition(&topic, 0).and_then(|found| found.offset().to_raw());
            // Before the first commit it is a negative number that stands for "nowhere".
            Ok(next.and_then(|next| u64::try_from(next).ok()).unwrap_or(0))
        });
        asked.await?
    }
}
