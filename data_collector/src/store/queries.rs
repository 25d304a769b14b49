//! What the API reads.

use std::str::FromStr;

use common::clock::DAY;
use common::types::{Account, Counts, Direction, Icao, Invalid};
use common::{on, row};

use super::{FIRST_DATA, Store};

row! {
    /// A flight as it was seen at an airport, on one side of it. Times are Unix seconds.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct SeenFlight {
        /// `arrivals` or `departures`.
        pub(crate) direction: String,
        /// When it arrived or departed.
        pub(crate) at: i64,
        pub(crate) icao24: String,
        pub(crate) first_seen: i64,
        pub(crate) last_seen: i64,
        pub(crate) departure_airport: Option<String>,
        pub(crate) arrival_airport: Option<String>,
        pub(crate) callsign: Option<String>,
    }
}

/// The place in a list of flights after which the next page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    at: i64,
    direction: String,
    icao24: String,
    first_seen: i64,
}

impl Cursor {
    /// The cursor before which everything lies.
    fn newest() -> Cursor {
        Cursor { at: i64::MAX, direction: String::new(), icao24: String::new(), first_seen: 0 }
    }

    pub(crate) fn after(flight: &SeenFlight) -> Cursor {
        Cursor {
            at: flight.at,
            direction: flight.direction.clone(),
            icao24: flight.icao24.clone(),
            first_seen: flight.first_seen,
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}.{}", self.at, self.direction, self.icao24, self.first_seen)
    }
}

impl FromStr for Cursor {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Cursor, Invalid> {
        let invalid = || Invalid("cursor is not one that this list gave".to_owned());
        let mut parts = text.splitn(4, '.');
        let mut part = || parts.next().ok_or_else(invalid);
        Ok(Cursor {
            at: part()?.parse().map_err(|_| invalid())?,
            direction: part()?.parse::<Direction>().map_err(|_| invalid())?.as_str().to_owned(),
            icao24: Some(part()?)
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
                .ok_or_else(invalid)?
                .to_owned(),
            first_seen: part()?.parse().map_err(|_| invalid())?,
        })
    }
}

/// Which flights of an airport: those with a time from `from` up to, not including, `to`, after the cursor.
pub(crate) struct FlightQuery {
    pub(crate) airport: Icao,
    /// Both when absent.
    pub(crate) direction: Option<Direction>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) after: Option<Cursor>,
    pub(crate) limit: i64,
}

/// Each side is read along its index and cut before the two are merged. `$4` is the newest time that there can be: there
/// is one such bound, because SQLite enters an index by one.
const FLIGHTS: &str = "SELECT * FROM ( \
    SELECT * FROM (SELECT 'arrivals' AS direction, last_seen AS at, icao24, first_seen, last_seen, \
      departure_airport, arrival_airport, callsign FROM flight \
      WHERE arrival_airport = $1 AND $2 <> 'departures' AND last_seen BETWEEN $3 AND $4 \
      AND (last_seen, 'arrivals', icao24, first_seen) < ($5, $6, $7, $8) \
      ORDER BY last_seen DESC, icao24 DESC, first_seen DESC LIMIT $9) AS arrived \
    UNION ALL \
    SELECT * FROM (SELECT 'departures' AS direction, first_seen AS at, icao24, first_seen, last_seen, \
      departure_airport, arrival_airport, callsign FROM flight \
      WHERE departure_airport = $1 AND $2 <> 'arrivals' AND first_seen BETWEEN $3 AND $4 \
      AND (first_seen, 'departures', icao24, first_seen) < ($5, $6, $7, $8) \
      ORDER BY first_seen DESC, icao24 DESC LIMIT $9) AS departed \
    ) AS seen ORDER BY at DESC, direction DESC, icao24 DESC, first_seen DESC LIMIT $9";

row! {
    /// The counts of one UTC day, all of whose windows are stored.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Day {
        /// Midnight that begins it, Unix seconds.
        pub(crate) day: i64,
        pub(crate) arrivals: i64,
        pub(crate) departures: i64,
    }
}

impl Store {
    /// Flights of an airport, newest first.
    pub(crate) async fn flights(&self, query: &FlightQuery) -> sqlx::Result<Vec<SeenFlight>> {
        let after = query.after.clone().unwrap_or_else(Cursor::newest);
        on!(self.0.reader(), |pool| {
            sqlx::query_as(FLIGHTS)
                .bind(query.airport.as_str())
                .bind(query.direction.map_or("all", Direction::as_str))
                .bind(query.from)
                .bind(after.at.min(query.to.saturating_sub(1)))
                .bind(after.at)
                .bind(&after.direction)
                .bind(&after.icao24)
                .bind(after.first_seen)
                .bind(query.limit)
                .fetch_all(pool)
                .await
        })
    }

    /// The collected days from `from` up to, not including, `to` (both midnights), oldest first; none before the first
    /// with data.
    pub(crate) async fn days(&self, airport: Icao, from: i64, to: i64) -> sqlx::Result<Vec<Day>> {
        let first: Option<i64> = on!(self.0.reader(), |pool| sqlx::query_scalar(FIRST_DATA)
            .bind(airport.as_str())
            .fetch_one(pool)
            .await?);
        let Some(first) = first else { return Ok(Vec::new()) };
        let from = from.max(first.div_euclid(DAY) * DAY);
        on!(self.0.reader(), |pool| {
            sqlx::query_as(
                "SELECT MIN(window_begin) AS day, CAST(SUM(arrivals) AS BIGINT) AS arrivals, \
                 CAST(SUM(departures) AS BIGINT) AS departures FROM airport_window \
                 WHERE airport = $1 AND state = 'stored' AND window_begin >= $2 AND window_end <= $3 \
                 GROUP BY window_begin / $4 HAVING SUM(window_end - window_begin) = $4 ORDER BY 1",
            )
            .bind(airport.as_str())
            .bind(from)
            .bind(to)
            .bind(DAY)
            .fetch_all(pool)
            .await
        })
    }

    /// Notes that an account asks for a collection; `false` if it did within the last `seconds`.
    pub(crate) async fn ask_collection(
        &self,
        account: Account,
        seconds: i64,
        now: i64,
    ) -> sqlx::Result<bool> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "INSERT INTO account (account, collect_asked_at) VALUES ($1, $2) \
                 ON CONFLICT (account) DO UPDATE SET collect_asked_at = excluded.collect_asked_at \
                 WHERE account.collect_asked_at <= $3 OR account.collect_asked_at > $2",
            )
            .bind(account.to_string())
            .bind(now)
            .bind(now - seconds)
            .execute(pool)
            .await
            .map(|done| done.rows_affected() == 1)
        })
    }
}

impl Day {
    pub(crate) fn counts(self) -> Counts {
        Counts { arrivals: self.arrivals, departures: self.departures }
    }
}
