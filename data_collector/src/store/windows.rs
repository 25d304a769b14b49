//! Windows: claimed, stored, given up.

use std::collections::HashSet;

use anyhow::Context;
use common::db::{Backend, Tx};
use common::trace::Trace;
use common::types::{Counts, Icao};
use common::{on, row};

use super::{Announcer, CountedWindow, Store, flights, lock_airport};
use crate::opensky::Flight;
use crate::window::Window;

/// Windows that may be fetched: `$2` is the database's time, `$5` the flight time, `$6` the time up to which windows are
/// closed (a clock that was ahead may have planned more). With `$3` also those that wait for their next attempt, unless the
/// last one cost credits. No claim and no wait lasts a day: one that seems to was made by a clock that was ahead.
const DUE: &str = "SELECT w.airport, w.window_begin FROM airport_window AS w \
     JOIN watched_airport AS a ON a.airport = w.airport \
     WHERE w.state = 'due' AND (w.claimed_until < $2 OR w.claimed_until > $2 + 86400) \
     AND (w.retry_at <= $2 OR w.retry_at > $2 + 86400 OR ($3 AND NOT w.charged)) \
     AND w.provisional_until <= $5 AND w.window_end <= $6 ORDER BY";
/// Which of them is next: due longest, then most watched, then oldest.
const ORDER: &str = "w.due_since, a.watchers DESC, w.window_begin, w.airport LIMIT 1";
/// For a trial the one with the fewest attempts comes first, so that windows which can never be answered do not keep the
/// breaker open.
const TRIAL_FIRST: &str = "w.attempts, ";

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
#[derive(Default)]
pub(crate) struct Fetched {
    pub(crate) arrivals: Vec<Flight>,
    pub(crate) departures: Vec<Flight>,
}

impl Fetched {
    /// Each flight of the window counts once: also if an answer holds it twice, and not if it is the next window's.
    pub(crate) fn counts(&self, window: Window) -> Counts {
        let count = |flights: &[Flight], time: fn(&Flight) -> i64| {
            let within = flights.iter().filter(|flight| (window.begin..window.end).contains(&time(flight)));
            let distinct: HashSet<_> = within.map(|flight| (&flight.icao24, flight.first_seen)).collect();
            i64::try_from(distinct.len()).unwrap_or(i64::MAX)
        };
        Counts {
            arrivals: count(&self.arrivals, |flight| flight.last_seen),
            departures: count(&self.departures, |flight| flight.first_seen),
        }
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
    /// Windows that are not collected yet.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Waiting {
        pub(crate) due: i64,
        /// Those of them that need nothing but credits.
        pub(crate) ready: i64,
    }
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
    /// Claims the next due window for `seconds`; for a `trial` of the breaker also one that waits for its next attempt.
    /// `flight_now` is the flight time; windows are closed `lag` seconds after their end.
    pub(crate) async fn claim(
        &self,
        holder: &str,
        seconds: i64,
        trial: bool,
        lag: i64,
        flight_now: i64,
    ) -> anyhow::Result<Option<Claim>> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        // On PostgreSQL replicas pass over each other's choice instead of waiting for it.
        let lock = if matches!(tx, Backend::Postgres(_)) { "FOR UPDATE OF w SKIP LOCKED" } else { "" };
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
                .bind(flight_now - lag)
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
        on!(self.0.writer(), |pool| {
            sqlx::query("UPDATE airport_window SET claimed_until = 0 WHERE state = 'due' AND claimed_by = $1")
                .bind(holder)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// Gives a claim back, as if it had not been made.
    pub(crate) async fn release(&self, claim: &Claim) -> sqlx::Result<()> {
        self.give_back(claim, None).await
    }

    /// Gives a claim back until no flights at all can no longer be a gap in the data, at flight time `until`.
    pub(crate) async fn leave_provisional(&self, claim: &Claim, until: i64) -> sqlx::Result<()> {
        self.give_back(claim, Some(until)).await
    }

    async fn give_back(&self, claim: &Claim, provisional_until: Option<i64>) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "UPDATE airport_window SET claimed_until = 0, provisional_until = COALESCE($1, provisional_until) \
                 WHERE airport = $2 AND window_begin = $3 AND state = 'due' AND claimed_by = $4",
            )
            .bind(provisional_until)
            .bind(claim.airport.as_str())
            .bind(claim.window.begin)
            .bind(&claim.holder)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }

    /// Gives a claim back after an attempt that failed; the next one waits for `retry_in` seconds. `charged` says whether
    /// it cost credits.
    pub(crate) async fn failed(&self, claim: &Claim, retry_in: i64, charged: bool) -> sqlx::Result<()> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query(
                "UPDATE airport_window SET claimed_until = 0, attempts = attempts + 1, retry_at = $1, charged = $2 \
                 WHERE airport = $3 AND window_begin = $4 AND state = 'due' AND claimed_by = $5",
            )
            .bind(now + retry_in)
            .bind(charged)
            .bind(claim.airport.as_str())
            .bind(claim.window.begin)
            .bind(&claim.holder)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        tx.commit().await
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
        let counts = fetched.counts(claim.window);
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

    /// How many windows are due, and how many of them could be fetched now, were there credits. `now` is the flight time.
    pub(crate) async fn waiting(&self, lag: i64, now: i64) -> sqlx::Result<Waiting> {
        on!(self.0.reader(), |pool| {
            sqlx::query_as(
                "SELECT COUNT(*) AS due, \
                 COALESCE(SUM(CASE WHEN w.provisional_until <= $1 AND w.window_end <= $2 THEN 1 ELSE 0 END), 0) AS ready \
                 FROM airport_window AS w JOIN watched_airport AS a ON a.airport = w.airport WHERE w.state = 'due'",
            )
            .bind(now)
            .bind(now - lag)
            .fetch_one(pool)
            .await
        })
    }

    /// The end of the newest stored window of all airports.
    pub(crate) async fn stored_until(&self) -> sqlx::Result<Option<i64>> {
        on!(self.0.reader(), |pool| {
            sqlx::query_scalar("SELECT MAX(window_end) FROM airport_window WHERE state = 'stored'")
                .fetch_one(pool)
                .await
        })
    }

    /// Forgets what was asked for in vain, or is provisional, at airports that nobody watches any more, if it ended before
    /// `time`.
    pub(crate) async fn forget_unwatched(&self, time: i64) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "DELETE FROM airport_window WHERE state = 'due' AND window_end < $1 \
                 AND airport NOT IN (SELECT airport FROM watched_airport)",
            )
            .bind(time)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }

    /// Has all due windows tried at once whose last attempt cost nothing.
    pub(crate) async fn hurry_all(&self) -> anyhow::Result<()> {
        let airports: Vec<String> = on!(self.0.reader(), |pool| {
            sqlx::query_scalar(
                "SELECT airport FROM watched_airport AS a WHERE EXISTS (SELECT 1 FROM airport_window AS w \
                 WHERE w.airport = a.airport AND w.state = 'due' AND w.retry_at > 0 AND NOT w.charged)",
            )
            .fetch_all(pool)
            .await?
        });
        let airports = airports.iter().map(|airport| airport.parse()).collect::<Result<Vec<Icao>, _>>()?;
        Ok(self.hurry(&airports, 0).await?)
    }

    /// Has the due windows of some airports tried at once; those whose last attempt cost credits, if they had fewer
    /// attempts than that.
    pub(crate) async fn hurry(&self, airports: &[Icao], paid_attempts: i64) -> sqlx::Result<()> {
        for airport in airports {
            let mut tx = self.0.begin().await?;
            // Several rows change, so nobody else may be changing them in another order.
            lock_airport(&mut tx, *airport).await?;
            on!(&mut tx, |tx| {
                sqlx::query(
                    "UPDATE airport_window SET retry_at = 0 \
                     WHERE airport = $1 AND state = 'due' AND (attempts < $2 OR NOT charged)",
                )
                .bind(airport.as_str())
                .bind(paid_attempts)
                .execute(&mut **tx)
                .await?
                .rows_affected()
            });
            tx.commit().await?;
        }
        Ok(())
    }
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
