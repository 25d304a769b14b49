//! All SQL of user_manager.

use common::auth::{Revocation, TOKEN_LIFETIME};
use common::db::{Db, is_taken};
use common::messages::UserForgotten;
use common::outbox::{self, Place};
use common::trace::Trace;
use common::types::{Account, Email};
use common::{on, row};

use crate::error::Error;

/// An account as it is stored. Times are Unix seconds.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) account: Account,
    pub(crate) email: Email,
    pub(crate) name: String,
    pub(crate) surname: String,
    pub(crate) password_hash: String,
    /// Tokens issued earlier are void.
    pub(crate) tokens_not_before: i64,
    pub(crate) created_at: i64,
}

row! {
    struct UserRow {
        account: String,
        email: String,
        name: String,
        surname: String,
        password_hash: String,
        tokens_not_before: i64,
        created_at: i64,
    }
}

impl UserRow {
    fn user(self) -> anyhow::Result<User> {
        let UserRow { account, email, name, surname, password_hash, tokens_not_before, created_at } = self;
        let (account, email) = (account.parse()?, email.parse()?);
        Ok(User { account, email, name, surname, password_hash, tokens_not_before, created_at })
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

    pub(crate) async fn register(&self, user: &User) -> Result<(), Error> {
        let inserted = on!(&self.0, |pool| {
            sqlx::query(
                "INSERT INTO users (account, email, name, surname, password_hash, tokens_not_before, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(user.account.to_string())
            .bind(user.email.as_str())
            .bind(&user.name)
            .bind(&user.surname)
            .bind(&user.password_hash)
            .bind(user.tokens_not_before)
            .bind(user.created_at)
            .execute(pool)
            .await
            .map(|_| ())
        });
        inserted.map_err(|error| if is_taken(&error) { Error::EmailTaken } else { error.into() })
    }

    pub(crate) async fn user(&self, account: Account) -> anyhow::Result<Option<User>> {
        let row: Option<UserRow> = on!(&self.0, |pool| {
            sqlx::query_as("SELECT * FROM users WHERE account = $1")
                .bind(account.to_string())
                .fetch_optional(pool)
                .await?
        });
        row.map(UserRow::user).transpose()
    }

    pub(crate) async fn user_by_email(&self, email: &Email) -> anyhow::Result<Option<User>> {
        let row: Option<UserRow> = on!(&self.0, |pool| {
            sqlx::query_as("SELECT * FROM users WHERE email = $1")
                .bind(email.as_str())
                .fetch_optional(pool)
                .await?
        });
        row.map(UserRow::user).transpose()
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
        let email: Email = email.parse()?;
        revoke(&mut tx, account, tokens_not_before.max(now) + 1).await?;
        let place = Place { window_begin: 0, part: "0".to_owned() };
        outbox::put(&mut tx, &UserForgotten { account, email }, &place, trace, now).await?;
        Ok(tx.commit().await?)
    }

    /// Replaces the password and ends the tokens issued up to now, those of this very second too: a login right after
    /// this one begins with the next, and a change right after that ends its tokens as well.
    pub(crate) async fn change_password(&self, account: Account, hash: &str, now: i64) -> Result<(), Error> {
        let mut tx = self.0.begin().await?;
        let not_before: Option<i64> = on!(&mut tx, |tx| {
            sqlx::query_scalar(
                "UPDATE users SET password_hash = $1, tokens_not_before = \
                 CASE WHEN tokens_not_before > $2 THEN tokens_not_before ELSE $2 END + 1 \
                 WHERE account = $3 RETURNING tokens_not_before",
            )
            .bind(hash)
            .bind(now)
            .bind(account.to_string())
            .fetch_optional(&mut **tx)
            .await?
        });
        revoke(&mut tx, account, not_before.ok_or(Error::NoAccount)?).await?;
        Ok(tx.commit().await?)
    }

    /// Revocations that can still matter: of tokens that ended at `since` (Unix seconds) or later.
    pub(crate) async fn revocations(&self, since: i64) -> sqlx::Result<Vec<Revocation>> {
        let rows: Vec<(String, i64)> = on!(&self.0, |pool| {
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

    /// Ids and PKCS#8 (base64) of the signing keys, the current one last.
    pub(crate) async fn signing_keys(&self) -> sqlx::Result<Vec<(String, String)>> {
        on!(&self.0, |pool| {
            sqlx::query_as("SELECT kid, pkcs8 FROM signing_key ORDER BY place").fetch_all(pool).await
        })
    }

    /// Adds the very first key; nothing happens if there is one.
    pub(crate) async fn add_first_signing_key(&self, kid: &str, pkcs8: &str, now: i64) -> sqlx::Result<()> {
        on!(&self.0, |pool| {
            sqlx::query(
                "INSERT INTO signing_key (place, kid, pkcs8, created_at) VALUES (1, $1, $2, $3) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(kid)
            .bind(pkcs8)
            .bind(now)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }
}

/// Voids the tokens of an account that were issued before `not_before`, and forgets revocations of tokens that have all
/// expired since.
async fn revoke(tx: &mut common::db::Tx, account: Account, not_before: i64) -> sqlx::Result<()> {
    on!(tx, |tx| {
        sqlx::query("DELETE FROM revocation WHERE not_before < $1")
            .bind(not_before - 4 * TOKEN_LIFETIME)
            .execute(&mut **tx)
            .await?;
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
