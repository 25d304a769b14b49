//! What only Kafka does. Most of it is shown on librdkafka's mock and on Apache Kafka alike.

use std::time::Duration;

use common::bus::{Bus, ProducerStyle, Record};
use common::messages::dead_topic;
use common::testing::eventually;
use futures::future::join_all;
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, stages};
use crate::stage::{Note, Stage, Topic, group, topic};

pub(crate) async fn on_kafka<T: Topic>(partitions: i32, options: &str, behaviour: impl AsyncFn(&Stage)) {
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

/// With its reason and its origin it is larger than what a producer takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_message_that_is_too_large_is_cut() {
    topic!(Large, "test-large");
    on_kafka::<Large>(1, "", async |stage| {
        let payload = format!("\"{}\"", "x".repeat(999_700)).into_bytes();
        let large = Record { payload, ..Note::<Large>::record("k", 0) };
        let records = vec![large, Note::<Large>::record("k", 1)];
        stage.bus.publish(records).await.into_iter().collect::<Result<(), _>>().unwrap();
        let (reading, seen) = stage.collect::<Large>(group());
        seen.reaches(1).await;
        reading.stop().await;
        let dead = &stage.dead(Large::NAME, 1).await[0];
        assert_eq!((dead.payload.len(), dead.payload[0]), (10_000, b'"'), "{stage}");
        let reason = &dead.headers["reason"];
        assert!(
            reason.starts_with("not a message of test-large") && reason.len() < 1200,
            "{stage}: {reason}"
        );
        assert!(
            reason.ends_with("(too large to be kept: the first 10000 of 999702 bytes)"),
            "{stage}: {reason}"
        );
        assert_eq!(dead.headers["origin"], "test-large/0/0", "{stage}");
    })
    .await;
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
