//! Announcing: the messages about stored windows, oldest first.

use std::sync::Arc;

use common::clock::DAY;
use common::db::Tx;
use common::messages::{PreviousCounts, WatchingUser, WindowCounted};
use common::on;
use common::outbox::{self, Place};
use common::trace::Trace;
use common::types::Icao;

use super::interests::InterestRow;
use super::windows::CountRow;
use super::{CountedWindow, Interest, first_data};
use crate::airports::Catalogue;
use crate::unsubscribe::Signer;
use crate::window::Window;

/// Users in one message.
const USERS: usize = 1000;

/// Writes the messages about windows.
#[derive(Clone)]
pub(crate) struct Announcer {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) signer: Signer,
}

impl Announcer {
    /// Puts the messages of a locked airport's stored windows into the outbox, oldest first, up to a window that is
    /// still due. Windows before every interest's first evaluation have none, and hold nothing back.
    pub(super) async fn announce(
        &self,
        tx: &mut Tx,
        airport: Icao,
        trace: &Trace,
        now: i64,
    ) -> anyhow::Result<usize> {
        let first: Option<i64> = on!(&mut *tx, |tx| {
            sqlx::query_scalar("SELECT MIN(evaluate_from) FROM user_interest WHERE airport = $1")
                .bind(airport.as_str())
                .fetch_one(&mut **tx)
                .await?
        });
        let first = first.unwrap_or(i64::MAX);
        let windows: Vec<CountRow> = on!(&mut *tx, |tx| {
            sqlx::query_as(
                "SELECT window_begin, window_end, arrivals, departures FROM airport_window AS w \
                 WHERE airport = $1 AND state = 'stored' AND NOT announced AND window_begin >= $2 \
                 AND NOT EXISTS (SELECT 1 FROM airport_window AS due WHERE due.airport = $1 \
                   AND due.state = 'due' AND due.window_begin >= $2 AND due.window_begin < w.window_begin) \
                 ORDER BY window_begin",
            )
            .bind(airport.as_str())
            .bind(first)
            .fetch_all(&mut **tx)
            .await?
        });
        // Nearly always there is nothing new, and the many who watch the airport need not be read.
        let interests = if windows.is_empty() { Vec::new() } else { watchers(tx, airport).await? };
        let known_from = first_data(tx, airport).await?;
        let mut messages = 0;
        for window in windows.into_iter().map(CountRow::counted) {
            let begin = window.window.begin;
            if begin >= known_from {
                let wanting: Vec<Interest> =
                    interests.iter().filter(|interest| interest.evaluate_from <= begin).cloned().collect();
                for (part, users) in wanting.chunks(USERS).enumerate() {
                    let part = part.to_string();
                    let message = self.message(tx, airport, window, &part, users).await?;
                    outbox::put(tx, &message, &Place { window_begin: begin, part }, trace, now).await?;
                    messages += 1;
                }
            }
            mark_announced(tx, airport, begin).await?;
        }
        // What lies before the first evaluation fills averages only.
        mark_announced_before(tx, airport, first).await?;
        Ok(messages)
    }

    /// The message about a stored window for some of its users.
    pub(super) async fn message(
        &self,
        tx: &mut Tx,
        airport: Icao,
        window: CountedWindow,
        part: &str,
        users: &[Interest],
    ) -> anyhow::Result<WindowCounted> {
        let known_from = first_data(tx, airport).await?;
        let previous: Option<CountRow> = on!(&mut *tx, |tx| {
            sqlx::query_as(
                "SELECT window_begin, window_end, arrivals, departures FROM airport_window \
                 WHERE airport = $1 AND window_end = $2 AND state = 'stored' AND window_begin >= $3",
            )
            .bind(airport.as_str())
            .bind(window.window.begin)
            .bind(known_from)
            .fetch_optional(&mut **tx)
            .await?
        });
        // Days are counted back from the window's end, so that the last one is whole for windows of any length. One that was
        // not collected as a whole has no total.
        let history: Vec<i64> = on!(tx, |tx| {
            sqlx::query_scalar(
                "SELECT CAST(SUM(arrivals + departures) AS BIGINT) FROM airport_window \
                 WHERE airport = $1 AND state = 'stored' AND window_begin >= $2 AND window_end <= $3 \
                 GROUP BY ($3 - 1 - window_begin) / $4 HAVING SUM(window_end - window_begin) = $4 \
                 ORDER BY MIN(window_begin)",
            )
            .bind(airport.as_str())
            .bind(known_from.max(window.window.end - 14 * DAY))
            .bind(window.window.end)
            .bind(DAY)
            .fetch_all(&mut **tx)
            .await?
        });
        let user = |interest: &Interest| WatchingUser {
            account: Some(interest.account),
            email: interest.email.clone(),
            high_value: interest.thresholds.high(),
            low_value: interest.thresholds.low(),
            metric: interest.metric,
            notify: interest.notify,
            unsubscribe: Some(self.signer.sign(interest.account, airport)),
        };
        Ok(WindowCounted {
            id: format!("{}/{part}", window.window.id(airport)),
            airport,
            airport_name: self.catalogue.get(airport).map(|airport| airport.name.clone()),
            window_begin: window.window.begin,
            window_end: window.window.end,
            arrival_count: window.counts.arrivals,
            departure_count: window.counts.departures,
            previous: previous.map(CountRow::counted).map(|previous| PreviousCounts {
                arrival_count: previous.counts.arrivals,
                departure_count: previous.counts.departures,
            }),
            history,
            users: users.iter().map(user).collect(),
        })
    }
}

/// The interests in an airport, by account. One that cannot be read is left out, so that the others are told.
async fn watchers(tx: &mut Tx, airport: Icao) -> anyhow::Result<Vec<Interest>> {
    let rows: Vec<InterestRow> = on!(tx, |tx| {
        sqlx::query_as("SELECT * FROM user_interest WHERE airport = $1 ORDER BY account")
            .bind(airport.as_str())
            .fetch_all(&mut **tx)
            .await?
    });
    let readable = |row: InterestRow| {
        let account = row.account.clone();
        row.interest()
            .inspect_err(|error| tracing::error!(%account, %airport, %error, "an interest cannot be read"))
            .ok()
    };
    Ok(rows.into_iter().filter_map(readable).collect())
}

async fn mark_announced(tx: &mut Tx, airport: Icao, begin: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query("UPDATE airport_window SET announced = TRUE WHERE airport = $1 AND window_begin = $2")
            .bind(airport.as_str())
            .bind(begin)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

async fn mark_announced_before(tx: &mut Tx, airport: Icao, begin: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query(
            "UPDATE airport_window SET announced = TRUE WHERE airport = $1 AND window_begin < $2 \
             AND state = 'stored' AND NOT announced",
        )
        .bind(airport.as_str())
        .bind(begin)
        .execute(&mut **tx)
        .await
        .map(|_| ())
    })
}

/// The counts of a window, if it is stored and announced.
pub(super) async fn announced(
    tx: &mut Tx,
    airport: Icao,
    window: Window,
) -> sqlx::Result<Option<CountedWindow>> {
    let row: Option<CountRow> = on!(tx, |tx| {
        sqlx::query_as(
            "SELECT window_begin, window_end, arrivals, departures FROM airport_window \
             WHERE airport = $1 AND window_begin = $2 AND window_end = $3 AND state = 'stored' AND announced",
        )
        .bind(airport.as_str())
        .bind(window.begin)
        .bind(window.end)
        .fetch_optional(&mut **tx)
        .await?
    });
    Ok(row.map(CountRow::counted))
}
