//! Logs and metrics.

use std::io::IsTerminal;

use clap::ValueEnum;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Libraries that report what concerns one client, or, many times a second, what we report once.
const QUIET: &str = "pingora_core=off,pingora_proxy=off,librdkafka=off,rdkafka=off,sqlx=warn";

/// Starts logging to standard error; `filter` is in the syntax of `RUST_LOG`. Once in a process.
pub fn init(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| format!("the log filter is invalid: {error}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Pretty => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// The metrics of one service. Each service of a process has its own, so that several live side by side; every
/// metric carries the labels `service` and `node`, and a name `vedetta_<service>_<what>_<unit>`.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Metrics of `service` on the node called `node`.
    pub fn new(service: &str, node: &str) -> Metrics {
        let labels = [("service".into(), service.to_owned().into()), ("node".into(), node.to_owned().into())];
        let mut metrics =
            Metrics(Registry::with_prefix_and_labels(format!("vedetta_{service}"), labels.into_iter()));
        let up: Gauge = Gauge::default();
        up.set(1);
        metrics.register("up", "The service runs", up);
        metrics
    }

    /// Adds a metric; its handle is a clone that the caller keeps.
    pub fn register(&mut self, name: &str, help: &str, metric: impl Metric) {
        self.0.register(name, help, metric);
    }

    /// In the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.0);
        text
    }
}
