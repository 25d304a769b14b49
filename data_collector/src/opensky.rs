//! OpenSky Network's REST API, as its documentation describes it: client credentials, flights of an airport, credits.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use common::types::{Direction, Icao};
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::circuit_breaker::{CircuitBreaker, Outcome, Refused};
use crate::window::Window;

/// The largest answer that is read. A busy airport's day is about 300 kB.
const ANSWER_LIMIT: usize = 32 << 20;
/// A token is renewed this long before it expires.
const EARLY: Duration = Duration::from_secs(30);

/// A flight as OpenSky tells it. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flight {
    /// The transponder's address, lower-case hexadecimal.
    pub(crate) icao24: String,
    pub(crate) first_seen: i64,
    pub(crate) last_seen: i64,
    pub(crate) est_departure_airport: Option<String>,
    pub(crate) est_arrival_airport: Option<String>,
    /// Up to 8 characters, padded with blanks.
    pub(crate) callsign: Option<String>,
}

/// An answer: the flights, and the credits that are left.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) flights: Vec<Flight>,
    pub(crate) credits: Option<i64>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: SecretString,
}

/// Kinds of failure, for `BREAKER_EXPECTED_ERRORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// A status that is no answer: 5xx, and 4xx other than 404 and 429.
    Server,
    /// An answer that is not what the documentation says.
    Decode,
}

/// Why there are no flights to count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{1}")]
    Fault(Fault, String),
    /// The bucket is empty.
    #[error("OpenSky's credits are used up for {} s", .0.as_secs())]
    RateLimited(Duration),
    #[error("OpenSky rejects the credentials: check OPENSKY_CLIENT_ID and OPENSKY_CLIENT_SECRET ({0})")]
    Rejected(String),
    #[error("the circuit breaker is open")]
    Refused(Refused),
}

/// The client. Every call passes the circuit breaker.
#[derive(Debug)]
pub(crate) struct OpenSky {
    http: reqwest::Client,
    api_url: String,
    token_url: String,
    credentials: Credentials,
    token: Mutex<Option<Token>>,
    breaker: CircuitBreaker,
    counted: Vec<Fault>,
}

#[derive(Clone, Debug)]
struct Token {
    value: SecretString,
    renew_at: Instant,
}

impl OpenSky {
    pub(crate) fn new(
        args: &crate::config::OpenSkyArgs,
        credentials: Credentials,
        breaker: CircuitBreaker,
        counted: Vec<Fault>,
    ) -> reqwest::Result<OpenSky> {
        Ok(OpenSky {
            http: common::http::client(args.opensky_timeout)?,
            api_url: args.opensky_api_url.trim_end_matches('/').to_owned(),
            token_url: args.opensky_token_url.clone(),
            credentials,
            token: Mutex::default(),
            breaker,
            counted,
        })
    }

    /// The flights of an airport in a window. One permit of the breaker covers the call with its token fetch and the
    /// one repeat after a 401.
    pub(crate) async fn flights(
        &self,
        airport: Icao,
        direction: Direction,
        window: Window,
    ) -> Result<Answer, Error> {
        let permit = self.breaker.admit(Instant::now()).map_err(Error::Refused)?;
        let answer = self.ask(airport, direction, window).await;
        match &answer {
            Ok(_) | Err(Error::RateLimited(_)) => permit.record(Outcome::Success, Instant::now()),
            Err(Error::Fault(fault, _)) if self.counted.contains(fault) => {
                permit.record(Outcome::Failure, Instant::now());
            }
            // Neither says anything about the service's health; the permit frees its place when dropped.
            Err(Error::Fault(..) | Error::Rejected(_) | Error::Refused(_)) => {}
        }
        answer
    }

    async fn ask(&self, airport: Icao, direction: Direction, window: Window) -> Result<Answer, Error> {
        let response = self.call(airport, direction, window, &self.token().await?).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return read(response).await;
        }
        // The token has expired: once more with a new one.
        *self.token.lock().await = None;
        let token = self.token().await?;
        read(self.call(airport, direction, window, &token).await?).await
    }

    async fn call(
        &self,
        airport: Icao,
        direction: Direction,
        window: Window,
        token: &SecretString,
    ) -> Result<Response, Error> {
        let endpoint = match direction {
            Direction::Arrivals => "arrival",
            Direction::Departures => "departure",
        };
        let request = self
            .http
            .get(format!("{}/flights/{endpoint}", self.api_url))
            // Both ends are inclusive there: a window ends a second before the next one begins.
            .query(&[
                ("airport", airport.to_string()),
                ("begin", window.begin.to_string()),
                ("end", (window.end - 1).to_string()),
            ])
            .bearer_auth(token.expose_secret());
        request.send().await.map_err(|error| unsent(&error))
    }

    /// The current token, or a new one. The lock makes several callers wait for one fetch.
    async fn token(&self) -> Result<SecretString, Error> {
        let mut current = self.token.lock().await;
        if let Some(token) = current.as_ref().filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.value.clone());
        }
        let token = self.fetch_token().await?;
        let value = token.value.clone();
        *current = Some(token);
        Ok(value)
    }

    async fn fetch_token(&self) -> Result<Token, Error> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: SecretString,
            expires_in: u64,
        }
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.credentials.id.as_str()),
            ("client_secret", self.credentials.secret.expose_secret()),
        ];
        let asked_at = Instant::now();
        let response =
            self.http.post(&self.token_url).form(&form).send().await.map_err(|error| unsent(&error))?;
        match response.status() {
            StatusCode::OK => {
                let granted: Granted = decode(&body(response).await?)?;
                let lifetime = Duration::from_secs(granted.expires_in);
                // A token that lives no longer than the early renewal is used for half its life.
                let usable =
                    lifetime.checked_sub(EARLY).filter(|left| !left.is_zero()).unwrap_or(lifetime / 2);
                Ok(Token { value: granted.access_token, renew_at: asked_at + usable })
            }
            status @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(Error::Rejected(format!("token endpoint: {status}")))
            }
            status => Err(Error::Fault(Fault::Server, format!("OpenSky's token endpoint answered {status}"))),
        }
    }
}

/// What an answer of the API means.
async fn read(response: Response) -> Result<Answer, Error> {
    let credits = number(&response, "x-rate-limit-remaining");
    match response.status() {
        StatusCode::OK => Ok(Answer { flights: flights(&body(response).await?)?, credits }),
        StatusCode::NOT_FOUND => Ok(Answer { flights: Vec::new(), credits }),
        StatusCode::TOO_MANY_REQUESTS => {
            let seconds = number(&response, "x-rate-limit-retry-after-seconds").unwrap_or(60);
            Err(Error::RateLimited(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).clamp(1, 86_400))))
        }
        status => Err(Error::Fault(Fault::Server, format!("OpenSky answered {status}"))),
    }
}

/// The flights of a body. Texts with control characters are none that OpenSky documents, nor such that every database
/// takes.
fn flights(body: &[u8]) -> Result<Vec<Flight>, Error> {
    let flights: Vec<Flight> = decode(body)?;
    let odd = flights.iter().find(|flight| {
        let airports = [&flight.est_departure_airport, &flight.est_arrival_airport, &flight.callsign];
        let texts = airports.into_iter().flatten().chain([&flight.icao24]);
        texts.into_iter().any(|text| text.len() > 64 || text.contains(char::is_control))
    });
    match odd {
        None => Ok(flights),
        Some(flight) => {
            let why = format!(
                "OpenSky's answer is not as documented: a text of the flight at {}",
                flight.first_seen
            );
            Err(Error::Fault(Fault::Decode, why))
        }
    }
}

fn number(response: &Response, header: &str) -> Option<i64> {
    response.headers().get(header)?.to_str().ok()?.trim().parse().ok()
}

async fn body(mut response: Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unsent(&error))? {
        if body.len() + chunk.len() > ANSWER_LIMIT {
            return Err(Error::Fault(Fault::Decode, "OpenSky's answer is larger than 32 MiB".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn decode<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| {
        Error::Fault(Fault::Decode, format!("OpenSky's answer is not as documented: {error}"))
    })
}

/// A call that got no whole answer. The URL is left out: it says nothing that the log line does not.
fn unsent(error: &reqwest::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let (fault, what) = match () {
        () if error.is_timeout() => (Fault::Timeout, "OpenSky did not answer in time"),
        () if error.is_connect() => (Fault::Connect, "OpenSky cannot be reached"),
        () if error.is_decode() || error.is_body() => (Fault::Decode, "OpenSky's answer broke off"),
        () => (Fault::Connect, "the call to OpenSky failed"),
    };
    Error::Fault(fault, format!("{what}: {cause}"))
}
