//! How the collection stands, and how to hurry it.

use std::sync::atomic::Ordering;

use axum::Extension;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use common::auth::Caller;
use common::clock::{DAY, rfc3339};
use common::http::Json;
use common::trace::Trace;
use common::types::Icao;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::State;
use crate::dto::WindowView;
use crate::error::Error;

pub(super) async fn status(
    Shared(state): Shared<State>,
    Caller(claims): Caller,
) -> Result<Json<Value>, Error> {
    let mut breaker = json!({"state": state.breaker.state().name(), "counters": state.breaker.counters()});
    if let Some(until) = state.breaker.refuses_until(std::time::Instant::now()) {
        breaker["trial_in_s"] = until.saturating_duration_since(std::time::Instant::now()).as_secs().into();
    }
    let now = state.flight_clock.now();
    let remaining = state.store.credits(now.div_euclid(DAY)).await?.unwrap_or(state.daily_credits);
    let time = |time: i64| (time != 0).then(|| rfc3339(time));
    let mut airports = Vec::new();
    for interest in state.store.interests(claims.sub).await? {
        let (due, missing) = state.store.due_and_missing(interest.airport).await?;
        airports.push(json!({
            "airport": interest.airport,
            "last_window": state.store.last_window(interest.airport).await?.map(WindowView::from),
            "lag": due,
            "missing": missing,
        }));
    }
    Ok(Json(json!({
        "breaker": breaker,
        "credits": {"remaining": remaining, "daily": state.daily_credits},
        "time": rfc3339(now),
        "last_cycle": time(state.progress.last_cycle.load(Ordering::Relaxed)),
        "next_cycle": time(state.progress.next_cycle.load(Ordering::Relaxed)),
        "waiting": state.store.waiting().await?.0,
        "obstacle": state.progress.obstacle(),
        "airports": airports,
    })))
}

#[derive(Deserialize, Default)]
pub(super) struct CollectBody {
    icao: Option<Icao>,
}

pub(super) async fn collect(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    Caller(claims): Caller,
    body: Option<Json<CollectBody>>,
) -> Result<(StatusCode, Json<Value>), Error> {
    let wanted = body.and_then(|Json(body)| body.icao);
    let interests = state.store.interests(claims.sub).await?;
    let airports: Vec<Icao> = interests.iter().map(|interest| interest.airport).collect();
    let airports = match wanted {
        Some(airport) if !airports.contains(&airport) => return Err(Error::NoInterest(airport)),
        Some(airport) => vec![airport],
        None => airports,
    };
    if !state.store.ask_collection(claims.sub, 60, state.clock.now()).await? {
        return Err(Error::TooSoon);
    }
    state.store.plan_all(state.grid, state.flight_clock.now(), &trace).await?;
    state.store.hurry(&airports).await?;
    state.collect.notify_one();
    Ok((StatusCode::ACCEPTED, Json(json!({"airports": airports}))))
}
