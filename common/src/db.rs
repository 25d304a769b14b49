//! One SQL text on two databases.
//!
//! The SQL keeps to what SQLite and PostgreSQL share: TEXT, BIGINT (times as Unix seconds), BOOLEAN, DOUBLE
//! PRECISION, natural keys, `$1` parameters, `ON CONFLICT`, `RETURNING`.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, PgPool, Postgres, SqlStr, Sqlite, SqlitePool, Transaction};

use crate::retry::Backoff;
use crate::service::StartError;

/// Something that exists once for each database.
#[derive(Clone, Debug)]
pub enum Backend<S, P> {
    /// For SQLite.
    Sqlite(S),
    /// For PostgreSQL.
    Postgres(P),
}

/// A database. Clones share its connections.
pub type Db = Backend<SqliteFile, PgPool>;
/// A transaction that may write. Dropped without a commit it is undone.
pub type Tx = Backend<Transaction<'static, Sqlite>, Transaction<'static, Postgres>>;

/// An SQLite file. It takes one writer at a time: those of this process wait for their turn in the queue of a pool of one
/// connection. Left to SQLite they would ask again and again whether the file is free, with longer and longer pauses.
#[derive(Clone, Debug)]
pub struct SqliteFile {
    pub(crate) writer: SqlitePool,
    /// These wait for nobody, and cannot write.
    pub(crate) readers: SqlitePool,
}

impl SqliteFile {
    /// Connects when it is first used.
    pub(crate) fn new(options: SqliteConnectOptions) -> SqliteFile {
        let options = options
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What is committed outlives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10));
        let pool = |connections, options| {
            // After a full disk SQLite has ended a transaction that sqlx still counts: such a connection begins no other.
            let pool = SqlitePoolOptions::new()
                .max_connections(connections)
                .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
            pool.acquire_timeout(Duration::from_secs(10)).connect_lazy_with(options)
        };
        SqliteFile { writer: pool(1, options.clone()), readers: pool(3, options.pragma("query_only", "ON")) }
    }
}

/// Evaluates one expression for whichever database it is: `on!(db.reader(), |pool| query.fetch_one(pool).await)`.
#[macro_export]
macro_rules! on {
    ($backend:expr, |$conn:ident| $body:expr) => {
        match $backend {
            $crate::db::Backend::Sqlite($conn) => $body,
            $crate::db::Backend::Postgres($conn) => $body,
        }
    };
}

/// Declares a struct whose fields are read from the columns of the same names, in any of the two databases. (sqlx derives
/// this too, but its macros would build both drivers, SQLite and the crypto library a second time, for the compiler.)
#[macro_export]
macro_rules! row {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[$meta])*
        $vis struct $name { $($(#[$field_meta])* $field_vis $field: $type),+ }

        impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for $name
        where
            &'static str: sqlx::ColumnIndex<R>,
            $($type: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,)+
        {
            fn from_row(row: &'r R) -> sqlx::Result<$name> {
                Ok($name { $($field: row.try_get(stringify!($field))?),+ })
            }
        }
    };
}

/// A service's migrations, in order: a name and the SQL of each. Once released, none of them changes.
pub fn migrations(steps: &[(&'static str, &'static str)]) -> Migrator {
    let migration = |(version, (name, sql)): (i64, &(&'static str, &'static str))| {
        Migration::new(version, Cow::Borrowed(*name), MigrationType::Simple, SqlStr::from_static(sql), false)
    };
    Migrator { migrations: (1..).zip(steps).map(migration).collect(), ..Migrator::DEFAULT }
}

/// How long the start waits for a database that does not answer.
const START_WAIT: Duration = Duration::from_secs(60);

/// Opens `postgres://…` or `sqlite:PATH` and brings its tables up to date. A database that is not there yet is waited
/// for up to a minute.
pub async fn open(url: &SecretString, migrations: &Migrator) -> anyhow::Result<Db> {
    let db = connect(url.expose_secret())?;
    if let Backend::Sqlite(file) = &db {
        // A file that cannot be opened now will not be later either.
        let opened = file.writer.acquire().await;
        opened
            .map_err(|error| StartError::new(format!("DATABASE_URL: the file cannot be opened: {error}")))?;
    }
    tokio::time::timeout(START_WAIT, answers(&db))
        .await
        .context("the database did not answer for a minute")?
        .context("the database refuses")?;
    migrate(&db, migrations).await.context("the database's tables cannot be brought up to date")?;
    Ok(db)
}

/// Waits until the database answers.
async fn answers(db: &Db) -> sqlx::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match db.ping().await {
            Err(error) if is_away(&error) => {
                tracing::warn!(%error, "the database does not answer; waiting for it");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            done => return done,
        }
    }
}

/// Takes as long as it takes: a migration may copy a large table, and wait for another replica's.
async fn migrate(db: &Db, migrations: &Migrator) -> Result<(), MigrateError> {
    match db {
        Backend::Sqlite(file) => migrations.run(&file.writer).await,
        Backend::Postgres(pool) => {
            let unbounded = [("statement_timeout", "0"), ("lock_timeout", "0")];
            let options = PgConnectOptions::clone(&pool.connect_options()).options(unbounded);
            let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
            let done = migrations.run(&pool).await;
            pool.close().await;
            done
        }
    }
}

fn connect(url: &str) -> Result<Db, StartError> {
    // What the parsers say may hold the password, so it is not repeated.
    let invalid =
        || StartError::new("DATABASE_URL must be postgres://user:password@host/name or sqlite:PATH");
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let options = PgConnectOptions::from_str(url).map_err(|_| invalid())?;
        let options = options.options([("statement_timeout", "30s"), ("lock_timeout", "10s")]);
        let pool = PgPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(5));
        Ok(Backend::Postgres(pool.connect_lazy_with(options)))
    } else if url.starts_with("sqlite:") {
        let options = SqliteConnectOptions::from_str(url).map_err(|_| invalid())?;
        Ok(Backend::Sqlite(SqliteFile::new(options)))
    } else {
        Err(invalid())
    }
}

fn is_away(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)
        // cannot_connect_now: PostgreSQL is starting up
        || error.as_database_error().is_some_and(|e| e.code().as_deref() == Some("57P03"))
}

impl Db {
    /// Begins a transaction. On SQLite it is the only one, and takes the write lock at once: a transaction that reads first
    /// and then wants to write would be refused when another process wrote in between.
    pub async fn begin(&self) -> sqlx::Result<Tx> {
        Ok(match self {
            Backend::Sqlite(file) => Backend::Sqlite(file.writer.begin_with("BEGIN IMMEDIATE").await?),
            Backend::Postgres(pool) => Backend::Postgres(pool.begin().await?),
        })
    }

    /// For one statement that reads.
    pub fn reader(&self) -> Backend<&SqlitePool, &PgPool> {
        match self {
            Backend::Sqlite(file) => Backend::Sqlite(&file.readers),
            Backend::Postgres(pool) => Backend::Postgres(pool),
        }
    }

    /// For one statement that writes.
    pub fn writer(&self) -> Backend<&SqlitePool, &PgPool> {
        match self {
            Backend::Sqlite(file) => Backend::Sqlite(&file.writer),
            Backend::Postgres(pool) => Backend::Postgres(pool),
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> sqlx::Result<()> {
        on!(self.reader(), |pool| sqlx::query("SELECT 1").execute(pool).await.map(|_| ()))
    }

    /// Waits until all connections are closed.
    pub async fn close(&self) {
        match self {
            Backend::Sqlite(file) => {
                file.readers.close().await;
                file.writer.close().await;
            }
            Backend::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    /// Makes the changes last.
    pub async fn commit(self) -> sqlx::Result<()> {
        on!(self, |tx| tx.commit().await)
    }

    /// The database's clock in Unix seconds: the one clock that replicas share.
    pub async fn now(&mut self) -> sqlx::Result<i64> {
        match self {
            Backend::Sqlite(tx) => sqlx::query_scalar("SELECT unixepoch()").fetch_one(&mut **tx).await,
            Backend::Postgres(tx) => {
                sqlx::query_scalar("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)")
                    .fetch_one(&mut **tx)
                    .await
            }
        }
    }
}

/// Whether a statement failed because such a row exists already.
pub fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// A pool without tables, for making databases in tests.
#[doc(hidden)]
#[allow(clippy::expect_used, reason = "only tests call this")]
pub fn connect_for_tests(url: &SecretString) -> Db {
    connect(url.expose_secret()).expect("a database URL")
}

/// Whether an error will pass by itself: no connection, or no turn in time.
pub fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => match error.code().as_deref() {
            // PostgreSQL: deadlock, serialization, lock_timeout, statement_timeout, shutting down or starting, too many
            // connections.
            Some("40P01" | "40001" | "55P03" | "57014" | "57P01" | "57P02" | "57P03" | "53300") => true,
            // SQLite: SQLITE_BUSY, also while it recovers, in a snapshot that is too old, and after a wait.
            Some("5" | "261" | "517" | "773") => true,
            _ => false,
        },
        _ => false,
    }
}
