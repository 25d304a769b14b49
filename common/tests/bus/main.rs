//! What the bus promises, shown on the embedded log, on librdkafka's mock of Kafka, and on Apache Kafka where
//! `TEST_KAFKA` names one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[cfg(feature = "kafka")]
mod broker;
mod dead;
mod embedded;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod rebalance;
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::bus::{Consumer, Delivery, Failure, Record};
use common::messages::{Letter, Message, Origin};
use common::telemetry::Metrics;
use common::trace::{Headers, Trace};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use common::testing::eventually;
use stage::{Note, Seen, Topic, group, on_every_bus, soon, topic};

#[tokio::test(flavor = "multi_thread")]
async fn everything_published_is_delivered_once_in_order_per_key() {
    topic!(InOrder, "test-in-order");
    on_every_bus::<InOrder>(async |stage| {
        assert!(stage.bus.publish(vec![]).await.is_empty());
        let keys = ["a", "b", "c", "d", "e", "f", "g"];
        let (reading, seen) = stage.collect::<InOrder>(group());
        for part in 0..3 {
            let notes: Vec<(&str, u32)> =
                (part * 100..(part + 1) * 100).flat_map(|n| keys.map(|key| (key, n))).collect();
            stage.publish::<InOrder>(&notes).await;
        }
        seen.reaches(300 * keys.len()).await;
        // Had anything come twice, it would be there before the last.
        stage.publish::<InOrder>(&[("z", 0)]).await;
        eventually("the last", async || (!seen.of("z").is_empty()).then_some(())).await;
        for key in keys {
            assert!(seen.of(key).into_iter().eq(0..300), "{stage}, {key}: {:?}", seen.of(key));
        }
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_blocked_does_not_hold_up_the_others() {
    topic!(SideBySide, "test-side-by-side");
    on_every_bus::<SideBySide>(async |stage| {
        stage.publish::<SideBySide>(&[("blocked", 0), ("free", 0), ("blocked", 1), ("free", 1)]).await;
        let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
        let reading = stage.consume(group(), {
            let (seen, gate) = (seen.clone(), gate.clone());
            move |delivery: Delivery<Note<SideBySide>>| {
                let (seen, gate) = (seen.clone(), gate.clone());
                async move {
                    if delivery.message.key == "blocked" {
                        let _open = gate.acquire().await?;
                    }
                    seen.add(&delivery.message);
                    Ok(())
                }
            }
        });
        eventually("the free key", async || (seen.of("free") == [0, 1]).then_some(())).await;
        assert!(seen.of("blocked").is_empty(), "{stage}");
        gate.add_permits(1);
        eventually("the blocked key", async || (seen.of("blocked") == [0, 1]).then_some(())).await;
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_repeated_and_neither_overtaken_nor_committed() {
    topic!(Retried, "test-retried");
    on_every_bus::<Retried>(async |stage| {
        stage.publish::<Retried>(&[("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1)]).await;
        let group = group();
        let (seen, attempts) = (Seen::default(), Arc::new(AtomicU32::new(0)));
        let works = Arc::new(AtomicBool::new(false));
        let start = || {
            let (seen, attempts, works) = (seen.clone(), attempts.clone(), works.clone());
            stage.consume(group, move |delivery: Delivery<Note<Retried>>| {
                let Note { key, n, .. } = &delivery.message;
                let fails = key == "a" && *n == 1 && !works.load(SeqCst);
                if fails {
                    attempts.fetch_add(1, SeqCst);
                } else {
                    seen.add(&delivery.message);
                }
                let outcome = if fails { Err(Failure::Retry(anyhow::anyhow!("not yet"))) } else { Ok(()) };
                std::future::ready(outcome)
            })
        };
        let reading = start();
        eventually("repeated attempts", async || (attempts.load(SeqCst) > 2).then_some(())).await;
        eventually("the other key", async || (seen.of("b") == [0, 1]).then_some(())).await;
        assert_eq!(seen.of("a"), [0], "{stage}");

        reading.kill().await;
        let before = seen.count();
        works.store(true, SeqCst);
        let reading = start();
        seen.reaches(before + 5).await;
        assert_eq!(seen.of("a"), [0, 0, 1, 2], "{stage}: the whole batch comes again, in order");
        assert_eq!(seen.of("b"), [0, 1, 0, 1], "{stage}");
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_handled_lies_in_the_dead_topic_and_the_partition_moves_on() {
    topic!(Dying, "test-dying");
    on_every_bus::<Dying>(async |stage| {
        let trace = Trace { request_id: "r-1".into(), traceparent: Some("00-ab-cd-01".into()) };
        let malformed = Record {
            topic: Dying::NAME.into(),
            key: "k".into(),
            payload: b"{\"key\": \"k\",".to_vec(),
            headers: trace.headers(),
        };
        let bad = vec![
            Note::<Dying>::record("k", 0),
            malformed,
            Note::<Dying>::record("k", 1),
            Note::<Dying>::record("k", 2),
        ];
        let mut all = bad.clone();
        all.push(Note::<Dying>::record("k", 3));
        stage.bus.publish(all).await.into_iter().collect::<Result<(), _>>().unwrap();
        let (seen, group) = (Seen::default(), group());
        let reading = stage.consume(group, {
            let seen = seen.clone();
            move |delivery: Delivery<Note<Dying>>| {
                // A closure may also panic before there is anything to await.
                assert!(delivery.message.n != 2, "a test's panic, on purpose");
                let seen = seen.clone();
                async move {
                    match delivery.message.n {
                        0 => Err(Failure::Reject("no such airport".into())),
                        1 => panic!("a test's panic, on purpose"),
                        _ => {
                            seen.add(&delivery.message);
                            Ok(())
                        }
                    }
                }
            }
        });
        seen.reaches(1).await;
        assert_eq!(seen.of("k"), [3], "{stage}");
        reading.stop().await;

        let dead = stage.dead(Dying::NAME, bad.len()).await;
        assert_eq!(dead.len(), bad.len(), "{stage}");
        let reasons = ["no such airport", "not a message of test-dying", "panicked", "panicked"];
        for ((dead, bad), reason) in dead.iter().zip(&bad).zip(reasons) {
            assert_eq!((&dead.key, &dead.payload), (&bad.key, &bad.payload), "{stage}");
            assert!(dead.headers["reason"].contains(reason), "{stage}: {:?}", dead.headers);
            assert!(dead.headers["origin"].starts_with("test-dying/0/"), "{stage}: {:?}", dead.headers);
            for (name, value) in &bad.headers {
                assert_eq!(dead.headers.get(name), Some(value), "{stage}");
            }
        }

        // They are behind the group for good.
        stage.publish::<Dying>(&[("k", 4)]).await;
        let (reading, seen) = stage.collect::<Dying>(group);
        seen.reaches(1).await;
        assert_eq!(seen.of("k"), [4], "{stage}");
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_where_it_was_and_a_new_one_begins_at_the_beginning() {
    topic!(Restarted, "test-restarted");
    on_every_bus::<Restarted>(async |stage| {
        let group_of_old = group();
        stage.publish::<Restarted>(&[("a", 0), ("b", 0), ("a", 1)]).await;
        let (reading, seen) = stage.collect::<Restarted>(group_of_old);
        seen.reaches(3).await;
        reading.stop().await;
        stage.publish::<Restarted>(&[("a", 2), ("b", 1)]).await;

        let (old, old_seen) = stage.collect::<Restarted>(group_of_old);
        let (new, new_seen) = stage.collect::<Restarted>(group());
        new_seen.reaches(5).await;
        old_seen.reaches(2).await;
        assert_eq!((old_seen.of("a"), old_seen.of("b")), (vec![2], vec![1]), "{stage}");
        assert_eq!((new_seen.of("a"), new_seen.of("b")), (vec![0, 1, 2], vec![0, 1]), "{stage}");
        old.stop().await;
        new.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_has_caught_up_when_it_has_handled_what_the_topic_held() {
    topic!(Awaited, "test-awaited");
    on_every_bus::<Awaited>(async |stage| {
        let (group, token) = (group(), CancellationToken::new());
        let consumer = Consumer::new(stage.bus.clone(), group, &mut Metrics::new("test", "one"));
        soon("nothing is to be read", consumer.caught_up::<Note<Awaited>>(&token)).await;

        stage.publish::<Awaited>(&[("a", 0), ("a", 1)]).await;
        let mut waiting = Box::pin(consumer.caught_up::<Note<Awaited>>(&token));
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "{stage}");
        let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let reading = stage.consume(group, {
            let (reached, gate) = (reached.clone(), gate.clone());
            move |delivery: Delivery<Note<Awaited>>| {
                let (reached, gate) = (reached.clone(), gate.clone());
                async move {
                    if delivery.message.n == 1 {
                        reached.notify_one();
                        gate.notified().await;
                    }
                    Ok(())
                }
            }
        });
        let early = async {
            reached.notified().await;
            // A look in the middle of the last message.
            let mut look = Box::pin(consumer.caught_up::<Note<Awaited>>(&token));
            let looked = tokio::time::timeout(Duration::from_secs(1), look.as_mut()).await;
            assert!(looked.is_err(), "{stage}: one message is in hand");
        };
        tokio::select! {
            () = waiting.as_mut() => panic!("{stage}: it has not caught up"),
            () = soon("the message is in hand", early) => {}
        }
        gate.notify_one();
        soon("it has caught up", waiting).await;
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_in_flight_and_commits_the_finished_prefix() {
    topic!(Stopped, "test-stopped");
    on_every_bus::<Stopped>(async |stage| {
        let group = group();
        stage.publish::<Stopped>(&[("a", 0), ("a", 1), ("a", 2), ("b", 0), ("a", 3)]).await;
        let (seen, reached, gate) = (Seen::default(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let reading = stage.consume(group, {
            let (seen, reached, gate) = (seen.clone(), reached.clone(), gate.clone());
            move |delivery: Delivery<Note<Stopped>>| {
                let (seen, reached, gate) = (seen.clone(), reached.clone(), gate.clone());
                async move {
                    if delivery.message.key == "a" && delivery.message.n == 1 {
                        reached.notify_one();
                        gate.notified().await;
                    }
                    seen.add(&delivery.message);
                    Ok(())
                }
            }
        });
        soon("the message is in hand", reached.notified()).await;
        eventually("the other key", async || (seen.of("b") == [0]).then_some(())).await;
        reading.ask_to_stop();
        gate.notify_one();
        reading.stop().await;
        assert_eq!(seen.of("a"), [0, 1], "{stage}: what was in flight is finished, nothing else begun");

        let (reading, seen) = stage.collect::<Stopped>(group);
        seen.reaches(3).await;
        // b is handled again: it stands behind a message that was not.
        assert_eq!((seen.of("a"), seen.of("b")), (vec![2, 3], vec![0]), "{stage}");
        reading.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_message_arrives_with_it() {
    topic!(Traced, "test-traced");
    on_every_bus::<Traced>(async |stage| {
        let with = |trace: &Trace| Record::of(&Note::<Traced>::new("k", 0), trace).unwrap();
        let full = Trace { request_id: "r-1".into(), traceparent: Some("00-ab-cd-01".into()) };
        let short = Trace { request_id: "r-2".into(), traceparent: None };
        let none = Record { headers: Headers::new(), ..with(&full) };
        let answers = stage.bus.publish(vec![with(&full), with(&short), none]).await;
        assert!(answers.len() == 3 && answers.iter().all(Result::is_ok), "{stage}: {answers:?}");
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let reading = stage.consume(group(), move |delivery: Delivery<Note<Traced>>| {
            tell.send(delivery.trace).unwrap();
            std::future::ready(Ok(()))
        });
        let mut next = async || soon("a message", told.recv()).await;
        assert_eq!(next().await, Some(full), "{stage}");
        assert_eq!(next().await, Some(short), "{stage}");
        assert!(!next().await.unwrap().request_id.is_empty(), "{stage}: one that begins here");
        reading.stop().await;
    })
    .await;
}

/// The real message, in a topic of its own.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Minimal(Letter);

impl Message for Minimal {
    const TOPIC: &'static str = "test-minimal";

    fn key(&self) -> String {
        self.0.key()
    }

    fn adopt(&mut self, origin: &Origin) {
        self.0.adopt(origin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_assignments_messages_get_an_id_of_their_place() {
    topic!(Place, "test-minimal");
    on_every_bus::<Place>(async |stage| {
        let record = |payload: &str| Record {
            topic: Minimal::TOPIC.into(),
            key: "ada@example.com".into(),
            payload: payload.into(),
            headers: Headers::new(),
        };
        let bare = record(r#"{"email": "ada@example.com", "subject": "s", "body": "b"}"#);
        let named = record(r#"{"id": "x", "email": "ada@example.com", "subject": "s", "body": "b"}"#);
        let answers = stage.bus.publish(vec![bare.clone(), named, bare]).await;
        assert!(answers.len() == 3 && answers.iter().all(Result::is_ok), "{stage}: {answers:?}");
        let ids_of = async |group| {
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let reading = stage.consume(group, move |delivery: Delivery<Minimal>| {
                tell.send(delivery.message.0.id).unwrap();
                std::future::ready(Ok(()))
            });
            let mut next = async || soon("a message", told.recv()).await.unwrap();
            let ids = [next().await, next().await, next().await];
            reading.stop().await;
            ids
        };
        let ids = ids_of(group()).await;
        assert!(
            ids[0].starts_with("test-minimal-0-") && ids[2].starts_with("test-minimal-0-"),
            "{stage}: {ids:?}"
        );
        assert!(ids[0] != ids[2] && ids[1] == "x", "{stage}: {ids:?}");
        assert_eq!(ids_of(group()).await, ids, "{stage}: read again, the same");
    })
    .await;
}
