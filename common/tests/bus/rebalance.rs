//! Consumers of a group on Kafka: they share its partitions, and hand them over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::bus::{Delivery, Failure};
use common::testing::eventually;
use tokio::sync::Semaphore;

use crate::broker::Broker;
use crate::kafka::on_kafka;
use crate::stage::{Note, Seen, Stage, Topic, group, topic};

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
