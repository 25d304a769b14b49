//! All SQL of data_collector.

mod announce;
mod bench;
mod credit;
mod flights;
mod interests;
mod planning;
mod queries;
mod standing;
#[cfg(test)]
mod tests;
mod watched;
mod windows;

use common::db::{Db, Tx};
use common::on;
use common::types::{Account, Counts, Email, Icao, Metric, Notify, Thresholds};

pub(crate) use announce::Announcer;
pub(crate) use credit::Budget;
pub(crate) use interests::{Evaluation, Saved, Wanted};
pub(crate) use queries::{Cursor, Day, FlightQuery, SeenFlight};
pub(crate) use standing::Standing;
pub(crate) use windows::{Claim, Fetched, Stored};

use crate::window::Window;

/// The database.
#[derive(Clone)]
pub(crate) struct Store(Db);

impl Store {
    pub(crate) fn new(db: Db) -> Store {
        Store(db)
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    /// The secret called `name`, made of `fresh` if there is none yet.
    pub(crate) async fn signing_key(&self, name: &str, fresh: &str) -> sqlx::Result<String> {
        on!(self.0.writer(), |pool| {
            sqlx::query_scalar(
                "INSERT INTO signing_key (name, secret) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET secret = signing_key.secret RETURNING secret",
            )
            .bind(name)
            .bind(fresh)
            .fetch_one(pool)
            .await
        })
    }
}

/// A person's interest in an airport.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Interest {
    pub(crate) account: Account,
    pub(crate) email: Email,
    pub(crate) airport: Icao,
    pub(crate) thresholds: Thresholds,
    pub(crate) metric: Metric,
    pub(crate) notify: Notify,
    /// The account's revision at the last change.
    pub(crate) revision: i64,
    /// Begin of the first window it is evaluated on.
    pub(crate) evaluate_from: i64,
    pub(crate) created_at: i64,
    pub(crate) updated_at: i64,
}

/// A window that is stored, with its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedWindow {
    pub(crate) window: Window,
    pub(crate) counts: Counts,
}

/// Locks an airport against windows being stored and interests being changed; `false` if nobody watches it. Always
/// after [`lock_account`], and several airports in the order of their codes, so that nobody waits in a ring.
async fn lock_airport(tx: &mut Tx, airport: Icao) -> sqlx::Result<bool> {
    on!(tx, |tx| {
        sqlx::query("UPDATE watched_airport SET planned_until = planned_until WHERE airport = $1")
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await
            .map(|done| done.rows_affected() == 1)
    })
}

/// Locks an account against being forgotten; `false` if it is already.
async fn lock_account(tx: &mut Tx, account: Account) -> sqlx::Result<bool> {
    let forgotten_at: Option<i64> = on!(tx, |tx| {
        sqlx::query_scalar(
            "INSERT INTO account (account) VALUES ($1) \
             ON CONFLICT (account) DO UPDATE SET forgotten_at = account.forgotten_at RETURNING forgotten_at",
        )
        .bind(account.to_string())
        .fetch_one(&mut **tx)
        .await?
    });
    Ok(forgotten_at.is_none())
}

/// Begin of the first window of an airport in which a flight was counted. Zeros before it mean that the source did not
/// know the airport; from it on a zero is a count.
const FIRST_DATA: &str = "SELECT MIN(window_begin) FROM airport_window \
     WHERE airport = $1 AND state = 'stored' AND arrivals + departures > 0";

/// See [`FIRST_DATA`]; a time that never comes if there is none.
async fn first_data(tx: &mut Tx, airport: Icao) -> sqlx::Result<i64> {
    let first: Option<i64> =
        on!(tx, |tx| sqlx::query_scalar(FIRST_DATA).bind(airport.as_str()).fetch_one(&mut **tx).await?);
    Ok(first.unwrap_or(i64::MAX))
}
