//! Windows: closed intervals of flight time, aligned in UTC.

use common::clock::{DAY, rfc3339};
use serde::Serialize;

/// An interval of flight time: from `begin` up to, not including, `end`. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Window {
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) begin: i64,
    #[serde(serialize_with = "as_rfc3339")]
    pub(crate) end: i64,
}

pub(crate) fn as_rfc3339<S: serde::Serializer>(time: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

impl Window {
    /// The start of a message's id: airport, begin, length.
    pub(crate) fn id(&self, airport: common::types::Icao) -> String {
        let length = self.end - self.begin;
        let (amount, unit) = match length {
            _ if length % 3600 == 0 => (length / 3600, "h"),
            _ if length % 60 == 0 => (length / 60, "m"),
            _ => (length, "s"),
        };
        format!("{airport}/{}/{amount}{unit}", rfc3339(self.begin))
    }
}

/// How windows lie on the time line: each day is cut into windows of `length` from midnight on; a window is closed
/// when it ended at least `lag` ago. Both in seconds; `length` divides a day.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) length: i64,
    pub(crate) lag: i64,
}

impl Grid {
    /// The end of the latest closed window.
    pub(crate) fn closed_until(&self, now: i64) -> i64 {
        (now - self.lag).div_euclid(self.length) * self.length
    }

    /// The latest closed window.
    pub(crate) fn latest(&self, now: i64) -> Window {
        let end = self.closed_until(now);
        Window { begin: end - self.length, end }
    }

    /// The windows that lie between `from` and `until`, oldest first.
    pub(crate) fn between(&self, from: i64, until: i64) -> impl Iterator<Item = Window> {
        let (length, first) = (self.length, (from + self.length - 1).div_euclid(self.length) * self.length);
        (0..)
            .map(move |n| Window { begin: first + n * length, end: first + (n + 1) * length })
            .take_while(move |window| window.end <= until)
    }

    /// The end of the latest closed UTC day.
    pub(crate) fn days_closed_until(&self, now: i64) -> i64 {
        (now - self.lag).div_euclid(DAY) * DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDNIGHT: i64 = 986_256_000;

    #[test]
    fn a_window_closes_when_the_lag_is_over() {
        let grid = Grid { length: DAY, lag: 12 * 3600 };
        assert_eq!(grid.latest(MIDNIGHT + 12 * 3600 - 1).end, MIDNIGHT - DAY);
        assert_eq!(grid.latest(MIDNIGHT + 12 * 3600), Window { begin: MIDNIGHT - DAY, end: MIDNIGHT });
    }

    #[test]
    fn windows_between_are_aligned_and_complete() {
        let grid = Grid { length: 6 * 3600, lag: 0 };
        let begins: Vec<i64> =
            grid.between(MIDNIGHT + 1, MIDNIGHT + DAY).map(|w| (w.begin - MIDNIGHT) / 3600).collect();
        assert_eq!(begins, [6, 12, 18]);
    }

    #[test]
    fn an_id_names_airport_begin_and_length() {
        let window = Window { begin: MIDNIGHT, end: MIDNIGHT + DAY };
        assert_eq!(window.id("KJFK".parse().unwrap()), "KJFK/2001-04-03T00:00:00Z/24h");
    }
}
