//! What the recorded flights say, computed apart from the code under test: by plain arithmetic over the lines of the file.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use serde::Deserialize;

const DAY: i64 = 86_400;
/// 2 April 2001, a Monday.
const FIRST: i64 = 986_169_600;
const DAYS: i64 = 28;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    Arrival,
    Departure,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    icao24: String,
    first_seen: i64,
    est_departure_airport: String,
    last_seen: i64,
    est_arrival_airport: String,
}

/// One side of a flight: second of the tape's day, aircraft.
type Seen = (i64, String);

static SEEN: LazyLock<HashMap<(String, Side, i64), Vec<Seen>>> = LazyLock::new(|| {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../opensky_replay/data/flights-2001-04.ndjson.gz");
    let lines = BufReader::new(GzDecoder::new(std::fs::File::open(file).unwrap())).lines();
    let mut seen: HashMap<_, Vec<Seen>> = HashMap::new();
    for line in lines {
        let line: Line = serde_json::from_str(&line.unwrap()).unwrap();
        let mut put = |airport: String, side, time: i64| {
            let since = time - FIRST;
            let place = (airport, side, since.div_euclid(DAY).rem_euclid(DAYS));
            seen.entry(place).or_default().push((since.rem_euclid(DAY), line.icao24.clone()));
        };
        put(line.est_departure_airport, Side::Departure, line.first_seen);
        put(line.est_arrival_airport, Side::Arrival, line.last_seen);
    }
    seen
});

/// The sightings at an airport on the day that begins at `midnight` (Unix seconds, any year).
fn day(airport: &str, side: Side, midnight: i64) -> &'static [Seen] {
    assert_eq!(midnight.rem_euclid(DAY), 0, "a day begins at midnight");
    let place = (airport.to_owned(), side, (midnight - FIRST).div_euclid(DAY).rem_euclid(DAYS));
    SEEN.get(&place).map_or(&[], Vec::as_slice)
}

/// How many flights an airport had on that day.
pub fn count(airport: &str, side: Side, midnight: i64) -> i64 {
    day(airport, side, midnight).len() as i64
}

/// The time of that day's last flight (Unix seconds), and the aircraft that may have been it.
pub fn last(airport: &str, side: Side, midnight: i64) -> (i64, Vec<String>) {
    let seen = day(airport, side, midnight);
    let latest = seen.iter().map(|(second, _)| *second).max().expect("that day had flights");
    let aircraft = seen.iter().filter(|(second, _)| *second == latest).map(|(_, icao24)| icao24.clone());
    (midnight + latest, aircraft.collect())
}
