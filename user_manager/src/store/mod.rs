//! All SQL of user_manager.

mod keys;
mod registration;

use common::auth::{Revocation, User};
use common::db::{Db, Tx};
use common::messages::UserForgotten;
use common::outbox::{self, Place};
use common::trace::Trace;
use common::types::{Account, Email};
use common::{on, row};

pub(crate) use self::keys::StoredKey;
pub(crate) use self::registration::{CONFIRM_WITHIN, Earlier, Registration};
use crate::error::Error;

/// An account as it is stored. Times are Unix seconds.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) account: Account,
    pub(crate) email: Email,
    pub(crate) name: String,
    pub(crate) surname: String,
    /// An account that was made with AUTH=off may have none.
    pub(crate) password_hash: Option<String>,
    /// Tokens issued earlier are void.
    pub(crate) tokens_not_before: i64,
    /// When the address was confirmed.
    pub(crate) confirmed_at: Option<i64>,
    /// Made with AUTH=off, by whoever named the address.
    pub(crate) classroom: bool,
    pub(crate) created_at: i64,
}

row! {
    struct PersonRow {
        account: String,
        email: String,
        name: String,
        surname: String,
        password_hash: Option<String>,
        tokens_not_before: i64,
        confirmed_at: Option<i64>,
        classroom: bool,
        created_at: i64,
    }
}

impl PersonRow {
    fn person(self) -> anyhow::Result<Person> {
        Ok(Person {
            account: self.account.parse()?,
            email: self.email.parse()?,
            name: self.name,
            surname: self.surname,
            password_hash: self.password_hash,
            tokens_not_before: self.tokens_not_before,
            confirmed_at: self.confirmed_at,
            classroom: self.classroom,
            created_at: self.created_at,
        })
    }
}

impl Person {
    /// Who that is to everybody else: nobody before the address is confirmed, unless that does not matter.
    fn user(self, counts_unconfirmed: bool) -> Option<User> {
        let Person { account, email, confirmed_at, .. } = self;
        (confirmed_at.is_some() || counts_unconfirmed).then_some(User { account, email })
    }
}

#[derive(Clone)]
pub(crate) struct Store(Db);

impl Store {
    pub(crate) fn new(db: Db) -> Store {
        Store(db)
    }

    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        self.0.ping().await
    }

    pub(crate) async fn person(&self, account: Account) -> anyhow::Result<Option<Person>> {
        let row: Option<PersonRow> = on!(self.0.reader(), |pool| {
            sqlx::query_as("SELECT * FROM users WHERE account = $1")
                .bind(account.to_string())
                .fetch_optional(pool)
                .await?
        });
        row.map(PersonRow::person).transpose()
    }

    pub(crate) async fn person_by_email(&self, email: &Email) -> anyhow::Result<Option<Person>> {
        let row: Option<PersonRow> = on!(self.0.reader(), |pool| {
            sqlx::query_as("SELECT * FROM users WHERE email = $1")
                .bind(email.as_str())
                .fetch_optional(pool)
                .await?
        });
        row.map(PersonRow::person).transpose()
    }

    pub(crate) async fn user(
        &self,
        account: Account,
        counts_unconfirmed: bool,
    ) -> anyhow::Result<Option<User>> {
        Ok(self.person(account).await?.and_then(|person| person.user(counts_unconfirmed)))
    }

    pub(crate) async fn user_by_email(
        &self,
        email: &Email,
        counts_unconfirmed: bool,
    ) -> anyhow::Result<Option<User>> {
        Ok(self.person_by_email(email).await?.and_then(|person| person.user(counts_unconfirmed)))
    }

    /// Deletes an account, ends its tokens, and tells the others through the outbox: all of it or nothing.
    pub(crate) async fn forget(&self, account: Account, trace: &Trace, now: i64) -> Result<(), Error> {
        let mut tx = self.0.begin().await?;
        let deleted: Option<(String, i64)> = on!(&mut tx, |tx| {
            sqlx::query_as("DELETE FROM users WHERE account = $1 RETURNING email, tokens_not_before")
                .bind(account.to_string())
                .fetch_optional(&mut **tx)
                .await?
        });
        let (email, tokens_not_before) = deleted.ok_or(Error::NoAccount)?;
        revoke(&mut tx, account, tokens_not_before.max(now) + 1).await?;
        tell_forgotten(&mut tx, account, email.parse()?, trace, now).await?;
        Ok(tx.commit().await?)
    }

    /// Replaces the password whose hash is `before`, and ends the tokens issued up to now, those of this very second too: a
    /// login right after this one begins with the next, and a change right after that ends its tokens as well.
    pub(crate) async fn change_password(
        &self,
        account: Account,
        before: Option<&str>,
        hash: &str,
        now: i64,
    ) -> Result<(), Error> {
        let mut tx = self.0.begin().await?;
        let not_before: Option<i64> = on!(&mut tx, |tx| {
            sqlx::query_scalar(
                "UPDATE users SET password_hash = $1, tokens_not_before = \
                 CASE WHEN tokens_not_before > $2 THEN tokens_not_before ELSE $2 END + 1 \
                 WHERE account = $3 AND password_hash IS NOT DISTINCT FROM $4 RETURNING tokens_not_before",
            )
            .bind(hash)
            .bind(now)
            .bind(account.to_string())
            .bind(before)
            .fetch_optional(&mut **tx)
            .await?
        });
        revoke(&mut tx, account, not_before.ok_or(Error::WrongCredentials)?).await?;
        Ok(tx.commit().await?)
    }

    /// Revocations that can still matter: of tokens that ended at `since` (Unix seconds) or later.
    pub(crate) async fn revocations(&self, since: i64) -> sqlx::Result<Vec<Revocation>> {
        let rows: Vec<(String, i64)> = on!(self.0.reader(), |pool| {
            sqlx::query_as("SELECT account, not_before FROM revocation WHERE not_before >= $1")
                .bind(since)
                .fetch_all(pool)
                .await?
        });
        let revocation = |(account, not_before): (String, i64)| {
            Some(Revocation { sub: account.parse().ok()?, not_before })
        };
        Ok(rows.into_iter().filter_map(revocation).collect())
    }
}

/// Tells the others, through the outbox, that an account is gone.
async fn tell_forgotten(
    tx: &mut Tx,
    account: Account,
    email: Email,
    trace: &Trace,
    now: i64,
) -> anyhow::Result<()> {
    let place = Place { window_begin: 0, part: "0".to_owned() };
    outbox::put(tx, &UserForgotten { account, email }, &place, trace, now).await
}

/// Voids the tokens of an account that were issued before `not_before`.
async fn revoke(tx: &mut Tx, account: Account, not_before: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query(
            "INSERT INTO revocation (account, not_before) VALUES ($1, $2) \
             ON CONFLICT (account) DO UPDATE SET not_before = excluded.not_before",
        )
        .bind(account.to_string())
        .bind(not_before)
        .execute(&mut **tx)
        .await
        .map(|_| ())
    })
}
