//! How the airports of an account stand, in one query however many there are.

use std::collections::HashMap;

use common::types::{Account, Counts, Icao};
use common::{on, row};

use super::{CountedWindow, Store};
use crate::window::Window;

/// How the collection of an airport stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The latest stored window.
    pub(crate) last: Option<CountedWindow>,
    /// Whether a flight was ever counted there.
    pub(crate) has_data: bool,
    /// Begin of the oldest stored window after the last one with flights; none when the last window has some.
    pub(crate) no_data_since: Option<i64>,
    /// Windows that are due.
    pub(crate) due: i64,
    /// Windows that were given up, never to be collected.
    pub(crate) missing: i64,
}

row! {
    struct StandingRow {
        airport: String,
        due: i64,
        missing: i64,
        window_begin: Option<i64>,
        window_end: Option<i64>,
        arrivals: Option<i64>,
        departures: Option<i64>,
        first_data: Option<i64>,
        no_data_since: Option<i64>,
    }
}

/// Each part is found by an index whose length is not that of the airport's history. `$2` names one airport, or is null.
const STANDINGS: &str = "SELECT i.airport, \
      (SELECT COUNT(*) FROM airport_window AS w WHERE w.airport = i.airport AND w.state = 'due') AS due, \
      (SELECT COUNT(*) FROM airport_window AS w WHERE w.airport = i.airport AND w.state = 'missing') AS missing, \
      last.window_begin, last.window_end, last.arrivals, last.departures, \
      (SELECT MIN(w.window_begin) FROM airport_window AS w WHERE w.airport = i.airport \
        AND w.state = 'stored' AND w.arrivals + w.departures > 0) AS first_data, \
      (SELECT MIN(w.window_begin) FROM airport_window AS w WHERE w.airport = i.airport AND w.state = 'stored' \
        AND w.window_begin > COALESCE((SELECT MAX(d.window_begin) FROM airport_window AS d \
          WHERE d.airport = i.airport AND d.state = 'stored' AND d.arrivals + d.departures > 0), -1)) \
        AS no_data_since \
    FROM user_interest AS i LEFT JOIN airport_window AS last ON last.airport = i.airport \
      AND last.window_begin = (SELECT MAX(w.window_begin) FROM airport_window AS w \
        WHERE w.airport = i.airport AND w.state = 'stored') \
    WHERE i.account = $1 AND (i.airport = $2 OR $2 IS NULL)";

impl Store {
    /// How the airports stand that an account watches, or the one that is named.
    pub(crate) async fn standings(
        &self,
        account: Account,
        airport: Option<Icao>,
    ) -> anyhow::Result<HashMap<Icao, Standing>> {
        let rows: Vec<StandingRow> = on!(self.0.reader(), |pool| {
            sqlx::query_as(STANDINGS)
                .bind(account.to_string())
                .bind(airport.map(|airport| airport.to_string()))
                .fetch_all(pool)
                .await?
        });
        rows.into_iter().map(|row| Ok((row.airport.parse()?, row.standing()))).collect()
    }
}

impl StandingRow {
    fn standing(&self) -> Standing {
        let window = self.window_begin.zip(self.window_end).map(|(begin, end)| Window { begin, end });
        let counts = self.arrivals.zip(self.departures);
        let counts = counts.map(|(arrivals, departures)| Counts { arrivals, departures });
        Standing {
            last: window.zip(counts).map(|(window, counts)| CountedWindow { window, counts }),
            has_data: self.first_data.is_some(),
            no_data_since: self.no_data_since,
            due: self.due,
            missing: self.missing,
        }
    }
}
