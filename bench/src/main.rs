//! `load`: requests over HTTP/1.1 or HTTP/2 and TLS, as many as go or at a fixed rate, and one line of JSON about them.
//!
//! Not for anything but load: it checks no certificate.

mod cpu;
mod http1;
mod http2;
mod pace;
mod report;
mod run;
mod slow;
mod tally;
mod target;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use url::Url;

use crate::pace::Rate;
use crate::target::Target;

/// Sends requests and prints what came of them
///
/// Every connection is opened, and used once, before the clock starts. With a rate, a request's latency counts from
/// the moment at which it was due, so a server that stalls cannot hide it. The certificate is not checked, the only
/// key exchange on offer is X25519, and no TLS session is ever resumed.
#[derive(Debug, Parser)]
#[command(name = "load", version)]
struct Options {
    /// What is asked for, https or http
    #[arg(long)]
    url: Url,
    /// Connections that are kept open, each with one request at a time (HTTP/2: see --streams)
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Requests a second over all connections, or as many as go
    #[arg(long, default_value = "max", value_name = "R|max")]
    rate: Rate,
    /// At most so many requests, however long that leaves
    #[arg(long, value_name = "N")]
    requests: Option<u64>,
    /// How long: seconds, or "2m"
    #[arg(long, default_value = "5", value_parser = duration)]
    duration: Duration,
    /// HTTP/2 instead of HTTP/1.1
    #[arg(long)]
    http2: bool,
    /// Requests at once on an HTTP/2 connection
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// One request a connection (HTTP/1.1); the latency is from the connect to the end of the answer
    #[arg(long, conflicts_with_all = ["http2", "handshakes", "idle"])]
    new_connection_per_request: bool,
    /// No requests: connect, a full TLS handshake, close, and again; the latency is from the connect to the handshake's end
    #[arg(long, conflicts_with_all = ["http2", "idle"])]
    handshakes: bool,
    /// Opens the connections, sends one request on each, prints a line, holds them for the duration, then sends one
    /// more on each and prints again
    #[arg(long, conflicts_with = "http2")]
    idle: bool,
    /// Clients that are slow at this: opens the connections, prints a line, holds them for the duration, replacing those
    /// that the server ends, and prints again
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["http2", "handshakes", "idle", "new_connection_per_request"])]
    slow: Option<slow::Slow>,
    /// Between two things that a slow client does
    #[arg(long, default_value = "3", value_parser = duration)]
    every: Duration,
    /// Ends when a connection is refused: the server has stopped
    #[arg(long)]
    until_refused: bool,
    #[arg(long, default_value = "GET")]
    method: http::Method,
    /// "Name: value", as often as needed
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    #[arg(long, default_value = "")]
    body: String,
    /// How long a connect with its handshake, or a request, may take
    #[arg(long, default_value = "10", value_parser = duration)]
    timeout: Duration,
    /// Client addresses: connections come in turn from 127.0.0.1, 127.0.0.2, … (the URL must be on a loopback address)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=250))]
    sources: u8,
    /// An X-Forwarded-For in each request (HTTP/1.1), of so many addresses in turn
    #[arg(long, value_name = "N", conflicts_with = "http2")]
    forwarded_for: Option<u32>,
    /// Threads that send
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Processes whose CPU time during the run is reported as cpu_us, separated by commas (Linux)
    #[arg(long, value_delimiter = ',', value_name = "PID")]
    cpu_of: Vec<u32>,
    /// The report in one line
    #[arg(long)]
    json: bool,
}

/// Seconds, with or without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

fn print(report: &serde_json::Value, in_one_line: bool) -> anyhow::Result<()> {
    let text = if in_one_line { report.to_string() } else { serde_json::to_string_pretty(report)? };
    // Whoever waits for the line reads a pipe or a file, so it may not stay in a buffer.
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

async fn load(options: Options) -> anyhow::Result<bool> {
    let target = Arc::new(Target::new(&options).await?);
    if options.idle {
        return run::idle(&options, &target).await;
    }
    if let Some(slow) = options.slow {
        return slow::crowd(&options, slow, &target).await;
    }
    let report = run::timed(&options, &target).await?;
    print(&report, options.json)?;
    Ok(report["ok"] != 0)
}

/// Exit code 0 when at least one request was answered with 2xx, 1 when none was, 2 when nothing could be tried.
fn main() -> ExitCode {
    let options = Options::parse();
    let mut builder = match options.threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(usize::from(options.threads)).enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(load(options))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(2)
        }
    }
}
