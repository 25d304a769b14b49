//! What is left of the day's credits, shared by all replicas.

use common::db::Tx;
use common::{on, row};

use super::Store;

const NAME: &str = "opensky";

/// No pause is longer than a day, in seconds with an hour to spare: one that seems to be was made by a clock that was ahead.
const LONGEST_PAUSE: i64 = 90_000;

/// What the budget says to a window that is to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    /// Its credits are taken, from this day's.
    Taken { day: i64 },
    /// The day's are used up.
    Spent,
    /// OpenSky wants to be left alone for so many seconds.
    Paused(i64),
}

row! {
    /// Where the budget stands.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Credits {
        pub(crate) remaining: Option<i64>,
        /// Until when nobody asks, Unix seconds by the database's clock.
        pub(crate) paused_until: i64,
    }
}

impl Store {
    /// Takes `cost` credits of `day` (days since 1970) if so many are left and there is no pause; a new day begins with
    /// `daily`.
    pub(crate) async fn take_credits(&self, day: i64, daily: i64, cost: i64) -> sqlx::Result<Budget> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        begin_day(&mut tx, day, daily).await?;
        let taken: Option<i64> = on!(&mut tx, |tx| {
            sqlx::query_scalar(
                "UPDATE credit SET remaining = remaining - $1 \
                 WHERE name = $2 AND remaining >= $1 AND (paused_until <= $3 OR paused_until > $3 + 90000) \
                 RETURNING day",
            )
            .bind(cost)
            .bind(NAME)
            .bind(now)
            .fetch_optional(&mut **tx)
            .await?
        });
        let paused_until: i64 = on!(&mut tx, |tx| {
            sqlx::query_scalar("SELECT paused_until FROM credit WHERE name = $1")
                .bind(NAME)
                .fetch_one(&mut **tx)
                .await?
        });
        tx.commit().await?;
        Ok(match (taken, paused_until - now) {
            (Some(day), _) => Budget::Taken { day },
            (None, seconds @ 1..=LONGEST_PAUSE) => Budget::Paused(seconds),
            (None, _) => Budget::Spent,
        })
    }

    /// Brings the budget of `day` in line with how the calls ended: gives back what OpenSky does not charge, and takes
    /// over what it says is left, if it has less for us than we planned.
    pub(crate) async fn settle_credits(
        &self,
        day: i64,
        refund: i64,
        remaining: Option<i64>,
    ) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "UPDATE credit SET remaining = CASE WHEN $1 < remaining + $2 THEN $1 ELSE remaining + $2 END \
                 WHERE name = $3 AND day = $4",
            )
            .bind(remaining.unwrap_or(i64::MAX))
            .bind(refund)
            .bind(NAME)
            .bind(day)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }

    /// Lets nobody ask for `seconds`, or longer if somebody was told so.
    pub(crate) async fn pause(&self, seconds: i64) -> sqlx::Result<()> {
        let mut tx = self.0.begin().await?;
        let now = tx.now().await?;
        on!(&mut tx, |tx| {
            sqlx::query(
                "UPDATE credit SET paused_until = $1 \
                 WHERE name = $2 AND (paused_until < $1 OR paused_until > $3 + 90000)",
            )
            .bind(now + seconds)
            .bind(NAME)
            .bind(now)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        tx.commit().await
    }

    /// Where the budget stands; `None` before the first call ever. What remains is that of `day`, `None` before its first.
    pub(crate) async fn credits(&self, day: i64) -> sqlx::Result<Option<Credits>> {
        on!(self.0.reader(), |pool| {
            sqlx::query_as(
                "SELECT CASE WHEN day >= $2 THEN remaining END AS remaining, paused_until FROM credit WHERE name = $1",
            )
            .bind(NAME)
            .bind(day)
                .fetch_optional(pool)
                .await
        })
    }
}

/// Fills the bucket when another day has begun. One that lies further ahead than replicas' clocks may differ comes from a
/// clock that was wrong, and counts as over.
async fn begin_day(tx: &mut Tx, day: i64, daily: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query(
            "INSERT INTO credit (name, day, remaining) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET day = excluded.day, remaining = excluded.remaining \
             WHERE credit.day < excluded.day OR credit.day > excluded.day + 1",
        )
        .bind(NAME)
        .bind(day)
        .bind(daily)
        .execute(&mut **tx)
        .await
        .map(|_| ())
    })
}
