//! From a window's commit to the mail server's 250.
//!
//! An interest that is made when its airport's window is there already is evaluated on that window: the message goes into
//! the outbox in the transaction that stores the interest, as it does in the transaction that stores a window. The answer
//! 201 follows that commit, so it is the commit that can be seen from outside.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::database::fsync;
use bench::process::until;
use bench::sample::{median, quantile};
use bench::table::Report;
use faults::smtp::Sink;
use futures::future::try_join_all;
use reqwest::StatusCode;

use crate::messages::AIRPORTS;
use crate::setup::Setup;
use crate::system::{Pair, System};

const TIMES: usize = 300;
/// Time from one to the next: five a second.
const PACE: Duration = Duration::from_millis(200);
/// Whose interests have the airports collected; nothing crosses their thresholds.
const WATCHMAN: &str = "watchman@example.com";
/// Whose mails come before those that count: by then every consumer reads and every connection is open.
const FORERUNNER: &str = "forerunner@example.com";

/// Who judges and sends, and how data_collector's producer waits.
const SHAPES: [(Pair, Option<&str>, &str); 4] = [
    (Pair::Vedetta, None, "Vedetta, linger.ms=500 (the default)"),
    (Pair::Vedetta, Some("linger.ms=0"), "Vedetta, linger.ms=0"),
    (Pair::Python, None, "alerts.py and mails.py, linger.ms=500"),
    (Pair::Python, Some("linger.ms=0"), "alerts.py and mails.py, linger.ms=0"),
];

/// In milliseconds.
struct Measured {
    /// From the 201 to the mail.
    mail: Vec<f64>,
    /// From the request to the 201: the commit is somewhere in it.
    answer: Vec<f64>,
    /// Of the two that judge and send, in MB.
    peaks: [f64; 2],
}

pub(crate) async fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    report.title(&format!(
        "Latency from a commit to the SMTP server's 250, {TIMES} times at 5/s, Kafka and PostgreSQL (fsync is {})",
        fsync(&setup.server).await?
    ));
    report.title(
        "  the commit: the 201 to the interest whose message commits with it, in the outbox of windows",
    );
    let mut medians = Vec::new();
    for (pair, producer, name) in SHAPES {
        let measured = one(setup, pair, producer).await?;
        report.row(&format!("{name}: p50"), "ms", median(&measured.mail), None);
        report.row("  p99", "ms", quantile(&measured.mail, 0.99), None);
        report.row("  the request until its 201, p50", "ms", median(&measured.answer), None);
        for (program, peak) in pair.programs().into_iter().zip(measured.peaks) {
            report.row(&format!("  most memory of {program}"), "MB", peak, None);
        }
        medians.push(median(&measured.mail));
    }
    let [ours, ours_at_once, python, python_at_once] = medians[..] else { anyhow::bail!("four shapes") };
    report.row("p50 of the scripts / of Vedetta, linger.ms=500", "", python / ours, None);
    report.row("p50 of the scripts / of Vedetta, linger.ms=0", "", python_at_once / ours_at_once, None);
    Ok(())
}

async fn one(setup: &Setup, pair: Pair, producer: Option<&str>) -> anyhow::Result<Measured> {
    let sink = Sink::start().await;
    let mut system = System::start(setup, pair, producer, &sink).await?;
    let people: Vec<String> = (0..TIMES).map(|n| format!("p{n}@example.com")).collect();
    for email in people.iter().map(String::as_str).chain([WATCHMAN, FORERUNNER]) {
        system.register(email).await?;
    }
    for airport in AIRPORTS {
        system.watch(WATCHMAN, airport, 1_000_000_000).await?;
    }
    until("the windows of all airports", async || {
        let interests = system.interests(WATCHMAN).await?;
        let items = interests["items"].as_array().context("interests")?;
        let stored = items.iter().filter(|interest| interest["last_window"].is_object()).count();
        system.check()?;
        Ok((stored == AIRPORTS.len()).then_some(()))
    })
    .await?;
    for airport in AIRPORTS {
        system.watch(FORERUNNER, airport, 1).await?;
    }
    system.wait_for(&sink, AIRPORTS.len()).await?;
    let answered = at_a_pace(&system, &people).await?;
    system.wait_for(&sink, AIRPORTS.len() + TIMES).await?;
    let peaks = system.peaks_mb()?;
    system.stop().await?;
    let taken: HashMap<String, Instant> = sink.taken().into_iter().map(|mail| (mail.to, mail.at)).collect();
    let mut measured = Measured { mail: Vec::new(), answer: Vec::new(), peaks };
    for (email, (asked, committed)) in people.iter().zip(answered) {
        let at = taken.get(email).with_context(|| format!("{email} got no mail"))?;
        // The mail may be faster than the answer.
        measured.mail.push(at.saturating_duration_since(committed).as_secs_f64() * 1000.0);
        measured.answer.push((committed - asked).as_secs_f64() * 1000.0);
    }
    Ok(measured)
}

/// Has each person watch an airport, one person after the other at the pace, whether or not the one before has an answer.
/// Gives the moments of request and answer. The airports take turns, since messages of one airport follow each other.
async fn at_a_pace(system: &System, people: &[String]) -> anyhow::Result<Vec<(Instant, Instant)>> {
    let began = tokio::time::Instant::now();
    let requests = people.iter().zip(AIRPORTS.iter().cycle()).zip(0..).map(async |((email, airport), n)| {
        tokio::time::sleep_until(began + PACE * n).await;
        let asked = Instant::now();
        let status = system.watch(email, airport, 1).await?;
        let answered = Instant::now();
        anyhow::ensure!(status == StatusCode::CREATED, "{airport}: answered {status}");
        Ok((asked, answered))
    });
    try_join_all(requests).await
}
