//! `pipeline`: how fast a counted window becomes mails: interests judged a second, mails a second, and the time from a
//! window's commit to the mail server's 250; each beside a straightforward Python program for the same work.

mod broker;
mod evaluations;
mod latency;
mod mails;
mod messages;
mod setup;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;

use bench::process::PATIENCE;
use bench::table::Report;
use clap::{Parser, ValueEnum};

use crate::broker::Broker;
use crate::setup::Setup;

#[derive(Parser)]
#[command(about = "How fast a counted window becomes mails")]
struct Options {
    /// An Apache Kafka broker of this machine, host:port, whose topics of Vedetta are deleted
    #[arg(long)]
    kafka: String,
    /// A PostgreSQL server, postgres://…, on which the databases `vedetta_bench…` are made anew
    #[arg(long)]
    database: String,
    /// A folder for logs and for what is kept in files
    #[arg(long)]
    folder: PathBuf,
    /// The folder of the services' programs
    #[arg(long)]
    programs: PathBuf,
    /// A Python interpreter that has confluent-kafka
    #[arg(long)]
    python: PathBuf,
    /// The folder of the Python programs
    #[arg(long, default_value = "bench/pipeline")]
    scripts: PathBuf,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "evaluations,mails,latency")]
    only: Vec<Part>,
    /// Rounds of evaluations and of mails, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Interests judged a second
    Evaluations,
    /// Mails sent a second
    Mails,
    /// From a commit to the mail server's 250
    Latency,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    common::tls::install();
    let options = Options::parse();
    let setup = Setup {
        broker: Broker::new(&options.kafka)?,
        server: options.database,
        folder: options.folder,
        programs: options.programs,
        python: options.python,
        scripts: options.scripts,
        rounds: options.rounds.into(),
        http: common::http::client(PATIENCE)?,
    };
    let mut report = Report::default();
    let measured = measure(&setup, &options.only, &mut report).await;
    // Whatever came of it, nothing is left on the broker.
    let removed = setup.broker.remove().await;
    measured?;
    removed?;
    Ok(report.verdict())
}

async fn measure(setup: &Setup, parts: &[Part], report: &mut Report) -> anyhow::Result<()> {
    if parts.contains(&Part::Evaluations) {
        evaluations::measure(setup, report).await?;
    }
    if parts.contains(&Part::Mails) {
        mails::measure(setup, report).await?;
    }
    if parts.contains(&Part::Latency) {
        latency::measure(setup, report).await?;
    }
    Ok(())
}
