//! Flights: stored once, whichever airports they were seen at.

use std::collections::BTreeMap;

use anyhow::Context;
use common::db::{Backend, Tx};
use common::on;
use common::types::Icao;

use super::Store;
use crate::opensky::Flight;

/// A flight already known keeps what the new answer does not say, and its airports, but for the one that is asking (the
/// parameter `here`): it was seen there. Most are put a second time, by the airport at the other end, and then nothing is
/// written.
fn upsert(here: &str) -> String {
    format!(
        "ON CONFLICT (first_seen, icao24) DO UPDATE SET \
         last_seen = excluded.last_seen, \
         departure_airport = CASE WHEN excluded.departure_airport = {here} THEN {here} \
           ELSE COALESCE(flight.departure_airport, excluded.departure_airport) END, \
         arrival_airport = CASE WHEN excluded.arrival_airport = {here} THEN {here} \
           ELSE COALESCE(flight.arrival_airport, excluded.arrival_airport) END, \
         callsign = COALESCE(excluded.callsign, flight.callsign) \
         WHERE flight.last_seen <> excluded.last_seen \
         OR (excluded.departure_airport = {here} AND flight.departure_airport IS DISTINCT FROM {here}) \
         OR (excluded.arrival_airport = {here} AND flight.arrival_airport IS DISTINCT FROM {here}) \
         OR (flight.departure_airport IS NULL AND excluded.departure_airport IS NOT NULL) \
         OR (flight.arrival_airport IS NULL AND excluded.arrival_airport IS NOT NULL) \
         OR flight.callsign IS DISTINCT FROM COALESCE(excluded.callsign, flight.callsign)"
    )
}

const COLUMNS: &str = "INSERT INTO flight \
     (first_seen, icao24, last_seen, departure_airport, arrival_airport, callsign)";

/// What is stored of a flight besides its key.
struct Row<'a> {
    last_seen: i64,
    departure_airport: Option<&'a str>,
    arrival_airport: Option<&'a str>,
    callsign: Option<&'a str>,
}

/// Flights by what tells them apart, so that none is twice in one statement; in the order of the table.
type Rows<'a> = BTreeMap<(i64, &'a str), Row<'a>>;

/// Stores the flights that were seen at an airport. In one statement on either database: a round trip for each flight
/// would take longer than the work.
pub(super) async fn put(
    tx: &mut Tx,
    airport: Icao,
    arrivals: &[Flight],
    departures: &[Flight],
) -> anyhow::Result<()> {
    let here = Some(airport.as_str());
    let mut rows = Rows::new();
    for flight in arrivals {
        add(&mut rows, flight, flight.est_departure_airport.as_deref(), here);
    }
    for flight in departures {
        add(&mut rows, flight, here, flight.est_arrival_airport.as_deref());
    }
    match tx {
        Backend::Sqlite(tx) => {
            // `WHERE TRUE` tells the upsert's ON from a join's.
            let sql = format!(
                "{COLUMNS} SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 \
                 FROM json_each($1) WHERE TRUE {}",
                upsert("$2")
            );
            let rows: Vec<_> = rows
                .iter()
                .map(|((first_seen, icao24), row)| {
                    (
                        first_seen,
                        icao24,
                        row.last_seen,
                        row.departure_airport,
                        row.arrival_airport,
                        row.callsign,
                    )
                })
                .collect();
            let rows = serde_json::to_string(&rows).context("flights as JSON")?;
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(rows).bind(here).execute(&mut **tx).await?;
        }
        Backend::Postgres(tx) => {
            let sql = format!(
                "{COLUMNS} SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], \
                 $6::text[]) {}",
                upsert("$7::text")
            );
            let (keys, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
            let (first_seen, icao24): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(first_seen)
                .bind(icao24)
                .bind(rows.iter().map(|row| row.last_seen).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.departure_airport).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.arrival_airport).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.callsign).collect::<Vec<_>>())
                .bind(here)
                .execute(&mut **tx)
                .await?;
        }
    }
    Ok(())
}

fn add<'a>(
    rows: &mut Rows<'a>,
    flight: &'a Flight,
    departure_airport: Option<&'a str>,
    arrival_airport: Option<&'a str>,
) {
    let callsign = flight.callsign.as_deref().map(str::trim).filter(|text| !text.is_empty());
    let row = rows.entry((flight.first_seen, &flight.icao24)).or_insert(Row {
        last_seen: flight.last_seen,
        departure_airport: None,
        arrival_airport: None,
        callsign: None,
    });
    row.departure_airport = departure_airport.or(row.departure_airport);
    row.arrival_airport = arrival_airport.or(row.arrival_airport);
    row.callsign = callsign.or(row.callsign);
}

impl Store {
    /// Removes some thousand of the flights that began before `time`; says whether there may be more. In slices, so that
    /// nobody waits long for a database that is removing.
    pub(crate) async fn prune_flights(&self, time: i64) -> sqlx::Result<bool> {
        let removed = on!(self.0.writer(), |pool| {
            sqlx::query(
                "DELETE FROM flight WHERE (first_seen, icao24) IN (SELECT first_seen, icao24 FROM flight \
                 WHERE first_seen < $1 ORDER BY first_seen, icao24 LIMIT 5000)",
            )
            .bind(time)
            .execute(pool)
            .await?
            .rows_affected()
        });
        Ok(removed > 0)
    }
}
