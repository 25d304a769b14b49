//! PostgreSQL and Apache Kafka of this run alone, which may be killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use common::testing;

/// What is known of them, apart from those that other tests use.
const STATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/services/chaos");

#[derive(Clone, Copy, Debug)]
pub(crate) enum Server {
    Postgres,
    Kafka,
}

impl Server {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Server::Postgres => "postgres",
            Server::Kafka => "kafka",
        }
    }
}

/// Both, running. They stop when this is dropped.
pub(crate) struct Servers {
    /// A database of the server, as a URL.
    pub(crate) postgres: String,
    /// The broker itself. It sends its clients to whoever it was told.
    pub(crate) kafka: SocketAddr,
    turns: [tokio::sync::Mutex<()>; 2],
}

impl Servers {
    /// Starts both, if they are to be had here. The broker tells its clients that it is at `advertised`.
    pub(crate) async fn start(suite: &str, advertised: SocketAddr) -> Option<Servers> {
        // Where the other suites have none, there are none to be had.
        testing::kafka(suite)?;
        testing::postgres_server(suite)?;
        // A run that was killed may have left them.
        tools(&["stop"], None).await;
        let servers = tools(&["start"], Some(advertised)).await;
        let url = |server: Server| {
            let url = std::fs::read_to_string(Path::new(STATE).join(format!("{}.url", server.name())));
            url.ok().map(|url| url.trim().to_owned())
        };
        let Some((postgres, kafka)) = url(Server::Postgres).zip(url(Server::Kafka)) else {
            let why = String::from_utf8_lossy(&servers.stderr).trim().replace('\n', "; ");
            testing::skip(suite, &why);
            tools(&["stop"], None).await;
            return None;
        };
        Some(Servers { postgres, kafka: kafka.parse().unwrap(), turns: Default::default() })
    }

    /// Kills one in the middle of what it does, and starts it again on its data after so long.
    pub(crate) async fn killed(&self, server: Server, away: Duration) {
        // One that is just coming back would never seem to.
        let _turn = self.turns[server as usize].lock().await;
        succeeds(tools(&["kill", server.name()], None).await);
        tokio::time::sleep(away).await;
        succeeds(tools(&["resume", server.name()], None).await);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let stopped = std::process::Command::new(script())
            .arg("stop")
            .env("SERVICES_STATE", STATE)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !stopped.is_ok_and(|status| status.success()) {
            eprintln!("not stopped: SERVICES_STATE={STATE} tools/services.sh stop");
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/services.sh")
}

async fn tools(arguments: &[&str], advertised: Option<SocketAddr>) -> Output {
    let mut command = tokio::process::Command::new(script());
    command.args(arguments).env("SERVICES_STATE", STATE).stdin(Stdio::null());
    // Those would be used as they are.
    for shared in ["TEST_DATABASE_URL", "TEST_KAFKA", "KAFKA_BOOTSTRAP", "KAFKA_BOOTSTRAP_SERVERS"] {
        command.env_remove(shared);
    }
    command.envs(advertised.map(|advertised| ("KAFKA_ADVERTISED", advertised.to_string())));
    command.output().await.unwrap()
}

fn succeeds(output: Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
