//! Passwords: Argon2id, off the async threads, a few at a time.

use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use common::types::Invalid;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::error::Error;

/// Hashes at once, at most: each takes 19 MiB and one core for some tens of milliseconds.
const MOST_AT_ONCE: usize = 16;
/// Requests that may wait for their turn; further ones are sent away at once.
const WAITING: usize = 256;
/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest password, in bytes.
const LONGEST: usize = 1024;

/// A password of acceptable length: 8 to 1024 bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Password(SecretString);

impl TryFrom<String> for Password {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Password, Invalid> {
        match text.len() {
            8..=LONGEST => Ok(Password(text.into())),
            _ => {
                Err(Invalid("password must have 8 to 1024 bytes (letters beyond ASCII take several)".into()))
            }
        }
    }
}

/// Hashes and checks passwords.
#[derive(Clone)]
pub(crate) struct Passwords {
    /// For requests: those that wait, and those whose turn it is.
    queue: Arc<Semaphore>,
    /// For hashes.
    places: Arc<Semaphore>,
    argon: Argon2<'static>,
    /// The hash of no password, checked when there is no account, so that it takes as long as when there is one.
    nobody: Arc<str>,
}

impl Passwords {
    /// With OWASP's parameters for Argon2id (Password Storage Cheat Sheet): 19 MiB, two passes, one lane. As many hashes at
    /// once as there are cores.
    pub(crate) fn new() -> anyhow::Result<Passwords> {
        let params =
            Params::new(19 * 1024, 2, 1, None).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = hash(&argon, uuid::Uuid::new_v4().as_bytes())?;
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_AT_ONCE);
        let (places, queue) = (Semaphore::new(at_once), Semaphore::new(at_once + WAITING));
        Ok(Passwords { places: Arc::new(places), queue: Arc::new(queue), argon, nobody: nobody.into() })
    }

    /// The PHC string to store.
    pub(crate) async fn hash(&self, password: &Password) -> Result<String, Error> {
        let password = password.0.clone();
        self.in_turn(move |argon| hash(argon, password.expose_secret().as_bytes())).await
    }

    /// Whether `password` is the one of `stored`; without a stored hash `false`, in like time.
    pub(crate) async fn matches(
        &self,
        password: &SecretString,
        stored: Option<String>,
    ) -> Result<bool, Error> {
        // What is longer than a password can be is nobody's.
        let known = stored.is_some() && password.expose_secret().len() <= LONGEST;
        let stored = stored.unwrap_or_else(|| self.nobody.to_string());
        let password = password.clone();
        let matches = self
            .in_turn(move |argon| {
                let stored =
                    PasswordHash::new(&stored).map_err(|error| anyhow::anyhow!("stored hash: {error}"))?;
                Ok(argon.verify_password(password.expose_secret().as_bytes(), &stored).is_ok())
            })
            .await?;
        Ok(matches && known)
    }

    /// Whether `password` is the one of `hash`.
    pub(crate) async fn is(&self, password: &Password, hash: String) -> Result<bool, Error> {
        self.matches(&password.0, Some(hash)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let _waiting = self.queue.try_acquire().map_err(|_| Error::Busy)?;
        let turn = tokio::time::timeout(PATIENCE, self.places.clone().acquire_owned());
        let place = turn.await.map_err(|_| Error::Busy)?.map_err(anyhow::Error::from)?;
        let argon = self.argon.clone();
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even if the request is gone.
            let _place = place;
            work(&argon)
        });
        Ok(done.await.map_err(anyhow::Error::from)??)
    }
}

fn hash(argon: &Argon2<'_>, password: &[u8]) -> anyhow::Result<String> {
    Ok(argon.hash_password(password).map_err(|error| anyhow::anyhow!("argon2: {error}"))?.to_string())
}
