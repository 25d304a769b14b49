//! A database that is there for a benchmark alone.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::db::{Backend, Db, migrations};
use common::on;
use secrecy::SecretString;
use sqlx::AssertSqlSafe;
use url::Url;

/// Its name on a PostgreSQL server; one that an earlier run left is removed.
const NAME: &str = "vedetta_bench";

/// A database of its own.
pub struct Database {
    /// For the service.
    pub url: SecretString,
    made_by: MadeBy,
}

enum MadeBy {
    File(PathBuf),
    /// The server, and the database's name on it.
    Server(Db, String),
}

impl Database {
    /// Makes it, empty: `sqlite:DIRECTORY` or a server, `postgres://…`.
    pub async fn create(place: &str) -> anyhow::Result<Database> {
        Database::named(place, NAME).await
    }

    /// The same for one service of several.
    pub async fn of(place: &str, service: &str) -> anyhow::Result<Database> {
        Database::named(place, &format!("{NAME}_{service}")).await
    }

    async fn named(place: &str, name: &str) -> anyhow::Result<Database> {
        if let Some(directory) = place.strip_prefix("sqlite:") {
            let file = PathBuf::from(directory).join(format!("{name}.db"));
            let url = format!("sqlite:{}", file.display()).into();
            remove_files(&file)?;
            return Ok(Database { url, made_by: MadeBy::File(file) });
        }
        let server = common::db::open(&place.into(), &migrations(&[])).await?;
        execute(&server, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        execute(&server, format!("CREATE DATABASE {name}")).await?;
        let mut url = Url::parse(place).context("the server's address")?;
        url.set_path(name);
        Ok(Database { url: url.to_string().into(), made_by: MadeBy::Server(server, name.to_owned()) })
    }

    /// How many flights are stored.
    pub async fn flights(&self) -> anyhow::Result<i64> {
        let db = self.open().await?;
        let count =
            on!(db.reader(), |pool| sqlx::query_scalar("SELECT COUNT(*) FROM flight").fetch_one(pool).await)?;
        db.close().await;
        Ok(count)
    }

    /// Has PostgreSQL count what its planner goes by, as autovacuum does a while after many changes. SQLite is left as the
    /// product leaves it.
    pub async fn analyze(&self) -> anyhow::Result<()> {
        let db = self.open().await?;
        if let Backend::Postgres(_) = &db {
            execute(&db, "VACUUM ANALYZE".to_owned()).await?;
        }
        db.close().await;
        Ok(())
    }

    /// Removes it.
    pub async fn remove(self) -> anyhow::Result<()> {
        match self.made_by {
            MadeBy::File(file) => remove_files(&file),
            MadeBy::Server(server, name) => {
                execute(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await
            }
        }
    }

    async fn open(&self) -> anyhow::Result<Db> {
        // Its tables are the service's.
        let mut as_it_is = migrations(&[]);
        as_it_is.set_ignore_missing(true);
        common::db::open(&self.url, &as_it_is).await
    }
}

/// What a PostgreSQL server's `fsync` is: a figure of a server that does not wait for its disk has to say so.
pub async fn fsync(server: &str) -> anyhow::Result<String> {
    let db = common::db::open(&server.into(), &migrations(&[])).await?;
    let setting =
        on!(db.reader(), |pool| sqlx::query_scalar("SELECT current_setting('fsync')").fetch_one(pool).await)?;
    db.close().await;
    Ok(setting)
}

async fn execute(db: &Db, sql: String) -> anyhow::Result<()> {
    on!(db.writer(), |pool| sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.map(|_| ()))?;
    Ok(())
}

fn remove_files(file: &Path) -> anyhow::Result<()> {
    for end in ["", "-wal", "-shm"] {
        match std::fs::remove_file(format!("{}{end}", file.display())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}
