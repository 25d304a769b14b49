//! For tests: the backends that are to be had here. What is not is written down, so that a skipped suite has a name.
#![doc(hidden)]
#![allow(clippy::expect_used, reason = "only tests call this")]

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::Backend;
use crate::rpc::users::users_server::{Users, UsersServer};
use crate::rpc::users::verify_user_request::Who;
use crate::rpc::users::{User, VerifyUserRequest, VerifyUserResponse};
use crate::types::{Account, Email};

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

impl TestDb {
    /// Changes rows behind a service's back.
    pub async fn execute(&self, text: &'static str) {
        let db = crate::db::connect_for_tests(&self.url);
        crate::on!(db.writer(), |pool| sqlx::query(text).execute(pool).await.map(|_| ()))
            .expect("it can be done");
        db.close().await;
    }

    /// Changes its tables: several statements, in its own words.
    pub async fn execute_all(&self, statements: String) {
        let db = crate::db::connect_for_tests(&self.url);
        let done = crate::on!(db.writer(), |pool| sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
            .execute(pool)
            .await
            .map(|_| ()));
        db.close().await;
        done.expect("it can be done");
    }

    /// One number out of the database.
    pub async fn number(&self, query: &'static str) -> i64 {
        let db = crate::db::connect_for_tests(&self.url);
        let found = crate::on!(db.reader(), |pool| sqlx::query_scalar(query).fetch_one(pool).await);
        db.close().await;
        found.expect("there is a number")
    }

    /// A column of texts out of the database.
    pub async fn texts(&self, query: &'static str) -> Vec<String> {
        let db = crate::db::connect_for_tests(&self.url);
        let found = crate::on!(db.reader(), |pool| sqlx::query_scalar(query).fetch_all(pool).await);
        db.close().await;
        found.expect("there are texts")
    }
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
    Some(database_on(&postgres_server(suite)?).await)
}

/// A PostgreSQL server, as the URL of one of its databases, or a skip that is written down.
pub fn postgres_server(suite: &str) -> Option<String> {
    server("TEST_DATABASE_URL", suite, "PostgreSQL")
}

/// A fresh database on that PostgreSQL server.
pub async fn database_on(server: &str) -> SecretString {
    let name = format!("vedetta_{}", Uuid::new_v4().simple());
    let Backend::Postgres(pool) = crate::db::connect_for_tests(&server.to_owned().into()) else {
        panic!("TEST_DATABASE_URL must be postgres://…")
    };
    let create = format!("CREATE DATABASE {name}");
    sqlx::query(sqlx::AssertSqlSafe(create)).execute(&pool).await.expect("no database can be made");
    pool.close().await;
    let mut url = url::Url::parse(server).expect("the server's address is a URL");
    url.set_path(&name);
    url.to_string().into()
}

/// `host:port` of an Apache Kafka broker, or a skip that is written down. It may have any of three names: the tests' own, and
/// those of the assignment.
pub fn kafka(suite: &str) -> Option<String> {
    let names = ["TEST_KAFKA", "KAFKA_BOOTSTRAP", "KAFKA_BOOTSTRAP_SERVERS"];
    let named = names.into_iter().find(|name| std::env::var(name).is_ok_and(|value| !value.is_empty()));
    server(named.unwrap_or(names[0]), suite, "Apache Kafka")
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

/// What stops a server, and its end.
type Serving = (CancellationToken, JoinHandle<Result<(), tonic::transport::Error>>);

/// Somebody who answers VerifyUser, for those who were added.
#[derive(Clone)]
pub struct Directory {
    /// Where it listens, `http://host:port`.
    pub url: String,
    addr: SocketAddr,
    users: Arc<Mutex<Vec<User>>>,
    serving: Arc<Mutex<Option<Serving>>>,
}

impl Directory {
    /// Starts it, without anybody in it. It serves until it is stopped.
    pub async fn start() -> Directory {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let directory =
            Directory { url: format!("http://{addr}"), addr, users: Arc::default(), serving: Arc::default() };
        directory.serve(listener);
        directory
    }

    fn serve(&self, listener: TcpListener) {
        let (service, stop) = (UsersServer::new(self.clone()), CancellationToken::new());
        let token = stop.clone();
        let connections = crate::http::connections(listener);
        let served = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(connections, token.cancelled())
                .await
        });
        *self.serving.lock().expect("no test panics here") = Some((stop, served));
    }

    /// Somebody has an account.
    pub fn add(&self, account: Account, email: &Email) {
        let user = User { account: account.to_string(), email: email.as_str().to_owned() };
        self.users.lock().expect("no test panics here").push(user);
    }

    /// The account is deleted.
    pub fn remove(&self, account: Account) {
        self.users.lock().expect("no test panics here").retain(|user| user.account != account.to_string());
    }

    /// It is away from now on: connections are refused.
    pub async fn stop(&self) {
        let serving = self.serving.lock().expect("no test panics here").take();
        let (stop, served) = serving.expect("it serves");
        stop.cancel();
        served.await.expect("it does not panic").expect("it serves until it is stopped");
    }

    /// It is there again, where it was, with everybody in it.
    pub async fn resume(&self) {
        let listener = eventually("the port", async || TcpListener::bind(self.addr).await.ok()).await;
        self.serve(listener);
    }
}

#[tonic::async_trait]
impl Users for Directory {
    async fn verify_user(
        &self,
        request: tonic::Request<VerifyUserRequest>,
    ) -> Result<tonic::Response<VerifyUserResponse>, tonic::Status> {
        let who = request.into_inner().who;
        let users = self.users.lock().expect("no test panics here");
        let user = users.iter().find(|user| match &who {
            Some(Who::Account(account)) => user.account == *account,
            Some(Who::Email(email)) => user.email == *email,
            None => false,
        });
        Ok(tonic::Response::new(VerifyUserResponse { user: user.cloned() }))
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

/// The value of `variable`; when it is unset `suite` is skipped.
fn server(variable: &str, suite: &str, what: &str) -> Option<String> {
    let found = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if found.is_none() {
        skip(suite, &format!("{what} is not to be had ({variable} is unset)"));
    }
    found
}

/// Writes down in `SKIP_LOG` (a file), if there is one, that `suite` is skipped.
pub fn skip(suite: &str, why: &str) {
    let Ok(log) = std::env::var("SKIP_LOG") else { return };
    let mut file =
        std::fs::OpenOptions::new().create(true).append(true).open(log).expect("SKIP_LOG is writable");
    // In one write: other tests append to it at the same moment.
    file.write_all(format!("SKIPPED {suite}: {why}\n").as_bytes()).expect("SKIP_LOG is writable");
}
