//! The tape: the recorded weeks, repeated for ever.
//!
//! A recording's UTC days, from its first flight's to its last's and cut to whole weeks, are the tape. Date D
//! shows tape day (D − first day) mod length, so weekdays match. A flight moves by whole multiples of the tape's
//! length, its arrival with its departure: one that lands after the tape's last midnight lands on the first day
//! of the next turn.

use std::collections::HashMap;
use std::io::BufRead;
use std::ops::RangeInclusive;

use common::clock::DAY;
use common::types::{Direction, Icao};
use serde::{Serialize, Serializer};

use crate::recording::{self, Broken, Recorded};

const WEEK: u32 = 7 * DAY as u32;

/// Recorded flights, to be asked for any date. A flight takes 28 bytes, its places in the timetables included.
pub(crate) struct Tape {
    /// Midnight before the first flight, in Unix seconds.
    start: i64,
    /// Seconds, whole weeks.
    length: u32,
    flights: Vec<Entry>,
    airports: Vec<Icao>,
    numbers: HashMap<Icao, u16>,
    callsigns: Callsigns,
    /// By airport number.
    timetables: Vec<Timetable>,
}

/// A flight as the tape keeps it; times are seconds since the tape's start.
struct Entry {
    icao24: u32,
    /// Below the tape's length.
    first_seen: u32,
    /// Beyond the tape's length when it lands in the next turn.
    last_seen: u32,
    /// A number into `airports`, or [`NOWHERE`].
    departure: u16,
    /// A number into `airports`, or [`NOWHERE`].
    arrival: u16,
    callsign: u32,
}

const NOWHERE: u16 = u16::MAX;

/// The flights of one airport, by their place on the tape; numbers into `flights`.
#[derive(Default)]
struct Timetable {
    arrivals: Vec<u32>,
    departures: Vec<u32>,
}

/// A flight object as OpenSky answers it; times are Unix seconds. Recordings know no distances: null.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flight<'a> {
    /// The aircraft's address, six hexadecimal digits in lower case.
    #[serde(serialize_with = "hexadecimal")]
    pub(crate) icao24: u32,
    /// When it took off.
    pub(crate) first_seen: i64,
    /// Where it took off.
    pub(crate) est_departure_airport: Option<Icao>,
    /// When it landed.
    pub(crate) last_seen: i64,
    /// Where it landed.
    pub(crate) est_arrival_airport: Option<Icao>,
    /// The callsign.
    pub(crate) callsign: Option<&'a str>,
    est_departure_airport_horiz_distance: (),
    est_departure_airport_vert_distance: (),
    est_arrival_airport_horiz_distance: (),
    est_arrival_airport_vert_distance: (),
    departure_airport_candidates_count: u16,
    arrival_airport_candidates_count: u16,
}

fn hexadecimal<S: Serializer>(address: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{address:06x}"))
}

impl Tape {
    /// Reads a recording, plain or compressed with gzip. Its first and last UTC days are taken as complete.
    pub(crate) fn read(input: impl BufRead) -> Result<Tape, Broken> {
        let mut tape = Tape {
            start: 0,
            length: 0,
            flights: Vec::new(),
            airports: Vec::new(),
            numbers: HashMap::new(),
            callsigns: Callsigns::default(),
            timetables: Vec::new(),
        };
        recording::read(input, |flight| tape.append(&flight))?;
        tape.cut()?;
        tape.index()?;
        Ok(tape)
    }

    fn append(&mut self, flight: &Recorded<'_>) -> Result<(), Broken> {
        let entry = Entry {
            icao24: flight.icao24,
            first_seen: flight.first_seen,
            last_seen: flight.last_seen,
            departure: self.number(flight.departure)?,
            arrival: self.number(flight.arrival)?,
            callsign: self.callsigns.number(flight.callsign)?,
        };
        self.flights.push(entry);
        Ok(())
    }

    fn number(&mut self, airport: Option<Icao>) -> Result<u16, Broken> {
        let Some(airport) = airport else { return Ok(NOWHERE) };
        if let Some(number) = self.numbers.get(&airport) {
            return Ok(*number);
        }
        let next = u16::try_from(self.airports.len()).ok().filter(|next| *next != NOWHERE);
        let number = next.ok_or(Broken::Large("airports"))?;
        self.airports.push(airport);
        self.numbers.insert(airport, number);
        Ok(number)
    }

    /// Cuts the recording to whole weeks and counts its times from their start.
    fn cut(&mut self) -> Result<(), Broken> {
        let day = |time: u32| time / DAY as u32;
        let times = self.flights.iter().map(|flight| flight.first_seen);
        let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
            return Err(Broken::Short { days: 0 });
        };
        let days = day(last) - day(first) + 1;
        if days < 7 {
            return Err(Broken::Short { days });
        }
        let start = day(first) * DAY as u32;
        self.start = i64::from(start);
        self.length = days / 7 * WEEK;
        self.flights.retain_mut(|flight| {
            flight.first_seen -= start;
            flight.last_seen -= start;
            flight.first_seen < self.length
        });
        self.flights.shrink_to_fit();
        Ok(())
    }

    fn index(&mut self) -> Result<(), Broken> {
        self.timetables.resize_with(self.airports.len(), Timetable::default);
        for (number, flight) in self.flights.iter().enumerate() {
            let number = u32::try_from(number).map_err(|_| Broken::Large("flights"))?;
            if let Some(timetable) = self.timetables.get_mut(usize::from(flight.arrival)) {
                timetable.arrivals.push(number);
            }
            if let Some(timetable) = self.timetables.get_mut(usize::from(flight.departure)) {
                timetable.departures.push(number);
            }
        }
        let (flights, length) = (&self.flights, self.length);
        for timetable in &mut self.timetables {
            timetable.arrivals.sort_by_key(|n| flights[*n as usize].place(Direction::Arrivals, length));
            timetable.departures.sort_by_key(|n| flights[*n as usize].place(Direction::Departures, length));
            timetable.arrivals.shrink_to_fit();
            timetable.departures.shrink_to_fit();
        }
        Ok(())
    }

    /// The flights that land (`Arrivals`, by `last_seen`) or take off (`Departures`, by `first_seen`) at the
    /// airport at one of `times` (Unix seconds), sorted by that time. Takes time in proportion to the turns that
    /// `times` touch: the caller bounds it.
    pub(crate) fn flights(
        &self,
        airport: Icao,
        direction: Direction,
        times: RangeInclusive<i64>,
    ) -> impl Iterator<Item = Flight<'_>> {
        let timetable = self.numbers.get(&airport).and_then(|n| self.timetables.get(usize::from(*n)));
        let list = timetable.map_or(&[][..], |timetable| match direction {
            Direction::Arrivals => &timetable.arrivals,
            Direction::Departures => &timetable.departures,
        });
        let place = move |n: u32| self.flights[n as usize].place(direction, self.length);
        let length = i64::from(self.length);
        let turn = |time: i64| (time - self.start).div_euclid(length);
        (turn(*times.start())..=turn(*times.end())).flat_map(move |turn| {
            let start = self.start + turn * length;
            let from = list.partition_point(|n| start + place(*n) < *times.start());
            let to = list.partition_point(|n| start + place(*n) <= *times.end());
            let within = list.get(from..to).unwrap_or_default();
            within.iter().map(move |n| self.flight(*n, direction, start + place(*n)))
        })
    }

    /// The flight of that number, moved so that it lands or takes off at `time`.
    fn flight(&self, number: u32, direction: Direction, time: i64) -> Flight<'_> {
        let entry = &self.flights[number as usize];
        let duration = i64::from(entry.last_seen - entry.first_seen);
        let first_seen = match direction {
            Direction::Arrivals => time - duration,
            Direction::Departures => time,
        };
        Flight {
            icao24: entry.icao24,
            first_seen,
            est_departure_airport: self.airports.get(usize::from(entry.departure)).copied(),
            last_seen: first_seen + duration,
            est_arrival_airport: self.airports.get(usize::from(entry.arrival)).copied(),
            callsign: self.callsigns.get(entry.callsign),
            est_departure_airport_horiz_distance: (),
            est_departure_airport_vert_distance: (),
            est_arrival_airport_horiz_distance: (),
            est_arrival_airport_vert_distance: (),
            departure_airport_candidates_count: 0,
            arrival_airport_candidates_count: 0,
        }
    }
}

impl Entry {
    /// Seconds from the start of the turn in which the flight lands or takes off.
    fn place(&self, direction: Direction, length: u32) -> i64 {
        match direction {
            Direction::Arrivals => i64::from(self.last_seen % length),
            Direction::Departures => i64::from(self.first_seen),
        }
    }
}

/// Distinct callsigns under small numbers; number 0 is null.
#[derive(Default)]
struct Callsigns {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Callsigns {
    fn number(&mut self, callsign: Option<&str>) -> Result<u32, Broken> {
        let Some(callsign) = callsign else { return Ok(0) };
        if let Some(number) = self.numbers.get(callsign) {
            return Ok(*number);
        }
        self.texts.push(callsign.into());
        let number = u32::try_from(self.texts.len()).map_err(|_| Broken::Large("callsigns"))?;
        self.numbers.insert(callsign.into(), number);
        Ok(number)
    }

    fn get(&self, number: u32) -> Option<&str> {
        let index = number.checked_sub(1)?;
        self.texts.get(index as usize).map(AsRef::as_ref)
    }
}

#[cfg(test)]
#[path = "tape_tests.rs"]
mod tests;
