//! Signing keys and secrets.

use common::{on, row};

use super::Store;

row! {
    /// A signing key as it is stored.
    #[derive(Clone, PartialEq, Eq)]
    pub(crate) struct StoredKey {
        /// Counts the keys.
        pub(crate) place: i64,
        pub(crate) kid: String,
        /// The private key, as the vault sealed it.
        pub(crate) pkcs8: String,
        /// Unix seconds.
        pub(crate) created_at: i64,
    }
}

impl Store {
    /// The signing keys, oldest first.
    pub(crate) async fn signing_keys(&self) -> sqlx::Result<Vec<StoredKey>> {
        on!(self.0.reader(), |pool| {
            sqlx::query_as("SELECT place, kid, pkcs8, created_at FROM signing_key ORDER BY place")
                .fetch_all(pool)
                .await
        })
    }

    /// Adds a key at its place; `false` if there is one already.
    pub(crate) async fn add_signing_key(&self, key: &StoredKey) -> sqlx::Result<bool> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "INSERT INTO signing_key (place, kid, pkcs8, created_at) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(key.place)
            .bind(&key.kid)
            .bind(&key.pkcs8)
            .bind(key.created_at)
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1)
        })
    }

    /// Removes the keys before a place.
    pub(crate) async fn remove_signing_keys_before(&self, place: i64) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query("DELETE FROM signing_key WHERE place < $1")
                .bind(place)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// Stores a key in another form, if it is still stored in the one that was read.
    pub(crate) async fn reseal_signing_key(&self, kid: &str, before: &str, after: &str) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query("UPDATE signing_key SET pkcs8 = $1 WHERE kid = $2 AND pkcs8 = $3")
                .bind(after)
                .bind(kid)
                .bind(before)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }

    /// The secret called `name`, made of `fresh` if there is none yet.
    pub(crate) async fn secret(&self, name: &str, fresh: &str) -> sqlx::Result<String> {
        on!(self.0.writer(), |pool| {
            sqlx::query_scalar(
                "INSERT INTO secret (name, value) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET value = secret.value RETURNING value",
            )
            .bind(name)
            .bind(fresh)
            .fetch_one(pool)
            .await
        })
    }

    /// Stores a secret in another form, if it is still stored in the one that was read.
    pub(crate) async fn reseal_secret(&self, name: &str, before: &str, after: &str) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query("UPDATE secret SET value = $1 WHERE name = $2 AND value = $3")
                .bind(after)
                .bind(name)
                .bind(before)
                .execute(pool)
                .await
                .map(|_| ())
        })
    }
}
