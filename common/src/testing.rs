//! For tests: the backends that are to be had here. What is not is written down, so that a skipped suite has a name.
#![doc(hidden)]
#![allow(clippy::expect_used, reason = "only tests call this")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use uuid::Uuid;

use crate::db::Backend;

/// A Kafka broker inside the process, which a test can take away.
#[cfg(feature = "kafka")]
pub use rdkafka::mocking::MockCluster;

/// A fresh database of its own for one test: a SQLite file, and a PostgreSQL database when `TEST_DATABASE_URL`
/// names a server.
pub struct TestDb {
    /// Which one, for messages.
    pub name: &'static str,
    /// For [`crate::db::open`].
    pub url: SecretString,
}

/// One SQLite and, where it can be had, one PostgreSQL database, both empty.
pub async fn databases(suite: &str) -> Vec<TestDb> {
    let file = temp_path("vedetta-test.db");
    let mut all = vec![TestDb { name: "sqlite", url: format!("sqlite:{}", file.display()).into() }];
    all.extend(postgres(suite).await.map(|url| TestDb { name: "postgres", url }));
    all
}

/// A fresh PostgreSQL database, or a skip that is written down.
pub async fn postgres(suite: &str) -> Option<SecretString> {
    let server = server("TEST_DATABASE_URL", suite, "PostgreSQL")?;
    let name = format!("vedetta_{}", Uuid::new_v4().simple());
    let server_url: SecretString = server.clone().into();
    let Backend::Postgres(pool) = crate::db::connect_for_tests(&server_url) else {
        panic!("TEST_DATABASE_URL must be postgres://…")
    };
    let create = format!("CREATE DATABASE {name}");
    sqlx::query(sqlx::AssertSqlSafe(create))
        .execute(&pool)
        .await
        .expect("TEST_DATABASE_URL: no database can be made");
    pool.close().await;
    let mut url = url::Url::parse(&server).expect("TEST_DATABASE_URL is a URL");
    url.set_path(&name);
    Some(url.to_string().into())
}

/// `host:port` of an Apache Kafka broker, or a skip that is written down.
pub fn kafka(suite: &str) -> Option<String> {
    server("TEST_KAFKA", suite, "Apache Kafka")
}

/// A path that nothing uses, in the system's folder for temporary files.
pub fn temp_path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("vedetta-{}", Uuid::new_v4().simple()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder.join(name)
}

/// How long is waited for anything: far longer than it takes on a slow machine, so that only what never comes is missed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer. [`PATIENCE`] without one fails the test.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Runs a program that is to end by itself. One that still runs after [`PATIENCE`] is killed, and has no exit code.
pub fn run(command: &mut Command) -> Output {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = piped.spawn().expect("the program starts");
    let end = Instant::now() + PATIENCE;
    while process.try_wait().expect("its state is known").is_none() {
        if Instant::now() > end {
            process.kill().expect("it can be killed");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    process.wait_with_output().expect("its output can be read")
}

/// The complaint of a program that does not start: one line, exit code 2.
pub fn complaint(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8(output.stderr).expect("a complaint is UTF-8");
    assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{command:?}: {text}");
    text
}

/// The value of `variable`; when it is unset `suite` is skipped, which `SKIP_LOG` (a file) keeps.
fn server(variable: &str, suite: &str, what: &str) -> Option<String> {
    let found = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if found.is_none()
        && let Ok(log) = std::env::var("SKIP_LOG")
    {
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(log).expect("SKIP_LOG is writable");
        // In one write: other tests append to it at the same moment.
        let line = format!("SKIPPED {suite}: {what} is not to be had ({variable} is unset)\n");
        file.write_all(line.as_bytes()).expect("SKIP_LOG is writable");
    }
    found
}
