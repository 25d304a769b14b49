//! Passwords: Argon2id, off the async threads, a few at a time.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use common::telemetry::Metrics;
use common::types::Invalid;
use prometheus_client::metrics::counter::Counter;
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
    /// What hashes work in, as much as for all places, used again and again: an allocator keeps what each thread has freed.
    memory: Arc<Mutex<Vec<Vec<Block>>>>,
    /// The hash of no password, checked when there is no account, so that it takes as long as when there is one.
    nobody: Arc<str>,
    hashed: Counter,
    refused: Counter,
}

impl Passwords {
    /// With OWASP's parameters for Argon2id (Password Storage Cheat Sheet): 19 MiB, two passes, one lane. As many hashes at
    /// once as there are cores, up to [`MOST_AT_ONCE`].
    pub(crate) fn new(metrics: &mut Metrics) -> anyhow::Result<Passwords> {
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_AT_ONCE);
        let passwords = Passwords::sized(at_once, WAITING)?;
        let help = "Passwords hashed or compared; who does not exist is compared, too";
        metrics.register("hashed_passwords", help, passwords.hashed.clone());
        metrics.register(
            "refused_passwords",
            "Requests that were not let into the queue",
            passwords.refused.clone(),
        );
        Ok(passwords)
    }

    fn sized(at_once: usize, waiting: usize) -> anyhow::Result<Passwords> {
        let params =
            Params::new(19 * 1024, 2, 1, None).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobody = hash(&argon, &mut blocks(&argon), uuid::Uuid::new_v4().as_bytes())?;
        Ok(Passwords {
            places: Arc::new(Semaphore::new(at_once)),
            queue: Arc::new(Semaphore::new(at_once + waiting)),
            argon,
            memory: Arc::default(),
            nobody: nobody.into(),
            hashed: Counter::default(),
            refused: Counter::default(),
        })
    }

    /// The PHC string to store.
    pub(crate) async fn hash(&self, password: &Password) -> Result<String, Error> {
        let password = password.0.clone();
        self.in_turn(move |argon, memory| hash(argon, memory, password.expose_secret().as_bytes())).await
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
            .in_turn(move |argon, memory| {
                let stored =
                    PasswordHash::new(&stored).map_err(|error| anyhow::anyhow!("stored hash: {error}"))?;
                is_of(argon, memory, password.expose_secret().as_bytes(), &stored)
            })
            .await?;
        Ok(matches && known)
    }

    /// Whether `password` is the one of `hash`.
    pub(crate) async fn is_of(&self, password: &Password, hash: String) -> Result<bool, Error> {
        self.matches(&password.0, Some(hash)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>, &mut [Block]) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let _waiting = self.queue.try_acquire().map_err(|_| {
            self.refused.inc();
            Error::Busy
        })?;
        let turn = tokio::time::timeout(PATIENCE, self.places.clone().acquire_owned());
        let place = turn.await.map_err(|_| Error::Busy)?.map_err(anyhow::Error::from)?;
        self.hashed.inc();
        let (argon, memory) = (self.argon.clone(), self.memory.clone());
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even if the request is gone.
            let _place = place;
            let shared = || memory.lock().unwrap_or_else(PoisonError::into_inner);
            let free = shared().pop();
            let mut blocks = free.unwrap_or_else(|| blocks(&argon));
            let done = work(&argon, &mut blocks);
            shared().push(blocks);
            done
        });
        Ok(done.await.map_err(anyhow::Error::from)??)
    }
}

/// Room for one hash.
fn blocks(argon: &Argon2<'_>) -> Vec<Block> {
    vec![Block::default(); argon.params().block_count()]
}

fn hash(argon: &Argon2<'_>, memory: &mut [Block], password: &[u8]) -> anyhow::Result<String> {
    let mut salt = [0; Salt::RECOMMENDED_LENGTH];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
    let salt = Salt::new(&salt).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    Ok(salted(argon, memory, password, salt)?.to_string())
}

/// Whether that is the password of a stored hash. One that was made with other parameters has its memory allocated.
fn is_of(
    argon: &Argon2<'_>,
    memory: &mut [Block],
    password: &[u8],
    stored: &PasswordHash,
) -> anyhow::Result<bool> {
    match stored.salt {
        Some(salt) if has_room(argon, stored) => Ok(salted(argon, memory, password, salt)? == *stored),
        _ => Ok(argon.verify_password(password, stored).is_ok()),
    }
}

/// Whether a stored hash was made with our parameters.
fn has_room(argon: &Argon2<'_>, stored: &PasswordHash) -> bool {
    let costs = |params: &Params| (params.m_cost(), params.t_cost(), params.p_cost());
    Params::try_from(stored).is_ok_and(|params| costs(&params) == costs(argon.params()))
}

fn salted(
    argon: &Argon2<'_>,
    memory: &mut [Block],
    password: &[u8],
    salt: Salt,
) -> anyhow::Result<PasswordHash> {
    let hashed = || {
        let mut out = [0; Params::DEFAULT_OUTPUT_LEN];
        argon.hash_password_into_with_memory(password, &salt, &mut out, memory)?;
        Ok::<_, argon2::password_hash::Error>(PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(argon.params())?,
            salt: Some(salt),
            hash: Some(Output::new(&out)?),
        })
    };
    hashed().map_err(|error| anyhow::anyhow!("argon2: {error}"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn password(text: &str) -> Password {
        text.to_owned().try_into().unwrap()
    }

    #[tokio::test]
    async fn a_password_matches_its_hash_and_nobodys_never() {
        let passwords = Passwords::sized(1, 1).unwrap();
        let hash = passwords.hash(&password("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let matches = async |text: &str, hash: Option<&str>| {
            passwords.matches(&text.to_owned().into(), hash.map(str::to_owned)).await.unwrap()
        };
        assert!(matches("correct horse", Some(&hash)).await);
        assert!(!matches("wrong horse", Some(&hash)).await);
        assert!(has_room(&passwords.argon, &PasswordHash::new(&hash).unwrap()));
        // One that was made otherwise, elsewhere.
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(1024, 1, 1, None).unwrap());
        let other = argon2::PasswordHasher::hash_password(&other, b"correct horse").unwrap().to_string();
        assert!(matches("correct horse", Some(&other)).await && !matches("wrong horse", Some(&other)).await);
        assert!(!matches("correct horse", None).await);
        // Each comparison has hashed: that takes the time which must not tell who exists.
        assert_eq!(passwords.hashed.get(), 6);
        assert!(!matches(&"x".repeat(LONGEST + 1), Some(&hash)).await);
        assert_eq!(passwords.hashed.get(), 7);
        assert_eq!(passwords.memory.lock().unwrap().len(), 1, "one place, one room");
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_sent_away_at_once() {
        let passwords = Passwords::sized(1, 2).unwrap();
        let turn = passwords.places.clone().acquire_owned().await.unwrap();
        let first = password("correct horse");
        let ask = || Box::pin(passwords.hash(&first));
        let (mut one, mut two, mut three) = (ask(), ask(), ask());
        for waits in [&mut one, &mut two, &mut three] {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        assert!(matches!(ask().now_or_never(), Some(Err(Error::Busy))));
        assert_eq!((passwords.hashed.get(), passwords.refused.get()), (0, 1));
        // Who gives up makes room for another.
        drop(three);
        let mut four = ask();
        assert!(four.as_mut().now_or_never().is_none());
        drop(turn);
        for waited in [one, two, four] {
            waited.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_ten_seconds_for_a_turn() {
        let passwords = Passwords::sized(1, 1).unwrap();
        let _turn = passwords.places.clone().acquire_owned().await.unwrap();
        assert!(matches!(passwords.hash(&password("correct horse")).await, Err(Error::Busy)));
    }
}
