//! What goes in and out as JSON.

use std::str::FromStr;

use common::clock::{date, rfc3339};
use common::types::{Condition, Direction, Icao, Invalid, Metric, Notify};
use serde::{Deserialize, Deserializer, Serialize};

use crate::store::{CountedWindow, Interest, SeenFlight, Standing};
use crate::window::as_rfc3339;

/// What may be said of an interest: what is left out stays as it is, `null` clears a threshold.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct InterestFields {
    #[serde(default, deserialize_with = "said")]
    pub(crate) low_value: Option<Option<i64>>,
    #[serde(default, deserialize_with = "said")]
    pub(crate) high_value: Option<Option<i64>>,
    pub(crate) metric: Option<Metric>,
    pub(crate) notify: Option<Notify>,
}

/// Tells `null` from a field that is left out.
fn said<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

#[derive(Debug, Serialize)]
pub(crate) struct InterestView {
    pub(crate) airport: Icao,
    pub(crate) airport_name: String,
    pub(crate) low_value: Option<i64>,
    pub(crate) high_value: Option<i64>,
    pub(crate) metric: Metric,
    pub(crate) notify: Notify,
    pub(crate) last_window: Option<WindowView>,
    /// `waiting` (nothing collected yet), `no_data`, `in_range`, `high` or `low`.
    pub(crate) state: &'static str,
    pub(crate) no_data_since: Option<String>,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
}

impl InterestView {
    pub(crate) fn new(interest: Interest, airport_name: String, standing: Standing) -> InterestView {
        let state = match standing.last {
            None => "waiting",
            Some(_) if !standing.has_data => "no_data",
            Some(last) => match interest.thresholds.crossed(interest.metric.of(last.counts)) {
                Some((Condition::High, _)) => "high",
                Some((Condition::Low, _)) => "low",
                None => "in_range",
            },
        };
        InterestView {
            airport: interest.airport,
            airport_name,
            low_value: interest.thresholds.low(),
            high_value: interest.thresholds.high(),
            metric: interest.metric,
            notify: interest.notify,
            last_window: standing.last.map(WindowView::from),
            state,
            no_data_since: standing.no_data_since.map(rfc3339),
            created_at: rfc3339(interest.created_at),
            updated_at: rfc3339(interest.updated_at),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct WindowView {
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) begin: i64,
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) end: i64,
    pub(crate) arrivals: i64,
    pub(crate) departures: i64,
    pub(crate) total: i64,
}

impl From<CountedWindow> for WindowView {
    fn from(window: CountedWindow) -> WindowView {
        let CountedWindow { window, counts } = window;
        WindowView {
            begin: window.begin,
            end: window.end,
            arrivals: counts.arrivals,
            departures: counts.departures,
            total: counts.total(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct FlightView {
    pub(crate) direction: String,
    pub(crate) icao24: String,
    pub(crate) callsign: Option<String>,
    pub(crate) departure_airport: Option<String>,
    pub(crate) arrival_airport: Option<String>,
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) first_seen: i64,
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) last_seen: i64,
}

impl From<SeenFlight> for FlightView {
    fn from(flight: SeenFlight) -> FlightView {
        FlightView {
            direction: flight.direction,
            icao24: flight.icao24,
            callsign: flight.callsign,
            departure_airport: flight.departure_airport,
            arrival_airport: flight.arrival_airport,
            first_seen: flight.first_seen,
            last_seen: flight.last_seen,
        }
    }
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page begins; `null` on the last one.
    pub(crate) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits on one page.
    pub(crate) fn whole(items: Vec<T>) -> Page<T> {
        Page { items, next_cursor: None }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct DayView {
    pub(crate) day: String,
    pub(crate) arrivals: i64,
    pub(crate) departures: i64,
    pub(crate) total: i64,
}

impl From<crate::store::Day> for DayView {
    fn from(day: crate::store::Day) -> DayView {
        let counts = day.counts();
        DayView {
            day: date(day.day),
            arrivals: counts.arrivals,
            departures: counts.departures,
            total: counts.total(),
        }
    }
}

/// A side of an airport in a query; `all` or nothing for both.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Side(pub(crate) Option<Direction>);

impl TryFrom<String> for Side {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Side, Invalid> {
        match text.as_str() {
            "all" => Ok(Side(None)),
            // The assignment's names.
            "arrival" => Ok(Side(Some(Direction::Arrivals))),
            "departure" => Ok(Side(Some(Direction::Departures))),
            _ => match text.parse() {
                Ok(direction) => Ok(Side(Some(direction))),
                Err(_) => Err(Invalid("direction must be arrivals, departures or all".to_owned())),
            },
        }
    }
}

/// A time in a query: RFC 3339 or Unix seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Time(pub(crate) i64);

impl TryFrom<String> for Time {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Time, Invalid> {
        let time =
            text.parse::<i64>().ok().or_else(|| Some(jiff::Timestamp::from_str(&text).ok()?.as_second()));
        // From the year 1 to the year 9999.
        time.filter(|time| (-62_135_596_800..=253_402_300_799).contains(time)).map(Time).ok_or_else(|| {
            Invalid("a time must be RFC 3339 (2001-04-03T00:00:00Z) or Unix seconds".to_owned())
        })
    }
}
