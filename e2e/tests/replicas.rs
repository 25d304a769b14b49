//! Two alert_systems and two notifier_systems share the partitions of Apache Kafka. What they are told are the assignment's
//! messages, with its fields and no others.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::bus::{Bus, BusArgs, ProducerStyle, Record};
use common::testing::{self, eventually};
use common::trace::Headers;
use e2e::process::{Process, metric};
use faults::smtp::Sink;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Airports, with one person each.
const AIRPORTS: [&str; 12] =
    ["KATL", "KBOS", "KDEN", "KDFW", "KEWR", "KIAH", "KJFK", "KLAX", "KMIA", "KORD", "KSEA", "KSFO"];

/// A service as a process.
struct Replica {
    name: &'static str,
    process: Process,
    admin: SocketAddr,
}

impl Replica {
    async fn start(name: &'static str, node: &str, broker: &str, own: &[(&str, &str)]) -> Replica {
        let mut environment = vec![
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("LOG_FORMAT", "json"),
            ("NODE", node),
            ("KAFKA_BOOTSTRAP_SERVERS", broker),
            ("BUS_PARTITIONS", "4"),
            ("BUS_CONSUMER_OPTS", "session.timeout.ms=6000,heartbeat.interval.ms=500"),
        ];
        environment.extend(own);
        let process = Process::start(name, &[], &environment);
        let told = eventually("its address", async || {
            process.log().into_iter().find(|line| line["admin"].is_string())
        })
        .await;
        let admin = told["admin"].as_str().unwrap().parse().unwrap();
        Replica { name, process, admin }
    }

    async fn takes_part(&self) -> bool {
        metric(self.admin, self.name, "consumed_messages_total").await > 0.0
    }
}

/// Everybody's count rises with each message, so that the order of their mails can be seen.
struct Load {
    bus: Bus,
    published: u64,
}

impl Load {
    /// A message about each airport.
    async fn publish(&mut self) {
        self.published += 1;
        let record = |airport: &&str| {
            Record {
            topic: "to-alert-system".into(),
            key: (*airport).into(),
            payload: json!({
                "airport": airport, "arrival_count": self.published, "departure_count": 0,
                "users": [{"email": format!("{}@example.com", airport.to_lowercase()), "high_value": 0, "low_value": null}]
            })
            .to_string()
            .into_bytes(),
            headers: Headers::new(),
        }
        };
        let answers = self.bus.publish(AIRPORTS.iter().map(record).collect()).await;
        answers.into_iter().collect::<Result<(), _>>().unwrap();
    }

    /// Publishes on until it is so.
    async fn until(&mut self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        eventually(what, async || {
            self.publish().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            is_so().await.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_under_load_and_every_mail_is_sent_once_in_order() {
    let suite = "replicas on Apache Kafka";
    let (Some(broker), Some(database)) = (testing::kafka(suite), testing::postgres(suite).await) else {
        return;
    };
    e2e::broker::forget_earlier_runs(&broker).await;
    let sink = Sink::start().await;
    let mut load = Load { bus: bus(&broker).await, published: 0 };
    let own = own_options(&database, &sink);
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let start = async |node: &str| {
        let alerts = Replica::start("alert_system", node, &broker, &[]).await;
        (alerts, Replica::start("notifier_system", node, &broker, &own).await)
    };
    let first = start("one").await;
    load.until("the first to send", async || first.1.takes_part().await).await;
    let second = start("two").await;
    load.until("the second to share the work", async || {
        second.0.takes_part().await && second.1.takes_part().await
    })
    .await;
    // The first go while there is work.
    let stopping = async { (first.0.process.stop().await, first.1.process.stop().await) };
    let mut stopping = Box::pin(stopping);
    let ended = loop {
        load.publish().await;
        let moment = tokio::time::timeout(Duration::from_millis(200), stopping.as_mut()).await;
        if let Ok(ended) = moment {
            break ended;
        }
    };
    assert_eq!(ended, (Some(0), Some(0)));
    load.publish().await;
    let expected = load.published * AIRPORTS.len() as u64;
    eventually("all mails", async || (sink.count() as u64 >= expected).then_some(())).await;
    assert_eq!((second.0.process.stop().await, second.1.process.stop().await), (Some(0), Some(0)));

    let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for mail in sink.taken() {
        let count = mail.subject().split(' ').nth(1).unwrap().parse().unwrap();
        told.entry(mail.to).or_default().push(count);
    }
    assert_eq!(told.len(), AIRPORTS.len());
    for (email, counts) in told {
        assert!(counts.iter().copied().eq(1..=load.published), "{email}: {counts:?}");
    }
}

async fn bus(broker: &str) -> Bus {
    let args = BusArgs {
        bus_url: Some(format!("kafka://{broker}").parse().unwrap()),
        bus_partitions: 4,
        ..BusArgs::default()
    };
    let bus = Bus::open(&args, ProducerStyle::Immediate).await.unwrap();
    bus.ensure_topics(&["to-alert-system", "to-notifier", "user-forgotten"], &CancellationToken::new()).await;
    bus
}

fn own_options(database: &SecretString, sink: &Sink) -> [(&'static str, String); 2] {
    [("DATABASE_URL", database.expose_secret().to_owned()), ("MAIL_URL", sink.url())]
}
