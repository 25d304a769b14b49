//! A recording: flight objects in OpenSky's words, one JSON object a line, plain or compressed with gzip.

use std::io::{self, BufRead, BufReader, Read};

use common::types::{Icao, Invalid};
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A flight object is about 150 bytes long; a line far beyond that is not one.
const MAX_LINE: u64 = 16 * 1024;

/// Why a recording cannot be played.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// A field of a line holds something else than it should.
    #[error("line {line}: {field}: {reason}")]
    Field {
        /// The line's number, from 1.
        line: usize,
        /// The field's name in JSON.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A line is no flight object at all.
    #[error("line {line}: {reason}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be read, or decompressed, beyond this line.
    #[error("line {line}: {source}")]
    Read {
        /// The line's number, from 1.
        line: usize,
        /// What the reader said.
        source: io::Error,
    },
    /// There is no whole week to repeat.
    #[error("flights on {days} UTC days; a tape needs at least one whole week")]
    Short {
        /// UTC days from the first flight to the last.
        days: u32,
    },
    /// More airports or flights than the tape has numbers for.
    #[error("more {0} than a tape can hold")]
    Large(&'static str),
}

/// One line, as it was recorded; the texts are borrowed from the line.
pub(crate) struct Recorded<'a> {
    /// The aircraft's 24-bit address.
    pub(crate) icao24: u32,
    /// Unix seconds, not after `last_seen`.
    pub(crate) first_seen: u32,
    /// Unix seconds.
    pub(crate) last_seen: u32,
    /// Where it took off, if known.
    pub(crate) departure: Option<Icao>,
    /// Where it landed, if known.
    pub(crate) arrival: Option<Icao>,
    /// The callsign, up to eight characters, if known.
    pub(crate) callsign: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    icao24: &'a str,
    first_seen: i64,
    #[serde(borrow)]
    est_departure_airport: Option<&'a str>,
    last_seen: i64,
    #[serde(borrow)]
    est_arrival_airport: Option<&'a str>,
    #[serde(borrow)]
    callsign: Option<&'a str>,
}

/// Hands every flight of `input` to `flight`, in the order of the lines; empty lines are skipped. Holds one line
/// at a time.
pub(crate) fn read(
    mut input: impl BufRead,
    flight: impl FnMut(Recorded<'_>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let start = input.fill_buf().map_err(|source| Broken::Read { line: 1, source })?;
    if start.starts_with(&[0x1f, 0x8b]) {
        read_lines(BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(input)), flight)
    } else {
        read_lines(input, flight)
    }
}

fn read_lines(
    mut input: impl BufRead,
    mut flight: impl FnMut(Recorded<'_>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let length = (&mut input)
            .take(MAX_LINE)
            .read_until(b'\n', &mut text)
            .map_err(|source| Broken::Read { line, source })?;
        if length == 0 {
            break;
        }
        if length as u64 == MAX_LINE {
            return Err(Broken::Line { line, reason: format!("longer than {MAX_LINE} bytes") });
        }
        let text = text.trim_ascii();
        if !text.is_empty() {
            flight(parse(line, text)?)?;
        }
    }
    Ok(())
}

fn parse(line: usize, text: &[u8]) -> Result<Recorded<'_>, Broken> {
    let parsed: Line<'_> = serde_json::from_slice(text).map_err(|error| match misfit(text) {
        Some((field, reason)) => Broken::Field { line, field, reason: reason.into() },
        None => Broken::Line { line, reason: error.to_string() },
    })?;
    let fault = |field| move |Invalid(reason)| Broken::Field { line, field, reason };
    let airport = |code: Option<&str>| code.map(str::parse).transpose();
    let first_seen = time(parsed.first_seen).map_err(fault("firstSeen"))?;
    let last_seen = time(parsed.last_seen).map_err(fault("lastSeen"))?;
    if last_seen < first_seen {
        return Err(fault("lastSeen")(Invalid("is before firstSeen".into())));
    }
    Ok(Recorded {
        icao24: address(parsed.icao24).map_err(fault("icao24"))?,
        first_seen,
        last_seen,
        departure: airport(parsed.est_departure_airport).map_err(fault("estDepartureAirport"))?,
        arrival: airport(parsed.est_arrival_airport).map_err(fault("estArrivalAirport"))?,
        callsign: parsed.callsign.map(callsign).transpose().map_err(fault("callsign"))?,
    })
}

/// The first field of the wrong JSON type: slow, and only asked when a line has been refused already.
fn misfit(text: &[u8]) -> Option<(&'static str, &'static str)> {
    let object: Map<String, Value> = serde_json::from_slice(text).ok()?;
    let field = |name: &str| object.get(name).unwrap_or(&Value::Null);
    let times = ["firstSeen", "lastSeen"];
    let texts = ["estDepartureAirport", "estArrivalAirport", "callsign"];
    if !field("icao24").is_string() {
        return Some(("icao24", "must be text"));
    }
    if let Some(name) = times.into_iter().find(|name| !field(name).is_i64()) {
        return Some((name, "must be a whole number of Unix seconds"));
    }
    let misfit = texts.into_iter().find(|name| !(field(name).is_string() || field(name).is_null()))?;
    Some((misfit, "must be text or null"))
}

fn time(seconds: i64) -> Result<u32, Invalid> {
    u32::try_from(seconds).map_err(|_| Invalid(format!("{seconds} is not a time in Unix seconds")))
}

fn address(text: &str) -> Result<u32, Invalid> {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match u32::from_str_radix(text, 16) {
        Ok(address) if text.len() == 6 && text.bytes().all(hex) => Ok(address),
        _ => Err(Invalid("must be six hexadecimal digits in lower case".into())),
    }
}

fn callsign(text: &str) -> Result<&str, Invalid> {
    if text.len() <= 8 { Ok(text) } else { Err(Invalid("is longer than eight characters".into())) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const GOOD: &str = r#"{"icao24":"f9374a","firstSeen":10,"estDepartureAirport":"KABE","lastSeen":20,"estArrivalAirport":null,"callsign":"AAL1    "}"#;

    fn lines(input: &[u8]) -> Result<Vec<String>, String> {
        let mut seen = Vec::new();
        let result = read(input, |f| {
            seen.push(format!(
                "{:06x} {}-{} {:?}-{:?} {:?}",
                f.icao24, f.first_seen, f.last_seen, f.departure, f.arrival, f.callsign
            ));
            Ok(())
        });
        result.map(|()| seen).map_err(|broken| broken.to_string())
    }

    #[test]
    fn a_line_is_a_flight_and_empty_lines_are_skipped() {
        let text = format!("\n{GOOD}\r\n\n{GOOD}");
        let flight = r#"f9374a 10-20 Some(KABE)-None Some("AAL1    ")"#;
        assert_eq!(lines(text.as_bytes()).unwrap(), [flight, flight]);
    }

    #[test]
    fn gzip_is_known_by_its_first_bytes() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(GOOD.as_bytes()).unwrap();
        assert_eq!(lines(&gzip.finish().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn a_bad_field_is_named_with_its_line() {
        for (good, bad, complaint) in [
            ("f9374a", "F9374A", "icao24: must be six hexadecimal digits in lower case"),
            ("\"f9374a\"", "12", "icao24: must be text"),
            (":10", ":\"10\"", "firstSeen: must be a whole number of Unix seconds"),
            (":10", ":-10", "firstSeen: -10 is not a time in Unix seconds"),
            ("\"lastSeen\":20,", "", "lastSeen: must be a whole number of Unix seconds"),
            (":20", ":9", "lastSeen: is before firstSeen"),
            ("\"KABE\"", "4", "estDepartureAirport: must be text or null"),
            (
                "null",
                "\"ABE\"",
                "estArrivalAirport: 'ABE' is not an ICAO code: four letters or digits, like KJFK",
            ),
            ("AAL1    ", "AAL123456", "callsign: is longer than eight characters"),
        ] {
            let text = format!("{GOOD}\n{}", GOOD.replacen(good, bad, 1));
            assert_eq!(lines(text.as_bytes()).unwrap_err(), format!("line 2: {complaint}"));
        }
    }

    #[test]
    fn what_is_no_object_or_has_no_end_is_refused() {
        assert!(lines(b"icao24,firstSeen").unwrap_err().starts_with("line 1: expected"));
        assert_eq!(lines(&vec![b' '; 20_000]).unwrap_err(), "line 1: longer than 16384 bytes");
        let cut = include_bytes!("../data/flights-2001-04.ndjson.gz").get(..1000).unwrap();
        assert!(lines(cut).is_err());
    }
}
