//! Who is calling. Tokens are EdDSA JWTs that user_manager signs; every service verifies them itself, with keys and
//! revocations from a feed on user_manager's admin port.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::extract::{FromRef, FromRequestParts};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::http::Problem;
use crate::types::{Account, Email};

/// How long a token is valid, in seconds.
pub const TOKEN_LIFETIME: i64 = 3600;
/// How far clocks may differ, in seconds.
const LEEWAY: i64 = 30;
/// How often the feed is polled.
const POLL: Duration = Duration::from_secs(5);
/// A feed older than this answers nobody.
const STALE: Duration = Duration::from_secs(60);
const ISSUER: &str = "vedetta";
const AUDIENCE: &str = "vedetta";

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Always `vedetta`.
    pub iss: String,
    /// Always `vedetta`.
    pub aud: String,
    /// The account.
    pub sub: Account,
    /// The account's address.
    pub email: Email,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Not before, Unix seconds.
    pub nbf: i64,
    /// Expires, Unix seconds.
    pub exp: i64,
}

/// Keys and revocations, as user_manager publishes them at `/keys`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// Public keys, as JSON Web Keys (RFC 8037).
    pub keys: Vec<PublicKey>,
    /// Accounts whose older tokens are void.
    pub revoked: Vec<Revocation>,
}

/// An Ed25519 public key as a JSON Web Key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// The key's id.
    pub kid: String,
    /// Always `OKP`.
    pub kty: String,
    /// Always `Ed25519`.
    pub crv: String,
    /// The key, base64url without padding.
    pub x: String,
}

/// Tokens of `sub` issued before `not_before` are void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The account.
    pub sub: Account,
    /// Unix seconds.
    pub not_before: i64,
}

/// Why a token was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There was none.
    #[error("send the header Authorization: Bearer <token> with a token from POST /user_manager/login")]
    Missing,
    /// It is not one of ours, or no longer.
    #[error("the token is {0}")]
    Invalid(&'static str),
    /// The keys are not known at the moment.
    #[error("tokens cannot be checked at the moment")]
    Unavailable,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        match error {
            Error::Missing | Error::Invalid(_) => Problem::unauthorized(error.to_string()),
            Error::Unavailable => Problem::unavailable(error.to_string(), 5),
        }
    }
}

/// A key pair that signs tokens.
pub struct Signer {
    kid: String,
    key: EncodingKey,
    public: PublicKey,
}

impl Signer {
    /// A new private key, PKCS#8 DER.
    pub fn generate() -> anyhow::Result<Vec<u8>> {
        let key = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new())
            .map_err(|_| anyhow::anyhow!("the system gave no randomness"))?;
        Ok(key.as_ref().to_vec())
    }

    /// From a private key in PKCS#8 DER.
    pub fn from_pkcs8(kid: &str, der: &[u8]) -> anyhow::Result<Signer> {
        let pair = Ed25519KeyPair::from_pkcs8(der)
            .map_err(|_| anyhow::anyhow!("signing key {kid} is unreadable"))?;
        let public = PublicKey {
            kid: kid.to_owned(),
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(pair.public_key().as_ref()),
        };
        Ok(Signer { kid: kid.to_owned(), key: EncodingKey::from_ed_der(der), public })
    }

    /// The public half, for the feed.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A token for an account, valid for [`TOKEN_LIFETIME`] from `now` (Unix seconds).
    pub fn token(&self, account: Account, email: &Email, now: i64) -> anyhow::Result<String> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: account,
            email: email.clone(),
            iat: now,
            nbf: now,
            exp: now + TOKEN_LIFETIME,
        };
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        Ok(jsonwebtoken::encode(&header, &claims, &self.key)?)
    }
}

/// Verifies tokens by the latest feed. Clones share the feed.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    clock: Clock,
    loaded: ArcSwapOption<Loaded>,
    unknown_key: Notify,
}

struct Loaded {
    keys: HashMap<String, DecodingKey>,
    revoked: HashMap<Account, i64>,
    at: Instant,
}

impl Verifier {
    /// A verifier without keys: everything is [`Error::Unavailable`] until [`Verifier::load`].
    pub fn new(clock: Clock) -> Verifier {
        let inner = Inner { clock, loaded: ArcSwapOption::empty(), unknown_key: Notify::new() };
        Verifier(Arc::new(inner))
    }

    /// Takes a new feed. Keys that are not Ed25519 are passed over.
    pub fn load(&self, feed: &Feed) {
        let key = |key: &PublicKey| {
            let ours = key.kty == "OKP" && key.crv == "Ed25519";
            ours.then(|| DecodingKey::from_ed_components(&key.x).ok()).flatten().map(|k| (key.kid.clone(), k))
        };
        let loaded = Loaded {
            keys: feed.keys.iter().filter_map(key).collect(),
            revoked: feed.revoked.iter().map(|r| (r.sub, r.not_before)).collect(),
            at: Instant::now(),
        };
        self.0.loaded.store(Some(Arc::new(loaded)));
    }

    /// Whether keys have been loaded at least once.
    pub fn loaded(&self) -> bool {
        self.0.loaded.load().is_some()
    }

    /// What a token says, if it is ours, in time and not revoked. The algorithm is the key's, never the token's.
    pub fn verify(&self, token: &str) -> Result<Claims, Error> {
        let loaded = self.0.loaded.load();
        let loaded =
            loaded.as_ref().filter(|loaded| loaded.at.elapsed() < STALE).ok_or(Error::Unavailable)?;
        let header = jsonwebtoken::decode_header(token).map_err(|_| Error::Invalid("malformed"))?;
        let key = header.kid.as_ref().and_then(|kid| loaded.keys.get(kid)).ok_or_else(|| {
            self.0.unknown_key.notify_one();
            Error::Invalid("signed with an unknown key")
        })?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        // Times are checked below, by our clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|_| Error::Invalid("not one of ours"))?
            .claims;
        let now = self.0.clock.now();
        if claims.exp + LEEWAY <= now {
            return Err(Error::Invalid("expired"));
        }
        if claims.nbf - LEEWAY > now {
            return Err(Error::Invalid("not valid yet"));
        }
        match loaded.revoked.get(&claims.sub) {
            Some(not_before) if claims.iat < *not_before => Err(Error::Invalid("revoked")),
            _ => Ok(claims),
        }
    }

    /// Verifies the value of an `Authorization` header.
    pub fn verify_header(&self, value: Option<&http::HeaderValue>) -> Result<Claims, Error> {
        let value = value.and_then(|value| value.to_str().ok()).ok_or(Error::Missing)?;
        match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.verify(token.trim()),
            _ => Err(Error::Missing),
        }
    }
}

/// Polls the feed at `url` every 5 s, and at once (at most every second) when a token names an unknown key. A failed
/// poll keeps what is loaded.
pub async fn poll_feed(url: String, verifier: Verifier, token: CancellationToken) -> anyhow::Result<()> {
    let client = crate::http::client(Duration::from_secs(3))?;
    let mut reachable = true;
    loop {
        let polled = async { client.get(&url).send().await?.error_for_status()?.json::<Feed>().await }.await;
        match &polled {
            Ok(feed) => verifier.load(feed),
            Err(error) if reachable => tracing::warn!(%error, "the key feed cannot be read; trying on"),
            Err(_) => {}
        }
        reachable = polled.is_ok();
        let pause = if verifier.loaded() { POLL } else { Duration::from_millis(200) };
        let least = pause.min(Duration::from_secs(1));
        let wait = async {
            tokio::time::sleep(least).await;
            tokio::select! {
                () = tokio::time::sleep(pause - least) => {}
                () = verifier.0.unknown_key.notified() => {}
            }
        };
        if token.run_until_cancelled(wait).await.is_none() {
            return Ok(());
        }
    }
}

/// The caller of a request, as its token says. As an extractor it refuses requests without a valid token.
#[derive(Clone, Debug)]
pub struct Caller(pub Claims);

impl Caller {
    /// Refuses with 403 when a body, query or header names another address than the token's.
    pub fn must_be(&self, email: Option<&Email>) -> Result<(), Problem> {
        match email {
            Some(email) if *email != self.0.email => {
                Err(Problem::forbidden("the email is not that of your token"))
            }
            _ => Ok(()),
        }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Verifier: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, Problem> {
        let verifier = Verifier::from_ref(state);
        Ok(Caller(verifier.verify_header(parts.headers.get(http::header::AUTHORIZATION))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn signer(kid: &str) -> Signer {
        Signer::from_pkcs8(kid, &Signer::generate().unwrap()).unwrap()
    }

    fn verifier(signer: &Signer, revoked: Vec<Revocation>) -> (Verifier, crate::clock::Manual) {
        let (clock, manual) = Clock::manual(NOW);
        let verifier = Verifier::new(clock);
        verifier.load(&Feed { keys: vec![signer.public().clone()], revoked });
        (verifier, manual)
    }

    fn token(signer: &Signer, account: Account) -> String {
        signer.token(account, &"ada@example.com".parse().unwrap(), NOW).unwrap()
    }

    #[tokio::test]
    async fn a_token_is_valid_for_an_hour_and_the_leeway() {
        let signer = signer("k1");
        let (verifier, clock) = verifier(&signer, vec![]);
        let account = Account::new_random();
        let token = token(&signer, account);
        assert_eq!(verifier.verify(&token).unwrap().sub, account);
        clock.set(NOW + 3629);
        assert!(verifier.verify(&token).is_ok());
        clock.set(NOW + 3630);
        assert_eq!(verifier.verify(&token).unwrap_err(), Error::Invalid("expired"));
        clock.set(NOW - 31);
        assert_eq!(verifier.verify(&token).unwrap_err(), Error::Invalid("not valid yet"));
    }

    #[tokio::test]
    async fn tokens_of_others_are_refused() {
        let ours = signer("k1");
        let (verifier, _) = verifier(&ours, vec![]);
        let account = Account::new_random();
        assert!(verifier.verify(&token(&signer("k1"), account)).is_err(), "another key under the same id");
        assert!(verifier.verify(&token(&signer("k2"), account)).is_err(), "an unknown id");
        assert!(verifier.verify("").is_err());
        let good = token(&ours, account);
        let mut parts: Vec<&str> = good.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(br#"{"alg":"none","kid":"k1"}"#);
        parts[0] = &none;
        assert!(verifier.verify(&parts.join(".")).is_err(), "alg none");
        let hmac = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","kid":"k1"}"#);
        parts[0] = &hmac;
        assert!(verifier.verify(&parts.join(".")).is_err(), "another algorithm");
    }

    #[tokio::test]
    async fn revocation_ends_older_tokens_of_that_account_only() {
        let signer = signer("k1");
        let (gone, here) = (Account::new_random(), Account::new_random());
        let (verifier, _) = verifier(&signer, vec![Revocation { sub: gone, not_before: NOW + 1 }]);
        assert_eq!(verifier.verify(&token(&signer, gone)).unwrap_err(), Error::Invalid("revoked"));
        assert!(verifier.verify(&token(&signer, here)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_feed_older_than_a_minute_answers_nobody() {
        let signer = signer("k1");
        let (verifier, _) = verifier(&signer, vec![]);
        let token = token(&signer, Account::new_random());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(verifier.verify(&token).unwrap_err(), Error::Unavailable);
    }
}
