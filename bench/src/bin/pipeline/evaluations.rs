//! How many interests a second are judged.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use bench::process::{LOOK, PATIENCE, Process};
use bench::sample::median;
use bench::table::Report;
use common::bus::{Bus, Log};
use common::messages::{Letter, Message, WindowCounted};

use crate::broker::ALERT_GROUP;
use crate::messages::{ONE_IN, Windows, fill};
use crate::setup::Setup;

/// On Kafka, with a thousand users a message.
const TARGET: f64 = 100_000.0;
/// The counter of alert_system.
const EVALUATED: &str = "vedetta_alert_system_evaluated_interests_total";

/// What the messages look like, and how many there are.
struct Shape {
    users: usize,
    messages: usize,
    /// Fewer: the rate is what is asked for.
    messages_for_python: usize,
}

/// As many users as a message may have, and one.
const SHAPES: [Shape; 2] = [
    Shape { users: 1000, messages: 600, messages_for_python: 100 },
    Shape { users: 1, messages: 20_000, messages_for_python: 2000 },
];

/// Who judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Kafka,
    Log,
    Python,
}

const SIDES: [(Side, &str); 3] = [
    (Side::Kafka, "alert_system on Kafka"),
    (Side::Log, "alert_system on the embedded log"),
    (Side::Python, "alerts.py on Kafka"),
];

#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    peak_mb: Vec<f64>,
}

pub(crate) async fn measure(setup: &Setup, report: &mut Report) -> anyhow::Result<()> {
    for shape in SHAPES {
        let users = if shape.users == 1 { "1 user".to_owned() } else { format!("{} users", shape.users) };
        report.title(&format!("Evaluations, {users} a message, one in {ONE_IN} fires"));
        let windows = Windows::new(shape.users)?;
        let mut measured: [Rounds; 3] = Default::default();
        // In turn, so that all sides meet the same moods of the machine.
        for _ in 0..setup.rounds {
            for ((side, _), rounds) in SIDES.iter().zip(&mut measured) {
                let (per_second, peak_mb) = round(setup, &shape, &windows, *side).await?;
                rounds.per_second.push(per_second);
                rounds.peak_mb.push(peak_mb);
            }
        }
        for ((side, name), rounds) in SIDES.iter().zip(&measured) {
            let per_second = median(&rounds.per_second);
            if *side == Side::Kafka && shape.users > 1 {
                report.at_least(name, "/s", per_second, TARGET);
            } else {
                report.row(name, "/s", per_second, None);
            }
            report.row("  most memory", "MB", median(&rounds.peak_mb), None);
        }
        let [kafka, _, python] = &measured;
        let ratio = median(&kafka.per_second) / median(&python.per_second);
        report.row("alert_system / alerts.py, on Kafka", "", ratio, None);
    }
    Ok(())
}

/// Interests a second, and the most memory in MB.
async fn round(setup: &Setup, shape: &Shape, windows: &Windows, side: Side) -> anyhow::Result<(f64, f64)> {
    let messages = if side == Side::Python { shape.messages_for_python } else { shape.messages };
    let all = u64::try_from(messages * shape.users)?;
    let (measured, letters) = match side {
        Side::Log => on_log(setup, windows, messages, all).await?,
        Side::Kafka | Side::Python => {
            setup.broker.renew().await?;
            let bus = setup.broker.bus().await?;
            fill(&bus, (0..messages).map(|n| windows.nth(n))).await?;
            drop(bus);
            let measured = if side == Side::Kafka {
                vedetta(setup, &setup.broker.url(), all).await?
            } else {
                python(setup, shape.users, all).await?
            };
            (measured, setup.broker.records(Letter::TOPIC)?)
        }
    };
    let expected = all / u64::try_from(ONE_IN)?;
    anyhow::ensure!(letters == expected, "{letters} mails were ordered instead of {expected}");
    Ok(measured)
}

/// Gives the number of letters, too.
async fn on_log(
    setup: &Setup,
    windows: &Windows,
    messages: usize,
    all: u64,
) -> anyhow::Result<((f64, f64), u64)> {
    let folder = tempfile::tempdir_in(&setup.folder)?;
    let file = folder.path().join("bus.db");
    // It is locked to one process, so it is closed before alert_system opens it.
    fill(&Bus::Embedded(Log::open(&file).await?), (0..messages).map(|n| windows.nth(n))).await?;
    let measured = vedetta(setup, &log_url(&file), all).await?;
    let letters = Log::open(&file).await?.read_all(Letter::TOPIC).await?;
    Ok((measured, u64::try_from(letters.len())?))
}

fn log_url(file: &Path) -> String {
    format!("log:{}", file.display())
}

async fn vedetta(setup: &Setup, bus: &str, all: u64) -> anyhow::Result<(f64, f64)> {
    let mut service = setup.service("alert_system", &[("BUS_URL", bus)])?;
    let admin = service.tells("admin").await?;
    let metrics = format!("http://{}/metrics", admin["admin"].as_str().context("its admin port")?);
    let per_second = rate(&mut service, all, async || {
        let text = setup.http.get(&metrics).send().await?.text().await?;
        let sample = text.lines().find(|line| line.starts_with(EVALUATED)).context(EVALUATED)?;
        Ok(sample.rsplit(' ').next().unwrap_or_default().parse()?)
    })
    .await?;
    let peak_mb = service.peak_mb()?;
    service.stop().await?;
    Ok((per_second, peak_mb))
}

async fn python(setup: &Setup, users: usize, all: u64) -> anyhow::Result<(f64, f64)> {
    let committed = setup.broker.committed(ALERT_GROUP, WindowCounted::TOPIC)?;
    let mut script = setup.script("alerts.py", &[&setup.broker.servers])?;
    script.tells("ready").await?;
    let users = u64::try_from(users)?;
    let per_second = rate(&mut script, all, async || Ok(committed.records().await? * users)).await?;
    let peak_mb = script.peak_mb()?;
    script.stop().await?;
    Ok((per_second, peak_mb))
}

/// How fast a count goes up to `all`. The clock starts when it is seen to move, which leaves out how the consumer finds its
/// group; what it had counted then does not count.
async fn rate(
    process: &mut Process,
    all: u64,
    mut count: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<f64> {
    let mut first = None;
    let (mut last_at, mut last) = (Instant::now(), 0);
    while last < all {
        let counted = count().await?;
        if counted > last {
            (last_at, last) = (Instant::now(), counted);
            first.get_or_insert((last_at, last));
        }
        process.check()?;
        let words = || format!("{last} of {all} are judged, and no more:\n{}", process.last_words());
        anyhow::ensure!(last_at.elapsed() < PATIENCE, words());
        tokio::time::sleep(LOOK).await;
    }
    let (first_at, before) = first.context("there is nothing to judge")?;
    anyhow::ensure!(before < all, "all was judged between two looks: too little to measure");
    anyhow::ensure!(last == all, "{last} were judged instead of {all}");
    Ok((all - before) as f64 / (last_at - first_at).as_secs_f64())
}
