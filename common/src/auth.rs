//! Who is calling. Tokens are EdDSA JWTs that user_manager signs; every service verifies them itself, with keys and
//! revocations from a feed on user_manager's admin port.

mod verifier;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::extract::{FromRef, FromRequestParts};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::ValueEnum;
use http::request::Parts;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

pub use self::verifier::Verifier;
use crate::http::Problem;
use crate::types::{Account, Email, Invalid};

/// How long a token is valid, in seconds.
pub const TOKEN_LIFETIME: i64 = 3600;
/// How often the feed is polled.
const POLL: Duration = Duration::from_secs(5);
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
    /// The key that signed it; stands in the token's header.
    #[serde(skip)]
    pub kid: String,
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
            kid: self.kid.clone(),
        };
        self.sign(&claims)
    }

    fn sign(&self, claims: &Claims) -> anyhow::Result<String> {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
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
                () = verifier.met_unknown_key() => {}
            }
        };
        if token.run_until_cancelled(wait).await.is_none() {
            return Ok(());
        }
    }
}

/// Whether tokens are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everything but the public routes needs a valid token.
    #[default]
    Required,
    /// The classroom mode: no token is asked for or looked at, and whoever names an address is believed.
    Off,
}

impl Auth {
    /// Says in the log that nobody is asked for a token, if so.
    pub fn warn_when_off(self) {
        if self == Auth::Off {
            tracing::warn!("AUTH=off: no token is asked for; anybody may be anyone");
        }
    }
}

/// Who an account is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The account.
    pub account: Account,
    /// Its address.
    pub email: Email,
}

/// The caller of a request, as far as its head tells. As an extractor it refuses requests without a valid token (401), and
/// those whose query or header `email` is not the token's (403); a handler whose body may have one asks
/// [`Caller::with_body`].
#[derive(Clone, Debug)]
pub enum Caller {
    /// Proven by a token.
    Proven(Arc<Claims>),
    /// With [`Auth::Off`]: the address that the request names, if it names one.
    Named(Option<Email>),
}

impl Caller {
    /// The caller when the body names this address too: refused with 403 when it is another than the token's, or another
    /// than the head names.
    pub fn with_body(self, email: Option<&Email>) -> Result<Caller, Problem> {
        match (&self, email) {
            (_, None) => Ok(self),
            (Caller::Proven(claims), Some(email)) if claims.email == *email => Ok(self),
            (Caller::Named(Some(named)), Some(email)) if named == email => Ok(self),
            (Caller::Named(None), Some(email)) => Ok(Caller::Named(Some(email.clone()))),
            (Caller::Proven(_), _) => Err(not_the_tokens()),
            (Caller::Named(_), _) => Err(Problem::forbidden("the request names two addresses")),
        }
    }

    /// The user that the caller is. `find` looks up an address that was only named; nobody's is refused with 404, none at
    /// all with 422.
    pub async fn identify<E: Into<Problem>>(
        self,
        find: impl AsyncFnOnce(&Email) -> Result<Option<User>, E>,
    ) -> Result<User, Problem> {
        match self {
            Caller::Proven(claims) => Ok(User { account: claims.sub, email: claims.email.clone() }),
            Caller::Named(Some(email)) => find(&email).await.map_err(Into::into)?.ok_or_else(|| {
                let detail = "nobody has registered the email";
                Problem::new(http::StatusCode::NOT_FOUND, "unknown-user", "There is no such user", detail)
            }),
            Caller::Named(None) => Err(Problem::invalid(
                "AUTH=off: the email is missing; it says who asks, in the body or as a header",
            )),
        }
    }
}

impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Verifier: FromRef<S>,
    Auth: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, Problem> {
        let mut caller = match Auth::from_ref(state) {
            Auth::Required => {
                let header = parts.headers.get(http::header::AUTHORIZATION);
                Caller::Proven(Verifier::from_ref(state).verify_header(header)?)
            }
            Auth::Off => Caller::Named(None),
        };
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let in_query = query.filter(|(name, _)| name == "email").map(|(_, email)| email);
        let headers = parts.headers.get_all("email").iter();
        let in_headers = headers.map(|email| String::from_utf8_lossy(email.as_bytes()));
        for email in in_query.chain(in_headers) {
            // What is no address is nobody's, so it is not the caller's either.
            let email = email.parse().map_err(|error: Invalid| match &caller {
                Caller::Proven(_) => not_the_tokens(),
                Caller::Named(_) => Problem::invalid(error.to_string()),
            })?;
            caller = caller.with_body(Some(&email))?;
        }
        Ok(caller)
    }
}

fn not_the_tokens() -> Problem {
    Problem::forbidden("the email is not that of your token")
}
