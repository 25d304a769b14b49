//! Real processes: the binaries as a person would start them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::PATIENCE;

/// The binary of this name, built beside this test; with `CHAOS_BINARIES` (a folder) the one that lies there.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("CHAOS_BINARIES").map(PathBuf::from);
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned();
    let built = folder.unwrap_or_else(beside).join(name);
    assert!(built.exists(), "{} is missing: cargo build --workspace --bins --all-features", built.display());
    built
}

/// A sample of the metrics of the service at this admin port.
pub async fn metric(admin: SocketAddr, service: &str, metric: &str) -> f64 {
    let text = reqwest::get(format!("http://{admin}/metrics")).await.unwrap().text().await.unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("vedetta_{service}_{metric}{{")));
    line.unwrap_or_else(|| panic!("{metric} is not in {text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

/// A running process; it is killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a binary with nothing in its environment but these variables.
    pub fn start(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut child = Command::new(binary(name))
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = Arc::default();
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        Process { name: name.to_owned(), child, output }
    }

    /// What it has printed up to now.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// The lines of its log that are JSON.
    pub fn log(&self) -> Vec<Value> {
        self.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line with this text; gives the word that follows it.
    pub async fn prints(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let output = self.output();
            // A line that is not whole yet may lack the end of the word.
            if let Some((_, rest)) = output.split_once(text).filter(|(_, rest)| rest.contains('\n')) {
                return rest.split_whitespace().next().unwrap_or_default().to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "{} does not print '{text}' but: {output}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The address that follows this text in its output.
    pub async fn address(&self, text: &str) -> SocketAddr {
        let word = self.prints(text).await;
        word.parse().unwrap_or_else(|_| panic!("{word} is no address"))
    }

    /// Kills it with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to stop, as a supervisor does; gives its exit code.
    pub async fn stop(self) -> Option<i32> {
        self.stop_by("-TERM").await
    }

    /// Asks it to stop, as Ctrl-C does; gives its exit code.
    pub async fn interrupt(self) -> Option<i32> {
        self.stop_by("-INT").await
    }

    async fn stop_by(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().expect("it still runs").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
        self.ended().await
    }

    /// Waits for it to end; gives its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} does not end: {}", self.name, self.output())).unwrap().code()
    }
}

fn collect(pipe: impl AsyncRead + Unpin + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = output.clone();
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut output = output.lock().unwrap();
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// A test that fails shows what its processes said.
impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.name, self.output());
        }
    }
}
