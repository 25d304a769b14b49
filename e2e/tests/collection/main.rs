//! Collections as they go at night: real processes, faults of every kind, kills; afterwards every number is the
//! recording's. How much: COLLECTION_AIRPORTS (8), COLLECTION_DAYS (7), COLLECTION_KILLS (3), COLLECTION_ROUNDS (1) of
//! faults, COLLECTION_SEED. At most 28 days, after which the recording begins again.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod field;
mod recording;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::bus::Log;
use common::clock::{Clock, date, rfc3339};
use common::messages::{Message, WindowCounted};
use common::testing::databases;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::field::{Collector, Field};
use crate::recording::{DAY, Known, airports};

/// A number that the environment may set.
fn size(variable: &str, otherwise: i64) -> i64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// What is to be collected.
struct Plan {
    airports: Vec<String>,
    days: i64,
    known: Known,
    random: StdRng,
}

impl Plan {
    async fn new() -> Plan {
        let (days, most) = (size("COLLECTION_DAYS", 7), size("COLLECTION_AIRPORTS", 8));
        // The days are those before today, and today must not end meanwhile.
        e2e::away_from_midnight_by((days * most / 5).max(300)).await;
        let seed = size("COLLECTION_SEED", i64::from(rand::rng().random::<u32>()));
        eprintln!("COLLECTION_SEED={seed}");
        let mut random = StdRng::seed_from_u64(seed.unsigned_abs());
        let mut airports = airports();
        airports.shuffle(&mut random);
        airports.truncate(most as usize);
        let today = Clock::System.now().div_euclid(DAY) * DAY;
        let known = Known::of(&airports, today - days * DAY, today);
        Plan { airports, days, known, random }
    }

    fn windows(&self) -> usize {
        self.airports.len() * self.days as usize
    }

    /// Every number that is told is the recording's; with `whole` all of them are told.
    async fn counts_are_right(&self, collector: &Collector, whole: bool) {
        for airport in &self.airports {
            let expected = self.known.days(airport);
            let told = daily(collector, airport, self.days).await;
            for (day, counts) in &told {
                assert_eq!(Some(counts), expected.get(day), "{airport} on {}", date(*day));
            }
            assert!(!whole || told.len() == expected.len(), "{airport}: days are missing in {told:?}");
        }
    }

    /// Everything is collected, and every answer is exact.
    async fn everything_is_right(&self, collector: &Collector) {
        self.counts_are_right(collector, true).await;
        for airport in &self.airports {
            self.averages_are_right(collector, airport).await;
            self.last_flights_are_right(collector, airport).await;
        }
        for airport in self.airports.iter().take(5) {
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

    /// Each airport's latest window was told, with its counts, under one id. Gives how many copies there are beyond the
    /// first, which all say the same.
    fn messages_are_right(&self, payloads: &[Vec<u8>]) -> usize {
        let latest = self.known.end - DAY;
        let mut told: BTreeMap<String, &[u8]> = BTreeMap::new();
        for payload in payloads {
            let message: WindowCounted = serde_json::from_slice(payload).unwrap();
            let counts = (message.arrival_count, message.departure_count);
            assert_eq!(message.window_begin, latest, "{}: only the latest window is told", message.id);
            assert_eq!(
                Some(&counts),
                self.known.days(message.airport.as_str()).get(&latest),
                "{}",
                message.id
            );
            let first = told.entry(message.id.clone()).or_insert(payload);
            assert_eq!(*first, payload, "{}: another message under the same id", message.id);
        }
        let with_data = self.airports.iter().filter(|airport| !self.known.days(airport).is_empty());
        let expected: BTreeSet<String> =
            with_data.map(|airport| format!("{airport}/{}/24h/0", rfc3339(latest))).collect();
        assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), expected);
        payloads.len() - expected.len()
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

/// Stops a collector that has done everything, and reads what it has told.
async fn stopped(field: &Field, collector: Collector) -> Vec<Vec<u8>> {
    collector.has_told_everything().await;
    assert!(!collector.process.output().contains("panicked"), "{}", collector.process.output());
    assert_eq!(collector.process.stop().await, Some(0));
    let log = Log::open(&field.log).await.unwrap();
    let records = log.read_all(WindowCounted::TOPIC).await.unwrap();
    records.into_iter().map(|record| record.payload).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn undisturbed_every_airports_every_number_is_the_recordings() {
    for db in databases("collection").await {
        let plan = Plan::new().await;
        let field = Field::new(db).await;
        let collector = field.collector("one", plan.days).await;
        collector.watch(&plan.airports).await;
        collector.waits_for(0).await;
        plan.everything_is_right(&collector).await;
        // Two calls a window, and no more.
        let calls = collector.outcomes().await.into_values().sum::<i64>();
        assert_eq!(calls, 2 * plan.windows() as i64);
        eprintln!("{}: {} windows of {} airports", field.db.name, plan.windows(), plan.airports.len());
        let payloads = stopped(&field, collector).await;
        assert_eq!(plan.messages_are_right(&payloads), 0, "a message came twice");
    }
}

/// What goes wrong, and how the calls end that it befalls.
const FAULTS: [(&str, &str); 5] = [
    (r#"{"outage": true}"#, "server"),
    (r#"{"error_rate": 1.0}"#, "server"),
    (r#"{"error_rate": 0.3}"#, "server"),
    (r#"{"latency_ms": 3000}"#, "timeout"),
    (r#"{"truncate_rate": 0.5}"#, "decode"),
];
const FLIGHTS: [&str; 2] = ["arrival", "departure"];
const NOTHING: &str = r#"{"outage": false, "error_rate": 0.0, "truncate_rate": 0.0, "latency_ms": 15}"#;

#[tokio::test(flavor = "multi_thread")]
async fn through_every_fault_no_window_is_lost_none_doubled_and_no_failure_becomes_a_count() {
    for db in databases("collection").await {
        let mut plan = Plan::new().await;
        let mut field = Field::new(db).await;
        field.replay.restart(&["--token-lifetime=2s"]).await;
        field.replay.faults(serde_json::from_str(NOTHING).unwrap()).await;
        let mut collector = field.collector("one", plan.days).await;
        collector.watch(&plan.airports).await;
        let rounds = size("COLLECTION_ROUNDS", 1);
        let mut steps: Vec<usize> = (0..rounds).flat_map(|_| 0..FAULTS.len() + 2).collect();
        steps.shuffle(&mut plan.random);
        let mut outcomes: BTreeMap<String, i64> = BTreeMap::new();
        for (number, step) in steps.iter().enumerate() {
            // Spread over the collection: there is always something left to fail.
            collector.waits_for(plan.windows() * (steps.len() - number) / (steps.len() + 1)).await;
            match FAULTS.get(*step) {
                Some((fault, outcome)) => {
                    befalls(&field, &collector, serde_json::from_str(fault).unwrap(), outcome).await;
                    plan.counts_are_right(&collector, false).await;
                    all_is_well_again(&field, &collector).await;
                }
                None if *step == FAULTS.len() => {
                    // Nobody listens for a moment, and then nobody knows the token.
                    for _ in 0..2 {
                        field.replay.restart(&["--token-lifetime=30m", "--latency=15ms"]).await;
                        collector.another_ends("flights", collector.ended("flights").await).await;
                    }
                    let refused = field.replay.answered(&FLIGHTS, 401).await;
                    assert!(refused >= 1, "the token was still known");
                    all_is_well_again(&field, &collector).await;
                }
                None => {
                    befalls(&field, &collector, json!({"credits_remaining": 0}), "rate_limited").await;
                    plan.counts_are_right(&collector, false).await;
                    field.replay.faults(json!({"credits_remaining": 1_000_000})).await;
                    add(&mut outcomes, collector.outcomes().await);
                    assert_eq!(collector.process.stop().await, Some(0));
                    field.end_pause().await;
                    collector = field.collector("one", plan.days).await;
                }
            }
        }
        collector.waits_for(0).await;
        plan.everything_is_right(&collector).await;
        add(&mut outcomes, collector.outcomes().await);
        for outcome in ["server", "timeout", "decode", "rate_limited"] {
            assert!(outcomes.contains_key(outcome), "no call ended so: {outcome}, but {outcomes:?}");
        }
        for status in [429, 500, 503] {
            let answered = field.replay.answered(&["token", "arrival", "departure"], status).await;
            assert!(answered > 0, "nothing was answered with {status}");
        }
        eprintln!("{}: {} windows, {outcomes:?}", field.db.name, plan.windows());
        let payloads = stopped(&field, collector).await;
        assert_eq!(plan.messages_are_right(&payloads), 0, "a message came twice");
    }
}

/// Lets a fault come, and waits for a call that ends as it makes calls end.
async fn befalls(field: &Field, collector: &Collector, fault: Value, outcome: &str) {
    let before = collector.ended(outcome).await;
    field.replay.faults(fault).await;
    collector.another_ends(outcome, before).await;
}

/// After a short outage the breaker closes, and that ends the waits of all that has failed.
async fn all_is_well_again(field: &Field, collector: &Collector) {
    let opened = |breaker: &Value| breaker["counters"]["opened"].as_u64().unwrap();
    let before = opened(&collector.breaker("the breaker", |_| true).await);
    field.replay.faults(json!({"outage": true})).await;
    collector.breaker("the breaker opens", |breaker| opened(breaker) > before).await;
    field.replay.faults(serde_json::from_str(NOTHING).unwrap()).await;
    collector.breaker("the breaker closes", |breaker| breaker["state"] == "closed").await;
}

fn add(sums: &mut BTreeMap<String, i64>, more: BTreeMap<String, i64>) {
    for (outcome, count) in more {
        *sums.entry(outcome).or_default() += count;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_loses_nothing_and_counts_nothing_twice() {
    for db in databases("collection").await {
        let mut plan = Plan::new().await;
        let field = Field::new(db).await;
        field.replay.faults(json!({"latency_ms": 5})).await;
        let mut collector = field.collector("one", plan.days).await;
        collector.watch(&plan.airports).await;
        let kills = size("COLLECTION_KILLS", 3) as usize;
        for number in 0..kills {
            // Half of them while the latest windows are collected: those have messages.
            let left = match number.checked_sub(kills / 2) {
                None => plan.windows() * (kills - number) / (kills + 1),
                Some(number) => plan.airports.len() * (kills - kills / 2 - number) / (kills + 1),
            };
            collector.waits_for(left).await;
            // Somewhere within the next windows.
            tokio::time::sleep(Duration::from_micros(plan.random.random_range(0..40_000))).await;
            collector.process.kill().await;
            collector = field.collector("one", plan.days).await;
        }
        collector.waits_for(0).await;
        plan.everything_is_right(&collector).await;
        let asked = field.replay.answered(&FLIGHTS, 200).await + field.replay.answered(&FLIGHTS, 404).await;
        let again = asked - 2 * plan.windows() as i64;
        assert!((0..=2 * kills as i64).contains(&again), "{again} calls were repeated over {kills} kills");
        let payloads = stopped(&field, collector).await;
        let copies = plan.messages_are_right(&payloads);
        // What was on its way when it was killed, one message an airport at most.
        assert!(copies <= kills * plan.airports.len(), "{copies} copies");
        eprintln!(
            "{}: {} windows, {kills} kills, {again} calls repeated, {copies} messages told twice",
            field.db.name,
            plan.windows()
        );
    }
}
