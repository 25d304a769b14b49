//! The way in for the benchmarks: the product's own storing, without OpenSky and without a service around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::BufRead;
use std::sync::Arc;

use anyhow::Context;
use common::clock::DAY;
use common::db::migrations;
use common::trace::Trace;
use common::types::Icao;
use secrecy::SecretString;

use crate::MIGRATIONS;
use crate::airports::Catalogue;
use crate::opensky::Flight;
use crate::store::{Announcer, Fetched, Store};
use crate::unsubscribe::Signer;

/// What was seen at each airport on a day.
type Day = BTreeMap<Icao, Fetched>;

/// Holds recorded flights of whole days and stores them day by day, each day at all airports; after the last day it begins
/// again, the flights moved on by the recording's length. A flight is put twice, by the airport it left and by the one it
/// reached, as the collector does it.
pub struct Loader {
    store: Store,
    announcer: Announcer,
    days: VecDeque<Day>,
    /// Midnight that begins the next day.
    next: i64,
}

impl Loader {
    /// Opens a database without flights, and reads `recording`: one flight as JSON a line, sorted by `firstSeen`, the first
    /// on the day `begin` (a midnight, Unix seconds), for `days` days.
    pub async fn open(
        url: &SecretString,
        recording: impl BufRead,
        begin: i64,
        days: usize,
    ) -> anyhow::Result<Loader> {
        let store = Store::new(common::db::open(url, &migrations(MIGRATIONS)).await?);
        store.set_window_length(DAY, begin).await?;
        let announcer = Announcer {
            catalogue: Arc::new(Catalogue::load()?),
            signer: Signer::new(&common::signed::fresh_secret()?)?,
        };
        let mut loader = Loader { store, announcer, days: VecDeque::new(), next: begin };
        loader.days.resize_with(days, Day::new);
        for line in recording.lines() {
            loader.add(serde_json::from_str(&line?).context("a recorded flight")?)?;
        }
        Ok(loader)
    }

    fn add(&mut self, flight: Flight) -> anyhow::Result<()> {
        let days = i64::try_from(self.days.len())?;
        let day = |time: i64| (time - self.next).div_euclid(DAY);
        let (departed, arrived) = (day(flight.first_seen), day(flight.last_seen));
        let airport = |code: &Option<String>| -> anyhow::Result<Icao> {
            Ok(code.as_deref().context("a recorded flight's airport")?.parse()?)
        };
        let (from, to) = (airport(&flight.est_departure_airport)?, airport(&flight.est_arrival_airport)?);
        // Who arrives after the last day's end arrives on the first day, too: one recording earlier.
        let mut arrival = flight.clone();
        shift(&mut arrival, -arrived.div_euclid(days) * days * DAY);
        let arrived = usize::try_from(arrived.rem_euclid(days))?;
        self.days[arrived].entry(to).or_insert_with(nothing).arrivals.push(arrival);
        let departures = self.days.get_mut(usize::try_from(departed)?).context("a day of the recording")?;
        departures.entry(from).or_insert_with(nothing).departures.push(flight);
        Ok(())
    }

    /// Midnight that begins the next day to be stored, Unix seconds.
    pub fn next(&self) -> i64 {
        self.next
    }

    /// Stores the next day in one transaction; how many flights that puts, those between two airports counted at both.
    pub async fn day(&mut self) -> anyhow::Result<usize> {
        let day = self.days.front().context("a day")?;
        self.store.load_day(self.next, day).await?;
        self.advance()
    }

    /// Makes the next day's windows due at all airports, for [`Loader::windows`].
    pub async fn plan(&self) -> anyhow::Result<()> {
        for airport in self.days.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
            self.store.watch_from(*airport, self.next).await?;
        }
        self.store.plan_all(0, 0, self.next + DAY, &Trace::start()).await
    }

    /// Stores the next day as the collector does: each window claimed, and stored in a transaction of its own. Nobody is
    /// told of it. How many flights that puts, and into how many windows.
    pub async fn windows(&mut self) -> anyhow::Result<(usize, usize)> {
        let (nothing, mut stored) = (nothing(), 0);
        let day = self.days.front().context("a day")?;
        while let Some(claim) = self.store.claim("bench", 300, false, 0, self.next + DAY).await? {
            let fetched = day.get(&claim.airport).unwrap_or(&nothing);
            self.store.store_window(&claim, fetched, &self.announcer, self.next + DAY).await?;
            stored += 1;
        }
        Ok((self.advance()?, stored))
    }

    /// Goes on to the next day. The one that is stored comes again when the recording begins again.
    fn advance(&mut self) -> anyhow::Result<usize> {
        let length = i64::try_from(self.days.len())? * DAY;
        let mut day = self.days.pop_front().context("a day")?;
        let mut put = 0;
        for flight in
            day.values_mut().flat_map(|fetched| fetched.arrivals.iter_mut().chain(&mut fetched.departures))
        {
            shift(flight, length);
            put += 1;
        }
        self.days.push_back(day);
        self.next += DAY;
        Ok(put)
    }
}

fn nothing() -> Fetched {
    Fetched { arrivals: Vec::new(), departures: Vec::new() }
}

fn shift(flight: &mut Flight, seconds: i64) {
    flight.first_seen += seconds;
    flight.last_seen += seconds;
}
