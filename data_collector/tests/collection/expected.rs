//! What the tests expect, computed from the recording by the tape's rule alone (opensky.md): none of the product's code.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::sync::LazyLock;

use serde::Deserialize;

pub(crate) const DAY: i64 = 86_400;
/// The tape repeats after four weeks.
const TAPE: i64 = 28 * DAY;
/// Airports that the tests look at.
const AIRPORTS: [&str; 8] = ["KJFK", "KBTV", "KORF", "KEGE", "KABE", "KTYR", "KBZN", "KCRW"];

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flight {
    pub(crate) icao24: String,
    pub(crate) first_seen: i64,
    pub(crate) last_seen: i64,
    pub(crate) est_departure_airport: String,
    pub(crate) est_arrival_airport: String,
}

/// The recorded flights of the airports above.
static RECORDED: LazyLock<Vec<Flight>> = LazyLock::new(|| {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../opensky_replay/data/flights-2001-04.ndjson.gz");
    let text = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()));
    let lines = text.lines().map(Result::unwrap);
    let ours = lines.filter(|line| AIRPORTS.iter().any(|airport| line.contains(airport)));
    ours.map(|line| serde_json::from_str(&line).unwrap()).collect()
});

/// A flight moved by whole tapes so that `time` of it lies in `begin..end`, if there is such a place.
fn moved(flight: &Flight, time: i64, begin: i64, end: i64) -> Option<Flight> {
    let at = begin + (time - begin).rem_euclid(TAPE);
    let (first_seen, last_seen) = (flight.first_seen + at - time, flight.last_seen + at - time);
    (at < end).then(|| Flight { first_seen, last_seen, ..flight.clone() })
}

/// Flights that land at the airport in `begin..end` (at most 28 days).
pub(crate) fn arrivals(airport: &str, begin: i64, end: i64) -> Vec<Flight> {
    assert!(AIRPORTS.contains(&airport));
    let here = RECORDED.iter().filter(|flight| flight.est_arrival_airport == airport);
    here.filter_map(|flight| moved(flight, flight.last_seen, begin, end)).collect()
}

/// Flights that take off there.
pub(crate) fn departures(airport: &str, begin: i64, end: i64) -> Vec<Flight> {
    assert!(AIRPORTS.contains(&airport));
    let here = RECORDED.iter().filter(|flight| flight.est_departure_airport == airport);
    here.filter_map(|flight| moved(flight, flight.first_seen, begin, end)).collect()
}

/// Arrivals and departures in the window.
pub(crate) fn counts(airport: &str, begin: i64, end: i64) -> (i64, i64) {
    (arrivals(airport, begin, end).len() as i64, departures(airport, begin, end).len() as i64)
}

/// Arrivals and departures on the day that begins at `midnight`.
pub(crate) fn day(airport: &str, midnight: i64) -> (i64, i64) {
    counts(airport, midnight, midnight + DAY)
}

/// All flights that are known when those airports were collected over `begin..end`, each once.
pub(crate) fn known(airports: &[&str], begin: i64, end: i64) -> Vec<Flight> {
    let of = |airport: &&str| [arrivals(airport, begin, end), departures(airport, begin, end)].concat();
    let flights = airports.iter().flat_map(of);
    let once: BTreeMap<(String, i64), Flight> =
        flights.map(|flight| ((flight.icao24.clone(), flight.first_seen), flight)).collect();
    once.into_values().collect()
}
