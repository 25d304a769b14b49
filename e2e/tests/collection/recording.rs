//! What there is to be collected, computed from the recording by the tape's rule alone: date D shows the recorded day
//! (D - 2 April 2001) mod 28, and a flight moves as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde::Deserialize;

pub(crate) const DAY: i64 = 86_400;
const TAPE: i64 = 28 * DAY;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flight {
    pub(crate) icao24: String,
    pub(crate) first_seen: i64,
    pub(crate) last_seen: i64,
    #[serde(rename = "estDepartureAirport")]
    pub(crate) from: String,
    #[serde(rename = "estArrivalAirport")]
    pub(crate) to: String,
}

static RECORDED: LazyLock<Vec<Flight>> = LazyLock::new(|| {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../opensky_replay/data/flights-2001-04.ndjson.gz");
    let lines = BufReader::new(GzDecoder::new(std::fs::File::open(file).unwrap())).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
});

/// Every airport of the recording, by code.
pub(crate) fn airports() -> Vec<String> {
    let all: BTreeSet<&str> = RECORDED.iter().flat_map(|flight| [&*flight.from, &*flight.to]).collect();
    all.into_iter().map(str::to_owned).collect()
}

/// The flights that are known when some airports were collected over the days from `begin` up to `end` (midnights, at most
/// 28 days).
pub(crate) struct Known {
    pub(crate) begin: i64,
    pub(crate) end: i64,
    flights: Vec<Flight>,
    /// Of each airport's days with flights.
    counts: BTreeMap<String, BTreeMap<i64, Counts>>,
}

/// Arrivals and departures.
pub(crate) type Counts = (i64, i64);

impl Known {
    pub(crate) fn of(airports: &[String], begin: i64, end: i64) -> Known {
        let airports: BTreeSet<&str> = airports.iter().map(String::as_str).collect();
        let mut flights = BTreeMap::new();
        for flight in RECORDED.iter() {
            // Once by its departure and once by its arrival, which may be another turn's.
            for (airport, time) in [(&flight.from, flight.first_seen), (&flight.to, flight.last_seen)] {
                let at = begin + (time - begin).rem_euclid(TAPE);
                if at < end && airports.contains(airport.as_str()) {
                    let moved = Flight {
                        first_seen: flight.first_seen + at - time,
                        last_seen: flight.last_seen + at - time,
                        ..flight.clone()
                    };
                    flights.insert((moved.icao24.clone(), moved.first_seen), moved);
                }
            }
        }
        let mut counts: BTreeMap<String, BTreeMap<i64, Counts>> = BTreeMap::new();
        for flight in flights.values() {
            for (airport, time, seen) in
                [(&flight.to, flight.last_seen, (1, 0)), (&flight.from, flight.first_seen, (0, 1))]
            {
                if airports.contains(airport.as_str()) && (begin..end).contains(&time) {
                    let days = counts.entry(airport.clone()).or_default();
                    let day = days.entry(time.div_euclid(DAY) * DAY).or_default();
                    *day = (day.0 + seen.0, day.1 + seen.1);
                }
            }
        }
        Known { begin, end, flights: flights.into_values().collect(), counts }
    }

    /// By midnight, the counts of the airport's days; none before the first with a flight.
    pub(crate) fn days(&self, airport: &str) -> BTreeMap<i64, Counts> {
        let counts = self.counts.get(airport);
        let days = (self.begin..self.end).step_by(DAY as usize);
        let first = counts.and_then(|counts| counts.keys().next()).copied().unwrap_or(i64::MAX);
        days.filter(|day| *day >= first)
            .map(|day| (day, counts.and_then(|counts| counts.get(&day)).copied().unwrap_or_default()))
            .collect()
    }

    /// The flights that landed there, or that took off: when, and which aircraft.
    pub(crate) fn arrivals(&self, airport: &str) -> BTreeSet<(i64, &str)> {
        let here = self.flights.iter().filter(|flight| flight.to == airport);
        here.map(|flight| (flight.last_seen, flight.icao24.as_str())).collect()
    }

    pub(crate) fn departures(&self, airport: &str) -> BTreeSet<(i64, &str)> {
        let here = self.flights.iter().filter(|flight| flight.from == airport);
        here.map(|flight| (flight.first_seen, flight.icao24.as_str())).collect()
    }
}
