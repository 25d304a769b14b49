//! How every service starts, and what it is handed.

use std::fmt;
use std::fs::{File, TryLockError};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::clock::Clock;
use crate::telemetry::{self, LogFormat};

/// What a service is handed rather than makes: time, and a bus that it may share.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Real time: tokens, leases, backoff.
    pub clock: Clock,
    /// The time by which windows close. Differs from `clock` only in a time-lapse.
    pub flight_clock: Clock,
    /// A bus that is open already, shared by the services of one process; otherwise it is opened as configured.
    pub bus: Option<Bus>,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { clock: Clock::System, flight_clock: Clock::System, bus: None }
    }
}

/// A wrong or missing value that stops the start: one clear line, exit code 2.
#[derive(Debug)]
pub struct StartError(String);

impl StartError {
    /// `what` is one line that names the option and says what it must be.
    pub fn new(what: impl fmt::Display) -> StartError {
        StartError(what.to_string().replace(['\n', '\r'], " "))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Options of every process.
#[derive(Args, Clone, Debug)]
pub struct ProcessArgs {
    /// How log lines look
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "pretty")]
    pub log_format: LogFormat,
    /// What is logged: a level, or a filter like "info,sqlx=warn"
    #[arg(long, env = "LOG", default_value = "info")]
    pub log: String,
    /// How long a stop may take before the process ends anyway
    #[arg(long, env = "SHUTDOWN_GRACE", value_parser = humantime::parse_duration, default_value = "8s")]
    pub shutdown_grace: Duration,
}

#[derive(Parser, Debug)]
struct Cli<C: Args> {
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    service: C,
}

/// The command that a container's health check runs, so that an image needs no shell.
const HEALTHCHECK: &str = "healthcheck";

/// The body of every service's `main`: reads the options, starts logging, runs until SIGTERM or Ctrl-C, and turns
/// the outcome into an exit code: 0 stopped, 1 failed, 2 a wrong option. With the command `healthcheck` it asks
/// the service that runs on this machine with these options whether it is ready: 0 it is, 1 it is not.
///
/// `health` is the id of the option that says where `/readyz` is served; without one there is no such command.
pub fn main<C, F>(
    name: &'static str,
    about: &'static str,
    health: Option<&'static str>,
    run: impl FnOnce(C, CancellationToken) -> F,
) -> ExitCode
where
    C: Args,
    F: Future<Output = anyhow::Result<()>>,
{
    let mut command = Cli::<C>::command().name(name).about(about).version(env!("CARGO_PKG_VERSION"));
    if let Some(health) = health {
        command = command.mut_arg(health, |option| option.global(true)).subcommand(
            Command::new(HEALTHCHECK).about("Asks the service that runs here whether it is ready"),
        );
    }
    let found = match command.try_get_matches() {
        Ok(found) => found,
        Err(error) => return refuse(name, &error),
    };
    if let (Some(HEALTHCHECK), Some(health)) = (found.subcommand_name(), health) {
        let listen = found.get_one::<String>(health).map_or("", String::as_str);
        return match healthcheck(listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => complain(name, &format!("{why:#}"), 1),
        };
    }
    match Cli::<C>::from_arg_matches(&found) {
        Ok(cli) => start(name, &cli.process, |token| run(cli.service, token)),
        Err(error) => refuse(name, &error),
    }
}

/// Asks what listens at `listen` (IP and port) on this machine for `/readyz`; the error says what is missing.
#[tokio::main(flavor = "current_thread")]
pub async fn healthcheck(listen: &str) -> anyhow::Result<()> {
    let address = reachable(listen)?;
    let client = crate::http::client(Duration::from_secs(3))?;
    let answer = client.get(format!("http://{address}/readyz")).send().await?;
    let status = answer.status();
    let said = answer.text().await?;
    anyhow::ensure!(status.is_success(), "{address} answers {status}: {}", said.trim());
    Ok(())
}

/// Starts logging and a runtime, runs `run` until it ends or a signal and the grace period after it have passed.
pub fn start<F>(name: &str, process: &ProcessArgs, run: impl FnOnce(CancellationToken) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    crate::tls::install();
    if let Err(why) = telemetry::init(process.log_format, &process.log) {
        return complain(name, &why, 2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(name, &error.to_string(), 1),
    };
    let token = CancellationToken::new();
    let ended = runtime.block_on(async {
        tokio::spawn(cancel_on_signal(token.clone()));
        tokio::select! {
            ended = run(token.clone()) => ended,
            () = grace_over(token, process.shutdown_grace) => {
                tracing::warn!("the grace period is over; ending with work unfinished");
                Ok(())
            }
        }
    });
    // Blocking work (a query, a mail in DATA) is not waited for beyond the grace period either.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<StartError>() => complain(name, &format!("{error:#}"), 2),
        Err(error) => complain(name, &format!("{error:#}"), 1),
    }
}

async fn grace_over(token: CancellationToken, grace: Duration) {
    token.cancelled().await;
    tokio::time::sleep(grace).await;
}

/// The first SIGTERM or SIGINT asks for a stop; a second one ends the process at once.
async fn cancel_on_signal(token: CancellationToken) {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return tracing::error!("signals cannot be received");
    };
    let mut stop = async || {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    };
    stop().await;
    tracing::info!("stopping");
    token.cancel();
    stop().await;
    std::process::exit(130);
}

/// Prints help and version as asked for, anything else as one line.
fn refuse(name: &str, error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    complain(name, &one_line(error), 2)
}

/// A complaint of clap without its usage and hints, on one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[expect(clippy::print_stderr, reason = "the one line that tells why the process ends")]
fn complain(name: &str, why: &str, code: u8) -> ExitCode {
    eprintln!("{name}: {why}");
    ExitCode::from(code)
}

/// Binds a listener, or says which option names an address that cannot be had.
pub async fn bind(option: &str, address: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::new(format!("{option}: cannot listen on {address}: {error}")))
}

/// The address a listener got (its port may have been 0).
pub fn local_addr(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(StartError::new)
}

/// Where this machine reaches what listens at `address` (IP and port): at its loopback address if it listens at all.
pub fn reachable(address: &str) -> Result<SocketAddr, StartError> {
    let mut reachable: SocketAddr =
        address.parse().map_err(|_| StartError::new(format!("'{address}' is not an address and port")))?;
    match reachable.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => reachable.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => reachable.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(reachable)
}

/// A secret from an option or from the file that the option's `_FILE` twin names; empty counts as unset.
pub fn secret(
    name: &str,
    value: Option<&SecretString>,
    file: Option<&std::path::Path>,
) -> Result<Option<SecretString>, StartError> {
    use secrecy::ExposeSecret;
    let given = value.filter(|value| !value.expose_secret().trim().is_empty());
    match (given, file) {
        (Some(_), Some(_)) => Err(StartError::new(format!("{name} and {name}_FILE are both set; set one"))),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) if text.trim().is_empty() => {
                Err(StartError::new(format!("{name}_FILE: the file is empty")))
            }
            Ok(text) => Ok(Some(text.trim().to_owned().into())),
            Err(error) => Err(StartError::new(format!("{name}_FILE: {}: {error}", file.display()))),
        },
        (None, None) => Ok(None),
    }
}

/// The tasks of a running service: they end together, on cancellation or when one of them fails.
pub struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    token: CancellationToken,
}

impl Tasks {
    /// No tasks yet; they are to end when `token` is cancelled.
    pub fn new(token: &CancellationToken) -> Tasks {
        Tasks { set: JoinSet::new(), token: token.child_token() }
    }

    /// The token that the tasks watch.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Starts a task.
    pub fn spawn<E: Into<anyhow::Error>>(
        &mut self,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.set.spawn(async { task.await.map_err(Into::into) });
    }

    /// Starts a task that cannot fail.
    pub fn spawn_endless(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.set.spawn(async {
            task.await;
            Ok(())
        });
    }

    /// Waits for all; the first failure ends the others and is returned.
    pub async fn join(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.set.join_next().await {
            let ended = ended.map_err(anyhow::Error::from).flatten();
            if ended.is_err() && outcome.is_ok() {
                outcome = ended;
                self.token.cancel();
            }
        }
        outcome
    }
}

/// Who this replica is.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Name of this replica, unique among those of a service
    #[arg(long, env = "NODE", default_value_t = host_name())]
    pub node: String,
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "local".to_owned())
}

/// Where the database is; the URL may hold a password.
#[derive(Args, Clone, Debug)]
pub struct DatabaseArgs {
    /// The database: postgres://user:password@host/name or sqlite:FILE
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<SecretString>,
    /// A file that holds the database's URL
    #[arg(long, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
}

impl DatabaseArgs {
    /// A SQLite file.
    pub fn file(path: &Path) -> DatabaseArgs {
        DatabaseArgs {
            database_url: Some(format!("sqlite:{}", path.display()).into()),
            database_url_file: None,
        }
    }

    /// The URL, from either.
    pub fn url(&self) -> Result<SecretString, StartError> {
        secret("DATABASE_URL", self.database_url.as_ref(), self.database_url_file.as_deref())?.ok_or_else(
            || StartError::new("DATABASE_URL is needed: postgres://user:password@host/name or sqlite:FILE"),
        )
    }
}

/// Locks the file at `path` for this process; another process that holds it is a start error.
pub fn lock(path: &Path) -> anyhow::Result<File> {
    let opened = File::options().create(true).truncate(false).write(true).open(path);
    let file = opened.map_err(|error| StartError::new(format!("{}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StartError::new(format!("{} is in use by another process", path.display())).into())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
