//! Access tokens: OAuth2 client credentials, kept until shortly before they expire.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{Credentials, Error, Fault, answer, body, rate_limited, unsent};

/// A token is renewed this long before it expires, as OpenSky's own example does.
const EARLY: Duration = Duration::from_secs(30);
/// The largest answer of the token endpoint that is read, in bytes.
const LIMIT: usize = 64 << 10;
/// No token is trusted longer, whatever its answer says; OpenSky's live for half an hour.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Where tokens come from, and the one in use.
#[derive(Debug)]
pub(super) struct Tokens {
    http: reqwest::Client,
    url: String,
    credentials: Credentials,
    /// Held while a token is fetched, so that many callers wait for one fetch. A caller that is cancelled in the middle
    /// leaves the next one to fetch.
    current: Mutex<Option<Token>>,
}

#[derive(Debug)]
struct Token {
    value: SecretString,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    /// Seconds.
    expires_in: u64,
}

impl Tokens {
    pub(super) fn new(http: reqwest::Client, url: String, credentials: Credentials) -> Tokens {
        Tokens { http, url, credentials, current: Mutex::default() }
    }

    /// The current token, or a new one.
    pub(super) async fn current(&self) -> Result<SecretString, Error> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.value.clone());
        }
        let token = self.fetch().await?;
        let value = token.value.clone();
        *current = Some(token);
        Ok(value)
    }

    /// Forgets a token that was not taken, unless it was replaced meanwhile.
    pub(super) async fn refused(&self, value: &SecretString) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| token.value.expose_secret() == value.expose_secret()) {
            *current = None;
        }
    }

    async fn fetch(&self) -> Result<Token, Error> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.credentials.id.as_str()),
            ("client_secret", self.credentials.secret.expose_secret()),
        ];
        let asked_at = Instant::now();
        let response = self.http.post(&self.url).form(&form).send().await.map_err(|error| unsent(&error))?;
        match response.status() {
            StatusCode::OK => {
                let granted: Granted = answer::decode(&body(response, LIMIT).await?)?;
                Ok(Token { value: granted.access_token, renew_at: asked_at + usable(granted.expires_in) })
            }
            status @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Error::Rejected(format!("token endpoint: {status}")))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(rate_limited(&response)),
            status => Err(Error::Fault(Fault::Server, format!("OpenSky's token endpoint answered {status}"))),
        }
    }
}

/// How long a token is used that lives for so many seconds. One that lives no longer than the early renewal is used for half
/// its life.
fn usable(expires_in: u64) -> Duration {
    let lifetime = Duration::from_secs(expires_in).min(LONGEST);
    lifetime.checked_sub(EARLY).filter(|left| !left.is_zero()).unwrap_or(lifetime / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_half_a_minute_before_it_expires() {
        for (lives, used) in [(1800, 1770.0), (31, 1.0), (30, 15.0), (1, 0.5), (0, 0.0), (u64::MAX, 86_370.0)]
        {
            assert_eq!(usable(lives).as_secs_f64(), used, "{lives} s");
        }
    }
}
