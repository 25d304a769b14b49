//! Signing keys, and the feed by which every service verifies tokens.

use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::auth::{Feed, Signer, TOKEN_LIFETIME, Verifier};
use common::http::Json;
use common::types::{Account, Email};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::State;
use crate::error::Error;
use crate::store::Store;

/// The keys that this replica knows.
pub(crate) struct Tokens {
    signers: Vec<Signer>,
}

impl Tokens {
    /// Reads the signing keys; makes the very first, which is used at once.
    pub(crate) async fn open(store: &Store, now: i64) -> anyhow::Result<Tokens> {
        let mut keys = store.signing_keys().await?;
        if keys.is_empty() {
            let der = STANDARD.encode(Signer::generate()?);
            // Another replica may be first; then its key is ours too.
            store.add_first_signing_key(&Uuid::new_v4().to_string(), &der, now).await?;
            keys = store.signing_keys().await?;
        }
        let signers = keys.iter().map(|(kid, der)| Signer::from_pkcs8(kid, &STANDARD.decode(der)?));
        Ok(Tokens { signers: signers.collect::<anyhow::Result<_>>()? })
    }

    /// A new token for an account.
    pub(crate) fn issue(&self, account: Account, email: &Email, now: i64) -> anyhow::Result<String> {
        let signer = self.signers.last().ok_or_else(|| anyhow::anyhow!("there is no signing key"))?;
        signer.token(account, email, now)
    }

    /// The feed as of now.
    pub(crate) async fn feed(&self, store: &Store, now: i64) -> Result<Feed, sqlx::Error> {
        let keys = self.signers.iter().map(|signer| signer.public().clone()).collect();
        Ok(Feed { keys, revoked: store.revocations(now - 2 * TOKEN_LIFETIME).await? })
    }

    /// Lets our own verifier know what the feed says.
    pub(crate) async fn refresh(
        &self,
        store: &Store,
        verifier: &Verifier,
        now: i64,
    ) -> Result<(), sqlx::Error> {
        verifier.load(&self.feed(store, now).await?);
        Ok(())
    }
}

/// Keeps our own verifier as fresh as everybody's: other replicas revoke too.
pub(crate) async fn keep_fresh(state: State, token: CancellationToken) {
    while token.run_until_cancelled(tokio::time::sleep(Duration::from_secs(5))).await.is_some() {
        refresh(&state).await;
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
