//! OpenSky's side. Its refusals are plain text, not the problems of Vedetta's own services.

use std::sync::Arc;

use axum::extract::rejection::{FormRejection, QueryRejection};
use axum::extract::{Form, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use common::clock::{DAY, http_date};
use common::types::{Direction, Icao};
use serde::Deserialize;
use serde_json::json;

use crate::credits::{Caller, cost, until_refill};
use crate::stats::Endpoint;
use crate::{Replay, lock};

/// OpenSky's own path of the token endpoint.
const TOKEN_PATH: &str = "/auth/realms/opensky-network/protocol/openid-connect/token";
/// The longest `client_id`, in bytes: tokens and buckets keep it.
const LONGEST_ID: usize = 256;
/// The longest interval, in seconds.
const LONGEST: i64 = 2 * DAY;
const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
const RETRY_AFTER: HeaderName = HeaderName::from_static("x-rate-limit-retry-after-seconds");

/// The routes that OpenSky has.
pub(crate) fn routes(replay: &Arc<Replay>) -> Router<Arc<Replay>> {
    let watched = |endpoint, route: MethodRouter<Arc<Replay>>| {
        route.layer(middleware::from_fn_with_state((replay.clone(), endpoint), watch))
    };
    Router::new()
        .route("/api/flights/arrival", watched(Endpoint::Arrival, get(arrivals)))
        .route("/api/flights/departure", watched(Endpoint::Departure, get(departures)))
        .route("/token", watched(Endpoint::Token, post(token)))
        .route(TOKEN_PATH, watched(Endpoint::Token, post(token)))
}

/// What befalls every call: latency, an outage, being counted.
async fn watch(
    State((replay, endpoint)): State<(Arc<Replay>, Endpoint)>,
    request: Request,
    next: Next,
) -> Response {
    let faults = *lock(&replay.faults);
    faults.latency.pass().await;
    let mut response = if faults.outage {
        (StatusCode::SERVICE_UNAVAILABLE, "an outage was asked for").into_response()
    } else {
        next.run(request).await
    };
    replay.stats.count(endpoint, response.status());
    // The clock that is replayed, not the machine's.
    if let Ok(date) = HeaderValue::try_from(http_date(replay.clock.now())) {
        response.headers_mut().insert(header::DATE, date);
    }
    response
}

#[derive(Deserialize)]
struct Grant {
    grant_type: String,
    client_id: String,
    client_secret: String,
}

async fn token(State(replay): State<Arc<Replay>>, form: Result<Form<Grant>, FormRejection>) -> Response {
    let refuse = |status: StatusCode, error: &str, description: &str| {
        (status, Json(json!({"error": error, "error_description": description}))).into_response()
    };
    let grant = match form {
        Ok(Form(grant)) => grant,
        Err(rejection) => return refuse(StatusCode::BAD_REQUEST, "invalid_request", &rejection.body_text()),
    };
    if grant.grant_type != "client_credentials" {
        return refuse(StatusCode::BAD_REQUEST, "unsupported_grant_type", "must be client_credentials");
    }
    if grant.client_id.len() > LONGEST_ID {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request", "client_id is too long");
    }
    match replay.tokens.issue(&grant.client_id, &grant.client_secret, &replay.clock) {
        Some(token) => Json(json!({
            "access_token": *token,
            "token_type": "Bearer",
            "expires_in": replay.tokens.lifetime().as_secs(),
        }))
        .into_response(),
        None => refuse(StatusCode::UNAUTHORIZED, "invalid_client", "unknown client or wrong secret"),
    }
}

/// What is asked for; times are Unix seconds, both ends belong to the interval.
#[derive(Deserialize)]
struct Interval {
    airport: Icao,
    begin: u32,
    end: u32,
}

type Asked = Result<Query<Interval>, QueryRejection>;

async fn arrivals(replay: State<Arc<Replay>>, headers: HeaderMap, asked: Asked) -> Response {
    flights(&replay, Direction::Arrivals, &headers, asked).await
}

async fn departures(replay: State<Arc<Replay>>, headers: HeaderMap, asked: Asked) -> Response {
    flights(&replay, Direction::Departures, &headers, asked).await
}

async fn flights(replay: &Replay, direction: Direction, headers: &HeaderMap, asked: Asked) -> Response {
    let now = replay.clock.now();
    let Some(caller) = caller(replay, headers) else {
        let bearer = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, bearer, "a valid access token is needed").into_response();
    };
    let answer = answer(replay, direction, &caller, asked, now).await;
    let mut response = answer.unwrap_or_else(|refusal| refusal.respond(replay, now));
    response.headers_mut().insert(REMAINING, replay.credits.remaining(&caller, now).into());
    response
}

/// Who calls; none if a token is needed and there is no valid one.
fn caller(replay: &Replay, headers: &HeaderMap) -> Option<Caller> {
    let Some(authorization) = headers.get(header::AUTHORIZATION) else {
        return replay.anonymous.then_some(Caller::Anonymous);
    };
    let token = authorization.to_str().ok()?.strip_prefix("Bearer ")?;
    replay.tokens.client(token, &replay.clock).map(Caller::Client)
}

async fn answer(
    replay: &Replay,
    direction: Direction,
    caller: &Caller,
    asked: Asked,
    now: i64,
) -> Result<Response, Refusal> {
    let Query(asked) = asked.map_err(|rejection| Refusal::Asked(rejection.body_text()))?;
    let (begin, end) = (i64::from(asked.begin), i64::from(asked.end));
    if end < begin {
        return Err(Refusal::Asked("end is before begin".into()));
    }
    if end - begin > LONGEST {
        return Err(Refusal::Asked("the interval is longer than two days".into()));
    }
    let faults = *lock(&replay.faults);
    if replay.dice.fall(faults.error_rate) {
        return Err(Refusal::Failed("an error was asked for".into()));
    }
    let tape = replay.source.tape().await.map_err(|broken| Refusal::Failed(broken.to_string()))?;
    // Only what is answered is charged.
    replay.credits.charge(caller, cost(begin, end), now).map_err(|_| Refusal::Spent)?;
    let newest = match direction {
        // A batch at night finds the arrivals of a day.
        Direction::Arrivals => now - now.rem_euclid(DAY) - 1,
        Direction::Departures => now,
    };
    let flights: Vec<_> = tape.flights(asked.airport, direction, begin..=end.min(newest)).collect();
    if flights.is_empty() {
        return Ok(StatusCode::NOT_FOUND.into_response());
    }
    let mut body = serde_json::to_vec(&flights).map_err(|error| Refusal::Failed(error.to_string()))?;
    if replay.dice.fall(faults.truncate_rate) {
        body.truncate(body.len() / 2);
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Why a caller that is known gets no answer.
enum Refusal {
    /// The parameters; the text is for the caller.
    Asked(String),
    /// The bucket is empty.
    Spent,
    /// Something went wrong here.
    Failed(String),
}

impl Refusal {
    fn respond(self, replay: &Replay, now: i64) -> Response {
        match self {
            Refusal::Asked(why) => (StatusCode::BAD_REQUEST, why).into_response(),
            Refusal::Spent => {
                // A client waits by its own clock, whatever the speed of ours.
                let wait = replay.clock.real(until_refill(now)).as_secs_f64().ceil().max(1.0) as u64;
                let headers = [(RETRY_AFTER, wait.to_string())];
                (StatusCode::TOO_MANY_REQUESTS, headers, "no credits left today").into_response()
            }
            Refusal::Failed(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
        }
    }
}
