//! Storing for the benchmarks.

use std::collections::BTreeMap;

use common::clock::DAY;
use common::on;
use common::types::{Counts, Icao};

use super::windows::Fetched;
use super::{Store, flights};
use crate::window::Window;

impl Store {
    /// Stores the windows of one UTC day at many airports in one transaction, claimed by nobody and announced to nobody.
    pub(crate) async fn load_day(
        &self,
        begin: i64,
        airports: &BTreeMap<Icao, Fetched>,
    ) -> anyhow::Result<()> {
        let mut tx = self.0.begin().await?;
        let mut windows = Vec::new();
        for (airport, fetched) in airports {
            flights::put(&mut tx, *airport, &fetched.arrivals, &fetched.departures).await?;
            let (end, Counts { arrivals, departures }) =
                (begin + DAY, fetched.counts(Window { begin, end: begin + DAY }));
            windows.push(format!(
                "('{airport}', {begin}, {end}, 'stored', {end}, {arrivals}, {departures}, TRUE, '{{}}')"
            ));
        }
        let sql = format!(
            "INSERT INTO airport_window (airport, window_begin, window_end, state, due_since, arrivals, departures, \
             announced, trace) VALUES {}",
            windows.join(", ")
        );
        on!(&mut tx, |tx| sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut **tx).await.map(|_| ()))?;
        Ok(tx.commit().await?)
    }

    /// Has an airport's windows from `begin` on planned.
    pub(crate) async fn watch_from(&self, airport: Icao, begin: i64) -> sqlx::Result<()> {
        on!(self.0.writer(), |pool| {
            sqlx::query(
                "INSERT INTO watched_airport (airport, planned_until) VALUES ($1, $2) \
                 ON CONFLICT (airport) DO UPDATE SET planned_until = excluded.planned_until",
            )
            .bind(airport.as_str())
            .bind(begin)
            .execute(pool)
            .await
            .map(|_| ())
        })
    }
}
