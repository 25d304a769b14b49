//! Two replicas that share PostgreSQL and a Kafka cluster.

use std::time::Duration;

use common::messages::{Message, UserForgotten, WindowCounted, dead_topic};
use common::testing::{MockCluster, TestDb, postgres};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use crate::field::Field;
use crate::kills::{killed_again_and_again, messages_are_right};
use crate::plan::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_killed_at_any_moment_lose_nothing_and_count_nothing_twice() {
    let Some(url) = postgres("collection by two replicas").await else { return };
    let cluster = MockCluster::new(1).unwrap();
    for topic in [WindowCounted::TOPIC, UserForgotten::TOPIC] {
        cluster.create_topic(topic, 1, 1).unwrap();
        cluster.create_topic(&dead_topic(topic), 1, 1).unwrap();
    }
    let servers = cluster.bootstrap_servers();
    let mut plan = Plan::new().await;
    let db = TestDb { name: "postgres, two replicas", url };
    let field = Field::over(db, format!("kafka://{servers}")).await;
    // Slow enough for the second one to have something to do.
    let latency = if plan.windows() < 1000 { 60 } else { 5 };
    field.replay.faults(serde_json::json!({"latency_ms": latency})).await;
    let one = field.collector("one", plan.days).await;
    one.watch(&plan.airports).await;
    let mut collectors = [one, field.collector("two", plan.days).await];
    let on_their_way = killed_again_and_again(&mut plan, &field, &mut collectors).await;
    assert_eq!(field.stored_by().await, ["one", "two"]);
    for collector in collectors {
        collector.stops_with_everything_told().await;
    }
    let told = tokio::task::spawn_blocking(move || read_all(&servers, WindowCounted::TOPIC)).await.unwrap();
    messages_are_right(&plan, &field, &told, on_their_way);
}

/// The payloads of all messages in a topic of one partition.
fn read_all(servers: &str, topic: &str) -> Vec<Vec<u8>> {
    let patience = Duration::from_secs(30);
    let reader: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", servers).set("group.id", "test").create().unwrap();
    let (low, high) = reader.fetch_watermarks(topic, 0, patience).unwrap();
    let mut place = TopicPartitionList::new();
    place.add_partition_offset(topic, 0, Offset::Offset(low)).unwrap();
    reader.assign(&place).unwrap();
    let payloads = (low..high).map(|_| reader.poll(patience).unwrap().unwrap().payload().unwrap().to_vec());
    payloads.collect()
}
