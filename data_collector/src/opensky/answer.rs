//! What OpenSky answers: read strictly, and what is wrong named by its field.

use common::clock::DAY;
use common::types::Direction;
use serde::Deserialize;

use super::{Error, undocumented};
use crate::window::Window;

/// The longest text of a flight, in bytes: OpenSky documents 6 for `icao24`, 8 for `callsign`; codes of airports have
/// 4, some small fields' more.
const LONGEST_TEXT: usize = 16;

/// A flight as OpenSky tells it. Times are Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flight {
    /// The transponder's address, six hexadecimal digits in lower case.
    pub(crate) icao24: String,
    /// When it took off, as far as known.
    pub(crate) first_seen: i64,
    /// When it landed, as far as known.
    pub(crate) last_seen: i64,
    pub(crate) est_departure_airport: Option<String>,
    pub(crate) est_arrival_airport: Option<String>,
    /// Up to 8 characters, padded with blanks.
    pub(crate) callsign: Option<String>,
}

impl Flight {
    /// The first field that is not as documented, and what is wrong with it.
    fn odd(&self, direction: Direction, window: Window) -> Option<(&'static str, &'static str)> {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_text = |text: &String| text.len() <= LONGEST_TEXT && !text.contains(char::is_control);
        let is_fine = |text: &Option<String>| text.as_ref().is_none_or(is_text);
        // A day of tolerance: this is not about the edges of a window, but about an answer to something else.
        let near = (window.begin - DAY)..(window.end + DAY);
        let (field, time) = match direction {
            Direction::Arrivals => ("lastSeen", self.last_seen),
            Direction::Departures => ("firstSeen", self.first_seen),
        };
        match () {
            () if self.icao24.len() != 6 || !self.icao24.bytes().all(hexadecimal) => {
                Some(("icao24", "is not six hexadecimal digits in lower case"))
            }
            () if self.last_seen < self.first_seen => Some(("lastSeen", "is before firstSeen")),
            () if !near.contains(&time) => Some((field, "is not of the window that was asked for")),
            () if !is_fine(&self.est_departure_airport) => Some(("estDepartureAirport", "is no code")),
            () if !is_fine(&self.est_arrival_airport) => Some(("estArrivalAirport", "is no code")),
            () if !is_fine(&self.callsign) => Some(("callsign", "is no callsign")),
            () => None,
        }
    }
}

/// The flights of a body.
pub(super) fn flights(body: &[u8], direction: Direction, window: Window) -> Result<Vec<Flight>, Error> {
    let flights: Vec<Flight> = decode(body)?;
    for (place, flight) in flights.iter().enumerate() {
        if let Some((field, why)) = flight.odd(direction, window) {
            return Err(undocumented(format_args!("[{place}].{field} {why}")));
        }
    }
    Ok(flights)
}

/// Reads JSON; an error names the field.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Error> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(undocumented)?;
    json.end().map_err(undocumented)?;
    Ok(read)
}
