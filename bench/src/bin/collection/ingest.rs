//! What storing day by day came to.

use std::time::Duration;

use anyhow::Context as _;

use crate::RECORDED_DAYS;
use bench::table::Report;

const FLIGHTS_PER_SECOND: f64 = 50_000.0;
/// What memory may grow by from the early look to the late one, in MB.
const GROWTH: f64 = 16.0;
/// The recording this many times over is in when memory is looked at first. The service that answers at one million
/// flights has been there by then.
const EARLY: usize = 3;

/// The recording once over.
#[derive(Default)]
struct Turn {
    days: usize,
    /// Flights at one of their airports: nearly all are put twice.
    put: usize,
    took: Duration,
    /// Of this process at the end, in MB.
    resident: f64,
}

impl Turn {
    fn puts_per_second(&self) -> f64 {
        self.put as f64 / self.took.as_secs_f64()
    }
}

#[derive(Default)]
pub(crate) struct Ingest {
    turns: Vec<Turn>,
    turn: Turn,
}

impl Ingest {
    /// One more day is stored.
    pub(crate) fn day(&mut self, put: usize, took: Duration) -> anyhow::Result<()> {
        let turn = &mut self.turn;
        (turn.days, turn.put, turn.took) = (turn.days + 1, turn.put + put, turn.took + took);
        if turn.days == RECORDED_DAYS {
            turn.resident = resident()?;
            self.turns.push(std::mem::take(turn));
        }
        Ok(())
    }

    /// Tells of the turns so far, in which so many `flights` were stored.
    pub(crate) fn report(&self, flights: i64, report: &mut Report) {
        let took: Duration = self.turns.iter().map(|turn| turn.took).sum();
        let put: usize = self.turns.iter().map(|turn| turn.put).sum();
        let seconds = took.as_secs_f64();
        report.row("stored, a day a transaction", "flights", flights as f64, None);
        report.at_least(
            "stored, a day a transaction",
            "flights/s",
            flights as f64 / seconds,
            FLIGHTS_PER_SECOND,
        );
        report.row("  each at both of its airports", "puts/s", put as f64 / seconds, None);
        let ends = [self.turns.first(), self.turns.last()];
        for (when, turn) in ["first", "last"].into_iter().zip(ends.into_iter().flatten()) {
            report.row(&format!("  the {when} four weeks"), "puts/s", turn.puts_per_second(), None);
        }
        let resident = |turn: Option<&Turn>| turn.map_or(0.0, |turn| turn.resident);
        let early = resident(self.turns.get(EARLY - 1));
        report.row("  resident after twelve weeks", "MB", early, None);
        report.at_most("  resident after the last", "MB", resident(self.turns.last()), early + GROWTH);
    }
}

/// Megabytes of memory of this process.
fn resident() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
