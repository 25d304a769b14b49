//! Interests: who wants to know what of which airport.

use common::db::Tx;
use common::outbox::{self, Place};
use common::trace::Trace;
use common::types::{Account, Email, Icao, Metric, Notify, Thresholds};
use common::{on, row};

use super::announce::{Announcer, announced};
use super::planning::{grid, plan};
use super::watched::{remove, watch, watchers_change};
use super::{Interest, Store, first_data, lock_account};
use crate::error::Error;
use crate::window::Window;

/// How an interest changes: gets what there is and gives what there is to be, or refuses.
pub(crate) type Change<'a> = &'a (dyn Fn(Option<&Interest>) -> Result<Wanted, Error> + Send + Sync);

/// What a person wants of an interest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) thresholds: Thresholds,
    pub(crate) metric: Metric,
    pub(crate) notify: Notify,
}

/// By which windows interests are evaluated, and who writes the messages.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation<'a> {
    /// How long after its end a window is closed, in seconds.
    pub(crate) lag: i64,
    /// How far back a newly watched airport is collected, in seconds.
    pub(crate) backfill: i64,
    /// Flight time.
    pub(crate) now: i64,
    pub(crate) announcer: &'a Announcer,
}

/// An interest as it was saved.
pub(crate) struct Saved {
    pub(crate) interest: Interest,
    pub(crate) is_new: bool,
}

row! {
    pub(super) struct InterestRow {
        pub(super) account: String,
        email: String,
        airport: String,
        low_value: Option<i64>,
        high_value: Option<i64>,
        metric: String,
        notify: String,
        revision: i64,
        evaluate_from: i64,
        created_at: i64,
        updated_at: i64,
    }
}

impl InterestRow {
    pub(super) fn interest(self) -> anyhow::Result<Interest> {
        Ok(Interest {
            account: self.account.parse()?,
            email: self.email.parse()?,
            airport: self.airport.parse()?,
            thresholds: Thresholds::new(self.low_value, self.high_value)?,
            metric: self.metric.parse()?,
            notify: self.notify.parse()?,
            revision: self.revision,
            evaluate_from: self.evaluate_from,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl Store {
    /// Makes or changes an interest. In the same transaction the airport becomes watched, its windows become due, and,
    /// if the latest closed window is stored already, the message that evaluates the interest on it goes to the outbox.
    pub(crate) async fn save_interest(
        &self,
        (account, email, airport): (Account, &Email, Icao),
        most: i64,
        change: Change<'_>,
        on: Evaluation<'_>,
        trace: &Trace,
    ) -> Result<Saved, Error> {
        let mut tx = self.0.begin().await?;
        if !lock_account(&mut tx, account).await? {
            return Err(Error::Forgotten);
        }
        let grid = grid(&mut tx, on.lag).await?;
        let latest = grid.latest(on.now);
        let newly_watched = watch(&mut tx, airport, latest.end - on.backfill).await?;
        let before = interest(&mut tx, account, airport).await?;
        let wanted = change(before.as_ref())?;
        if before.is_none() && count(&mut tx, account).await? >= most {
            return Err(Error::TooManyInterests(most));
        }
        let saved = Interest {
            account,
            email: email.clone(),
            airport,
            thresholds: wanted.thresholds,
            metric: wanted.metric,
            notify: wanted.notify,
            revision: next_revision(&mut tx, account).await?,
            // A change keeps the windows that are still to be announced, and takes back a start that lies ahead because
            // the clock once did.
            evaluate_from: before
                .as_ref()
                .map_or(latest.begin, |before| before.evaluate_from.min(latest.begin)),
            created_at: before.as_ref().map_or(on.now, |before| before.created_at),
            updated_at: on.now,
        };
        write(&mut tx, &saved).await?;
        if before.is_none() {
            watchers_change(&mut tx, airport, 1).await?;
        }
        let wanted_since = if newly_watched { on.now } else { i64::MIN };
        plan(&mut tx, airport, &grid, on.backfill, on.now, wanted_since, trace).await?;
        evaluate_now(&mut tx, &saved, latest, on, trace).await?;
        on.announcer.announce(&mut tx, airport, trace, on.now).await?;
        tx.commit().await?;
        Ok(Saved { interest: saved, is_new: before.is_none() })
    }

    /// The interests of an account, by airport.
    pub(crate) async fn interests(&self, account: Account) -> anyhow::Result<Vec<Interest>> {
        let rows: Vec<InterestRow> = on!(self.0.reader(), |pool| {
            sqlx::query_as("SELECT * FROM user_interest WHERE account = $1 ORDER BY airport")
                .bind(account.to_string())
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(InterestRow::interest).collect()
    }

    /// Ends an interest, and announces what only that interest held back; `false` if there was none. `now` is the flight
    /// time.
    pub(crate) async fn remove_interest(
        &self,
        account: Account,
        airport: Icao,
        announcer: &Announcer,
        trace: &Trace,
        now: i64,
    ) -> anyhow::Result<bool> {
        let mut tx = self.0.begin().await?;
        lock_account(&mut tx, account).await?;
        let removed = remove(&mut tx, account, airport).await?;
        announcer.announce(&mut tx, airport, trace, now).await?;
        tx.commit().await?;
        Ok(removed)
    }

    /// Forgets an account: its interests go, and it can make none any more. `now` is the flight time.
    pub(crate) async fn forget(
        &self,
        account: Account,
        announcer: &Announcer,
        trace: &Trace,
        now: i64,
    ) -> anyhow::Result<()> {
        let mut tx = self.0.begin().await?;
        lock_account(&mut tx, account).await?;
        let airports: Vec<String> = on!(&mut tx, |tx| {
            sqlx::query("UPDATE account SET forgotten_at = COALESCE(forgotten_at, $1) WHERE account = $2")
                .bind(now)
                .bind(account.to_string())
                .execute(&mut **tx)
                .await?;
            sqlx::query_scalar("SELECT airport FROM user_interest WHERE account = $1 ORDER BY airport")
                .bind(account.to_string())
                .fetch_all(&mut **tx)
                .await?
        });
        for airport in airports {
            let airport = airport.parse()?;
            remove(&mut tx, account, airport).await?;
            announcer.announce(&mut tx, airport, trace, now).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// Counts one change of a locked account's interests.
async fn next_revision(tx: &mut Tx, account: Account) -> sqlx::Result<i64> {
    on!(tx, |tx| {
        sqlx::query_scalar("UPDATE account SET revision = revision + 1 WHERE account = $1 RETURNING revision")
            .bind(account.to_string())
            .fetch_one(&mut **tx)
            .await
    })
}

async fn interest(tx: &mut Tx, account: Account, airport: Icao) -> anyhow::Result<Option<Interest>> {
    let row: Option<InterestRow> = on!(tx, |tx| {
        sqlx::query_as("SELECT * FROM user_interest WHERE account = $1 AND airport = $2")
            .bind(account.to_string())
            .bind(airport.as_str())
            .fetch_optional(&mut **tx)
            .await?
    });
    row.map(InterestRow::interest).transpose()
}

async fn count(tx: &mut Tx, account: Account) -> sqlx::Result<i64> {
    on!(tx, |tx| {
        sqlx::query_scalar("SELECT COUNT(*) FROM user_interest WHERE account = $1")
            .bind(account.to_string())
            .fetch_one(&mut **tx)
            .await
    })
}

async fn write(tx: &mut Tx, interest: &Interest) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query(
            "INSERT INTO user_interest (account, email, airport, low_value, high_value, metric, notify, \
             revision, evaluate_from, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (account, airport) DO UPDATE SET email = excluded.email, \
             low_value = excluded.low_value, high_value = excluded.high_value, metric = excluded.metric, \
             notify = excluded.notify, revision = excluded.revision, evaluate_from = excluded.evaluate_from, \
             updated_at = excluded.updated_at",
        )
        .bind(interest.account.to_string())
        .bind(interest.email.as_str())
        .bind(interest.airport.as_str())
        .bind(interest.thresholds.low())
        .bind(interest.thresholds.high())
        .bind(interest.metric.as_str())
        .bind(interest.notify.as_str())
        .bind(interest.revision)
        .bind(interest.evaluate_from)
        .bind(interest.created_at)
        .bind(interest.updated_at)
        .execute(&mut **tx)
        .await
        .map(|_| ())
    })
}

/// Has one interest evaluated on the latest closed window if that window has been announced already; otherwise the
/// window's own message will do it.
async fn evaluate_now(
    tx: &mut Tx,
    interest: &Interest,
    latest: Window,
    on: Evaluation<'_>,
    trace: &Trace,
) -> anyhow::Result<()> {
    let stored = announced(tx, interest.airport, latest).await?;
    let Some(window) = stored else { return Ok(()) };
    if window.window.begin < first_data(tx, interest.airport).await? {
        return Ok(());
    }
    let part = format!("s-{}-{}", interest.account, interest.revision);
    let users = std::slice::from_ref(interest);
    let message = on.announcer.message(tx, interest.airport, window, &part, users).await?;
    let place = Place { window_begin: window.window.begin, part };
    outbox::put(tx, &message, &place, trace, on.now).await
}
