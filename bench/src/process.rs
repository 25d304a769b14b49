//! Programs that a benchmark starts: each a process of its own, so that its memory is its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::{Child, Command};

/// How long anything may take that takes seconds at most.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// How often is looked, where a look costs little.
pub const LOOK: Duration = Duration::from_millis(20);
/// How long a process may take over its end.
const GRACE: Duration = Duration::from_secs(15);

/// A running process; it is killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it. What it prints goes into a file of `folder`: to read it from a pipe would take time from what is measured.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    /// Waits for a line of JSON in its log that has this field, and gives the line.
    pub async fn tells(&mut self, field: &str) -> anyhow::Result<Value> {
        let what = format!("{} to tell its {field}", self.name);
        until(&what, async || {
            self.check()?;
            let log = std::fs::read_to_string(&self.log)?;
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Ok(lines.find(|line| !line[field].is_null()))
        })
        .await
    }

    /// Fails, with the end of its log, when it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!("{} has ended: {status}\n{}", self.name, self.last_words()),
        }
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// The most memory it has held, in MB.
    pub fn peak_mb(&self) -> anyhow::Result<f64> {
        let pid = self.child.id().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }

    /// Asks it to stop, so that it leaves its consumer groups, and waits for that.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.check()?;
        let pid = self.child.id().context("it has ended")?;
        Command::new("kill").args(["-TERM", &pid.to_string()]).status().await?;
        let ended = tokio::time::timeout(GRACE, self.child.wait()).await;
        ended.with_context(|| format!("{} does not stop", self.name))??;
        Ok(())
    }
}

/// Asks again and again until there is an answer; [`PATIENCE`] without one is a failure.
pub async fn until<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(LOOK).await;
    }
}
