//! What every part needs: the broker, the places of databases, the programs.

use std::ffi::OsStr;
use std::path::PathBuf;

use bench::process::Process;
use tokio::process::Command;

use crate::broker::Broker;

pub(crate) struct Setup {
    pub(crate) broker: Broker,
    /// A PostgreSQL server, `postgres://…`.
    pub(crate) server: String,
    /// For logs, and for databases and buses that are files.
    pub(crate) folder: PathBuf,
    /// The services' programs.
    pub(crate) programs: PathBuf,
    /// The interpreter that has confluent-kafka.
    pub(crate) python: PathBuf,
    /// `alerts.py` and `mails.py`.
    pub(crate) scripts: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) http: reqwest::Client,
}

impl Setup {
    /// Starts a service on loopback ports of its choice, as it is but for these options.
    pub(crate) fn service(
        &self,
        name: &str,
        options: &[(&str, impl AsRef<OsStr>)],
    ) -> anyhow::Result<Process> {
        let mut command = Command::new(self.programs.join(name));
        command
            .env_clear()
            .env("LOG_FORMAT", "json")
            .envs(["LISTEN", "GRPC_LISTEN", "ADMIN_LISTEN"].map(|option| (option, "127.0.0.1:0")))
            .envs(options.iter().map(|(option, value)| (option, value)));
        Process::start(name, command, &self.folder)
    }

    /// Starts one of the Python programs.
    pub(crate) fn script(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.python);
        command.env_clear().arg(self.scripts.join(name)).args(arguments);
        Process::start(name, command, &self.folder)
    }

    /// Whether a service has an option; the environment alone would not complain.
    pub(crate) async fn has_option(&self, service: &str, option: &str) -> anyhow::Result<bool> {
        let help = Command::new(self.programs.join(service)).arg("--help").output().await?;
        Ok(String::from_utf8_lossy(&help.stdout).contains(option))
    }
}
