//! What can be asked about airports.

use axum::extract::State as Shared;
use common::auth::Caller;
use common::clock::DAY;
use common::http::{Json, Path, Query};
use common::types::{Direction, Icao, Invalid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::State;
use crate::airports::Airport;
use crate::dto::{DayView, FlightView, Page, Side, Time};
use crate::error::Error;
use crate::store::{Cursor, Day, FlightQuery};
use crate::window::days_closed_until;

/// In characters: every word of a query is compared with every airport.
const LONGEST_QUERY: usize = 100;

#[derive(Deserialize)]
pub(super) struct Search {
    query: String,
    limit: Option<i64>,
    cursor: Option<String>,
}

pub(super) async fn search(
    Shared(state): Shared<State>,
    _: Caller,
    Query(search): Query<Search>,
) -> Result<Json<Page<Airport>>, Error> {
    if search.query.trim().is_empty() || search.query.chars().count() > LONGEST_QUERY {
        let what = format!("query must be a name, a city or a code, of at most {LONGEST_QUERY} characters");
        return Err(Invalid(what).into());
    }
    let limit = usize::try_from(page_limit(search.limit)?).unwrap_or(usize::MAX);
    // How many were told before.
    let before = search.cursor.map_or(Ok(0), |cursor| cursor.parse::<usize>());
    let before = before.map_err(|_| Invalid("cursor is not one that this list gave".to_owned()))?;
    let found = state.announcer.catalogue.search(&search.query);
    let items: Vec<Airport> =
        found.iter().skip(before).take(limit).map(|airport| (*airport).clone()).collect();
    let told = before.saturating_add(items.len());
    let next_cursor = (told < found.len()).then(|| told.to_string());
    Ok(Json(Page { items, next_cursor }))
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

pub(super) async fn flights(
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
            airport: self.airport(code)?,
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
pub(super) struct LastQuery {
    #[serde(default)]
    direction: Side,
}

pub(super) async fn last(
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
pub(super) struct AverageQuery {
    days: i64,
    #[serde(default)]
    direction: Side,
}

pub(super) async fn average(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(query): Query<AverageQuery>,
) -> Result<Json<Average>, Error> {
    state.average(&code, query.days, query.direction).await.map(Json)
}

#[derive(Deserialize)]
pub(super) struct DailyQuery {
    days: i64,
}

pub(super) async fn daily(
    Shared(state): Shared<State>,
    _: Caller,
    Path(code): Path<String>,
    Query(query): Query<DailyQuery>,
) -> Result<Json<Value>, Error> {
    let airport = state.airport(&code)?;
    let days: Vec<DayView> =
        state.closed_days(airport, query.days).await?.into_iter().map(DayView::from).collect();
    Ok(Json(json!({"airport": airport, "days": days})))
}

impl State {
    /// The latest flight on each side of an airport, or on one.
    pub(crate) async fn last(&self, code: &str, side: Side) -> Result<Last, Error> {
        let airport = self.airport(code)?;
        let mut latest = [None, None];
        for (place, direction) in [Direction::Arrivals, Direction::Departures].into_iter().enumerate() {
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
    async fn closed_days(&self, airport: Icao, days: i64) -> Result<Vec<Day>, Error> {
        if !(1..=3660).contains(&days) {
            return Err(Invalid("days must be from 1 to 3660".to_owned()).into());
        }
        let to = days_closed_until(self.flight_clock.now(), self.lag);
        Ok(self.store.days(airport, to - days * DAY, to).await?)
    }

    pub(crate) async fn average(&self, code: &str, days: i64, side: Side) -> Result<Average, Error> {
        let airport = self.airport(code)?;
        let collected = self.closed_days(airport, days).await?;
        let mean = |sum: i64| (!collected.is_empty()).then(|| sum as f64 / collected.len() as f64);
        let (arrivals, departures) = collected.iter().fold((0, 0), |(arrivals, departures), day| {
            (arrivals + day.arrivals, departures + day.departures)
        });
        Ok(Average {
            airport,
            days,
            days_with_data: collected.len(),
            arrivals: mean(arrivals).filter(|_| side.0 != Some(Direction::Departures)),
            departures: mean(departures).filter(|_| side.0 != Some(Direction::Arrivals)),
            total: mean(arrivals + departures).filter(|_| side.0.is_none()),
        })
    }
}
