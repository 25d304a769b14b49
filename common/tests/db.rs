//! What `common::db` promises, on SQLite and, where `TEST_DATABASE_URL` names a server, on PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use common::db::{self, Db, Tx};
use common::on;
use common::service::StartError;
use common::testing::{databases, temp_path};
use futures::future::join_all;
use secrecy::SecretString;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr};

fn migrations() -> Migrator {
    let sql = "CREATE TABLE counter (name TEXT PRIMARY KEY, value BIGINT NOT NULL, free BOOLEAN NOT NULL)";
    let sql = AssertSqlSafe(sql).into_sql_str();
    Migrator::with_migrations(vec![Migration::new(1, "counter".into(), MigrationType::Simple, sql, false)])
}

/// Shows one behaviour on every database that is to be had.
async fn on_every_database(behaviour: impl AsyncFn(&str, Db)) {
    for test in databases("common::db").await {
        behaviour(test.name, db::open(&test.url, &migrations()).await.unwrap()).await;
    }
}

async fn add(tx: &mut Tx, name: &str) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query("INSERT INTO counter (name, value, free) VALUES ($1, 0, $2)")
            .bind(name)
            .bind(true)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

async fn names(db: &Db) -> Vec<String> {
    on!(db.reader(), |pool| sqlx::query_scalar("SELECT name FROM counter ORDER BY name")
        .fetch_all(pool)
        .await)
    .unwrap()
}

#[tokio::test]
async fn one_text_writes_and_reads_the_same_on_both() {
    on_every_database(async |name, db| {
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "a").await.unwrap();
        tx.commit().await.unwrap();
        let row: (String, i64, bool) =
            on!(db.reader(), |pool| sqlx::query_as("SELECT name, value, free FROM counter")
                .fetch_one(pool)
                .await)
            .unwrap();
        assert_eq!(row, ("a".into(), 0, true), "{name}");
        db.ping().await.unwrap();
        db.close().await;
        assert!(db.ping().await.is_err(), "{name}: closed");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_dropped_is_undone() {
    on_every_database(async |name, db| {
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "dropped").await.unwrap();
        drop(tx);
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "committed").await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(names(&db).await, ["committed"], "{name}");
    })
    .await;
}

#[tokio::test]
async fn a_row_that_exists_is_told_from_other_errors() {
    on_every_database(async |name, db| {
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "a").await.unwrap();
        assert!(db::is_taken(&add(&mut tx, "a").await.unwrap_err()), "{name}");
        drop(tx);
        let null = "INSERT INTO counter (name, value, free) VALUES ('a', NULL, NULL)";
        let error = on!(db.writer(), |pool| sqlx::query(null).execute(pool).await.map(|_| ())).unwrap_err();
        assert!(!db::is_taken(&error), "{name}: {error}");
    })
    .await;
}

/// Reads the value, then writes it back one higher.
async fn count_up(db: &Db) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    let read = match &tx {
        // PostgreSQL's transactions run at once; the row is locked by who reads it in order to write.
        Tx::Postgres(_) => "SELECT value FROM counter WHERE name = 'a' FOR UPDATE",
        Tx::Sqlite(_) => "SELECT value FROM counter WHERE name = 'a'",
    };
    let value: i64 = on!(&mut tx, |tx| sqlx::query_scalar(read).fetch_one(&mut **tx).await?);
    on!(&mut tx, |tx| {
        sqlx::query("UPDATE counter SET value = $1 WHERE name = 'a'")
            .bind(value + 1)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })?;
    tx.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn contended_transactions_that_read_first_all_succeed() {
    for test in databases("common::db").await {
        let (name, db) = (test.name, db::open(&test.url, &migrations()).await.unwrap());
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "a").await.unwrap();
        tx.commit().await.unwrap();
        // As another process would have it.
        let other = db::open(&test.url, &migrations()).await.unwrap();
        let all = (0..200).map(|n| {
            let db = if n % 2 == 0 { db.clone() } else { other.clone() };
            tokio::spawn(async move { count_up(&db).await })
        });
        for outcome in join_all(all).await {
            outcome.unwrap().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let value: i64 =
            on!(db.reader(), |pool| sqlx::query_scalar("SELECT value FROM counter").fetch_one(pool).await)
                .unwrap();
        assert_eq!(value, 200, "{name}");
    }
}

#[tokio::test]
async fn sqlites_readers_cannot_write() {
    let url = format!("sqlite:{}", temp_path("vedetta-test.db").display()).into();
    let db = db::open(&url, &migrations()).await.unwrap();
    let write = "INSERT INTO counter (name, value, free) VALUES ('a', 0, TRUE)";
    let error = on!(db.reader(), |pool| sqlx::query(write).execute(pool).await.map(|_| ())).unwrap_err();
    assert!(error.to_string().contains("readonly"), "{error}");
    on!(db.writer(), |pool| sqlx::query(write).execute(pool).await.map(|_| ())).unwrap();
    assert_eq!(names(&db).await, ["a"]);
}

#[tokio::test]
async fn a_full_sqlite_file_takes_transactions_again_when_there_is_room() {
    let url = format!("sqlite:{}", temp_path("vedetta-test.db").display()).into();
    let db = db::open(&url, &migrations()).await.unwrap();
    let full = "PRAGMA max_page_count = 20";
    on!(db.writer(), |pool| sqlx::query(full).execute(pool).await.map(|_| ())).unwrap();
    let mut tx = db.begin().await.unwrap();
    let error = add(&mut tx, &"large ".repeat(100_000)).await.unwrap_err();
    assert!(error.to_string().contains("full"), "{error}");
    drop(tx);
    let mut tx = db.begin().await.unwrap();
    add(&mut tx, "small").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(names(&db).await, ["small"]);
}

#[tokio::test]
async fn opening_again_changes_nothing() {
    for test in databases("common::db").await {
        let db = db::open(&test.url, &migrations()).await.unwrap();
        let mut tx = db.begin().await.unwrap();
        add(&mut tx, "a").await.unwrap();
        tx.commit().await.unwrap();
        let again = db::open(&test.url, &migrations()).await.unwrap();
        assert_eq!(names(&again).await, ["a"], "{}", test.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_the_tables_once() {
    // A SQLite file belongs to one process; only PostgreSQL has replicas.
    let Some(url) = common::testing::postgres("common::db").await else { return };
    let migrations = migrations();
    for db in join_all((0..4).map(|_| db::open(&url, &migrations))).await {
        assert!(names(&db.unwrap()).await.is_empty());
    }
}

#[tokio::test]
async fn a_migration_may_take_longer_than_a_request() {
    let Some(url) = common::testing::postgres("common::db").await else { return };
    let sql = "CREATE TABLE bound AS SELECT current_setting('statement_timeout') AS while_migrating";
    let steps = vec![Migration::new(1, "bound".into(), MigrationType::Simple, sql.into_sql_str(), false)];
    let db = db::open(&url, &Migrator::with_migrations(steps)).await.unwrap();
    let Db::Postgres(pool) = db else { panic!("not PostgreSQL") };
    let bounds: (String, String) =
        sqlx::query_as("SELECT while_migrating, current_setting('statement_timeout') FROM bound")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(bounds, ("0".into(), "30s".into()));
}

#[tokio::test]
async fn a_wrong_url_stops_the_start_and_is_not_repeated() {
    let bad = [
        "",
        "hunter2",
        "mysql://root:hunter2@localhost/x",
        "postgres://root:hunter2@localhost:port/x",
        "postgres://root:hunter2@[::1/x",
        "sqlite:x?mode=hunter2",
    ];
    for url in bad {
        let error = db::open(&SecretString::from(url), &migrations()).await.map(|_| ()).unwrap_err();
        assert!(error.is::<StartError>(), "{url}: {error:#}");
        for text in [format!("{error:#}"), format!("{error:?}")] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    // A folder that is not there is no reason to wait.
    let nowhere = temp_path("no-such-folder").join("x.db");
    let error = db::open(&format!("sqlite:{}", nowhere.display()).into(), &migrations()).await.map(|_| ());
    assert!(format!("{:#}", error.unwrap_err()).contains("unable to open"));
}

#[tokio::test]
async fn the_databases_clocks_show_the_same_time() {
    let mut times = vec![common::clock::Clock::System.now()];
    for test in databases("common::db").await {
        let db = db::open(&test.url, &migrations()).await.unwrap();
        times.push(db.begin().await.unwrap().now().await.unwrap());
    }
    assert!(times.iter().all(|time| (time - times[0]).abs() < 60), "{times:?}");
}
