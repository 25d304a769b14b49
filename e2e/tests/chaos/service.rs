//! A process that is killed, and started again where it was.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use common::testing::PATIENCE;
use e2e::process::binary;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::ledger::Ledger;

/// What a process is given.
pub(crate) type Environment = Vec<(&'static str, String)>;

pub(crate) struct Service {
    /// Of the binary.
    name: &'static str,
    /// Told apart from others of the same binary.
    pub(crate) node: &'static str,
    /// Whether it sends mails.
    pub(crate) sends: bool,
    environment: Environment,
    /// What all its lives have said.
    log: PathBuf,
    life: Mutex<Life>,
}

struct Life {
    child: Child,
    /// Where in the log it begins.
    begins: usize,
}

impl Service {
    /// Starts it. What it says goes into a file in `folder`.
    pub(crate) fn start(
        name: &'static str,
        node: &'static str,
        sends: bool,
        environment: Environment,
        folder: &Path,
    ) -> Service {
        let log = folder.join(format!("{node}.log"));
        let life = Mutex::new(Life::begin(name, &environment, &log));
        Service { name, node, sends, environment, log, life }
    }

    /// Kills it in the middle of what it does, and starts it again after so long.
    pub(crate) async fn killed(&self, away: Duration, ledger: &Ledger) {
        let mut life = self.life.lock().await;
        if self.sends {
            ledger.kill();
        }
        life.child.kill().await.unwrap();
        tokio::time::sleep(away).await;
        *life = Life::begin(self.name, &self.environment, &self.log);
    }

    /// Starts it again, as a supervisor does, when it gave up at its start: what it needs was away for too long. One that
    /// has begun its work must never end by itself.
    pub(crate) async fn revived(&self, ledger: &Ledger) {
        // Whoever kills it starts it again.
        let Ok(mut life) = self.life.try_lock() else { return };
        let Some(status) = life.child.try_wait().unwrap() else { return };
        let said = self.said().split_off(life.begins);
        let has_begun = said.contains(r#""admin":""#);
        assert!(status.code() == Some(1) && !has_begun, "{} ended by itself ({status}): {said}", self.node);
        ledger.count(format!("{} gave up at its start", self.node));
        *life = Life::begin(self.name, &self.environment, &self.log);
    }

    /// Asks it to stop, as a supervisor does. It ends well, and has never panicked.
    pub(crate) async fn stopped(&self) {
        let mut life = self.life.lock().await;
        let pid = life.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
        let ended = tokio::time::timeout(PATIENCE, life.child.wait()).await;
        let status: ExitStatus = ended.unwrap_or_else(|_| panic!("{} does not end", self.node)).unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.node);
        assert!(!self.said().contains("panicked"), "{} panicked: {}", self.node, self.log.display());
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Life {
    fn begin(name: &str, environment: &Environment, log: &Path) -> Life {
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let begins = log.metadata().unwrap().len() as usize;
        let child = Command::new(binary(name))
            .env_clear()
            .env("LOG_FORMAT", "json")
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Life { child, begins }
    }
}
