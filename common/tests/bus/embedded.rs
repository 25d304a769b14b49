//! What only the embedded log does.

use common::bus::{Bus, Log, ProducerStyle, Record};
use common::messages::dead_topic;
use common::service::StartError;
use common::testing::temp_path;
use sqlx::SqlitePool;
use tokio_util::sync::CancellationToken;

use crate::stage::{Note, Stage, Topic, args, group, topic};

topic!(Kept, "test-kept");

async fn publish(log: &Log, records: Vec<Record>) {
    Bus::Embedded(log.clone()).publish(records).await.into_iter().collect::<Result<(), _>>().unwrap();
}

fn notes(numbers: std::ops::Range<u32>) -> Vec<Record> {
    numbers.map(|n| Note::<Kept>::record("k", n)).collect()
}

#[tokio::test]
async fn a_log_that_is_open_is_refused_to_others() {
    let file = temp_path("bus.db");
    let log = Log::open(&file).await.unwrap();
    let url = format!("log:{}", file.display());
    let refused = Bus::open(&args(&url), ProducerStyle::Immediate).await.unwrap_err();
    let why = format!("{refused:#}");
    assert!(refused.is::<StartError>() && why.contains("in use by another process"), "{why}");
    drop(log);
    Bus::open(&args(&url), ProducerStyle::Immediate).await.unwrap();
}

#[tokio::test]
async fn records_outlive_the_log_that_wrote_them() {
    let file = temp_path("bus.db");
    let log = Log::open(&file).await.unwrap();
    publish(&log, notes(0..3)).await;
    let written = log.read_all(Kept::NAME).await.unwrap();
    assert_eq!(written.len(), 3);
    drop(log);
    let log = Log::open(&file).await.unwrap();
    assert_eq!(log.read_all(Kept::NAME).await.unwrap(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_once_every_group_has_read_it() {
    let file = temp_path("bus.db");
    let log = Log::open(&file).await.unwrap();
    let read_by = async |group, count| {
        let stage = Stage::of(Bus::Embedded(log.clone()));
        let (reading, seen) = stage.collect::<Kept>(group);
        seen.reaches(count).await;
        reading.stop().await;
    };
    let prune = async || {
        let token = CancellationToken::new();
        token.cancel();
        log.keep_pruned(token).await;
        let left = log.read_all(Kept::NAME).await.unwrap();
        left.iter()
            .map(|record| serde_json::from_slice::<Note<Kept>>(&record.payload).unwrap().n)
            .collect::<Vec<_>>()
    };
    let (ahead, behind) = (group(), group());
    publish(&log, notes(0..2)).await;
    read_by(behind, 2).await;
    publish(&log, vec![Record { topic: dead_topic(Kept::NAME), ..Note::<Kept>::record("k", 9) }]).await;
    publish(&log, notes(2..5)).await;
    read_by(ahead, 5).await;
    assert_eq!(
        (log.lag(behind, Kept::NAME).await.unwrap(), log.lag(ahead, Kept::NAME).await.unwrap()),
        (3, 0)
    );
    assert_eq!(prune().await, [0, 1, 2, 3, 4], "nothing is old");

    let rows = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let age = "UPDATE record SET written_at = written_at - 31 * 86400 WHERE position < (SELECT MAX(position) FROM record)";
    sqlx::query(age).execute(&rows).await.unwrap();
    assert_eq!(prune().await, [2, 3, 4], "one group has not read 2");
    read_by(behind, 3).await;
    assert_eq!(prune().await, [4], "4 is young");
    assert_eq!(log.read_all(&dead_topic(Kept::NAME)).await.unwrap().len(), 1, "nobody reads a dead topic");
}
