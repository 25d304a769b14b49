//! What the outbox promises, on SQLite and, where `TEST_DATABASE_URL` names a server, on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;

use common::bus::{Bus, Log};
use common::db::{self, Db};
use common::messages::Message;
use common::on;
use common::outbox::{Place, Relay, put};
use common::telemetry::Metrics;
use common::testing::{databases, temp_path};
use common::trace::Trace;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use sqlx::SqlitePool;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use common::testing::eventually;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    key: String,
    text: String,
}

impl Message for Note {
    const TOPIC: &'static str = "test-outbox";

    fn key(&self) -> String {
        self.key.clone()
    }
}

/// A database with an outbox, and an embedded log to carry it to.
struct Office {
    name: &'static str,
    db: Db,
    log: Log,
    file: PathBuf,
}

impl Office {
    async fn put(&self, key: &str, window_begin: i64, texts: &[&str]) {
        let mut tx = self.db.begin().await.unwrap();
        for text in texts {
            put_in(&mut tx, key, window_begin, text, text).await;
        }
        tx.commit().await.unwrap();
    }

    /// What the log has, as texts.
    async fn published(&self) -> Vec<String> {
        texts(&self.log).await
    }

    /// Waits until the log has `count` messages; their texts.
    async fn publishes(&self, count: usize) -> Vec<String> {
        eventually("published messages", async || {
            Some(self.published().await).filter(|texts| texts.len() >= count)
        })
        .await
    }

    async fn sql(&self, text: &'static str) {
        on!(self.db.writer(), |pool| sqlx::query(text).execute(pool).await.map(|_| ())).unwrap();
    }

    async fn count(&self, query: &'static str) -> i64 {
        on!(self.db.reader(), |pool| sqlx::query_scalar(query).fetch_one(pool).await).unwrap()
    }

    fn relay(&self, holder: &str) -> Working {
        work(&self.db, Bus::Embedded(self.log.clone()), holder)
    }
}

async fn put_in(tx: &mut db::Tx, key: &str, window_begin: i64, part: &str, text: &str) {
    let note = Note { key: key.to_owned(), text: text.to_owned() };
    let place = Place { window_begin, part: part.to_owned() };
    put(tx, &note, &place, &Trace::start(), 1_000_000).await.unwrap();
}

async fn texts(log: &Log) -> Vec<String> {
    let records = log.read_all(Note::TOPIC).await.unwrap();
    records.iter().map(|record| serde_json::from_slice::<Note>(&record.payload).unwrap().text).collect()
}

/// A relay at work.
struct Working {
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Working {
    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap();
    }
}

fn work(db: &Db, bus: Bus, holder: &str) -> Working {
    let token = CancellationToken::new();
    let relay = Relay::new(db.clone(), bus, holder, &mut Metrics::new("test", holder));
    let task = tokio::spawn(relay.run(token.clone()));
    Working { token, task }
}

async fn log() -> (Log, PathBuf) {
    let file = temp_path("bus.db");
    (Log::open(&file).await.unwrap(), file)
}

/// Shows one behaviour on every database that is to be had, with the tables that the services have.
async fn in_every_office(behaviour: impl AsyncFn(Office)) {
    let tables = AssertSqlSafe(include_str!("../../user_manager/migrations/0002_outbox.sql")).into_sql_str();
    let migration = Migration::new(1, "outbox".into(), MigrationType::Simple, tables, false);
    let migrations = Migrator::with_migrations(vec![migration]);
    let offices = databases("common::outbox").await.into_iter().map(async |test| {
        let (log, file) = log().await;
        behaviour(Office { name: test.name, db: db::open(&test.url, &migrations).await.unwrap(), log, file })
            .await;
    });
    join_all(offices).await;
}

#[test]
fn the_services_have_the_same_tables() {
    let ours = include_str!("../../user_manager/migrations/0002_outbox.sql");
    assert_eq!(ours, include_str!("../../data_collector/migrations/0002_outbox.sql"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_leaves_if_and_only_if_its_transaction_commits() {
    in_every_office(async |office| {
        let relay = office.relay("a");
        let mut tx = office.db.begin().await.unwrap();
        put_in(&mut tx, "k", 0, "undone", "undone").await;
        drop(tx);
        office.put("k", 0, &["committed"]).await;
        assert_eq!(office.publishes(1).await, ["committed"], "{}", office.name);
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_holds_one_message_only() {
    in_every_office(async |office| {
        let again = async |text| {
            let mut tx = office.db.begin().await.unwrap();
            put_in(&mut tx, "k", 10, "0", text).await;
            tx.commit().await.unwrap();
        };
        again("first").await;
        again("before it left").await;
        let relay = office.relay("a");
        office.publishes(1).await;
        let waiting = "SELECT COUNT(*) FROM outbox WHERE published_at IS NULL";
        eventually("it is marked", async || (office.count(waiting).await == 0).then_some(())).await;
        again("after it left").await;
        office.put("k", 20, &["last"]).await;
        assert_eq!(office.publishes(2).await, ["first", "last"], "{}", office.name);
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_leaves_window_by_window_and_within_one_as_it_was_put_in() {
    in_every_office(async |office| {
        office.put("k", 30, &["30"]).await;
        office.put("k", 10, &["10-z", "10-a"]).await;
        office.put("other", 5, &["other"]).await;
        office.put("k", 20, &["20-9", "20-10"]).await;
        office.put("k", 10, &["10-b"]).await;
        let relay = office.relay("a");
        let mut published = office.publishes(7).await;
        assert!(published[..2].contains(&"other".to_owned()), "{}: keys side by side", office.name);
        published.retain(|text| text != "other");
        assert_eq!(published, ["10-z", "10-a", "10-b", "20-9", "20-10", "30"], "{}", office.name);
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_does_not_take_stays_until_it_does() {
    in_every_office(async |office| {
        let log = SqlitePool::connect(&format!("sqlite:{}", office.file.display())).await.unwrap();
        let rename = async |from, to| {
            let text = AssertSqlSafe(format!("ALTER TABLE {from} RENAME TO {to}"));
            sqlx::query(text).execute(&log).await.unwrap();
        };
        rename("record", "gone").await;
        office.put("k", 0, &["first", "second"]).await;
        let relay = office.relay("a");
        // It holds its lease and has met the broken log.
        eventually("the relay works", async || {
            (office.count("SELECT COUNT(*) FROM outbox_lease").await == 1).then_some(())
        })
        .await;
        relay.stop().await;
        assert_eq!(office.count("SELECT COUNT(*) FROM outbox WHERE published_at IS NULL").await, 2);

        let relay = office.relay("a");
        rename("gone", "record").await;
        assert_eq!(office.publishes(2).await, ["first", "second"], "{}", office.name);
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relay_works_until_its_lease_runs_out() {
    in_every_office(async |office| {
        let (other_log, _) = log().await;
        let first = office.relay("a");
        office.put("k", 0, &["0"]).await;
        office.publishes(1).await;
        let second = work(&office.db, Bus::Embedded(other_log.clone()), "b");
        for n in 1..4 {
            office.put("k", n, &["to the first"]).await;
            office.publishes(1 + usize::try_from(n).unwrap()).await;
        }
        first.stop().await;
        assert!(texts(&other_log).await.is_empty(), "{}", office.name);

        office.sql("UPDATE outbox_lease SET held_until = 0").await;
        office.put("k", 9, &["to the second"]).await;
        eventually("the second takes over", async || {
            (texts(&other_log).await == ["to the second"]).then_some(())
        })
        .await;
        assert_eq!(office.published().await.len(), 4, "{}", office.name);
        second.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_restarts_takes_its_own_lease_up_at_once() {
    in_every_office(async |office| {
        let relay = office.relay("a");
        office.put("k", 0, &["before"]).await;
        office.publishes(1).await;
        relay.stop().await;
        // Nobody else could have it for years.
        office.sql("UPDATE outbox_lease SET held_until = held_until + 1000000000").await;
        let relay = office.relay("a");
        office.put("k", 1, &["after"]).await;
        assert_eq!(office.publishes(2).await, ["before", "after"], "{}", office.name);
        relay.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_kept_for_a_week() {
    in_every_office(async |office| {
        office.put("old", 0, &["old"]).await;
        office.put("young", 0, &["young"]).await;
        let relay = office.relay("a");
        office.publishes(2).await;
        relay.stop().await;
        office.sql("UPDATE outbox SET published_at = published_at - 8 * 86400 WHERE key = 'old'").await;
        office.sql("UPDATE outbox SET published_at = published_at - 6 * 86400 WHERE key = 'young'").await;
        office.put("waiting", 0, &["waiting"]).await;
        office.sql("UPDATE outbox SET created_at = 0").await;
        let relay = office.relay("a");
        eventually("the old one goes", async || {
            (office.count("SELECT COUNT(*) FROM outbox WHERE key = 'old'").await == 0).then_some(())
        })
        .await;
        assert_eq!(office.publishes(3).await[2], "waiting", "{}", office.name);
        relay.stop().await;
        assert_eq!(office.count("SELECT COUNT(*) FROM outbox").await, 2, "{}", office.name);
    })
    .await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_down_is_waited_for() {
    use common::bus::{BusArgs, Consumer, Delivery, ProducerStyle};
    use rdkafka::mocking::MockCluster;

    in_every_office(async |office| {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic(Note::TOPIC, 1, 1).unwrap();
        broker.create_topic(&common::messages::dead_topic(Note::TOPIC), 1, 1).unwrap();
        let args = BusArgs {
            bus_url: Some(format!("kafka://{}", broker.bootstrap_servers()).parse().unwrap()),
            bus_producer_opts: Some("message.timeout.ms=500,reconnect.backoff.max.ms=100".to_owned().into()),
            bus_consumer_opts: Some("session.timeout.ms=6000".to_owned().into()),
            ..BusArgs::default()
        };
        let bus = Bus::open(&args, ProducerStyle::Immediate).await.unwrap();
        broker.broker_down(-1).unwrap();
        office.put("k", 0, &["first", "second"]).await;
        let mut metrics = Metrics::new("test", "a");
        let relay = Relay::new(office.db.clone(), bus.clone(), "a", &mut metrics);
        let token = CancellationToken::new();
        let relaying = tokio::spawn(relay.run(token.clone()));
        // A round that has failed has counted what is left.
        let failed =
            async || metrics.encode().contains(r#"outbox_waiting_messages{service="test",node="a"} 2"#);
        eventually("a round that fails", async || failed().await.then_some(())).await;
        assert_eq!(office.count("SELECT COUNT(*) FROM outbox WHERE published_at IS NULL").await, 2);
        broker.broker_up(-1).unwrap();

        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let consumer = Consumer::new(bus, "test-outbox", &mut Metrics::new("test", "b"));
        let consuming = tokio::spawn(consumer.run(token.clone(), move |delivery: Delivery<Note>| {
            tell.send(delivery.message.text).unwrap();
            std::future::ready(Ok(()))
        }));
        assert_eq!(told.recv().await.as_deref(), Some("first"), "{}", office.name);
        assert_eq!(told.recv().await.as_deref(), Some("second"), "{}", office.name);
        token.cancel();
        relaying.await.unwrap();
        consuming.await.unwrap().unwrap();
    })
    .await;
}
