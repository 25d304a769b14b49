//! The routes of the assignment, under the names that its Postman collections use: thin aliases, nothing of their own.

use axum::Extension;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{MethodRouter, delete, get, post};
use common::auth::Caller;
use common::http::{Json, Problem, Query};
use common::trace::Trace;
use common::types::{Email, Icao, Invalid};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::State;
use crate::api::{Average, FlightList, Last};
use crate::dto::{FlightView, InterestFields, InterestView, Page, Side};
use crate::error::Error;

pub(crate) fn routes() -> [(&'static str, MethodRouter<State>); 7] {
    [
        ("/subscribeInterest", post(subscribe)),
        ("/removeInterest", delete(remove)),
        ("/modifieTreshold", post(modify)),
        ("/modifyTreshold", post(modify)),
        ("/flights/info", get(info)),
        ("/flights/last", get(last)),
        ("/flights/average", get(average)),
    ]
}

/// Codes a request may name: each one that is wrong is compared with the whole catalogue.
const MOST_CODES: usize = 100;

/// One code or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Codes {
    One(String),
    Several(Vec<String>),
}

impl Codes {
    /// Upper-cased, each once, in their order.
    fn distinct(self) -> Result<Vec<String>, Invalid> {
        let codes = match self {
            Codes::One(code) => vec![code],
            Codes::Several(codes) => codes,
        };
        if codes.len() > MOST_CODES {
            return Err(Invalid(format!("interessi may name {MOST_CODES} airports at a time")));
        }
        let mut distinct = Vec::new();
        for code in codes.into_iter().map(|code| code.trim().to_uppercase()) {
            if !distinct.contains(&code) {
                distinct.push(code);
            }
        }
        Ok(distinct)
    }
}

#[derive(Deserialize)]
struct Subscription {
    email: Option<Email>,
    interessi: Codes,
    #[serde(flatten)]
    fields: InterestFields,
}

/// What became of one airport of a list.
fn outcome(airport: &str, done: Result<Value, Error>) -> Value {
    match done {
        Ok(done) => done,
        Err(error) => {
            let problem = Problem::from(error);
            let mut failed = problem.body(None);
            failed["airport"] = airport.into();
            failed
        }
    }
}

async fn subscribe(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Json(wanted): Json<Subscription>,
) -> Result<Json<Value>, Problem> {
    let user = state.user(caller, wanted.email.as_ref()).await?;
    let codes = wanted.interessi.distinct().map_err(Error::Invalid)?;
    let known = |code: &Icao| state.announcer.catalogue.get(*code).is_some();
    let airports: Vec<Icao> = codes.iter().filter_map(|code| code.parse().ok()).filter(known).collect();
    state.verify_for_new(user.account, &airports).await?;
    let mut results = Vec::new();
    for code in codes {
        let saved = async {
            let airport = state.airport(&code)?;
            let saved = state.save(&user, airport, &wanted.fields, false, &trace).await?;
            let status = if saved.is_new { StatusCode::CREATED } else { StatusCode::OK };
            let (low, high) = (saved.interest.thresholds.low(), saved.interest.thresholds.high());
            Ok(json!({"airport": airport, "status": status.as_u16(), "low_value": low, "high_value": high}))
        };
        results.push(outcome(&code, saved.await));
    }
    Ok(Json(json!({ "results": results })))
}

#[derive(Deserialize)]
struct Removal {
    email: Option<Email>,
    interessi: Codes,
}

async fn remove(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Json(removal): Json<Removal>,
) -> Result<Json<Value>, Problem> {
    let user = state.user(caller, removal.email.as_ref()).await?;
    let mut results = Vec::new();
    for code in removal.interessi.distinct().map_err(Error::Invalid)? {
        let removed = async {
            let airport = state.code(&code)?;
            match state.remove(user.account, airport, &trace).await? {
                true => Ok(json!({"airport": airport, "status": StatusCode::OK.as_u16()})),
                false => Err(state.no_interest(airport)),
            }
        };
        results.push(outcome(&code, removed.await));
    }
    Ok(Json(json!({ "results": results })))
}

#[derive(Deserialize)]
struct Modification {
    email: Option<Email>,
    icao: String,
    #[serde(flatten)]
    fields: InterestFields,
}

async fn modify(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Json(change): Json<Modification>,
) -> Result<Json<InterestView>, Problem> {
    let user = state.user(caller, change.email.as_ref()).await?;
    if change.fields.low_value.is_none() && change.fields.high_value.is_none() {
        return Err(Problem::invalid("low_value, high_value or both must be there"));
    }
    let airport = state.airport(&change.icao)?;
    let saved = state.save(&user, airport, &change.fields, true, &trace).await?;
    Ok(Json(state.view(saved.interest).await?))
}

#[derive(Deserialize)]
struct Info {
    icao: String,
}

async fn info(
    Shared(state): Shared<State>,
    _: Caller,
    Query(info): Query<Info>,
) -> Result<Json<Page<FlightView>>, Error> {
    state.flights(&info.icao, FlightList::default()).await.map(Json)
}

#[derive(Deserialize)]
struct Which {
    airport: String,
    #[serde(rename = "type", default)]
    side: Side,
    days: Option<i64>,
}

async fn last(
    Shared(state): Shared<State>,
    _: Caller,
    Query(which): Query<Which>,
) -> Result<Json<Last>, Error> {
    state.last(&which.airport, which.side).await.map(Json)
}

async fn average(
    Shared(state): Shared<State>,
    _: Caller,
    Query(which): Query<Which>,
) -> Result<Json<Average>, Error> {
    state.average(&which.airport, which.days.unwrap_or(7), which.side).await.map(Json)
}
