//! The embedded log: one SQLite file that keeps topics as Kafka does, for one process.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Envelope, Error, Position, Record};
use crate::db::SqliteFile;
use crate::{row, service};

/// Records that every group has read are kept this long, in seconds.
const RETENTION: i64 = 30 * 86_400;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS record (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL, key TEXT NOT NULL, payload BLOB NOT NULL, headers TEXT NOT NULL,
        written_at INTEGER NOT NULL DEFAULT (unixepoch()));
    CREATE INDEX IF NOT EXISTS record_topic ON record (topic, position);
    CREATE TABLE IF NOT EXISTS reader (
        grp TEXT NOT NULL, topic TEXT NOT NULL, next INTEGER NOT NULL, PRIMARY KEY (grp, topic));";

/// The log. Clones share it; the file is locked against other processes.
#[derive(Clone, Debug)]
pub struct Log {
    file: SqliteFile,
    written: Arc<watch::Sender<()>>,
    _lock: Arc<File>,
}

impl Log {
    /// Opens or creates the log at `file`. Another process that has it open is a start error.
    pub async fn open(file: &Path) -> anyhow::Result<Log> {
        let lock = service::lock(&file.with_added_extension("lock"))?;
        let file = SqliteFile::new(SqliteConnectOptions::new().filename(file));
        sqlx::raw_sql(TABLES).execute(&file.writer).await?;
        Ok(Log { file, written: Arc::new(watch::Sender::new(())), _lock: Arc::new(lock) })
    }

    /// Appends in one transaction: all are durable, or none.
    pub(super) async fn publish(&self, records: Vec<Record>) -> Vec<Result<(), Error>> {
        match self.append(&records).await {
            Ok(()) => records.iter().map(|_| Ok(())).collect(),
            Err(error) => {
                let text = error.to_string();
                records.iter().map(|_| Err(Error::Log(sqlx::Error::Protocol(text.clone())))).collect()
            }
        }
    }

    async fn append(&self, records: &[Record]) -> Result<(), Error> {
        if records.is_empty() {
            return Ok(());
        }
        let mut tx = self.file.writer.begin_with("BEGIN IMMEDIATE").await?;
        for record in records {
            sqlx::query("INSERT INTO record (topic, key, payload, headers) VALUES ($1, $2, $3, $4)")
                .bind(&record.topic)
                .bind(&record.key)
                .bind(&record.payload)
                .bind(serde_json::to_string(&record.headers)?)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        self.written.send_replace(());
        Ok(())
    }

    pub(super) async fn ready(&self) -> Result<(), Error> {
        Ok(sqlx::query("SELECT 1").execute(&self.file.readers).await.map(|_| ())?)
    }

    /// A reader that goes on where its group has committed, or at the beginning.
    pub(super) async fn reader(
        &self,
        group: &str,
        topic: &str,
        token: &CancellationToken,
    ) -> Result<Reader, Error> {
        // The row also keeps what this group has not read from being pruned.
        let next: i64 = sqlx::query_scalar(
            "INSERT INTO reader (grp, topic, next) VALUES ($1, $2, 0) \
             ON CONFLICT (grp, topic) DO UPDATE SET next = reader.next RETURNING next",
        )
        .bind(group)
        .bind(topic)
        .fetch_one(&self.file.writer)
        .await?;
        let written = self.written.subscribe();
        Ok(Reader {
            log: self.clone(),
            written,
            group: group.to_owned(),
            topic: topic.to_owned(),
            next,
            token: token.clone(),
        })
    }

    /// Removes, now and every hour until cancelled, what is older than 30 days and read by all groups of its topic.
    /// Topics that nobody reads (dead ones) are kept.
    pub async fn keep_pruned(&self, token: CancellationToken) {
        loop {
            let pruned = sqlx::query(
                "DELETE FROM record WHERE written_at < unixepoch() - $1 \
                 AND position < (SELECT MIN(next) FROM reader WHERE reader.topic = record.topic)",
            )
            .bind(RETENTION)
            .execute(&self.file.writer)
            .await;
            if let Err(error) = pruned {
                tracing::warn!(%error, "the log was not pruned");
            }
            if token.run_until_cancelled(tokio::time::sleep(Duration::from_secs(3600))).await.is_none() {
                return;
            }
        }
    }

    /// The records of a topic from the beginning, for looking at dead topics and for tests.
    pub async fn read_all(&self, topic: &str) -> Result<Vec<Record>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT position, topic, key, payload, headers FROM record WHERE topic = $1 ORDER BY position",
        )
        .bind(topic)
        .fetch_all(&self.file.readers)
        .await?;
        rows.into_iter().map(Row::record).collect()
    }

    pub(super) async fn remove_before(&self, topic: &str, positions: &[Position]) -> Result<(), Error> {
        let Some(position) = positions.last() else { return Ok(()) };
        sqlx::query("DELETE FROM record WHERE topic = $1 AND position < $2")
            .bind(topic)
            .bind(position.next)
            .execute(&self.file.writer)
            .await?;
        Ok(())
    }

    pub(super) async fn read_from(
        &self,
        topic: &str,
        next: i64,
        most: usize,
        held: &CancellationToken,
    ) -> Result<Vec<Envelope>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT position, topic, key, payload, headers FROM record \
             WHERE topic = $1 AND position >= $2 ORDER BY position LIMIT $3",
        )
        .bind(topic)
        .bind(next)
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(&self.file.readers)
        .await?;
        let envelope = |row: Row| {
            let (partition, offset) = (0, row.position);
            Ok(Envelope { partition, offset, record: row.record()?, held: held.clone() })
        };
        rows.into_iter().map(envelope).collect()
    }

    pub(super) async fn ends(&self, topic: &str) -> Result<Vec<Position>, Error> {
        let query = "SELECT COALESCE(MAX(position), 0) + 1 FROM record WHERE topic = $1";
        let next = sqlx::query_scalar(query).bind(topic).fetch_one(&self.file.readers).await?;
        Ok(vec![Position { partition: 0, next }])
    }

    pub(super) async fn has_reached(
        &self,
        group: &str,
        topic: &str,
        ends: &[Position],
    ) -> Result<bool, Error> {
        let query = "SELECT NOT EXISTS (SELECT 1 FROM record WHERE topic = $2 AND position < $3 AND position >= \
                     COALESCE((SELECT next FROM reader WHERE grp = $1 AND topic = $2), 0))";
        let end = ends.first().map_or(0, |end| end.next);
        Ok(sqlx::query_scalar(query).bind(group).bind(topic).bind(end).fetch_one(&self.file.readers).await?)
    }

    /// How many records of a topic a group has not committed yet.
    pub async fn lag(&self, group: &str, topic: &str) -> Result<i64, Error> {
        let query = "SELECT COUNT(*) FROM record WHERE topic = $2 AND position >= \
                     COALESCE((SELECT next FROM reader WHERE grp = $1 AND topic = $2), 0)";
        Ok(sqlx::query_scalar(query).bind(group).bind(topic).fetch_one(&self.file.readers).await?)
    }
}

row! {
    struct Row {
        position: i64,
        topic: String,
        key: String,
        payload: Vec<u8>,
        headers: String,
    }
}

impl Row {
    fn record(self) -> Result<Record, Error> {
        let headers = serde_json::from_str(&self.headers)?;
        Ok(Record { topic: self.topic, key: self.key, payload: self.payload, headers })
    }
}

pub(super) struct Reader {
    log: Log,
    written: watch::Receiver<()>,
    group: String,
    topic: String,
    next: i64,
    token: CancellationToken,
}

impl Reader {
    pub(super) async fn next(&mut self, most: usize) -> Result<Vec<Envelope>, Error> {
        loop {
            // Seen before the look, so that what is written during it wakes us.
            self.written.mark_unchanged();
            let read = self.log.read_from(&self.topic, self.next, most, &self.token).await?;
            if !read.is_empty() {
                return Ok(read);
            }
            self.written.changed().await.map_err(|_| Error::Stopped)?;
        }
    }

    pub(super) async fn commit(&mut self, positions: &[Position]) -> Result<(), Error> {
        let Some(position) = positions.last() else { return Ok(()) };
        sqlx::query("UPDATE reader SET next = $1 WHERE grp = $2 AND topic = $3")
            .bind(position.next)
            .bind(&self.group)
            .bind(&self.topic)
            .execute(&self.log.file.writer)
            .await?;
        self.next = position.next;
        Ok(())
    }
}
