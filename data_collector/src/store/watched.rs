//! Watched airports: those that somebody has an interest in.

use common::db::Tx;
use common::on;
use common::types::{Account, Icao};

use super::lock_airport;

/// Makes an airport watched, and locks it; one that was not watched is collected from `from` on. Says whether it was not.
pub(super) async fn watch(tx: &mut Tx, airport: Icao, from: i64) -> sqlx::Result<bool> {
    loop {
        let inserted = on!(&mut *tx, |tx| {
            sqlx::query(
                "INSERT INTO watched_airport (airport, planned_until) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(airport.as_str())
            .bind(from)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        // Somebody may have ended the last interest in between; then it is ours to insert.
        if lock_airport(tx, airport).await? {
            if inserted == 1 {
                forget_due(tx, airport, from).await?;
            }
            return Ok(inserted == 1);
        }
    }
}

/// Forgets the due windows that ended before a time unwatched.
async fn forget_due(tx: &mut Tx, airport: Icao, until: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query("DELETE FROM airport_window WHERE airport = $1 AND state = 'due' AND window_end <= $2")
            .bind(airport.as_str())
            .bind(until)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

pub(super) async fn watchers_change(tx: &mut Tx, airport: Icao, by: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query("UPDATE watched_airport SET watchers = watchers + $1 WHERE airport = $2")
            .bind(by)
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

/// Removes an interest. An airport that nobody watches any more is no longer collected, nor are its due windows; what was
/// asked for in vain, or is provisional, is kept in mind, so that ending an interest and making it anew asks for nothing
/// sooner.
pub(super) async fn remove(tx: &mut Tx, account: Account, airport: Icao) -> sqlx::Result<bool> {
    lock_airport(tx, airport).await?;
    let removed = on!(&mut *tx, |tx| {
        sqlx::query("DELETE FROM user_interest WHERE account = $1 AND airport = $2")
            .bind(account.to_string())
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await?
            .rows_affected()
    });
    if removed == 0 {
        return Ok(false);
    }
    watchers_change(tx, airport, -1).await?;
    on!(tx, |tx| {
        let unwatched = sqlx::query(
            "DELETE FROM watched_airport WHERE airport = $1 \
             AND NOT EXISTS (SELECT 1 FROM user_interest WHERE airport = $1)",
        )
        .bind(airport.as_str())
        .execute(&mut **tx)
        .await?;
        if unwatched.rows_affected() == 1 {
            sqlx::query(
                "DELETE FROM airport_window WHERE airport = $1 AND state = 'due' \
                 AND attempts = 0 AND provisional_until = 0",
            )
            .bind(airport.as_str())
            .execute(&mut **tx)
            .await?;
        }
    });
    Ok(true)
}
