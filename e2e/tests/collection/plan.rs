//! What is to be collected, and whether it was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::{Clock, date, rfc3339};
use common::messages::WindowCounted;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::field::{Collector, Field};
use crate::recording::{self, DAY, Known, airports};

/// A number that the environment may set.
pub(crate) fn size(variable: &str, otherwise: i64) -> i64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// Always among them: with flights on the recording's first half alone, with many a day without any in one direction, and
/// with such a day all the time.
const PECULIAR: [&str; 3] = ["KEGE", "KMTJ", "KACY"];

/// What is to be collected.
pub(crate) struct Plan {
    pub(crate) airports: Vec<String>,
    pub(crate) days: i64,
    known: Known,
    pub(crate) random: StdRng,
}

impl Plan {
    pub(crate) async fn new() -> Plan {
        let (days, most) = (size("COLLECTION_DAYS", 7), size("COLLECTION_AIRPORTS", 8));
        // The days are those before today, and today must not end meanwhile.
        e2e::away_from_midnight_by((days * most / 5).max(300)).await;
        let seed = size("COLLECTION_SEED", i64::from(rand::rng().random::<u32>()));
        eprintln!("COLLECTION_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed.unsigned_abs());
        let mut airports = airports();
        airports.shuffle(&mut random);
        airports.sort_by_key(|airport| !PECULIAR.contains(&airport.as_str()));
        airports.truncate(most as usize);
        let today = Clock::System.now().div_euclid(DAY) * DAY;
        eprintln!("of the {days} days before {}", date(today));
        let known = Known::of(&airports, today - days * DAY, today);
        Plan { airports, days, known, random }
    }

    pub(crate) fn windows(&self) -> usize {
        self.airports.len() * self.days as usize
    }

    /// Every number that is told is the recording's; with `whole` all of them are told.
    pub(crate) async fn counts_are_right(&self, collector: &Collector, whole: bool) {
        for airport in &self.airports {
            let expected = self.known.days(airport);
            let told = daily(collector, airport, self.days).await;
            for (day, counts) in &told {
                assert_eq!(Some(counts), expected.get(day), "{airport} on {}", date(*day));
            }
            assert!(!whole || told.len() == expected.len(), "{airport}: days are missing in {told:?}");
        }
    }

    /// Asks for the counts again and again, and never gets one that is not the recording's.
    pub(crate) async fn counts_stay_right(&self, collector: &Collector) {
        loop {
            self.counts_are_right(collector, false).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Everything is collected, and every answer is exact.
    pub(crate) async fn everything_is_right(&self, collector: &Collector) {
        self.counts_are_right(collector, true).await;
        for airport in &self.airports {
            self.averages_are_right(collector, airport).await;
            self.last_flights_are_right(collector, airport).await;
            self.flights_are_right(collector, airport).await;
        }
        let status = collector.get("/status").await;
        let complete = |airport: &&Value| airport["lag"] == 0 && airport["missing"] == 0;
        let complete = status["airports"].as_array().unwrap().iter().filter(complete).count();
        assert_eq!(complete, self.airports.len(), "{status}");
    }

    async fn averages_are_right(&self, collector: &Collector, airport: &str) {
        for days in [1, self.days / 2, self.days].into_iter().filter(|days| *days > 0) {
            let told = collector.get(&format!("/airports/{airport}/average?days={days}")).await;
            let since = self.known.end - days * DAY;
            let collected: Vec<_> =
                self.known.days(airport).into_iter().filter(|(day, _)| *day >= since).collect();
            assert_eq!(told["days_with_data"], collected.len(), "{airport}");
            let sums =
                collected.iter().fold((0, 0), |sums, (_, counts)| (sums.0 + counts.0, sums.1 + counts.1));
            for (field, sum) in [("arrivals", sums.0), ("departures", sums.1), ("total", sums.0 + sums.1)] {
                // The mean times the days is a whole number; a float's last digits are not.
                let told =
                    told[field].as_f64().map(|mean| (mean * collected.len() as f64 * 1000.0).round() as i64);
                let expected = (!collected.is_empty()).then_some(sum * 1000);
                assert_eq!(told, expected, "{airport}: {field} over {days} days");
            }
        }
    }

    async fn last_flights_are_right(&self, collector: &Collector, airport: &str) {
        let told = collector.get(&format!("/airports/{airport}/last")).await;
        for (field, time, expected) in [
            ("arrival", "last_seen", self.known.arrivals(airport)),
            ("departure", "first_seen", self.known.departures(airport)),
        ] {
            let Some((latest, _)) = expected.last() else {
                assert!(told[field].is_null(), "{airport}: {told}");
                continue;
            };
            assert_eq!(told[field][time], rfc3339(*latest), "{airport}: the last {field}");
            let aircraft = told[field]["icao24"].as_str().unwrap();
            assert!(expected.contains(&(*latest, aircraft)), "{airport}: the last {field} is {aircraft}");
        }
    }

    /// All pages of the list hold each flight once.
    async fn flights_are_right(&self, collector: &Collector, airport: &str) {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = collector.get(&format!("/airports/{airport}/flights?limit=1000{cursor}")).await;
            for flight in page["items"].as_array().unwrap() {
                let text = |field: &str| flight[field].as_str().unwrap().to_owned();
                seen.push((text("direction"), text("first_seen"), text("last_seen"), text("icao24")));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let times = |side: &str, of: usize| -> BTreeSet<(String, String)> {
            let side = seen.iter().filter(|(direction, ..)| direction == side);
            side.map(|flight| ([&flight.1, &flight.2][of].clone(), flight.3.clone())).collect()
        };
        let expected = |flights: BTreeSet<(i64, &str)>| -> BTreeSet<(String, String)> {
            flights.into_iter().map(|(at, icao24)| (rfc3339(at), icao24.to_owned())).collect()
        };
        let (arrivals, departures) = (self.known.arrivals(airport), self.known.departures(airport));
        assert_eq!(
            seen.len(),
            arrivals.len() + departures.len(),
            "{airport}: flights are missing or come twice"
        );
        assert_eq!(times("departures", 0), expected(departures), "{airport}");
        assert_eq!(times("arrivals", 1), expected(arrivals), "{airport}");
    }

    /// Each airport's latest window was told, as the recording has it, under one id. Gives how many copies there are
    /// beyond the first, which all say the same.
    pub(crate) fn messages_are_right(&self, field: &Field, payloads: &[Vec<u8>]) -> usize {
        let mut told: BTreeMap<String, &[u8]> = BTreeMap::new();
        for payload in payloads {
            let message: WindowCounted = serde_json::from_slice(payload).unwrap();
            self.message_is_right(field, &message);
            let first = told.entry(message.id.clone()).or_insert(payload);
            assert_eq!(*first, payload, "{}: another message under the same id", message.id);
        }
        let with_data = self.airports.iter().filter(|airport| !self.known.days(airport).is_empty());
        let expected: BTreeSet<String> = with_data.map(|airport| self.id(airport)).collect();
        assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), expected);
        payloads.len() - expected.len()
    }

    /// Of the message about an airport's latest window.
    fn id(&self, airport: &str) -> String {
        format!("{airport}/{}/24h/0", rfc3339(self.known.end - DAY))
    }

    fn message_is_right(&self, field: &Field, message: &WindowCounted) {
        let (airport, latest) = (message.airport.as_str(), self.known.end - DAY);
        assert_eq!(message.id, self.id(airport), "only the latest window is told");
        assert_eq!((message.window_begin, message.window_end), (latest, self.known.end));
        let days = self.known.days(airport);
        let counts = (message.arrival_count, message.departure_count);
        assert_eq!(Some(&counts), days.get(&latest), "{}", message.id);
        // A window of the backfill that failed, or that another replica had in hand, was not known yet.
        let previous = message.previous.map(|previous| (previous.arrival_count, previous.departure_count));
        assert!(previous.is_none() || previous.as_ref() == days.get(&(latest - DAY)), "{}", message.id);
        let totals =
            days.range(self.known.end - 14 * DAY..).map(|(_, (arrivals, departures))| arrivals + departures);
        let mut unmatched = message.history.iter().peekable();
        for total in totals {
            unmatched.next_if(|told| **told == total);
        }
        assert!(unmatched.next().is_none(), "{}: {:?}", message.id, message.history);
        assert_eq!(message.history.last(), Some(&(counts.0 + counts.1)), "{}", message.id);
        let users: Vec<_> = message.users.iter().map(|user| (user.account, &user.email)).collect();
        assert_eq!(users, [(Some(field.account), &field.email)], "{}", message.id);
    }
}

/// By midnight, the counts that are told of an airport's days.
async fn daily(collector: &Collector, airport: &str, days: i64) -> BTreeMap<i64, recording::Counts> {
    let told = collector.get(&format!("/airports/{airport}/daily?days={days}")).await;
    let day = |day: &Value| {
        let midnight: jiff::Timestamp =
            format!("{}T00:00:00Z", day["day"].as_str().unwrap()).parse().unwrap();
        (midnight.as_second(), (day["arrivals"].as_i64().unwrap(), day["departures"].as_i64().unwrap()))
    };
    told["days"].as_array().unwrap().iter().map(day).collect()
}
