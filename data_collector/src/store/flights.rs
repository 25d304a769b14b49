//! Flights: stored once, whichever airports they were seen at.

use std::collections::BTreeMap;

use common::db::{Backend, Tx};
use common::on;
use common::types::Icao;

use super::Store;
use crate::opensky::Flight;

/// A flight already known keeps what the new answer does not say.
const UPSERT: &str = "ON CONFLICT (icao24, first_seen) DO UPDATE SET \
     last_seen = excluded.last_seen, \
     departure_airport = COALESCE(excluded.departure_airport, flight.departure_airport), \
     arrival_airport = COALESCE(excluded.arrival_airport, flight.arrival_airport), \
     callsign = COALESCE(excluded.callsign, flight.callsign)";

const COLUMNS: &str = "INSERT INTO flight \
     (icao24, first_seen, last_seen, departure_airport, arrival_airport, callsign)";

/// A flight as it is stored.
struct Row {
    last_seen: i64,
    departure_airport: Option<String>,
    arrival_airport: Option<String>,
    callsign: Option<String>,
}

/// Flights by what tells them apart, so that none is twice in one statement.
type Rows = BTreeMap<(String, i64), Row>;

/// Stores the flights that were seen at an airport.
pub(super) async fn put(
    tx: &mut Tx,
    airport: Icao,
    arrivals: &[Flight],
    departures: &[Flight],
) -> sqlx::Result<()> {
    let here = || Some(airport.to_string());
    let mut rows = Rows::new();
    for flight in arrivals {
        add(&mut rows, flight, flight.est_departure_airport.clone(), here());
    }
    for flight in departures {
        add(&mut rows, flight, here(), flight.est_arrival_airport.clone());
    }
    match tx {
        Backend::Sqlite(tx) => {
            let sql = format!("{COLUMNS} VALUES ($1, $2, $3, $4, $5, $6) {UPSERT}");
            for ((icao24, first_seen), row) in &rows {
                sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                    .bind(icao24)
                    .bind(first_seen)
                    .bind(row.last_seen)
                    .bind(&row.departure_airport)
                    .bind(&row.arrival_airport)
                    .bind(&row.callsign)
                    .execute(&mut **tx)
                    .await?;
            }
        }
        // One statement for all: a round trip for each would take longer than the work.
        Backend::Postgres(tx) => {
            let sql = format!(
                "{COLUMNS} SELECT * FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], \
                 $6::text[]) {UPSERT}"
            );
            let (keys, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let (icao24, first_seen): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(icao24)
                .bind(first_seen)
                .bind(rows.iter().map(|row| row.last_seen).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.departure_airport.clone()).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.arrival_airport.clone()).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.callsign.clone()).collect::<Vec<_>>())
                .execute(&mut **tx)
                .await?;
        }
    }
    Ok(())
}

fn add(rows: &mut Rows, flight: &Flight, departure_airport: Option<String>, arrival_airport: Option<String>) {
    let callsign =
        flight.callsign.as_deref().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let row = rows.entry((flight.icao24.clone(), flight.first_seen)).or_insert(Row {
        last_seen: flight.last_seen,
        departure_airport: None,
        arrival_airport: None,
        callsign: None,
    });
    row.departure_airport = departure_airport.or(row.departure_airport.take());
    row.arrival_airport = arrival_airport.or(row.arrival_airport.take());
    row.callsign = callsign.or(row.callsign.take());
}

impl Store {
    /// Removes some thousand of the flights that ended before `time`; says whether there may be more. In slices, so that
    /// nobody waits long for a database that is removing.
    pub(crate) async fn prune_flights(&self, time: i64) -> sqlx::Result<bool> {
        let removed = on!(&self.0, |pool| {
            sqlx::query(
                "DELETE FROM flight WHERE (icao24, first_seen) IN \
                 (SELECT icao24, first_seen FROM flight WHERE last_seen < $1 LIMIT 5000)",
            )
            .bind(time)
            .execute(pool)
            .await?
            .rows_affected()
        });
        Ok(removed > 0)
    }
}
