//! `collection`: how fast data_collector stores flights and how fast it answers, on one database of its own.

mod ingest;
mod queries;
mod service;

use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::database::Database;
use bench::table::Report;
use clap::{Parser, ValueEnum};
use data_collector::bench::Loader;

use crate::ingest::Ingest;

/// Midnight that begins the recording, Monday 2 April 2001, and its length in days.
const BEGIN: i64 = 986_169_600;
const RECORDED_DAYS: usize = 28;
/// The recording ten times over.
const INGEST_DAYS: usize = 10 * RECORDED_DAYS;
/// Days that make 1.0 and 10.0 million flights.
const MILLIONS: [usize; 2] = [60, 600];
/// Days that are stored window by window.
const WINDOW_DAYS: usize = 5;

#[derive(Parser)]
#[command(about = "How fast data_collector stores flights and answers about them")]
struct Options {
    /// A PostgreSQL server, postgres://…, on which the database `vedetta_bench` is made anew; or sqlite:DIRECTORY
    #[arg(long)]
    database: String,
    /// The recorded flights, ndjson.gz
    #[arg(long)]
    recording: PathBuf,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "windows,ingest,queries")]
    only: Vec<Part>,
    /// Requests of each kind
    #[arg(long, default_value_t = 2000)]
    requests: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Storing window by window, as the collector does
    Windows,
    /// Storing the recording ten times over, a day a transaction
    Ingest,
    /// Answers at one and at ten million flights
    Queries,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    common::tls::install();
    // In a task, as in a service: the thread that runs `main` would have to be woken for every answer of a database.
    tokio::spawn(run(Options::parse())).await?
}

async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    if options.only.contains(&Part::Windows) {
        let database = Database::create(&options.database).await?;
        windows(&options, &database, &mut report).await?;
        database.remove().await?;
    }
    if options.only.contains(&Part::Ingest) || options.only.contains(&Part::Queries) {
        let database = Database::create(&options.database).await?;
        days(&options, &database, &mut report).await?;
        database.remove().await?;
    }
    Ok(report.verdict())
}

async fn loader(options: &Options, database: &Database) -> anyhow::Result<Loader> {
    let file = std::fs::File::open(&options.recording)
        .with_context(|| format!("{} cannot be read", options.recording.display()))?;
    let lines = BufReader::new(flate2::read::GzDecoder::new(file));
    Loader::open(&database.url, lines, BEGIN, RECORDED_DAYS).await
}

/// One transaction for each airport and day.
async fn windows(options: &Options, database: &Database, report: &mut Report) -> anyhow::Result<()> {
    let mut loader = loader(options, database).await?;
    let (mut put, mut windows, mut took) = (0, 0, Duration::ZERO);
    for _ in 0..WINDOW_DAYS {
        loader.plan().await?;
        let begin = Instant::now();
        let (flights, stored) = loader.windows().await?;
        took += begin.elapsed();
        put += flights;
        windows += stored;
    }
    let flights = database.flights().await? as f64;
    report.row("stored, a window a transaction", "flights/s", flights / took.as_secs_f64(), None);
    report.row("  each at both of its airports", "puts/s", put as f64 / took.as_secs_f64(), None);
    report.row("  in windows that were claimed", "windows/s", windows as f64 / took.as_secs_f64(), None);
    Ok(())
}

/// One transaction for each day.
async fn days(options: &Options, database: &Database, report: &mut Report) -> anyhow::Result<()> {
    let mut loader = loader(options, database).await?;
    let mut ingest = Ingest::default();
    let (wants_ingest, wants_queries) =
        (options.only.contains(&Part::Ingest), options.only.contains(&Part::Queries));
    for day in 1..=if wants_queries { MILLIONS[1] } else { INGEST_DAYS } {
        let begin = Instant::now();
        let put = loader.day().await?;
        ingest.day(put, begin.elapsed())?;
        if wants_ingest && day == INGEST_DAYS {
            ingest.report(database.flights().await?, report);
        }
        if wants_queries && MILLIONS.contains(&day) {
            database.analyze().await?;
            let flights = database.flights().await? as f64 / 1e6;
            report.title(&format!("  at {flights:.1} million flights"));
            queries::measure(options.requests, database, loader.next(), report).await?;
        }
    }
    Ok(())
}
