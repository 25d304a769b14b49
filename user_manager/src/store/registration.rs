//! Registrations: at most one for a key, and the addresses that wait to be confirmed.

use common::auth::TOKEN_LIFETIME;
use common::clock::DAY;
use common::db::{Tx, is_taken};
use common::messages::Letter;
use common::outbox::{self, Place};
use common::trace::Trace;
use common::types::{Account, Email};
use common::{on, row};

use super::{Person, Store, tell_forgotten};
use crate::error::Error;
use crate::registration::Key;

/// How long an account waits for its address to be confirmed, in seconds.
pub(crate) const CONFIRM_WITHIN: i64 = 7 * DAY;
/// How long the key of a registration is remembered, in seconds.
const KEYS_KEPT: i64 = DAY;
/// Confirmation mails to an address in a day, which begins with the first.
const MAILS_A_DAY: i64 = 3;
/// Accounts that are read in one go to be forgotten because nobody confirmed their address.
const FORGOTTEN_AT_ONCE: i64 = 500;

/// The registration of an address under a key, unless it is too old.
const EARLIER: &str =
    "SELECT answer, password_hash FROM registration WHERE email = $1 AND key = $2 AND created_at > $3";

/// A registration to be made: all of it or nothing.
pub(crate) struct Registration<'a> {
    pub(crate) person: &'a Person,
    /// What the client calls it, and the answer it is to get whenever it asks again.
    pub(crate) key: Option<&'a Key>,
    pub(crate) answer: &'a str,
    /// The mail by which the address is confirmed; without one it counts as confirmed.
    pub(crate) mail: Option<&'a Letter>,
}

row! {
    /// A registration that succeeded earlier under the same key.
    pub(crate) struct Earlier {
        pub(crate) answer: String,
        pub(crate) password_hash: Option<String>,
    }
}

impl Store {
    /// The registration that succeeded under this key in the last 24 hours.
    pub(crate) async fn earlier(&self, email: &Email, key: &Key, now: i64) -> sqlx::Result<Option<Earlier>> {
        on!(self.0.reader(), |pool| {
            sqlx::query_as(EARLIER)
                .bind(email.as_str())
                .bind(&key.0)
                .bind(now - KEYS_KEPT)
                .fetch_optional(pool)
                .await
        })
    }

    /// Makes an account with its mail, its key and its answer; or gives the registration that succeeded under the key
    /// before. Registrations of one address queue: whoever comes second finds what the first has made. An address that
    /// waits to be confirmed is not taken: what was registered before goes.
    pub(crate) async fn register(
        &self,
        registration: &Registration<'_>,
        trace: &Trace,
    ) -> Result<Option<Earlier>, Error> {
        let Registration { person, key, answer, mail } = registration;
        let now = person.created_at;
        let mut tx = self.0.begin().await?;
        let address = lock_address(&mut tx, &person.email, now).await?;
        if let Some(key) = key {
            let earlier: Option<Earlier> = on!(&mut tx, |tx| {
                sqlx::query_as(EARLIER)
                    .bind(person.email.as_str())
                    .bind(&key.0)
                    .bind(now - KEYS_KEPT)
                    .fetch_optional(&mut **tx)
                    .await?
            });
            if earlier.is_some() {
                return Ok(earlier);
            }
        }
        // In the classroom nobody confirms, so nobody waits.
        let waiting: Option<String> = on!(&mut tx, |tx| {
            sqlx::query_scalar(
                "SELECT account FROM users WHERE email = $1 AND confirmed_at IS NULL AND NOT $2",
            )
            .bind(person.email.as_str())
            .bind(person.classroom)
            .fetch_optional(&mut **tx)
            .await?
        });
        if let Some(account) = waiting {
            forget_unconfirmed(&mut tx, account.parse()?, trace, now).await?;
        }
        insert(&mut tx, person).await?;
        if let Some(mail) = mail {
            if address.mails >= MAILS_A_DAY {
                let seconds = address.mails_since + DAY - now;
                return Err(Error::TooManyMails { retry_after: u32::try_from(seconds).unwrap_or(1).max(1) });
            }
            on!(&mut tx, |tx| {
                sqlx::query("UPDATE address SET mails = mails + 1 WHERE email = $1")
                    .bind(person.email.as_str())
                    .execute(&mut **tx)
                    .await?
                    .rows_affected()
            });
            let place = Place { window_begin: 0, part: mail.id.clone() };
            outbox::put(&mut tx, *mail, &place, trace, now).await?;
        }
        if let Some(key) = key {
            on!(&mut tx, |tx| {
                sqlx::query(
                    "INSERT INTO registration (email, key, account, answer, password_hash, created_at) \
                     VALUES ($1, $2, $3, $4, $5, $6)",
                )
                .bind(person.email.as_str())
                .bind(&key.0)
                .bind(person.account.to_string())
                .bind(*answer)
                .bind(&person.password_hash)
                .bind(now)
                .execute(&mut **tx)
                .await?
                .rows_affected()
            });
        }
        tx.commit().await?;
        Ok(None)
    }

    /// Whether the address of an account is confirmed, or can be.
    pub(crate) async fn is_confirmable(&self, account: Account, now: i64) -> anyhow::Result<bool> {
        let person = self.person(account).await?;
        Ok(person
            .is_some_and(|person| person.confirmed_at.is_some() || person.created_at > now - CONFIRM_WITHIN))
    }

    /// Confirms the address of an account; `false` if there is no such account, or its time is over.
    pub(crate) async fn confirm(&self, account: Account, now: i64) -> sqlx::Result<bool> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "UPDATE users SET confirmed_at = COALESCE(confirmed_at, $1) \
                 WHERE account = $2 AND (confirmed_at IS NOT NULL OR created_at > $3)",
            )
            .bind(now)
            .bind(account.to_string())
            .bind(now - CONFIRM_WITHIN)
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1)
        })
    }

    /// Removes what has had its time: keys of registrations, the counts of mails, and revocations of tokens that have all
    /// expired.
    pub(crate) async fn prune(&self, now: i64) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            for (statement, bound) in [
                ("DELETE FROM registration WHERE created_at <= $1", now - KEYS_KEPT),
                ("DELETE FROM address WHERE mails_since <= $1", now - DAY),
                ("DELETE FROM revocation WHERE not_before < $1", now - 4 * TOKEN_LIFETIME),
            ] {
                sqlx::query(statement).bind(bound).execute(pool).await?;
            }
        });
        Ok(())
    }

    /// Forgets the accounts whose address nobody confirmed in time, and all of the classroom.
    pub(crate) async fn forget_unconfirmed(&self, now: i64) -> anyhow::Result<()> {
        let mut after = String::new();
        loop {
            let late: Vec<String> = on!(self.0.reader(), |pool| {
                sqlx::query_scalar(
                    "SELECT account FROM users WHERE confirmed_at IS NULL AND (created_at <= $1 OR classroom) \
                     AND account > $2 ORDER BY account LIMIT $3",
                )
                .bind(now - CONFIRM_WITHIN)
                .bind(&after)
                .bind(FORGOTTEN_AT_ONCE)
                .fetch_all(pool)
                .await?
            });
            let Some(last) = late.last() else { return Ok(()) };
            after.clone_from(last);
            for account in late {
                if let Err(error) = self.forget_late(&account, now).await {
                    tracing::warn!(account, error = format!("{error:#}"), "an unconfirmed account stays");
                }
            }
        }
    }

    async fn forget_late(&self, account: &str, now: i64) -> anyhow::Result<()> {
        let mut tx = self.0.begin().await?;
        forget_unconfirmed(&mut tx, account.parse()?, &Trace::start(), now).await?;
        Ok(tx.commit().await?)
    }
}

/// How many confirmation mails an address has had.
struct Address {
    mails: i64,
    /// The time of the first of them, Unix seconds.
    mails_since: i64,
}

/// Makes the registrations of an address queue until the end of the transaction.
async fn lock_address(tx: &mut Tx, email: &Email, now: i64) -> sqlx::Result<Address> {
    let (mails, mails_since) = on!(tx, |tx| {
        sqlx::query_as(
            "INSERT INTO address (email, mails, mails_since) VALUES ($1, 0, $2) ON CONFLICT (email) DO UPDATE SET \
             mails = CASE WHEN address.mails_since <= $3 THEN 0 ELSE address.mails END, \
             mails_since = CASE WHEN address.mails_since <= $3 THEN $2 ELSE address.mails_since END \
             RETURNING mails, mails_since",
        )
        .bind(email.as_str())
        .bind(now)
        .bind(now - DAY)
        .fetch_one(&mut **tx)
        .await?
    });
    Ok(Address { mails, mails_since })
}

async fn insert(tx: &mut Tx, person: &Person) -> Result<(), Error> {
    let inserted = on!(tx, |tx| {
        sqlx::query(
            "INSERT INTO users (account, email, name, surname, password_hash, tokens_not_before, confirmed_at, \
             classroom, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(person.account.to_string())
        .bind(person.email.as_str())
        .bind(&person.name)
        .bind(&person.surname)
        .bind(&person.password_hash)
        .bind(person.tokens_not_before)
        .bind(person.confirmed_at)
        .bind(person.classroom)
        .bind(person.created_at)
        .execute(&mut **tx)
        .await
        .map(|_| ())
    });
    inserted.map_err(|error| if is_taken(&error) { Error::EmailTaken } else { error.into() })
}

/// Forgets an account whose address is not confirmed; one that just was stays. It never had a token to be revoked, but a
/// mail for it may be on its way.
async fn forget_unconfirmed(tx: &mut Tx, account: Account, trace: &Trace, now: i64) -> anyhow::Result<()> {
    let email: Option<String> = on!(tx, |tx| {
        sqlx::query_scalar("DELETE FROM users WHERE account = $1 AND confirmed_at IS NULL RETURNING email")
            .bind(account.to_string())
            .fetch_optional(&mut **tx)
            .await?
    });
    match email {
        Some(email) => tell_forgotten(tx, account, email.parse()?, trace, now).await,
        None => Ok(()),
    }
}
