//! OpenSky Network's REST API, as its documentation describes it: client credentials, flights of an airport, credits.

mod answer;
mod token;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use common::clock::from_http_date;
use common::types::{Direction, Icao};
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};

pub(crate) use self::answer::Flight;
use self::token::Tokens;
use crate::circuit_breaker::{CircuitBreaker, Outcome, Refused};
use crate::window::Window;

/// The largest answer that is read, in bytes. A busy airport's day is about 300 kB.
const ANSWER_LIMIT: usize = 32 << 20;
/// How long to wait after a 429 that does not say it.
const PAUSE: Duration = Duration::from_secs(60);
/// The longest wait that a 429 may ask for: until a bucket is full again.
const LONGEST_PAUSE: Duration = Duration::from_secs(86_400);

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: SecretString,
}

/// What a call brought: the flights or why there are none, and what its answer said beside that.
#[derive(Debug)]
pub(crate) struct Called {
    pub(crate) flights: Result<Vec<Flight>, Error>,
    /// Whether OpenSky takes credits for it: an answer was given, even if it could not be read to its end.
    pub(crate) charged: bool,
    /// `X-Rate-Limit-Remaining`: credits that are left.
    pub(crate) credits: Option<i64>,
    /// `Date`: when it was answered by the server's clock, Unix seconds.
    pub(crate) date: Option<i64>,
}

impl Called {
    /// No answer came.
    fn failed(error: Error) -> Called {
        Called { flights: Err(error), charged: false, credits: None, date: None }
    }

    /// How it ended, in one word for metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match &self.flights {
            Ok(flights) if flights.is_empty() => "no_flights",
            Ok(_) => "flights",
            Err(Error::Fault(Fault::Connect, _)) => "connect",
            Err(Error::Fault(Fault::Timeout, _)) => "timeout",
            Err(Error::Fault(Fault::Server, _)) => "server",
            Err(Error::Fault(Fault::Decode, _)) => "decode",
            Err(Error::RateLimited(_)) => "rate_limited",
            Err(Error::Rejected(_)) => "rejected",
            Err(Error::Refused(_)) => "refused",
        }
    }
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
    tokens: Tokens,
    breaker: CircuitBreaker,
    counted: Vec<Fault>,
}

impl OpenSky {
    /// `counted` are the faults that the breaker counts.
    pub(crate) fn new(
        args: &crate::config::OpenSkyArgs,
        credentials: Credentials,
        breaker: CircuitBreaker,
        counted: Vec<Fault>,
    ) -> reqwest::Result<OpenSky> {
        let http = common::http::client(args.opensky_timeout)?;
        Ok(OpenSky {
            tokens: Tokens::new(http.clone(), args.opensky_token_url.clone(), credentials),
            http,
            api_url: args.opensky_api_url.trim_end_matches('/').to_owned(),
            breaker,
            counted,
        })
    }

    /// The flights of an airport in a window. One permit of the breaker covers the call with its token fetch and the
    /// one repeat after a 401.
    pub(crate) async fn flights(&self, airport: Icao, direction: Direction, window: Window) -> Called {
        let permit = match self.breaker.admit(Instant::now()) {
            Ok(permit) => permit,
            Err(refused) => return Called::failed(Error::Refused(refused)),
        };
        let called = self.ask(airport, direction, window).await.unwrap_or_else(Called::failed);
        match &called.flights {
            Ok(_) | Err(Error::RateLimited(_)) => permit.record(Outcome::Success, Instant::now()),
            Err(Error::Fault(fault, _)) if self.counted.contains(fault) => {
                permit.record(Outcome::Failure, Instant::now());
            }
            // Neither says anything about the service's health; the permit frees its place when dropped.
            Err(Error::Fault(..) | Error::Rejected(_) | Error::Refused(_)) => {}
        }
        called
    }

    async fn ask(&self, airport: Icao, direction: Direction, window: Window) -> Result<Called, Error> {
        let token = self.tokens.current().await?;
        let response = self.call(airport, direction, window, &token).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(read(response, direction, window).await);
        }
        // The token has expired: once more with a new one.
        self.tokens.refused(&token).await;
        let token = self.tokens.current().await?;
        Ok(read(self.call(airport, direction, window, &token).await?, direction, window).await)
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
}

/// What an answer of the API means.
async fn read(response: Response, direction: Direction, window: Window) -> Called {
    let (status, credits) = (response.status(), number(&response, "x-rate-limit-remaining"));
    let date = header(&response, "date").and_then(from_http_date);
    let flights = match status {
        StatusCode::OK => match body(response, ANSWER_LIMIT).await {
            Ok(body) => answer::flights(&body, direction, window),
            Err(error) => Err(error),
        },
        StatusCode::NOT_FOUND => Ok(Vec::new()),
        StatusCode::TOO_MANY_REQUESTS => Err(rate_limited(&response)),
        status => Err(Error::Fault(Fault::Server, format!("OpenSky answered {status}"))),
    };
    Called { flights, charged: matches!(status, StatusCode::OK | StatusCode::NOT_FOUND), credits, date }
}

/// A 429, and how long it wants to be left alone: OpenSky's own header, or what a proxy before it says.
fn rate_limited(response: &Response) -> Error {
    let seconds = number(response, "x-rate-limit-retry-after-seconds").or(number(response, "retry-after"));
    let pause = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(PAUSE, Duration::from_secs);
    Error::RateLimited(pause.clamp(Duration::from_secs(1), LONGEST_PAUSE))
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn number(response: &Response, name: &str) -> Option<i64> {
    header(response, name)?.trim().parse().ok()
}

/// The whole body, if it is not larger than `limit` bytes.
async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unsent(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(undocumented(format!("it is larger than {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// An answer that is not what the documentation says.
fn undocumented(why: impl std::fmt::Display) -> Error {
    Error::Fault(Fault::Decode, format!("OpenSky's answer is not as documented: {why}"))
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
