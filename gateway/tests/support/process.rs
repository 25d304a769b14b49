//! The gateway as a process of its own, for what only a process has: signals, and an end.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use common::auth::{Feed, Signer};
use common::clock::Clock;
use common::types::Account;
use gateway::gen_cert::{self, Options, Summary};
use reqwest::{Certificate, Client, ClientBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::echo::{self, Echo};
use super::{LONG, eventually};

/// What gateways are started in: services, a key feed, a folder.
pub struct Town {
    pub folder: TempDir,
    pub user_manager: Echo,
    signer: Signer,
    keys: SocketAddr,
}

impl Town {
    pub async fn new() -> Town {
        let signer = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
        let feed = Feed { keys: vec![signer.public().clone()], revoked: vec![] };
        Town {
            folder: TempDir::new().unwrap(),
            user_manager: Echo::start("user_manager").await,
            signer,
            keys: echo::serve_feed(feed).await,
        }
    }

    /// A certificate in a folder of this name.
    pub fn certificate(&self, name: &str, san: &[&str], days: u16) -> Summary {
        let san = san.iter().map(|name| (*name).to_owned()).collect();
        let options =
            Options { san, days, force: true, ..Options::into_folder(self.folder.path().join(name)) };
        gen_cert::generate(&options, &Clock::System).unwrap()
    }

    /// A token that is valid by the clock on the wall.
    pub fn token(&self) -> String {
        self.signer
            .token(Account::new_random(), &"ada@example.com".parse().unwrap(), Clock::System.now())
            .unwrap()
    }

    /// A gateway with this certificate, on free ports unless `flags` say otherwise.
    pub fn spawn(&self, cert: &Summary, flags: &[&str]) -> Process {
        let cert =
            [format!("--tls-cert={}", cert.cert.display()), format!("--tls-key={}", cert.key.display())];
        let flags: Vec<&str> = cert.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        self.spawn_with(&flags)
    }

    fn spawn_with(&self, flags: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command
            .current_dir(self.folder.path())
            .env("LOG_FORMAT", "json")
            .args(["serve", "--shutdown-grace=60s"])
            .args(flags);
        let (service, keys) = (format!("http://{}", self.user_manager.addr), self.keys.port().to_string());
        for (flag, value) in [
            ("--user-manager-url", service.as_str()),
            ("--data-collector-url", service.as_str()),
            ("--user-manager-admin-port", keys.as_str()),
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--upgrade-socket", "upgrade.sock"),
            ("--rate-limit", "off"),
        ] {
            if !flags.iter().any(|given| given.starts_with(flag)) {
                command.arg(format!("{flag}={value}"));
            }
        }
        Process::spawn(command)
    }

    /// [`Town::spawn`], and waits until it is ready.
    pub async fn start(&self, cert: &Summary, flags: &[&str]) -> Process {
        self.spawn(cert, flags).ready().await
    }

    /// A gateway with the certificates of a configuration file.
    pub async fn start_with_file(&self, file: &str) -> Process {
        self.spawn_with(&[&format!("--config={file}")]).ready().await
    }

    /// A client that trusts these certificates.
    pub fn client(&self, addr: SocketAddr, certs: &[&Summary]) -> ClientBuilder {
        let roots =
            certs.iter().map(|cert| Certificate::from_pem(&std::fs::read(&cert.cert).unwrap()).unwrap());
        Client::builder().tls_certs_only(roots).timeout(LONG).resolve("localhost", addr)
    }
}

/// A running gateway; killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn spawn(mut command: Command) -> Process {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), log.clone());
        let reader = thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
        });
        Process { child, log, reader: Some(reader) }
    }

    async fn ready(self) -> Process {
        self.serves().await;
        eventually(async || self.admin("/readyz").await.is_some_and(|answer| answer == "ready\n")).await;
        self
    }

    /// All lines so far that contain this.
    pub fn lines(&self, text: &str) -> Vec<String> {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Waits for a line that contains this.
    pub async fn says(&self, text: &str) -> String {
        eventually(async || !self.lines(text).is_empty()).await;
        self.lines(text).swap_remove(0)
    }

    /// Waits until it serves.
    pub async fn serves(&self) {
        self.says("\"serving\"").await;
    }

    fn told(&self, field: &str) -> SocketAddr {
        let line: Value = serde_json::from_str(&self.lines("\"serving\"")[0]).unwrap();
        line[field].as_str().unwrap().parse().unwrap()
    }

    /// Where it said it serves HTTPS.
    pub fn addr(&self) -> SocketAddr {
        self.told("addr")
    }

    /// Where it said it serves the admin port.
    pub fn admin_addr(&self) -> SocketAddr {
        self.told("admin")
    }

    /// A page of the admin port, if there is an answer.
    pub async fn admin(&self, path: &str) -> Option<String> {
        let answer = Client::new().get(format!("http://{}{path}", self.admin_addr())).send().await.ok()?;
        answer.text().await.ok()
    }

    /// The metric of this name whose labels contain `label`.
    pub async fn metric(&self, (name, label): (&str, &str)) -> Option<f64> {
        let page = self.admin("/metrics").await?;
        let line = page.lines().find(|line| line.starts_with(name) && line.contains(label))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        // A thread may end between the two.
        names.filter_map(|name| Some(name.ok()?.trim_end().to_owned())).collect()
    }

    /// Waits until it has ended, and all of its log has been read.
    pub async fn ends(&mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually(async || child.lock().unwrap().try_wait().unwrap().is_some()).await;
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        self.child.wait().unwrap()
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

/// Clients that ask without a pause.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Each client asks for `url` again and again; `fresh` ones make a new connection each time.
    pub fn start(clients: Vec<Client>, url: &str, token: &str) -> Load {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ask = |client: Client| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let (url, token) = (url.to_owned(), token.to_owned());
            tokio::spawn(async move {
                let mut lost = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.get(&url).bearer_auth(&token).send().await;
                    match answer.and_then(|answer| answer.error_for_status()) {
                        Ok(answer) => match answer.bytes().await {
                            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => lost.push(format!("{error:?}")),
                        },
                        Err(error) => lost.push(format!("{error:?}")),
                    }
                }
                lost
            })
        };
        Load { clients: clients.into_iter().map(ask).collect(), stop, answered }
    }

    /// Waits until so many more requests have been answered.
    pub async fn answers(&self, more: u64) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        eventually(async || self.answered.load(Ordering::Relaxed) >= until).await;
    }

    /// Stops, and asserts that every request was answered.
    pub async fn lost_nothing(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            assert_eq!(client.await.unwrap(), Vec::<String>::new());
        }
    }
}
