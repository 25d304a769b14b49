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

/// From a midnight on windows have this length, both in seconds; the length divides a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Length {
    pub(crate) effective_from: i64,
    pub(crate) length: i64,
}

/// How windows lie on the time line: each day is cut from midnight on into windows of the length that it has; a window is
/// closed when it ended at least `lag` seconds ago.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    /// The oldest first; the first is in force before its time, too.
    lengths: Vec<Length>,
    lag: i64,
}

impl Grid {
    pub(crate) fn new(lengths: Vec<Length>, lag: i64) -> Grid {
        Grid { lengths, lag }
    }

    /// How long the windows are at a time.
    fn length(&self, time: i64) -> i64 {
        let begun = self.lengths.iter().rev().find(|length| length.effective_from <= time);
        begun.or(self.lengths.first()).map_or(DAY, |length| length.length)
    }

    /// The window that a time lies in.
    fn around(&self, time: i64) -> Window {
        let length = self.length(time);
        let begin = time.div_euclid(length) * length;
        Window { begin, end: begin + length }
    }

    /// The end of the latest closed window.
    pub(crate) fn closed_until(&self, now: i64) -> i64 {
        self.around(now - self.lag).begin
    }

    /// The latest closed window.
    pub(crate) fn latest(&self, now: i64) -> Window {
        self.around(self.closed_until(now) - 1)
    }

    /// The flight time from which on a window is closed.
    pub(crate) fn closes(&self, window: Window) -> i64 {
        window.end + self.lag
    }

    /// The windows that lie between `from` and `until`, oldest first.
    pub(crate) fn between(&self, from: i64, until: i64) -> impl Iterator<Item = Window> {
        let first = match self.around(from) {
            window if window.begin == from => window,
            window => self.around(window.end),
        };
        std::iter::successors(Some(first), |window| Some(self.around(window.end)))
            .take_while(move |window| window.end <= until)
    }
}

/// The end of the latest closed UTC day.
pub(crate) fn days_closed_until(now: i64, lag: i64) -> i64 {
    (now - lag).div_euclid(DAY) * DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIDNIGHT: i64 = 986_256_000;
    const HOUR: i64 = 3600;

    fn grid(lengths: &[(i64, i64)], lag: i64) -> Grid {
        let length = |(effective_from, length): &(i64, i64)| Length {
            effective_from: *effective_from,
            length: *length,
        };
        Grid::new(lengths.iter().map(length).collect(), lag)
    }

    #[test]
    fn a_window_closes_when_the_lag_is_over() {
        let grid = grid(&[(0, DAY)], 12 * 3600);
        assert_eq!(grid.latest(MIDNIGHT + 12 * 3600 - 1).end, MIDNIGHT - DAY);
        assert_eq!(grid.latest(MIDNIGHT + 12 * 3600), Window { begin: MIDNIGHT - DAY, end: MIDNIGHT });
    }

    #[test]
    fn windows_between_are_aligned_and_complete() {
        let begins: Vec<i64> = grid(&[(0, 6 * HOUR)], 0)
            .between(MIDNIGHT + 1, MIDNIGHT + DAY)
            .map(|w| (w.begin - MIDNIGHT) / HOUR)
            .collect();
        assert_eq!(begins, [6, 12, 18]);
    }

    #[test]
    fn another_length_begins_at_its_midnight_and_leaves_no_gap() {
        let lengths = [1, 2, 4, 6, 8, 12, 24].map(|hours| hours * HOUR);
        for (before, after) in lengths.iter().flat_map(|before| lengths.map(|after| (*before, after))) {
            let grid = grid(&[(0, before), (MIDNIGHT, after)], HOUR);
            let windows: Vec<Window> = grid.between(MIDNIGHT - DAY, MIDNIGHT + DAY).collect();
            assert_eq!((windows[0].begin, windows.last().unwrap().end), (MIDNIGHT - DAY, MIDNIGHT + DAY));
            assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].begin));
            for window in &windows {
                assert_eq!(window.end - window.begin, if window.begin < MIDNIGHT { before } else { after });
                // It is the latest from its own close up to the next one's.
                assert_eq!(grid.latest(window.end + HOUR), *window);
                assert_ne!(grid.latest(window.end + HOUR - 1), *window);
            }
        }
    }

    #[test]
    fn an_id_names_airport_begin_and_length() {
        let window = Window { begin: MIDNIGHT, end: MIDNIGHT + DAY };
        assert_eq!(window.id("KJFK".parse().unwrap()), "KJFK/2001-04-03T00:00:00Z/24h");
    }
}
