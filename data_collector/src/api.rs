//! The API on one screen, and its handlers.

use std::sync::atomic::Ordering;

use axum::extract::{FromRef, State as Shared};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use common::auth::{Caller, Claims, Verifier};
use common::clock::{DAY, rfc3339};
use common::http::{Json, Path, Problem, Query};
use common::trace::Trace;
use common::types::{Account, Email, Icao, Invalid, Metric, Notify, Thresholds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::State;
use crate::airports::Airport;
use crate::dto::{DayView, FlightView, InterestFields, InterestView, Page, Side, Time, WindowView};
use crate::error::Error;
use crate::store::{Cursor, Evaluation, FlightQuery, Interest, Saved, Wanted};

/// All routes but the assignment's.
pub(crate) fn router() -> Router<State> {
    Router::new()
        .route("/interests", get(list_interests))
        .route(
            "/interests/{icao}",
            put(put_interest).patch(patch_interest).get(get_interest).delete(delete_interest),
        )
        .route("/unsubscribe", get(ask_unsubscribe).post(unsubscribe))
        .route("/airports", get(search_airports))
        .route("/airports/{icao}/flights", get(flights))
        .route("/airports/{icao}/last", get(last))
        .route("/airports/{icao}/average", get(average))
        .route("/airports/{icao}/daily", get(daily))
        .route("/status", get(status))
        .route("/collect", post(collect))
}

impl FromRef<State> for Verifier {
    fn from_ref(state: &State) -> Verifier {
        state.verifier.clone()
    }
}

impl State {
    /// The airport with this code, in the catalogue.
    pub(crate) fn airport(&self, code: &str) -> Result<&Airport, Error> {
        let icao: Icao = code.parse()?;
        let catalogue = &self.announcer.catalogue;
        catalogue
            .get(icao)
            .ok_or_else(|| Error::UnknownAirport { airport: icao, nearest: catalogue.nearest(icao, 5) })
    }

    /// Makes or changes an interest.
    pub(crate) async fn save(
        &self,
        claims: &Claims,
        airport: Icao,
        fields: &InterestFields,
        must_exist: bool,
        trace: &Trace,
    ) -> Result<Saved, Error> {
        let on = Evaluation {
            grid: self.grid,
            backfill: self.backfill,
            now: self.flight_clock.now(),
            announcer: &self.announcer,
        };
        let change = |before: Option<&Interest>| match before {
            Some(before) => Ok(changed(before, fields)?),
            None if must_exist => Err(Error::NoInterest(airport)),
            None => Ok(made(self.defaults, fields)?),
        };
        let who = (claims.sub, &claims.email, airport);
        let saved = self.store.save_interest(who, self.max_interests, &change, on, trace).await?;
        self.collect.notify_one();
        self.outbox.notify_one();
        Ok(saved)
    }

    /// Ends an interest; `false` if there was none.
    pub(crate) async fn remove(&self, account: Account, airport: Icao, trace: &Trace) -> Result<bool, Error> {
        let now = self.flight_clock.now();
        let removed = self.store.remove_interest(account, airport, &self.announcer, trace, now).await?;
        self.outbox.notify_one();
        Ok(removed)
    }

    pub(crate) async fn view(&self, interest: Interest) -> Result<InterestView, Error> {
        let airport = interest.airport;
        let name =
            self.announcer.catalogue.get(airport).map(|airport| airport.name.clone()).unwrap_or_default();
        let last = self.store.last_window(airport).await?;
        let no_data_since = self.store.no_data_since(airport).await?;
        Ok(InterestView::new(interest, name, last, self.store.has_data(airport).await?, no_data_since))
    }
}

/// What a new interest is: the defaults for what is left out. A default that would break high > low against a given
/// value is not applied.
fn made(defaults: Thresholds, fields: &InterestFields) -> Result<Wanted, Invalid> {
    let (low, high) = (fields.low_value, fields.high_value);
    let default_low = defaults.low().filter(|default| high.flatten().is_none_or(|high| high > *default));
    let default_high = defaults.high().filter(|default| low.flatten().is_none_or(|low| *default > low));
    Ok(Wanted {
        thresholds: Thresholds::new(low.unwrap_or(default_low), high.unwrap_or(default_high))?,
        metric: fields.metric.unwrap_or(Metric::Total),
        notify: fields.notify.unwrap_or(Notify::EveryWindow),
    })
}

/// What a changed interest is: what is left out stays.
fn changed(before: &Interest, fields: &InterestFields) -> Result<Wanted, Invalid> {
    let low = fields.low_value.unwrap_or(before.thresholds.low());
    let high = fields.high_value.unwrap_or(before.thresholds.high());
    Ok(Wanted {
        thresholds: Thresholds::new(low, high)?,
        metric: fields.metric.unwrap_or(before.metric),
        notify: fields.notify.unwrap_or(before.notify),
    })
}

/// The fields of an interest, and the address that must be the token's if it is there.
#[derive(Deserialize, Default)]
struct InterestBody {
    email: Option<Email>,
    #[serde(flatten)]
    fields: InterestFields,
}

async fn put_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Path(code): Path<String>,
    body: Option<Json<InterestBody>>,
) -> Result<(StatusCode, Json<InterestView>), Problem> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    caller.must_be(body.email.as_ref())?;
    let airport = state.airport(&code)?.icao;
    let saved = state.save(&caller.0, airport, &body.fields, false, &trace).await?;
    let status = if saved.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(state.view(saved.interest).await?)))
}

async fn patch_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Path(code): Path<String>,
    Json(body): Json<InterestBody>,
) -> Result<Json<InterestView>, Problem> {
    caller.must_be(body.email.as_ref())?;
    let airport = state.airport(&code)?.icao;
    let saved = state.save(&caller.0, airport, &body.fields, true, &trace).await?;
    Ok(Json(state.view(saved.interest).await?))
}

async fn list_interests(
    Shared(state): Shared<State>,
    Caller(claims): Caller,
) -> Result<Json<Page<InterestView>>, Error> {
    let mut items = Vec::new();
    for interest in state.store.interests(claims.sub).await? {
        items.push(state.view(interest).await?);
    }
    Ok(Json(Page::whole(items)))
}

async fn get_interest(
    Shared(state): Shared<State>,
    Caller(claims): Caller,
    Path(code): Path<String>,
) -> Result<Json<InterestView>, Error> {
    let airport: Icao = code.parse()?;
    let interests = state.store.interests(claims.sub).await?;
    let interest = interests.into_iter().find(|interest| interest.airport == airport);
    Ok(Json(state.view(interest.ok_or(Error::NoInterest(airport))?).await?))
}

async fn delete_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    Caller(claims): Caller,
    Path(code): Path<String>,
) -> Result<StatusCode, Error> {
    let airport: Icao = code.parse()?;
    match state.remove(claims.sub, airport, &trace).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Error::NoInterest(airport)),
    }
}

#[derive(Deserialize)]
struct Link {
    token: String,
}

/// Only asks: mail scanners open links.
async fn ask_unsubscribe(
    Shared(state): Shared<State>,
    Query(link): Query<Link>,
) -> Result<Html<String>, Error> {
    let (_, airport) = state.announcer.signer.verify(&link.token)?;
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Vedetta</title>\
         <h1>No more alerts for {airport}?</h1>\
         <form method=\"post\"><button>End my interest in {airport}</button></form></html>"
    )))
}

async fn unsubscribe(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    Query(link): Query<Link>,
) -> Result<Html<String>, Error> {
    let (account, airport) = state.announcer.signer.verify(&link.token)?;
    state.remove(account, airport, &trace).await?;
    tracing::info!(%account, %airport, "unsubscribed by link");
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Vedetta</title>\
         <h1>Done: no more alerts for {airport}.</h1></html>"
    )))
}

#[derive(Deserialize)]
struct Search {
    query: String,
    limit: Option<usize>,
}

async fn search_airports(
    Shared(state): Shared<State>,
    _: Caller,
    Query(search): Query<Search>,
) -> Result<Json<Page<Airport>>, Error> {
    if search.query.trim().is_empty() {
        return Err(Invalid("query must name an airport, a city or a code".to_owned()).into());
    }
    let limit = page_limit(search.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let found = state.announcer.catalogue.search(&search.query, usize::try_from(limit).unwrap_or(100));
    Ok(Json(Page::whole(found.into_iter().cloned().collect())))
}

fn page_limit(limit: Option<i64>) -> Result<i64, Invalid> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Invalid("limit must be from 1 to 1000".to_owned())),
    }
}

#[derive(Default, Deserialize)]
pub(crate) struct FlightList {
    #[serde(default)]
    direction: Side,
    from: Option<Time>,
    to: Option<Time>,
    limit: Option<i64>,
    cursor: Option<String>,
}

async fn flights(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(list): Query<FlightList>,
) -> Result<Json<Page<FlightView>>, Error> {
    state.flights(&code, list).await.map(Json)
}

impl State {
    /// A page of an airport's flights.
    pub(crate) async fn flights(&self, code: &str, list: FlightList) -> Result<Page<FlightView>, Error> {
        let limit = page_limit(list.limit)?;
        let (from, to) = (list.from.map_or(i64::MIN, |time| time.0), list.to.map_or(i64::MAX, |time| time.0));
        if from > to {
            return Err(Invalid("from must not be after to".to_owned()).into());
        }
        let query = FlightQuery {
            airport: self.airport(code)?.icao,
            direction: list.direction.0,
            from,
            to,
            after: list.cursor.map(|cursor| cursor.parse()).transpose()?,
            // One more, to know whether there is a next page.
            limit: limit + 1,
        };
        let mut found = self.store.flights(&query).await?;
        let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > limit;
        if more {
            found.pop();
        }
        let next_cursor = found.last().filter(|_| more).map(|last| Cursor::after(last).to_string());
        Ok(Page { items: found.into_iter().map(FlightView::from).collect(), next_cursor })
    }
}

#[derive(Serialize)]
pub(crate) struct Last {
    airport: Icao,
    arrival: Option<FlightView>,
    departure: Option<FlightView>,
}

#[derive(Deserialize)]
struct LastQuery {
    #[serde(default)]
    direction: Side,
}

async fn last(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(query): Query<LastQuery>,
) -> Result<Json<Last>, Error> {
    state.last(&code, query.direction).await.map(Json)
}

#[derive(Serialize)]
pub(crate) struct Average {
    airport: Icao,
    days: i64,
    days_with_data: usize,
    arrivals: Option<f64>,
    departures: Option<f64>,
    total: Option<f64>,
}

#[derive(Deserialize)]
struct AverageQuery {
    days: i64,
    #[serde(default)]
    direction: Side,
}

async fn average(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(query): Query<AverageQuery>,
) -> Result<Json<Average>, Error> {
    state.average(&code, query.days, query.direction).await.map(Json)
}

#[derive(Deserialize)]
struct DailyQuery {
    days: i64,
}

async fn daily(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(query): Query<DailyQuery>,
) -> Result<Json<Value>, Error> {
    let airport = state.airport(&code)?.icao;
    let days: Vec<DayView> =
        state.closed_days(airport, query.days).await?.into_iter().map(DayView::from).collect();
    Ok(Json(json!({"airport": airport, "days": days})))
}

impl State {
    /// The latest flight on each side of an airport, or on one.
    pub(crate) async fn last(&self, code: &str, side: Side) -> Result<Last, Error> {
        use common::types::Direction::{Arrivals, Departures};
        let airport = self.airport(code)?.icao;
        let mut latest = [None, None];
        for (place, direction) in [Arrivals, Departures].into_iter().enumerate() {
            if side.0.is_none_or(|wanted| wanted == direction) {
                let query = FlightQuery {
                    airport,
                    direction: Some(direction),
                    from: i64::MIN,
                    to: i64::MAX,
                    after: None,
                    limit: 1,
                };
                latest[place] = self.store.flights(&query).await?.pop().map(FlightView::from);
            }
        }
        let [arrival, departure] = latest;
        Ok(Last { airport, arrival, departure })
    }

    /// The collected ones of the last `days` closed days. An airport without data has none.
    async fn closed_days(&self, airport: Icao, days: i64) -> Result<Vec<crate::store::Day>, Error> {
        if !(1..=3660).contains(&days) {
            return Err(Invalid("days must be from 1 to 3660".to_owned()).into());
        }
        if !self.store.has_data(airport).await? {
            return Ok(Vec::new());
        }
        let to = self.grid.days_closed_until(self.flight_clock.now());
        Ok(self.store.days(airport, to - days * DAY, to).await?)
    }

    pub(crate) async fn average(&self, code: &str, days: i64, side: Side) -> Result<Average, Error> {
        use common::types::Direction::{Arrivals, Departures};
        let airport = self.airport(code)?.icao;
        let collected = self.closed_days(airport, days).await?;
        let mean = |sum: i64| (!collected.is_empty()).then(|| sum as f64 / collected.len() as f64);
        let (arrivals, departures) = collected.iter().fold((0, 0), |(arrivals, departures), day| {
            (arrivals + day.arrivals, departures + day.departures)
        });
        Ok(Average {
            airport,
            days,
            days_with_data: collected.len(),
            arrivals: mean(arrivals).filter(|_| side.0 != Some(Departures)),
            departures: mean(departures).filter(|_| side.0 != Some(Arrivals)),
            total: mean(arrivals + departures).filter(|_| side.0.is_none()),
        })
    }
}

async fn status(Shared(state): Shared<State>, Caller(claims): Caller) -> Result<Json<Value>, Error> {
    let mut breaker = json!({"state": state.breaker.state().name(), "counters": state.breaker.counters()});
    if let Some(until) = state.breaker.refuses_until(std::time::Instant::now()) {
        breaker["trial_in_s"] = until.saturating_duration_since(std::time::Instant::now()).as_secs().into();
    }
    let now = state.flight_clock.now();
    let remaining = state.store.credits(now.div_euclid(DAY)).await?.unwrap_or(state.daily_credits);
    let time = |time: i64| (time != 0).then(|| rfc3339(time));
    let mut airports = Vec::new();
    for interest in state.store.interests(claims.sub).await? {
        airports.push(json!({
            "airport": interest.airport,
            "last_window": state.store.last_window(interest.airport).await?.map(WindowView::from),
            "lag": state.store.due_windows(interest.airport).await?,
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
struct CollectBody {
    icao: Option<Icao>,
}

async fn collect(
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
