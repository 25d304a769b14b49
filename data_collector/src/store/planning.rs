//! Planning: which windows are due.

use common::clock::DAY;
use common::db::{Tx, is_passing};
use common::trace::Trace;
use common::types::Icao;
use common::{on, row};

use super::{Store, lock_airport};
use crate::window::{Grid, Length, Window};

row! {
    struct LengthRow {
        effective_from: i64,
        length: i64,
    }
}

/// By how much replicas' clocks may differ, in seconds.
const TOLERANCE: i64 = 3600;

const LENGTHS: &str = "SELECT effective_from, length FROM window_length ORDER BY effective_from";

/// How windows lie, as all replicas have agreed.
pub(super) async fn grid(tx: &mut Tx, lag: i64) -> sqlx::Result<Grid> {
    let rows: Vec<LengthRow> = on!(tx, |tx| sqlx::query_as(LENGTHS).fetch_all(&mut **tx).await?);
    let length = |row: LengthRow| Length { effective_from: row.effective_from, length: row.length };
    Ok(Grid::new(rows.into_iter().map(length).collect(), lag))
}

impl Store {
    /// Lets windows have this length (seconds) from the midnight after `now` (flight time) on, or from the beginning if
    /// they never had one. A clock that is behind what is stored changes nothing of that.
    pub(crate) async fn set_window_length(&self, length: i64, now: i64) -> anyhow::Result<()> {
        let now = now.max(self.stored_until().await?.unwrap_or(i64::MIN));
        let midnight = (now.div_euclid(DAY) + 1) * DAY;
        let mut tx = self.0.begin().await?;
        on!(&mut tx, |tx| {
            // Made by a clock that was ahead.
            sqlx::query("DELETE FROM window_length WHERE effective_from > $1")
                .bind(midnight)
                .execute(&mut **tx)
                .await?;
            sqlx::query(
                "INSERT INTO window_length (effective_from, length) \
                 SELECT CASE WHEN EXISTS (SELECT 1 FROM window_length) THEN $1 ELSE 0 END, $2 \
                 WHERE COALESCE((SELECT length FROM window_length ORDER BY effective_from DESC LIMIT 1), 0) <> $2 \
                 ON CONFLICT (effective_from) DO UPDATE SET length = excluded.length",
            )
            .bind(midnight)
            .bind(length)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        Ok(tx.commit().await?)
    }

    /// Makes the windows due that have closed since the last time, for every watched airport. One that cannot be planned
    /// leaves the others alone, unless the database is away. An error that will pass is given afterwards.
    pub(crate) async fn plan_all(
        &self,
        lag: i64,
        backfill: i64,
        now: i64,
        trace: &Trace,
    ) -> anyhow::Result<()> {
        let mut tx = self.0.begin().await?;
        let grid = grid(&mut tx, lag).await?;
        let airports: Vec<String> = on!(&mut tx, |tx| {
            sqlx::query_scalar(
                "SELECT airport FROM watched_airport WHERE planned_until < $1 OR planned_until > $2 ORDER BY airport",
            )
            .bind(grid.closed_until(now))
            .bind(grid.closed_until(now + TOLERANCE))
            .fetch_all(&mut **tx)
            .await?
        });
        tx.commit().await?;
        let mut first_error = None;
        for airport in airports {
            let Err(error) = self.plan_one(&airport, &grid, backfill, now, trace).await else { continue };
            match error.downcast_ref() {
                Some(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut) => return Err(error),
                Some(passing) if is_passing(passing) => {
                    first_error.get_or_insert(error);
                }
                _ => tracing::error!(%airport, error = format!("{error:#}"), "an airport cannot be planned"),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn plan_one(
        &self,
        airport: &str,
        grid: &Grid,
        backfill: i64,
        now: i64,
        trace: &Trace,
    ) -> anyhow::Result<()> {
        let airport = airport.parse()?;
        let mut tx = self.0.begin().await?;
        if lock_airport(&mut tx, airport).await? {
            plan(&mut tx, airport, grid, backfill, now, i64::MIN, trace).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// Makes the closed windows of a locked airport due that were not planned yet; they have been wanted since
/// `wanted_since`. A window that would overlap one that is there already, of another length, is left out: no flight is
/// counted twice.
pub(super) async fn plan(
    tx: &mut Tx,
    airport: Icao,
    grid: &Grid,
    backfill: i64,
    now: i64,
    wanted_since: i64,
    trace: &Trace,
) -> anyhow::Result<()> {
    let latest = grid.latest(now);
    let planned_until: i64 = on!(&mut *tx, |tx| {
        sqlx::query_scalar("SELECT planned_until FROM watched_airport WHERE airport = $1")
            .bind(airport.as_str())
            .fetch_one(&mut **tx)
            .await?
    });
    let was_ahead = planned_until > grid.closed_until(now + TOLERANCE);
    if was_ahead && is_behind(tx, latest).await? {
        tracing::warn!(%airport, "nothing is planned: windows are stored that have yet to close by this machine's clock");
        return Ok(());
    }
    let (from, wanted_since) = match was_ahead {
        true => {
            start_anew(tx, airport, latest, backfill).await?;
            (latest.end - backfill, now)
        }
        false => (planned_until, wanted_since),
    };
    let trace = serde_json::to_string(trace)?;
    for window in grid.between(from, latest.end) {
        on!(&mut *tx, |tx| {
            // None is longer than a day.
            sqlx::query(
                "INSERT INTO airport_window (airport, window_begin, window_end, state, due_since, trace) \
                 SELECT $1, $2, $3, 'due', $4, $5 WHERE NOT EXISTS (SELECT 1 FROM airport_window WHERE airport = $1 \
                   AND window_begin < $3 AND window_end > $2 AND window_begin > $2 - 86400)",
            )
            .bind(airport.as_str())
            .bind(window.begin)
            .bind(window.end)
            .bind(wanted_since.max(grid.closes(window)))
            .bind(&trace)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
    }
    on!(tx, |tx| {
        sqlx::query(
            "UPDATE watched_airport SET planned_until = $1 WHERE airport = $2 AND (planned_until < $1 OR $3)",
        )
        .bind(latest.end)
        .bind(airport.as_str())
        .bind(was_ahead)
        .execute(&mut **tx)
        .await?
        .rows_affected()
    });
    Ok(())
}

/// Whether our clock is behind: a window is stored, at whatever airport, that has yet to close by it. OpenSky's clock has
/// confirmed those.
async fn is_behind(tx: &mut Tx, latest: Window) -> sqlx::Result<bool> {
    on!(tx, |tx| {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM airport_window WHERE state = 'stored' AND window_begin >= $1)",
        )
        .bind(latest.end)
        .fetch_one(&mut **tx)
        .await
    })
}

/// Takes back what a clock that was ahead has done: windows that it made due or gave up, from the backfill on, and begins of
/// interests beyond the `latest` closed window.
async fn start_anew(tx: &mut Tx, airport: Icao, latest: Window, backfill: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query(
            "DELETE FROM airport_window WHERE airport = $1 AND state <> 'stored' AND window_begin >= $2",
        )
        .bind(airport.as_str())
        .bind(latest.end - backfill)
        .execute(&mut **tx)
        .await?;
        sqlx::query("UPDATE user_interest SET evaluate_from = $1 WHERE airport = $2 AND evaluate_from > $1")
            .bind(latest.begin)
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}
