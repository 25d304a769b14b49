//! The buses that a behaviour is shown on.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

#[cfg(feature = "kafka")]
use common::bus::ProducerStyle;
use common::bus::{Bus, BusArgs, Consumer, Delivery, Failure, Log, Record};
use common::messages::{Message, dead_topic};
use common::telemetry::Metrics;
use common::testing::temp_path;
use common::trace::Trace;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use common::testing::eventually;

/// A topic of one test's own.
pub(crate) trait Topic: Send + Sync + 'static {
    const NAME: &'static str;
}

/// `topic!(Mine, "test-mine")`
macro_rules! topic {
    ($topic:ident, $name:literal) => {
        struct $topic;
        impl crate::stage::Topic for $topic {
            const NAME: &'static str = $name;
        }
    };
}
pub(crate) use topic;

/// A message of that topic.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Note<T> {
    pub(crate) key: String,
    pub(crate) n: u32,
    #[serde(skip)]
    topic: PhantomData<fn() -> T>,
}

impl<T: Topic> Note<T> {
    pub(crate) fn new(key: &str, n: u32) -> Note<T> {
        Note { key: key.to_owned(), n, topic: PhantomData }
    }

    pub(crate) fn record(key: &str, n: u32) -> Record {
        Record::of(&Note::<T>::new(key, n), &Trace::start()).unwrap()
    }
}

impl<T: Topic> Message for Note<T> {
    const TOPIC: &'static str = T::NAME;

    fn key(&self) -> String {
        self.key.clone()
    }
}

/// The notes that a handler has seen: key and number.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<(String, u32)>>>);

impl Seen {
    pub(crate) fn add<T: Topic>(&self, note: &Note<T>) {
        self.0.lock().unwrap().push((note.key.clone(), note.n));
    }

    pub(crate) fn all(&self) -> Vec<(String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn of(&self, key: &str) -> Vec<u32> {
        self.all().into_iter().filter(|(of, _)| of == key).map(|(_, n)| n).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) async fn reaches(&self, count: usize) {
        eventually(&format!("{count} messages"), async || (self.count() >= count).then_some(())).await;
    }
}

/// What `future` gives, which it does in two minutes at most.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = std::time::Duration::from_secs(120);
    tokio::time::timeout(limit, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A consumer at work.
pub(crate) struct Reading {
    token: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Reading {
    /// Asks it to stop, without waiting.
    pub(crate) fn ask_to_stop(&self) {
        self.token.cancel();
    }

    /// Stops it as a service stops.
    pub(crate) async fn stop(self) {
        self.token.cancel();
        soon("the consumer has stopped", self.task).await.unwrap().unwrap();
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// A bus under test.
pub(crate) struct Stage {
    name: &'static str,
    pub(crate) bus: Bus,
    #[cfg(feature = "kafka")]
    pub(crate) broker: Option<crate::broker::Broker>,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Stage {
    /// An embedded log.
    pub(crate) fn of(bus: Bus) -> Stage {
        Stage {
            name: "the embedded log",
            bus,
            #[cfg(feature = "kafka")]
            broker: None,
        }
    }

    #[cfg(feature = "kafka")]
    pub(crate) async fn kafka(name: &'static str, broker: crate::broker::Broker, args: BusArgs) -> Stage {
        Stage { name, bus: Bus::open(&args, ProducerStyle::Immediate).await.unwrap(), broker: Some(broker) }
    }

    /// librdkafka's mock cannot.
    pub(crate) fn can_remove_records(&self) -> bool {
        self.name != "the mock"
    }

    /// Publishes notes at once.
    pub(crate) async fn publish<T: Topic>(&self, notes: &[(&str, u32)]) {
        let answers =
            self.bus.publish(notes.iter().map(|(key, n)| Note::<T>::record(key, *n)).collect()).await;
        assert_eq!(answers.len(), notes.len(), "{self}");
        answers.into_iter().collect::<Result<(), _>>().unwrap();
    }

    /// Consumes in the background.
    pub(crate) fn consume<M, H, F>(&self, group: &'static str, handle: H) -> Reading
    where
        M: Message,
        H: Fn(Delivery<M>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        read(self.bus.clone(), group, handle)
    }

    /// Consumes in the background and keeps what it sees.
    pub(crate) fn collect<T: Topic>(&self, group: &'static str) -> (Reading, Seen) {
        let seen = Seen::default();
        let reading = self.consume(group, {
            let seen = seen.clone();
            move |delivery: Delivery<Note<T>>| {
                seen.add(&delivery.message);
                std::future::ready(Ok(()))
            }
        });
        (reading, seen)
    }

    /// The records of the dead topic of `topic`, as soon as there are `count`.
    pub(crate) async fn dead(&self, topic: &str, count: usize) -> Vec<Record> {
        let topic = dead_topic(topic);
        match &self.bus {
            Bus::Embedded(log) => {
                let enough =
                    async || log.read_all(&topic).await.ok().filter(|records| records.len() >= count);
                eventually("dead messages", enough).await
            }
            #[cfg(feature = "kafka")]
            Bus::Kafka(_) => self.broker.as_ref().unwrap().read(&topic, count).await,
        }
    }
}

/// Consumes from `bus` in the background.
pub(crate) fn read<M, H, F>(bus: Bus, group: &'static str, handle: H) -> Reading
where
    M: Message,
    H: Fn(Delivery<M>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let token = CancellationToken::new();
    let consumer = Consumer::new(bus, group, &mut Metrics::new("test", "here"));
    let task = tokio::spawn(consumer.run(token.clone(), handle));
    Reading { token, task }
}

/// A group that nobody has used.
pub(crate) fn group() -> &'static str {
    format!("test-{}", Uuid::new_v4()).leak()
}

/// Quick rebalances.
pub(crate) const CONSUMER_OPTS: &str = "session.timeout.ms=6000,heartbeat.interval.ms=300";

/// Options of a bus at `url`; rebalances are quick, and what is published together arrives together.
pub(crate) fn args(url: &str) -> BusArgs {
    BusArgs {
        bus_url: Some(url.parse().unwrap()),
        bus_producer_opts: Some("linger.ms=50".to_owned().into()),
        bus_consumer_opts: Some(CONSUMER_OPTS.to_owned().into()),
        ..BusArgs::default()
    }
}

/// Shows one behaviour on every bus that is to be had, on a topic that is empty; all at the same time.
pub(crate) async fn on_every_bus<T: Topic>(behaviour: impl AsyncFn(&Stage)) {
    let embedded = Stage::of(Bus::Embedded(Log::open(&temp_path("bus.db")).await.unwrap()));
    #[cfg(not(feature = "kafka"))]
    let others: [Stage; 0] = [];
    #[cfg(feature = "kafka")]
    let others = crate::broker::stages(T::NAME, 1, "").await;
    let stages: Vec<Stage> = std::iter::once(embedded).chain(others).collect();
    join_all(stages.iter().map(|stage| behaviour(stage))).await;
}
