//! Mails that wait in the database.

use std::time::Duration;

use anyhow::Context;
use common::db::Tx;
use common::retry::{doubled, jittered};
use common::{on, row};

use super::{Mail, Store, release};

/// The first wait of a mail that the server does not take, and the longest.
const FIRST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);
/// How long a mail is put off that another replica has in hand, in seconds.
const PUT_OFF: i64 = 3;
/// Mails that are looked at together.
const MOST_DUE: i64 = 100;

/// What became of a mail that the server did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Postponed {
    /// It is tried again in so long.
    For(Duration),
    /// It was tried for long enough. Its lease is kept until it is buried.
    TooLong,
    /// Its account was deleted meanwhile.
    Gone,
}

row! {
    struct Row {
        letter: String,
        trace: String,
        origin: String,
    }
}

row! {
    /// Of the mails that wait.
    #[derive(Default)]
    pub(super) struct Waiting {
        /// There is the mail itself.
        pub(super) itself: bool,
        /// There are some to its address.
        pub(super) others: bool,
    }
}

impl Store {
    /// Parks a mail that came from the bus and that the server does not take for now; gives its lease back.
    pub(crate) async fn park(&self, mail: &Mail) -> anyhow::Result<Duration> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        // Rows of `sending` come before those of `parked` in every transaction, so that none waits for another crosswise.
        release(&mut tx, &mail.letter.id, &self.holder).await?;
        put_behind(&mut tx, mail, now).await?;
        let wait = postpone(&mut tx, &mail.letter.id, now, 0).await?;
        tx.commit().await?;
        Ok(wait)
    }

    /// The first mail to each address, if it is due, those that are due longest first.
    pub(crate) async fn due(&self) -> anyhow::Result<Vec<Mail>> {
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        let rows: Vec<Row> = on!(&mut tx, |tx| {
            sqlx::query_as(
                "SELECT letter, trace, origin FROM parked WHERE due_at <= $1 AND NOT EXISTS ( \
                   SELECT 1 FROM parked AS earlier \
                   WHERE earlier.email = parked.email AND earlier.place < parked.place) \
                 ORDER BY due_at LIMIT $2",
            )
            .bind(now)
            .bind(MOST_DUE)
            .fetch_all(&mut **tx)
            .await?
        });
        tx.commit().await?;
        rows.into_iter().map(Row::mail).collect()
    }

    /// How many wait.
    pub(crate) async fn count_parked(&self) -> sqlx::Result<i64> {
        let count = "SELECT COUNT(*) FROM parked";
        self.noted(on!(self.db.reader(), |pool| sqlx::query_scalar(count).fetch_one(pool).await))
    }

    /// The server does not take a parked mail this time either; gives its lease back.
    pub(crate) async fn postpone(&self, mail: &Mail, give_up: Duration) -> sqlx::Result<Postponed> {
        let id = &mail.letter.id;
        let mut tx = self.db.begin().await?;
        let now = tx.now().await?;
        let found: Option<(i64, i64)> = on!(&mut tx, |tx| {
            sqlx::query_as("SELECT attempts, parked_at FROM parked WHERE id = $1")
                .bind(id)
                .fetch_optional(&mut **tx)
                .await?
        });
        let outcome = match found {
            Some((_, parked_at)) if now - parked_at >= give_up.as_secs().cast_signed() => Postponed::TooLong,
            Some((attempts, _)) => {
                release(&mut tx, id, &self.holder).await?;
                Postponed::For(postpone(&mut tx, id, now, attempts).await?)
            }
            None => {
                release(&mut tx, id, &self.holder).await?;
                Postponed::Gone
            }
        };
        tx.commit().await?;
        Ok(outcome)
    }

    /// A mail waits no more: it lies in the dead topic.
    pub(crate) async fn unpark(&self, mail: &Mail) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        release(&mut tx, &mail.letter.id, &self.holder).await?;
        remove(&mut tx, &mail.letter.id).await?;
        tx.commit().await
    }
}

impl Row {
    fn mail(self) -> anyhow::Result<Mail> {
        let letter = serde_json::from_str(&self.letter).context("a parked letter")?;
        let trace = serde_json::from_str(&self.trace).context("the trace of a parked letter")?;
        Ok(Mail { letter, trace, origin: self.origin })
    }
}

/// Whether this mail waits, and its time has come.
pub(super) async fn is_due(tx: &mut Tx, id: &str, now: i64) -> sqlx::Result<bool> {
    on!(&mut *tx, |tx| {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM parked WHERE id = $1 AND due_at <= $2)")
            .bind(id)
            .bind(now)
            .fetch_one(&mut **tx)
            .await
    })
}

/// Puts a mail off for a moment, without counting an attempt: another replica has it in hand.
pub(super) async fn put_off(tx: &mut Tx, id: &str, now: i64) -> sqlx::Result<()> {
    on!(&mut *tx, |tx| {
        sqlx::query("UPDATE parked SET due_at = $1 WHERE id = $2 AND due_at < $1")
            .bind(now + PUT_OFF)
            .bind(id)
            .execute(&mut **tx)
            .await
            .map(|_| ())
    })
}

/// What waits already when a mail comes from the bus.
pub(super) async fn waiting(tx: &mut Tx, id: &str, email: &str) -> sqlx::Result<Waiting> {
    on!(&mut *tx, |tx| {
        sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM parked WHERE id = $1) AS itself, \
             EXISTS (SELECT 1 FROM parked WHERE email = $2) AS others",
        )
        .bind(id)
        .bind(email)
        .fetch_one(&mut **tx)
        .await
    })
}

/// Parks a mail behind those to the same address; one that is parked keeps its place. It is due as soon as it is the first.
pub(super) async fn put_behind(tx: &mut Tx, mail: &Mail, now: i64) -> anyhow::Result<()> {
    let letter = serde_json::to_string(&mail.letter)?;
    let trace = serde_json::to_string(&mail.trace)?;
    let account = mail.letter.account.map(|account| account.to_string()).unwrap_or_default();
    on!(&mut *tx, |tx| {
        sqlx::query(
            "INSERT INTO parked (email, place, id, account, letter, trace, origin, attempts, parked_at, due_at) \
             SELECT $1, COALESCE(MAX(place), 0) + 1, $2, $3, $4, $5, $6, 0, $7, $7 FROM parked WHERE email = $1 \
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(mail.letter.email.as_str())
        .bind(&mail.letter.id)
        .bind(account)
        .bind(letter)
        .bind(trace)
        .bind(&mail.origin)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected()
    });
    Ok(())
}

/// Counts an attempt; says how long until the next.
async fn postpone(tx: &mut Tx, id: &str, now: i64, attempts: i64) -> sqlx::Result<Duration> {
    let wait = jittered(doubled(FIRST_WAIT, LONGEST_WAIT, u32::try_from(attempts).unwrap_or(u32::MAX)));
    on!(&mut *tx, |tx| {
        sqlx::query("UPDATE parked SET attempts = $1, due_at = $2 WHERE id = $3")
            .bind(attempts + 1)
            .bind(now + wait.as_secs().cast_signed())
            .bind(id)
            .execute(&mut **tx)
            .await?
            .rows_affected()
    });
    Ok(wait)
}

pub(super) async fn remove(tx: &mut Tx, id: &str) -> sqlx::Result<()> {
    on!(&mut *tx, |tx| {
        sqlx::query("DELETE FROM parked WHERE id = $1").bind(id).execute(&mut **tx).await.map(|_| ())
    })
}
