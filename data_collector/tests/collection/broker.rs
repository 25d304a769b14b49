//! A broker that is away costs nothing but time.

use std::collections::BTreeMap;
use std::time::Duration;

use common::bus::{Bus, BusArgs, Consumer, Delivery, ProducerStyle};
use common::messages::{Message, WindowCounted, dead_topic};
use common::telemetry::Metrics;
use common::testing::{MockCluster, eventually};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::expected::{self, DAY};
use crate::world::{Setup, TODAY, World, databases};

const AIRPORTS: [&str; 3] = ["KBTV", "KORF", "KTYR"];
/// For which the broker is away.
const DAYS: i64 = 10;

async fn connect(servers: &str) -> Bus {
    let args = BusArgs {
        bus_url: Some(format!("kafka://{servers}").parse().unwrap()),
        bus_producer_opts: Some("message.timeout.ms=1500,reconnect.backoff.max.ms=100".to_owned().into()),
        bus_consumer_opts: Some("session.timeout.ms=6000".to_owned().into()),
        ..BusArgs::default()
    };
    Bus::open(&args, ProducerStyle::Batching).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_are_collected_while_the_broker_is_away_and_all_are_told_in_order_when_it_is_back() {
    for db in databases().await {
        let broker = MockCluster::new(1).unwrap();
        for topic in [WindowCounted::TOPIC, &dead_topic(WindowCounted::TOPIC)] {
            broker.create_topic(topic, 1, 1).unwrap();
        }
        let bus = connect(&broker.bootstrap_servers()).await;
        let setup =
            Setup { flags: &["--collect-backfill", "1d"], bus: Some(bus.clone()), ..Setup::default() };
        let world = World::with(&db, setup).await;
        let ada = world.person("ada@example.com");
        broker.broker_down(-1).unwrap();
        for airport in AIRPORTS {
            ada.put(airport, json!({})).await;
        }
        ada.collected().await;
        for _ in 1..DAYS {
            world.time.advance(Duration::from_secs(DAY as u64));
            ada.collected().await;
        }
        let waiting = format!(
            "outbox_waiting_messages{{service=\"data_collector\",node=\"one\"}} {}",
            AIRPORTS.len() as i64 * DAYS
        );
        // The relay has tried in vain after the last of them.
        eventually("everything waits", async || {
            world.admin("/metrics").await.text().await.unwrap().contains(&waiting).then_some(())
        })
        .await;
        broker.broker_up(-1).unwrap();

        let (tell, mut told) = mpsc::unbounded_channel();
        let consumer = Consumer::new(bus, "test", &mut Metrics::new("test", "reader"));
        let token = CancellationToken::new();
        let reading = tokio::spawn(consumer.run(token.clone(), move |delivery: Delivery<WindowCounted>| {
            tell.send(delivery.message).unwrap();
            std::future::ready(Ok(()))
        }));
        let mut begins: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for _ in 0..AIRPORTS.len() as i64 * DAYS {
            let message = told.recv().await.unwrap();
            let counts = (message.arrival_count, message.departure_count);
            assert_eq!(counts, expected::day(message.airport.as_str(), message.window_begin));
            begins.entry(message.airport.to_string()).or_default().push(message.window_begin);
        }
        let days: Vec<i64> = (-1..DAYS - 1).map(|day| TODAY + day * DAY).collect();
        for airport in AIRPORTS {
            assert_eq!(begins[airport], days, "{airport}");
        }
        token.cancel();
        reading.await.unwrap().unwrap();
        assert!(told.try_recv().is_err(), "a message came twice");
    }
}
