//! Signing keys, and the feed by which every service verifies tokens.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::State as Shared;
use axum::routing::get;
use common::auth::{Auth, Feed, Signer, TOKEN_LIFETIME, User, Verifier};
use common::http::Json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::State;
use crate::config::Config;
use crate::error::Error;
use crate::store::{Store, StoredKey};
use crate::vault::Vault;

/// How long a key is published before its first use, in seconds: by then everybody knows it.
const LEAD: i64 = 300;
/// How long a key stays published after its successor's first use, in seconds: its last token ends before.
const OVERLAP: i64 = TOKEN_LIFETIME + 900;
/// How often a replica looks what others have changed.
const POLL: Duration = Duration::from_secs(5);

/// The keys that this replica knows.
pub(crate) struct Tokens {
    vault: Arc<Vault>,
    /// A key is followed by the next after so many seconds.
    rotation: i64,
    /// Oldest first.
    keys: ArcSwap<Vec<Key>>,
    /// With AUTH=off: a key that nobody knows. Who gets a token without a proof has none where tokens are asked for.
    nobodys: Option<Signer>,
}

struct Key {
    stored: StoredKey,
    signer: Signer,
}

impl Tokens {
    /// Reads the signing keys; makes the very first, which is used at once. Keys that do not lie in the database as they
    /// should (plain, or under an old key) are encrypted anew.
    pub(crate) async fn open(
        store: &Store,
        vault: Arc<Vault>,
        config: &Config,
        now: i64,
    ) -> anyhow::Result<Tokens> {
        let rotation = i64::try_from(config.keys.key_rotation.as_secs())?;
        let nobodys = match config.auth {
            Auth::Required => None,
            Auth::Off => Some(Signer::from_pkcs8("nobodys", &Signer::generate()?)?),
        };
        let tokens = Tokens { vault, rotation, keys: ArcSwap::default(), nobodys };
        for key in store.signing_keys().await? {
            let opened = tokens.vault.open(&key.kid, &key.pkcs8)?;
            if !opened.is_current {
                let sealed = tokens.vault.seal(&key.kid, &opened.value)?;
                store.reseal_signing_key(&key.kid, &key.pkcs8, &sealed).await?;
                tracing::info!(kid = key.kid, "a signing key was encrypted anew");
            }
        }
        tokens.keep(store, now).await?;
        Ok(tokens)
    }

    /// Learns what has become of the keys, and makes the next one or removes old ones when it is time.
    async fn keep(&self, store: &Store, now: i64) -> anyhow::Result<()> {
        let mut stored = store.signing_keys().await?;
        if stored.last().is_none_or(|last| last.created_at.saturating_add(self.rotation) <= now) {
            let place = stored.last().map_or(1, |last| last.place + 1);
            let kid = Uuid::new_v4().to_string();
            let pkcs8 = self.vault.seal(&kid, &Signer::generate()?)?;
            // Another replica may be first; then its key is ours too.
            if store.add_signing_key(&StoredKey { place, kid: kid.clone(), pkcs8, created_at: now }).await? {
                tracing::info!(kid, "a signing key was made");
            }
            stored = store.signing_keys().await?;
        }
        let outlived = stored.iter().rfind(|key| key.created_at.saturating_add(LEAD + OVERLAP) <= now);
        if let Some(successor) = outlived.map(|key| key.place)
            && stored.first().is_some_and(|oldest| oldest.place < successor)
        {
            store.remove_signing_keys_before(successor).await?;
            stored.retain(|key| key.place >= successor);
        }
        let known = self.keys.load();
        if known.iter().map(|key| &key.stored).eq(&stored) {
            return Ok(());
        }
        let keys = stored.into_iter().map(|stored| self.key(stored)).collect::<anyhow::Result<_>>()?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    fn key(&self, stored: StoredKey) -> anyhow::Result<Key> {
        let signer = Signer::from_pkcs8(&stored.kid, &self.vault.open(&stored.kid, &stored.pkcs8)?.value)?;
        Ok(Key { stored, signer })
    }

    /// A new token: signed with the youngest key that everybody knows, or the oldest if there is none such.
    pub(crate) fn issue(&self, user: &User, now: i64) -> anyhow::Result<String> {
        if let Some(signer) = &self.nobodys {
            return signer.token(user.account, &user.email, now);
        }
        let keys = self.keys.load();
        let known = keys.iter().rfind(|key| key.stored.created_at.saturating_add(LEAD) <= now);
        let key = known.or(keys.first()).ok_or_else(|| anyhow::anyhow!("there is no signing key"))?;
        key.signer.token(user.account, &user.email, now)
    }

    /// The feed as of now.
    pub(crate) async fn feed(&self, store: &Store, now: i64) -> Result<Feed, sqlx::Error> {
        let keys = self.keys.load().iter().map(|key| key.signer.public().clone()).collect();
        Ok(Feed { keys, revoked: store.revocations(now - 2 * TOKEN_LIFETIME).await? })
    }

    /// Lets our own verifier know what the feed says.
    async fn refresh(&self, store: &Store, verifier: &Verifier, now: i64) -> Result<(), sqlx::Error> {
        verifier.load(&self.feed(store, now).await?);
        Ok(())
    }
}

/// Keeps keys, and our own verifier as fresh as everybody's: other replicas make keys and revoke too.
pub(crate) async fn keep_fresh(state: State, token: CancellationToken) {
    loop {
        if let Err(error) = state.tokens.keep(&state.store, state.clock.now()).await {
            tracing::warn!(error = format!("{error:#}"), "signing keys cannot be kept; trying again in 5 s");
        }
        refresh(&state).await;
        if token.run_until_cancelled(tokio::time::sleep(POLL)).await.is_none() {
            return;
        }
    }
}

/// Brings our own verifier up to date now. If that fails, what changed is changed all the same, and soon it will be.
pub(crate) async fn refresh(state: &State) {
    if let Err(error) = state.tokens.refresh(&state.store, &state.verifier, state.clock.now()).await {
        tracing::warn!(%error, "revocations cannot be read; trying again in 5 s");
    }
}

/// The feed's route, for the admin port.
pub(crate) fn router(state: State) -> Router {
    Router::new().route("/keys", get(keys)).with_state(state)
}

async fn keys(Shared(state): Shared<State>) -> Result<Json<Feed>, Error> {
    Ok(Json(state.tokens.feed(&state.store, state.clock.now()).await?))
}
