//! How many mails a second go into an SMTP server of this machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use bench::database::Database;
use bench::process::{LOOK, PATIENCE, Process};
use bench::sample::median;
use bench::table::Report;
use common::bus::{Bus, Log};
use faults::smtp::Sink;
use secrecy::ExposeSecret;

use crate::messages::{Letters, fill};
use crate::setup::Setup;

const TARGET: f64 = 1000.0;
/// Each to another person.
const MAILS: usize = 5000;
/// Fewer: the rate is what is asked for.
const MAILS_OF_PYTHON: usize = 1000;
/// The option that says how many connections notifier_system opens, and the second value that is measured.
const CONNECTIONS: (&str, &str) = ("MAIL_CONNECTIONS", "16");

/// Who sends.
#[derive(Clone, Copy)]
enum Side {
    Vedetta(BusKind, DatabaseKind),
    Python,
}

#[derive(Clone, Copy)]
enum BusKind {
    Kafka,
    Log,
}

#[derive(Clone, Copy)]
enum DatabaseKind {
    Postgres,
    Sqlite,
}

const SIDES: [(Side, &str); 4] = [
    (Side::Vedetta(BusKind::Kafka, DatabaseKind::Postgres), "notifier_system, Kafka, PostgreSQL"),
    (Side::Vedetta(BusKind::Kafka, DatabaseKind::Sqlite), "notifier_system, Kafka, SQLite"),
    (Side::Vedetta(BusKind::Log, DatabaseKind::Sqlite), "notifier_system, embedded log, SQLite"),
    (Side::Python, "mails.py, Kafka, no database"),
];

/// A side as it was measured, with the default number of connections or another one.
struct Row {
    side: Side,
    name: String,
    connections: Option<&'static str>,
    rounds: Vec<Round>,
}

struct Round {
    per_second: f64,
    peak_mb: f64,
    /// Connections that the server saw at once.
    at_once: u32,
}

impl Row {
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    fn report(&self, report: &mut Report) {
        let per_second = self.median(|round| round.per_second);
        match self.side {
            Side::Vedetta(..) => report.at_least(&self.name, "/s", per_second, TARGET),
            Side::Python => report.row(&self.name, "/s", per_second, None),
        }
        report.row("  connections at once", "", self.median(|round| f64::from(round.at_once)), None);
        report.row("  most memory", "MB", self.median(|round| round.peak_mb), None);
    }
}

pub(crate) async fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    let (option, other) = CONNECTIONS;
    let mut values = vec![None];
    if setup.has_option("notifier_system", option).await? {
        values.push(Some(other));
    }
    let mut rows = Vec::new();
    for connections in values {
        for (side, name) in SIDES {
            let name = match (side, connections) {
                (Side::Python, Some(_)) => continue,
                (_, Some(value)) => format!("{name}, {value} connections"),
                (_, None) => name.to_owned(),
            };
            rows.push(Row { side, name, connections, rounds: Vec::new() });
        }
    }
    let fsync = bench::database::fsync(&setup.server).await?;
    report.title(&format!("Mails into an SMTP server of this machine (PostgreSQL's fsync is {fsync})"));
    // In turn, so that all sides meet the same moods of the machine.
    for _ in 0..setup.rounds {
        for row in &mut rows {
            row.rounds.push(round(setup, row.side, row.connections).await?);
        }
    }
    rows.iter().for_each(|row| row.report(report));
    let of = |wanted: fn(Side) -> bool| rows.iter().find(|row| wanted(row.side)).context("a row");
    let (ours, python) =
        (of(|side| matches!(side, Side::Vedetta(..)))?, of(|side| matches!(side, Side::Python))?);
    let ratio = ours.median(|round| round.per_second) / python.median(|round| round.per_second);
    report.row("notifier_system / mails.py, on Kafka", "", ratio, None);
    Ok(())
}

async fn round(setup: &Setup, side: Side, connections: Option<&str>) -> anyhow::Result<Round> {
    let sink = Sink::start().await;
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let mails = if matches!(side, Side::Python) { MAILS_OF_PYTHON } else { MAILS };
    let bus = filled(setup, side, folder.path(), mails).await?;
    let Side::Vedetta(_, database) = side else {
        let script = setup.script("mails.py", &[&setup.broker.servers, &sink.addr().to_string()])?;
        return send(script, &sink, mails).await;
    };
    let database = match database {
        DatabaseKind::Postgres => Database::create(&setup.server).await?,
        DatabaseKind::Sqlite => Database::create(&format!("sqlite:{}", folder.path().display())).await?,
    };
    let mut options = vec![
        ("BUS_URL", bus),
        ("DATABASE_URL", database.url.expose_secret().to_owned()),
        ("MAIL_URL", sink.url()),
    ];
    options.extend(connections.map(|value| (CONNECTIONS.0, value.to_owned())));
    let round = send(setup.service("notifier_system", &options)?, &sink, mails).await?;
    database.remove().await?;
    Ok(round)
}

/// Fills a side's bus with letters; gives its `BUS_URL`.
async fn filled(setup: &Setup, side: Side, folder: &Path, mails: usize) -> anyhow::Result<String> {
    if let Side::Vedetta(BusKind::Log, _) = side {
        let file = folder.join("bus.db");
        // It is locked to one process, so it is closed before notifier_system opens it.
        fill_with_letters(&Bus::Embedded(Log::open(&file).await?), mails).await?;
        return Ok(format!("log:{}", file.display()));
    }
    setup.broker.renew().await?;
    fill_with_letters(&setup.broker.bus().await?, mails).await?;
    Ok(setup.broker.url())
}

async fn fill_with_letters(bus: &Bus, mails: usize) -> anyhow::Result<()> {
    let letters = Letters::new()?;
    fill(bus, (0..mails).map(|n| letters.nth(n))).await
}

/// Measures a process that has just started. The clock runs from the first mail that was taken to the last: how long letters
/// are held back at the start does not count.
async fn send(mut process: Process, sink: &Sink, mails: usize) -> anyhow::Result<Round> {
    wait_for(&mut process, sink, mails).await?;
    let (peak_mb, at_once) = (process.peak_mb()?, sink.most_at_once());
    process.stop().await?;
    let taken = sink.taken();
    let people: BTreeSet<&str> = taken.iter().map(|mail| mail.to.as_str()).collect();
    anyhow::ensure!(people.len() == mails, "{} of {mails} people got a mail", people.len());
    let times = taken.iter().map(|mail| mail.at);
    let (first, last) = times.clone().min().zip(times.max()).context("there are no mails")?;
    Ok(Round { per_second: (mails - 1) as f64 / (last - first).as_secs_f64(), peak_mb, at_once })
}

/// Waits until the server has so many mails.
pub(crate) async fn wait_for(process: &mut Process, sink: &Sink, mails: usize) -> anyhow::Result<()> {
    let (mut last_at, mut last) = (Instant::now(), 0);
    while last < mails {
        let taken = sink.count();
        if taken > last {
            (last_at, last) = (Instant::now(), taken);
        }
        process.check()?;
        let words = || format!("{last} of {mails} mails have come, and no more:\n{}", process.last_words());
        anyhow::ensure!(last_at.elapsed() < PATIENCE, words());
        tokio::time::sleep(LOOK).await;
    }
    anyhow::ensure!(last == mails, "{last} mails have come instead of {mails}");
    Ok(())
}
