//! A Kafka broker that is kept between runs.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

/// What an earlier run left in the topics would be mailed in this one. Only on a broker of this machine: they are deleted.
pub async fn forget_earlier_runs(broker: &str) {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    assert!(["127.0.0.1", "localhost", "[::1]"].contains(&host), "{broker} is not a broker for tests");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker).create().unwrap();
    let topics = ["to-alert-system", "to-notifier", "user-forgotten"];
    let groups = ["alert_group", "notifier_group", "collector_group"];
    // Most often there are none, which is an error of each.
    let _ = admin.delete_topics(&topics, &AdminOptions::new()).await.unwrap();
    let _ = admin.delete_groups(&groups, &AdminOptions::new()).await.unwrap();
    crate::eventually("the topics to be gone", async || {
        let all = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        all.topics().iter().all(|topic| !topics.contains(&topic.name())).then_some(())
    })
    .await;
}
