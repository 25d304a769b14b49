//! What only Kafka does. Most of it is shown on librdkafka's mock and on Apache Kafka alike.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::bus::{Bus, BusArgs, Delivery, Failure, ProducerStyle, Record};
use common::messages::dead_topic;
use common::trace::Headers;
use futures::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::stage::{CONSUMER_OPTS, Note, Seen, Stage, Topic, args, group, topic};
use common::testing::eventually;

/// A broker of the tests.
pub(crate) struct Broker {
    servers: String,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Broker {
    fn mock() -> Broker {
        let mock = MockCluster::new(1).unwrap();
        Broker { servers: mock.bootstrap_servers(), mock: Some(mock) }
    }

    fn real() -> Option<Broker> {
        common::testing::kafka("the bus on Apache Kafka").map(|servers| Broker { servers, mock: None })
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.servers).create().unwrap()
    }

    /// Removes a topic and its dead topic, which an earlier run may have left on a real broker.
    async fn remove(&self, topic: &str) {
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
    async fn create(&self, topic: &str, partitions: i32) {
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

    fn args(&self, more: &str) -> BusArgs {
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
    fn mock(&self) -> Option<&MockCluster<'static, DefaultProducerContext>> {
        self.broker.as_ref().and_then(|broker| broker.mock.as_ref())
    }
}

async fn on_kafka<T: Topic>(partitions: i32, options: &str, behaviour: impl AsyncFn(&Stage)) {
    let stages = stages(T::NAME, partitions, options).await;
    join_all(stages.iter().map(|stage| behaviour(stage))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_refused_has_its_own_answer() {
    topic!(Refused, "test-refused");
    on_kafka::<Refused>(1, "", async |stage| {
        let large = Record { payload: vec![b' '; 2 << 20], ..Note::<Refused>::record("k", 1) };
        let records = vec![Note::<Refused>::record("k", 0), large, Note::<Refused>::record("k", 2)];
        let answers: Vec<bool> = stage.bus.publish(records).await.iter().map(Result::is_ok).collect();
        assert_eq!(answers, [true, false, true], "{stage}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_wait_is_no_eviction() {
    topic!(Waiting, "test-waiting");
    on_kafka::<Waiting>(1, "max.poll.interval.ms=6000", async |stage| {
        stage.publish::<Waiting>(&[("k", 0)]).await;
        let (seen, attempts) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
        let reading = stage.consume(group(), {
            let (seen, attempts) = (seen.clone(), attempts.clone());
            let began = Instant::now();
            move |delivery: Delivery<Note<Waiting>>| {
                attempts.fetch_add(1, SeqCst);
                // The first attempt alone is longer than the interval; waits between attempts come on top.
                let first = attempts.load(SeqCst) == 1;
                let works = began.elapsed() > Duration::from_secs(8);
                let seen = seen.clone();
                async move {
                    if first {
                        tokio::time::sleep(Duration::from_secs(7)).await;
                    }
                    if !works {
                        return Err(Failure::Retry(anyhow::anyhow!("not yet")));
                    }
                    seen.add(&delivery.message);
                    Ok(())
                }
            }
        });
        seen.reaches(1).await;
        // Had the consumer been evicted, its commit would have failed and the first come again.
        stage.publish::<Waiting>(&[("k", 1)]).await;
        seen.reaches(2).await;
        assert_eq!(seen.of("k"), [0, 1], "{stage}");
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_share_the_partitions_and_nothing_is_lost_or_repeated() {
    topic!(Shared, "test-shared");
    const ROUND: u32 = 20;
    on_kafka::<Shared>(4, "", async |stage| {
        let group = group();
        let keys: Vec<String> = (0..16).map(|n| format!("key-{n}")).collect();
        let publish = async |round: u32| {
            let numbers = || round * ROUND..(round + 1) * ROUND;
            let notes: Vec<_> = keys.iter().flat_map(|key| numbers().map(|n| (key.as_str(), n))).collect();
            stage.publish::<Shared>(&notes).await;
        };
        let start = |seen: &Seen| {
            let seen = seen.clone();
            stage.consume(group, move |delivery: Delivery<Note<Shared>>| {
                let seen = seen.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    seen.add(&delivery.message);
                    Ok(())
                }
            })
        };
        let (first_seen, second_seen) = (Seen::default(), Seen::default());
        let handled = || first_seen.all().into_iter().chain(second_seen.all());
        let all_of = async |rounds: u32| {
            let all = keys.len() * (rounds * ROUND) as usize;
            eventually("all is handled", async || {
                (handled().collect::<BTreeSet<_>>().len() == all).then_some(all)
            })
            .await
        };
        publish(0).await;
        let first = start(&first_seen);
        first_seen.reaches(1).await;
        // The second comes while the first has a batch in hand.
        let second = start(&second_seen);
        let mut rounds = 1;
        eventually("both take part", async || {
            publish(rounds).await;
            rounds += 1;
            all_of(rounds).await;
            (second_seen.count() > 0).then_some(())
        })
        .await;
        first.stop().await;
        publish(rounds).await;
        let all = all_of(rounds + 1).await;
        second.stop().await;
        // The mock, unlike Kafka, takes no commit while a rebalance goes on: there, what was in hand comes twice.
        if stage.mock().is_none() {
            assert_eq!(handled().count(), all, "{stage}: each once");
            for (key, seen) in keys.iter().flat_map(|key| [(key, &first_seen), (key, &second_seen)]) {
                assert!(seen.of(key).is_sorted(), "{stage}, {key}: {:?}", seen.of(key));
            }
        }
    })
    .await;
}

/// Only Apache Kafka: the mock takes no commit while a rebalance goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_given_back_before_the_batch_in_hand_is_done() {
    topic!(Recalled, "test-recalled");
    let Some(broker) = Broker::real() else { return };
    broker.create(Recalled::NAME, 2).await;
    let args = broker.args("");
    let stage = Stage::kafka("Apache Kafka", broker, args).await;
    let keys: Vec<String> = (0..8).map(|n| format!("key-{n}")).collect();
    let notes: Vec<_> = keys.iter().flat_map(|key| (0..10).map(|n| (key.as_str(), n))).collect();
    stage.publish::<Recalled>(&notes).await;
    let (group, first_seen) = (group(), Seen::default());
    let given_back = Arc::new(AtomicUsize::new(0));
    // The first gets stuck at the sixth of each key, for as long as it has it.
    let first = stage.consume(group, {
        let (seen, given_back) = (first_seen.clone(), given_back.clone());
        move |delivery: Delivery<Note<Recalled>>| {
            let (seen, given_back) = (seen.clone(), given_back.clone());
            async move {
                if delivery.message.n == 5 {
                    delivery.held.cancelled().await;
                    given_back.fetch_add(1, SeqCst);
                    return Err(Failure::Retry(anyhow::anyhow!("it is another's")));
                }
                seen.add(&delivery.message);
                Ok(())
            }
        }
    });
    first_seen.reaches(5).await;
    let (second, second_seen) = stage.collect::<Recalled>(group);
    second_seen.reaches(1).await;
    assert!(given_back.load(SeqCst) > 0, "it ended when it was taken away");
    first.stop().await;
    eventually("all is handled", async || {
        let all: BTreeSet<_> = first_seen.all().into_iter().chain(second_seen.all()).collect();
        (all.len() == notes.len()).then_some(())
    })
    .await;
    for key in &keys {
        // The first may have been given a partition back, and have begun it again where it was committed.
        let second = second_seen.of(key);
        assert!(second.is_sorted() && second.last() == Some(&9), "{key}: {second:?} goes on to the end");
    }
    second.stop().await;
}

/// A consumer that has read far ahead pauses its partitions; a rebalance in the middle of that must not leave one paused.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_while_much_waits_leaves_no_partition_behind() {
    topic!(Paused, "test-paused");
    const NOTES: u32 = 400;
    let Some(broker) = Broker::real() else { return };
    broker.create(Paused::NAME, 2).await;
    let args = broker.args("");
    let stage = Stage::kafka("Apache Kafka", broker, args).await;
    let keys: Vec<String> = (0..16).map(|n| format!("key-{n}")).collect();
    let notes: Vec<_> = keys.iter().flat_map(|key| (0..NOTES).map(|n| (key.as_str(), n))).collect();
    stage.publish::<Paused>(&notes).await;
    let (group, first_seen, gate) = (group(), Seen::default(), Arc::new(Semaphore::new(0)));
    let began = Arc::new(AtomicUsize::new(0));
    let first = stage.consume(group, {
        let (seen, gate, began) = (first_seen.clone(), gate.clone(), began.clone());
        move |delivery: Delivery<Note<Paused>>| {
            let (seen, gate, began) = (seen.clone(), gate.clone(), began.clone());
            async move {
                began.fetch_add(1, SeqCst);
                tokio::select! {
                    open = gate.acquire() => drop(open?),
                    () = delivery.held.cancelled() => return Err(Failure::Retry(anyhow::anyhow!("another's"))),
                }
                seen.add(&delivery.message);
                Ok(())
            }
        }
    });
    eventually("a batch in hand", async || (began.load(SeqCst) > 0).then_some(())).await;
    // It pauses after a second with enough read ahead.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (second, second_seen) = stage.collect::<Paused>(group);
    second_seen.reaches(1).await;
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    let all = async |what: &str| {
        eventually(what, async || {
            let seen: BTreeSet<_> = first_seen.all().into_iter().chain(second_seen.all()).collect();
            (seen.len() == notes.len()).then_some(())
        })
        .await;
    };
    all("all of both partitions").await;
    assert!(first_seen.count() > 0, "the first has one of them again");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_waits_for_the_broker_or_says_that_it_failed() {
    topic!(Away, "test-away");
    let broker = Broker::mock();
    broker.create(Away::NAME, 1).await;
    let mut args = broker.args("reconnect.backoff.max.ms=100");
    args.bus_producer_opts = Some("message.timeout.ms=3000,reconnect.backoff.max.ms=100".to_owned().into());
    let stage = Stage::kafka("the mock", broker, args).await;
    let mock = stage.mock().unwrap();
    stage.publish::<Away>(&[("k", 0)]).await;

    mock.broker_down(-1).unwrap();
    let answers = stage.bus.publish(vec![Note::<Away>::record("k", 1)]).await;
    assert!(answers.len() == 1 && answers[0].is_err());

    let waiting = tokio::spawn({
        let bus = stage.bus.clone();
        async move { bus.publish(vec![Note::<Away>::record("k", 2)]).await }
    });
    mock.broker_up(-1).unwrap();
    assert!(waiting.await.unwrap()[0].is_ok());
    let (reading, seen) = stage.collect::<Away>(group());
    seen.reaches(2).await;
    assert_eq!(seen.of("k"), [0, 2]);

    // A reader outlives its broker, too.
    mock.broker_down(-1).unwrap();
    assert!(stage.bus.publish(vec![Note::<Away>::record("k", 3)]).await[0].is_err());
    mock.broker_up(-1).unwrap();
    stage.publish::<Away>(&[("k", 4)]).await;
    seen.reaches(3).await;
    assert_eq!(seen.of("k"), [0, 2, 4]);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_made_with_its_dead_topic_and_their_retention() {
    topic!(Made, "test-made");
    let Some(broker) = Broker::real() else { return };
    broker.remove(Made::NAME).await;
    let mut args = broker.args("");
    args.bus_partitions = 3;
    let stage = Stage::kafka("Apache Kafka", broker, args).await;
    // A consumer makes its topic itself, and reads it without having to wait for it.
    let (reading, seen) = stage.collect::<Made>(group());
    eventually("the topic is made", async || {
        stage.bus.publish(vec![Note::<Made>::record("k", 0)]).await[0].is_ok().then_some(())
    })
    .await;
    seen.reaches(1).await;
    reading.stop().await;

    let token = CancellationToken::new();
    stage.bus.ensure_topics(&[Made::NAME], &token).await; // made already: harmless
    let admin = stage.broker.as_ref().unwrap().admin();
    let dead = dead_topic(Made::NAME);
    for (name, retention) in [(Made::NAME, "2592000000"), (dead.as_str(), "-1")] {
        let topic = [ResourceSpecifier::Topic(name)];
        let described =
            admin.describe_configs(&topic, &AdminOptions::new()).await.unwrap().remove(0).unwrap();
        assert_eq!(described.get("retention.ms").unwrap().value.as_deref(), Some(retention), "{name}");
        let metadata = admin.inner().fetch_metadata(Some(name), Duration::from_secs(10)).unwrap();
        assert_eq!(metadata.topics()[0].partitions().len(), 3, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_no_reason_not_to_start() {
    let broker = Broker::mock();
    broker.mock.as_ref().unwrap().broker_down(-1).unwrap();
    let bus = Bus::open(&broker.args(""), ProducerStyle::Batching).await.unwrap();
    let token = CancellationToken::new();
    let mut making = std::pin::pin!(bus.ensure_topics(&["test-never"], &token));
    // Now the first try is under way, which takes ten seconds.
    assert!(futures::poll!(making.as_mut()).is_pending());
    token.cancel();
    assert!(futures::poll!(making.as_mut()).is_ready(), "a stop ends it at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_failed_for_good_is_replaced() {
    use rdkafka::types::{
        RDKafkaApiKey, RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER as GAP,
    };
    topic!(Fatal, "test-fatal");
    let broker = Broker::mock();
    broker.create(Fatal::NAME, 1).await;
    let args = broker.args("");
    let stage = Stage::kafka("the mock", broker, args).await;
    stage.publish::<Fatal>(&[("k", 0)]).await;
    // What a broker says that was killed and has lost track of the producer.
    stage.mock().unwrap().request_errors(RDKafkaApiKey::Produce, &[GAP]);
    assert!(stage.bus.publish(vec![Note::<Fatal>::record("k", 1)]).await[0].is_err());
    stage.publish::<Fatal>(&[("k", 2)]).await;
    let (reading, seen) = stage.collect::<Fatal>(group());
    seen.reaches(2).await;
    assert_eq!(seen.of("k"), [0, 2]);
    reading.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_the_group() {
    topic!(Left, "test-left");
    let Some(broker) = Broker::real() else { return };
    broker.create(Left::NAME, 1).await;
    let args = broker.args("");
    let stage = Stage::kafka("Apache Kafka", broker, args).await;
    let admin = stage.broker.as_ref().unwrap().admin();
    let group = group();
    let members = || {
        let groups = admin.inner().fetch_group_list(Some(group), Duration::from_secs(10)).unwrap();
        groups.groups().iter().map(|group| group.members().len()).sum::<usize>()
    };
    stage.publish::<Left>(&[("k", 0)]).await;
    let (reading, seen) = stage.collect::<Left>(group);
    seen.reaches(1).await;
    assert_eq!(members(), 1);
    reading.stop().await;
    // Otherwise its successor would get nothing before the session has run out.
    assert_eq!(members(), 0);
}
