//! How long answers take, one request at a time on one connection.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::BEGIN;
use crate::service::Service;
use bench::database::Database;
use bench::table::Report;

/// What the median of the averages may be, in ms.
const AVERAGE: f64 = 5.0;
/// Some of the recording's airports, from about 950 flights a day and direction to about 15.
const AIRPORTS: [&str; 8] = ["KORD", "KATL", "KJFK", "KSEA", "KSAN", "KORF", "KBTV", "KABE"];

const FIRST_PAGE: &str = "flights?limit=100";
const DEEP_PAGE: &str = "flights?limit=100, half way back";

/// Asks `requests` times each at flight time `now`.
pub(crate) async fn measure(
    requests: usize,
    database: &Database,
    now: i64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let service = Service::start(&database.url, now).await?;
    for kind in ["average?days=30", "daily?days=30", "last", FIRST_PAGE, DEEP_PAGE] {
        let mut paths = Vec::new();
        for airport in AIRPORTS {
            let query =
                if kind == DEEP_PAGE { deep_page(&service, airport, now).await? } else { kind.to_owned() };
            paths.push(format!("/airports/{airport}/{query}"));
            // A quick answer that says nothing is worth nothing. It warms up, too.
            check(kind, &service.get(&paths[paths.len() - 1]).await?)?;
        }
        let mut took = Vec::with_capacity(requests);
        for path in paths.iter().cycle().take(requests) {
            let begin = Instant::now();
            service.get(path).await?;
            took.push(begin.elapsed());
        }
        took.sort_unstable();
        let median = millis(took[took.len() / 2]);
        let target = kind.starts_with("average").then(|| (format!("below {AVERAGE}"), median < AVERAGE));
        report.row(&format!("  {kind}: median"), "ms", median, target);
        report.row(&format!("  {kind}: p99"), "ms", millis(took[took.len() * 99 / 100]), None);
    }
    Ok(())
}

/// What a client asks for who has paged back to the middle of all that is stored.
async fn deep_page(service: &Service, airport: &str, now: i64) -> anyhow::Result<String> {
    let middle = BEGIN + (now - BEGIN) / 2;
    let page = service.get(&format!("/airports/{airport}/{FIRST_PAGE}&to={middle}")).await?;
    Ok(format!("{FIRST_PAGE}&cursor={}", page["next_cursor"].as_str().context("a cursor")?))
}

fn check(kind: &str, answer: &serde_json::Value) -> anyhow::Result<()> {
    let full = match kind {
        "average?days=30" => answer["days_with_data"] == 30,
        "daily?days=30" => answer["days"].as_array().is_some_and(|days| days.len() == 30),
        "last" => answer["arrival"].is_object() && answer["departure"].is_object(),
        _ => answer["items"].as_array().is_some_and(|items| items.len() == 100),
    };
    anyhow::ensure!(full, "{kind}: {answer}");
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
