//! How the collection stands, and how to hurry it.

use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::Extension;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use common::auth::Caller;
use common::clock::{DAY, rfc3339};
use common::http::{Json, Problem};
use common::trace::Trace;
use common::types::{Account, Email, Icao};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::State;
use crate::collector::WINDOW_CREDITS;
use crate::dto::WindowView;
use crate::error::Error;
use crate::store::Standing;

pub(super) async fn status(Shared(state): Shared<State>, caller: Caller) -> Result<Json<Value>, Problem> {
    let user = state.user(caller, None).await?;
    Ok(Json(status_of(&state, user.account).await?))
}

async fn status_of(state: &State, account: Account) -> Result<Value, Error> {
    let (now, store) = (state.flight_clock.now(), &state.store);
    // In this order: who sees a cycle sees its windows wait, and who sees that none waits sees the last one stored.
    let time = |time: i64| (time != 0).then(|| rfc3339(time));
    let last_cycle = time(state.progress.last_cycle.load(Ordering::Relaxed));
    let next_cycle = time(state.progress.next_cycle.load(Ordering::Relaxed));
    let waiting = store.waiting(state.lag, now).await?;
    let mut standings: Vec<_> = store.standings(account, None).await?.into_iter().collect();
    standings.sort_unstable_by_key(|(airport, _)| *airport);
    let airport = |(airport, standing): (Icao, Standing)| {
        json!({
            "airport": airport,
            "last_window": standing.last.map(WindowView::from),
            "lag": standing.due,
            "missing": standing.missing,
        })
    };
    let airports: Vec<Value> = standings.into_iter().map(airport).collect();
    Ok(json!({
        "breaker": breaker(state),
        "credits": credits(state, now, waiting.ready).await?,
        "time": rfc3339(now),
        "last_cycle": last_cycle,
        "next_cycle": next_cycle,
        "waiting": waiting.due,
        "obstacle": state.progress.obstacle(),
        "airports": airports,
    }))
}

fn breaker(state: &State) -> Value {
    let mut breaker = json!({"state": state.breaker.state().name(), "counters": state.breaker.counters()});
    if let Some(until) = state.breaker.refuses_until(Instant::now()) {
        breaker["trial_in_s"] = until.saturating_duration_since(Instant::now()).as_secs().into();
    }
    breaker
}

/// What is left of the day, and how many of the windows that need nothing else it does not suffice for.
async fn credits(state: &State, now: i64, ready: i64) -> sqlx::Result<Value> {
    let today = state.store.credits(now.div_euclid(DAY)).await?;
    let remaining = today.and_then(|credits| credits.remaining).unwrap_or(state.daily_credits);
    let paused_until = today.map(|credits| credits.paused_until).filter(|until| *until > state.clock.now());
    Ok(json!({
        "remaining": remaining,
        "daily": state.daily_credits,
        "renewed_at": rfc3339((now.div_euclid(DAY) + 1) * DAY),
        "windows_waiting": (ready - remaining / WINDOW_CREDITS).max(0),
        "paused_until": paused_until.map(rfc3339),
    }))
}

/// Attempts that cost credits and may follow each other as fast as people ask: the credits are everybody's.
const PAID_ATTEMPTS: i64 = 5;

#[derive(Deserialize, Default)]
pub(super) struct CollectBody {
    email: Option<Email>,
    icao: Option<String>,
}

pub(super) async fn collect(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    body: Option<Json<CollectBody>>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let user = state.user(caller, body.email.as_ref()).await?;
    let wanted = body.icao.map(|code| state.code(&code)).transpose()?;
    let airports = state.hurry(user.account, wanted, &trace).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"airports": airports}))))
}

impl State {
    /// Has the due windows of an account's airports looked at now, or those of the one that is `wanted`; says which.
    async fn hurry(&self, account: Account, wanted: Option<Icao>, trace: &Trace) -> Result<Vec<Icao>, Error> {
        let interests = self.store.interests(account).await?;
        let mut airports: Vec<Icao> = interests.iter().map(|interest| interest.airport).collect();
        if let Some(wanted) = wanted {
            airports.retain(|airport| *airport == wanted);
            if airports.is_empty() {
                return Err(self.no_interest(wanted));
            }
        }
        if !self.store.ask_collection(account, 60, self.clock.now()).await? {
            return Err(Error::TooSoon);
        }
        self.store.plan_all(self.lag, self.backfill, self.flight_clock.now(), trace).await?;
        self.store.hurry(&airports, PAID_ATTEMPTS).await?;
        self.collect.notify_one();
        Ok(airports)
    }
}
