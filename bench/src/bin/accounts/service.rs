//! A user_manager as a process of its own, so that its memory is its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::Response;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

pub(crate) struct Service {
    process: Child,
    api: String,
    /// Its admin port, `http://host:port`.
    pub(crate) admin: String,
    http: reqwest::Client,
    /// How many people have registered.
    pub(crate) registered: AtomicU64,
    _folder: TempDir,
}

impl Service {
    pub(crate) async fn start(program: &Path, database: &SecretString) -> anyhow::Result<Service> {
        let folder = tempfile::tempdir()?;
        let mut process = Command::new(program)
            .env_clear()
            .envs(["LISTEN", "GRPC_LISTEN", "ADMIN_LISTEN"].map(|name| (name, "127.0.0.1:0")))
            .env("DATABASE_URL", database.expose_secret())
            .env("BUS_URL", format!("log:{}", folder.path().join("bus.db").display()))
            .envs([("LOG_FORMAT", "json"), ("LOG", "user_manager=info,warn")])
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut lines = BufReader::new(process.stderr.take().context("its log")?).lines();
        let (api, admin) = loop {
            let line = lines.next_line().await?.context("it did not start")?;
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if let (Some(api), Some(admin)) = (line["addr"].as_str(), line["admin"].as_str()) {
                break (format!("http://{api}"), format!("http://{admin}"));
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = common::http::client(Duration::from_secs(60))?;
        Ok(Service { process, api, admin, http, registered: AtomicU64::new(0), _folder: folder })
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Result<Response> {
        self.http.post(format!("{}{path}", self.api)).json(body).send().await
    }

    /// Deletes the account of a token.
    pub(crate) async fn delete(&self, token: &str) -> anyhow::Result<()> {
        let request = self.http.delete(format!("{}/me", self.api)).bearer_auth(token);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        Ok(format!("/proc/{}/{file}", self.process.id().context("it has ended")?))
    }

    /// The most memory it has held since [`Service::forget_peak`].
    pub(crate) fn peak_mb(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(self.proc("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }

    /// The peak is from now on (proc(5), clear_refs).
    pub(crate) fn forget_peak(&self) -> anyhow::Result<()> {
        Ok(std::fs::write(self.proc("clear_refs")?, "5")?)
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.process.kill().await?)
    }
}
