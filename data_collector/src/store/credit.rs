//! What is left of the day's credits.

use common::on;

use super::Store;

const NAME: &str = "opensky";

impl Store {
    /// Takes `cost` credits of `day` (days since 1970) if so many are left; a new day begins with `daily`.
    pub(crate) async fn take_credits(&self, day: i64, daily: i64, cost: i64) -> sqlx::Result<bool> {
        let mut tx = self.0.begin().await?;
        on!(&mut tx, |tx| {
            sqlx::query(
                "INSERT INTO credit (name, day, remaining) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET day = excluded.day, remaining = excluded.remaining \
                 WHERE credit.day < excluded.day",
            )
            .bind(NAME)
            .bind(day)
            .bind(daily)
            .execute(&mut **tx)
            .await?
            .rows_affected()
        });
        let taken = on!(&mut tx, |tx| {
            sqlx::query("UPDATE credit SET remaining = remaining - $1 WHERE name = $2 AND remaining >= $1")
                .bind(cost)
                .bind(NAME)
                .execute(&mut **tx)
                .await?
                .rows_affected()
        });
        tx.commit().await?;
        Ok(taken == 1)
    }

    /// Gives back credits of `day` that were taken for calls without an answer: OpenSky may have counted them or not, and
    /// its next answer tells.
    pub(crate) async fn return_credits(&self, day: i64, cost: i64) -> sqlx::Result<()> {
        on!(&self.0, |pool| {
            sqlx::query("UPDATE credit SET remaining = remaining + $1 WHERE name = $2 AND day = $3")
                .bind(cost)
                .bind(NAME)
                .bind(day)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// What OpenSky says is left; it may have less for us than we planned, not more.
    pub(crate) async fn set_credits(&self, day: i64, remaining: i64) -> sqlx::Result<()> {
        on!(&self.0, |pool| {
            sqlx::query("UPDATE credit SET remaining = $1 WHERE name = $2 AND day = $3 AND remaining > $1")
                .bind(remaining)
                .bind(NAME)
                .bind(day)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// What is left on `day`; `None` before its first call.
    pub(crate) async fn credits(&self, day: i64) -> sqlx::Result<Option<i64>> {
        on!(&self.0, |pool| {
            sqlx::query_scalar("SELECT remaining FROM credit WHERE name = $1 AND day = $2")
                .bind(NAME)
                .bind(day)
                .fetch_optional(pool)
                .await
        })
    }
}
