//! Windows: planned, claimed, stored.

use std::collections::HashSet;

use anyhow::Context;
use common::clock::DAY;
use common::db::{Backend, Tx};
use common::trace::Trace;
use common::types::{Counts, Icao};
use common::{on, row};

use super::{Announcer, CountedWindow, Store, flights, lock_airport};
use crate::opensky::Flight;
use crate::window::{Grid, Window};

/// Windows that may be fetched: `$2` is the database's time, `$5` the flight time, `$6` the end of the latest closed
/// window (a clock that was ahead may have planned more). With `$3` also those that wait for their next attempt.
const DUE: &str = "SELECT airport, window_begin FROM airport_window AS w \
     WHERE state = 'due' AND claimed_until < $2 AND (retry_at <= $2 OR $3) AND provisional_until <= $5 \
     AND window_end <= $6 ORDER BY";
/// Which of them is next: due longest, then most watched, then oldest.
const ORDER: &str = "due_since, (SELECT COUNT(*) FROM user_interest AS i WHERE i.airport = w.airport) DESC, \
     window_begin, airport LIMIT 1";
/// For a trial the one with the fewest attempts comes first, so that windows which can never be answered do not keep the
/// breaker open.
const TRIAL_FIRST: &str = "attempts, ";

/// A window that this replica fetches, until a time by the database's clock.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) airport: Icao,
    pub(crate) window: Window,
    /// When it was both closed and wanted, in flight time.
    pub(crate) due_since: i64,
    /// Attempts before this one.
    pub(crate) attempts: u32,
    pub(crate) trace: Trace,
    holder: String,
}

/// What OpenSky answered for both directions of a window.
pub(crate) struct Fetched {
    pub(crate) arrivals: Vec<Flight>,
    pub(crate) departures: Vec<Flight>,
}

impl Fetched {
    /// Each flight counts once, also if an answer holds it twice.
    pub(crate) fn counts(&self) -> Counts {
        let count = |flights: &[Flight]| {
            let distinct: HashSet<_> =
                flights.iter().map(|flight| (&flight.icao24, flight.first_seen)).collect();
            i64::try_from(distinct.len()).unwrap_or(i64::MAX)
        };
        Counts { arrivals: count(&self.arrivals), departures: count(&self.departures) }
    }
}

/// What became of a window that was to be stored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is stored; so many messages went to the outbox.
    Yes { messages: usize },
    /// The claim had run out, or nobody wants the window any more.
    NoLonger,
}

row! {
    struct DueRow {
        airport: String,
        window_begin: i64,
        window_end: i64,
        due_since: i64,
        attempts: i64,
        trace: String,
    }
}

impl Store {
    /// Makes the windows due that have closed since the last time, for every watched airport.
    pub(crate) async fn plan_all(&self, grid: Grid, now: i64, trace: &Trace) -> anyhow::Result<()> {
        let airports: Vec<String> = on!(&self.0, |pool| {
            sqlx::query_scalar(
                "SELECT airport FROM watched_airport WHERE planned_until < $1 ORDER BY airport",
            )
            .bind(grid.closed_until(now))
            .fetch_all(pool)
            .await?
        });
        for airport in airports {
            let airport = airport.parse()?;
            let mut tx = self.0.begin().await?;
            if lock_airport(&mut tx, airport).await? {
                plan(&mut tx, airport, grid, now, i64::MIN, trace).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Claims the next due window for `seconds`; for a `trial` of the breaker also one that waits for its next attempt.
    /// `flight_now` is the flight time.
    pub(crate) async fn claim(
        &self,
        holder: &str,
        seconds: i64,
        trial: bool,
        grid: Grid,
        flight_now: i64,
    ) -> anyhow::Result<Option<Claim>> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        // On PostgreSQL replicas pass over each other's choice instead of waiting for it.
        let lock = if matches!(tx, Backend::Postgres(_)) { "FOR UPDATE SKIP LOCKED" } else { "" };
        let first = if trial { TRIAL_FIRST } else { "" };
        let sql = format!(
            "UPDATE airport_window SET claimed_by = $1, claimed_until = $4 \
             WHERE (airport, window_begin) = ({DUE} {first}{ORDER} {lock}) \
             RETURNING airport, window_begin, window_end, due_since, attempts, trace"
        );
        let row: Option<DueRow> = on!(&mut tx, |tx| {
            sqlx::query_as(sqlx::AssertSqlSafe(sql))
                .bind(holder)
                .bind(now)
                .bind(trial)
                .bind(now + seconds)
                .bind(flight_now)
                .bind(grid.closed_until(flight_now))
                .fetch_optional(&mut **tx)
                .await?
        });
        tx.commit().await?;
        let claim = |row: DueRow| {
            anyhow::Ok(Claim {
                airport: row.airport.parse()?,
                window: Window { begin: row.window_begin, end: row.window_end },
                due_since: row.due_since,
                attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
                trace: serde_json::from_str(&row.trace).context("the trace of a window")?,
                holder: holder.to_owned(),
            })
        };
        row.map(claim).transpose()
    }

    /// Gives back whatever `holder` has claimed.
    pub(crate) async fn release_all(&self, holder: &str) -> sqlx::Result<()> {
        on!(&self.0, |pool| {
            sqlx::query("UPDATE airport_window SET claimed_until = 0 WHERE state = 'due' AND claimed_by = $1")
                .bind(holder)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// Gives a claim back. With `retry_in` (seconds) the attempt counts and the next one waits so long.
    pub(crate) async fn release(&self, claim: &Claim, retry_in: Option<i64>) -> sqlx::Result<()> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query(
                "UPDATE airport_window SET claimed_until = 0, attempts = attempts + $1, retry_at = $2 \
                 WHERE airport = $3 AND window_begin = $4 AND state = 'due' AND claimed_by = $5",
            )
            .bind(i64::from(retry_in.is_some()))
            .bind(retry_in.map_or(0, |seconds| now + seconds))
            .bind(claim.airport.as_str())
            .bind(claim.window.begin)
            .bind(&claim.holder)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        tx.commit().await
    }

    /// Gives a claim back until no flights at all can no longer be a gap in the data, at flight time `until`.
    pub(crate) async fn leave_provisional(&self, claim: &Claim, until: i64) -> sqlx::Result<()> {
        on!(&self.0, |pool| {
            sqlx::query(
                "UPDATE airport_window SET claimed_until = 0, provisional_until = $1 \
                 WHERE airport = $2 AND window_begin = $3 AND state = 'due' AND claimed_by = $4",
            )
            .bind(until)
            .bind(claim.airport.as_str())
            .bind(claim.window.begin)
            .bind(&claim.holder)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }

    /// Stores a window: its flights, its counts, and the messages of every window that is announced by it, in one
    /// transaction, if the claim still holds.
    pub(crate) async fn store_window(
        &self,
        claim: &Claim,
        fetched: &Fetched,
        announcer: &Announcer,
        now: i64,
    ) -> anyhow::Result<Stored> {
        let counts = fetched.counts();
        let mut tx = self.0.begin().await?;
        if !lock_airport(&mut tx, claim.airport).await?
            || !settle(&mut tx, claim, "stored", Some(counts)).await?
        {
            return Ok(Stored::NoLonger);
        }
        flights::put(&mut tx, claim.airport, &fetched.arrivals, &fetched.departures).await?;
        let messages = announcer.announce(&mut tx, claim.airport, &claim.trace, now).await?;
        tx.commit().await?;
        Ok(Stored::Yes { messages })
    }

    /// Records a window as missing, and announces what it held back.
    pub(crate) async fn give_up(&self, claim: &Claim, announcer: &Announcer, now: i64) -> anyhow::Result<()> {
        let mut tx = self.0.begin().await?;
        if lock_airport(&mut tx, claim.airport).await? && settle(&mut tx, claim, "missing", None).await? {
            announcer.announce(&mut tx, claim.airport, &claim.trace, now).await?;
        }
        Ok(tx.commit().await?)
    }

    /// How many windows are due.
    pub(crate) async fn waiting(&self) -> sqlx::Result<i64> {
        on!(&self.0, |pool| {
            sqlx::query_scalar("SELECT COUNT(*) FROM airport_window WHERE state = 'due'")
                .fetch_one(pool)
                .await
        })
    }

    /// The end of the newest stored window of all airports.
    pub(crate) async fn stored_until(&self) -> sqlx::Result<Option<i64>> {
        on!(&self.0, |pool| {
            sqlx::query_scalar("SELECT MAX(window_end) FROM airport_window WHERE state = 'stored'")
                .fetch_one(pool)
                .await
        })
    }

    /// Has all due windows tried at once.
    pub(crate) async fn hurry_all(&self) -> anyhow::Result<()> {
        let airports: Vec<String> = on!(&self.0, |pool| {
            sqlx::query_scalar(
                "SELECT DISTINCT airport FROM airport_window WHERE state = 'due' AND retry_at > 0",
            )
            .fetch_all(pool)
            .await?
        });
        let airports = airports.iter().map(|airport| airport.parse()).collect::<Result<Vec<Icao>, _>>()?;
        Ok(self.hurry(&airports).await?)
    }

    /// Has the due windows of some airports tried at once.
    pub(crate) async fn hurry(&self, airports: &[Icao]) -> sqlx::Result<()> {
        for airport in airports {
            let mut tx = self.0.begin().await?;
            // Several rows change, so nobody else may be changing them in another order.
            lock_airport(&mut tx, *airport).await?;
            on!(&mut tx, |tx| {
                sqlx::query("UPDATE airport_window SET retry_at = 0 WHERE airport = $1 AND state = 'due'")
                    .bind(airport.as_str())
                    .execute(&mut **tx)
                    .await?
                    .rows_affected()
            });
            tx.commit().await?;
        }
        Ok(())
    }
}

/// Makes the closed windows of a locked airport due that were not planned yet; they have been wanted since
/// `wanted_since`. A window that would overlap one that is there already, of another length, is left out: no flight is
/// counted twice.
pub(super) async fn plan(
    tx: &mut Tx,
    airport: Icao,
    grid: Grid,
    now: i64,
    wanted_since: i64,
    trace: &Trace,
) -> anyhow::Result<()> {
    let until = grid.closed_until(now);
    let from: i64 = on!(&mut *tx, |tx| {
        sqlx::query_scalar("SELECT planned_until FROM watched_airport WHERE airport = $1")
            .bind(airport.as_str())
            .fetch_one(&mut **tx)
            .await?
    });
    // Up to the next midnight windows have the length they had, also after a start with another one.
    let before: Option<i64> = on!(&mut *tx, |tx| {
        sqlx::query_scalar(
            "SELECT window_end - window_begin FROM airport_window WHERE airport = $1 AND window_end = $2",
        )
        .bind(airport.as_str())
        .bind(from)
        .fetch_optional(&mut **tx)
        .await?
    });
    let midnight = (from + DAY - 1).div_euclid(DAY) * DAY;
    let day = Grid { length: before.unwrap_or(grid.length), ..grid };
    let trace = serde_json::to_string(trace)?;
    for window in day.between(from, until.min(midnight)).chain(grid.between(midnight, until)) {
        on!(&mut *tx, |tx| {
            sqlx::query(
                "INSERT INTO airport_window (airport, window_begin, window_end, state, due_since, trace) \
                 SELECT $1, $2, $3, 'due', $4, $5 WHERE NOT EXISTS (SELECT 1 FROM airport_window \
                   WHERE airport = $1 AND window_begin < $3 AND window_end > $2)",
            )
            .bind(airport.as_str())
            .bind(window.begin)
            .bind(window.end)
            .bind(wanted_since.max(window.end + grid.lag))
            .bind(&trace)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
    }
    on!(tx, |tx| {
        sqlx::query("UPDATE watched_airport SET planned_until = $1 WHERE airport = $2 AND planned_until < $1")
            .bind(until)
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await?
            .rows_affected()
    });
    Ok(())
}

/// Ends the wait for a window, if the claim still holds.
async fn settle(tx: &mut Tx, claim: &Claim, state: &str, counts: Option<Counts>) -> sqlx::Result<bool> {
    on!(tx, |tx| {
        sqlx::query(
            "UPDATE airport_window SET state = $1, arrivals = $2, departures = $3, claimed_until = 0 \
             WHERE airport = $4 AND window_begin = $5 AND state = 'due' AND claimed_by = $6",
        )
        .bind(state)
        .bind(counts.map(|counts| counts.arrivals))
        .bind(counts.map(|counts| counts.departures))
        .bind(claim.airport.as_str())
        .bind(claim.window.begin)
        .bind(&claim.holder)
        .execute(&mut **tx)
        .await
        .map(|done| done.rows_affected() == 1)
    })
}

row! {
    pub(super) struct CountRow {
        window_begin: i64,
        window_end: i64,
        arrivals: i64,
        departures: i64,
    }
}

impl CountRow {
    pub(super) fn counted(self) -> CountedWindow {
        CountedWindow {
            window: Window { begin: self.window_begin, end: self.window_end },
            counts: Counts { arrivals: self.arrivals, departures: self.departures },
        }
    }
}
