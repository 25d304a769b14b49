//! What several replicas do at once, and clocks that were wrong, step by step.

use common::clock::{Clock, DAY};
use common::testing::databases;
use common::trace::Trace;
use common::types::Direction;

use super::*;
use crate::airports::Catalogue;
use crate::opensky::Flight;
use crate::unsubscribe::Signer;

/// Wednesday 22 July 2026, midnight.
const TODAY: i64 = 1_784_678_400;

fn announcer() -> Announcer {
    let secret = common::signed::fresh_secret().unwrap();
    Announcer {
        catalogue: std::sync::Arc::new(Catalogue::load().unwrap()),
        signer: Signer::new(&secret).unwrap(),
    }
}

fn flight(icao24: &str, first_seen: i64, from: Option<&str>, to: Option<&str>) -> Flight {
    Flight {
        icao24: icao24.to_owned(),
        first_seen,
        last_seen: first_seen + 3600,
        est_departure_airport: from.map(str::to_owned),
        est_arrival_airport: to.map(str::to_owned),
        callsign: None,
    }
}

/// So many departures on the day before.
fn departures(count: i64) -> Fetched {
    let departure = |number| flight(&format!("f0000{number}"), TODAY - DAY + number, Some("KJFK"), None);
    Fetched { arrivals: Vec::new(), departures: (0..count).map(departure).collect() }
}

async fn sql(store: &Store, text: &'static str) {
    on!(store.0.writer(), |pool| sqlx::query(text).execute(pool).await.map(|_| ())).unwrap();
}

/// Stores in which the day before is due at KJFK, which somebody watches.
async fn stores() -> Vec<Store> {
    let mut stores = Vec::new();
    for db in databases("data_collector").await {
        eprintln!("on {}", db.name);
        let migrations = common::db::migrations(crate::MIGRATIONS);
        let store = Store::new(common::db::open(&db.url, &migrations).await.unwrap());
        store.set_window_length(DAY, TODAY).await.unwrap();
        store.watch_from(kjfk(), TODAY - DAY).await.unwrap();
        store.plan_all(0, DAY, TODAY, &Trace::start()).await.unwrap();
        stores.push(store);
    }
    stores
}

fn kjfk() -> Icao {
    "KJFK".parse().unwrap()
}

async fn claim(store: &Store, holder: &str) -> Option<Claim> {
    store.claim(holder, 300, false, 0, TODAY).await.unwrap()
}

async fn flights(store: &Store, airport: &str, direction: Direction) -> usize {
    let query = FlightQuery {
        airport: airport.parse().unwrap(),
        direction: Some(direction),
        from: i64::MIN,
        to: i64::MAX,
        after: None,
        limit: 100,
    };
    store.flights(&query).await.unwrap().len()
}

#[tokio::test]
async fn whose_claim_has_run_out_stores_nothing_and_gives_nothing_back() {
    let announcer = announcer();
    for store in stores().await {
        let late = claim(&store, "late").await.unwrap();
        assert!(claim(&store, "other").await.is_none(), "it is claimed");
        sql(&store, "UPDATE airport_window SET claimed_until = 1").await;
        let other = claim(&store, "other").await.unwrap();
        // The late one comes to an end now, in every way there is.
        store.release(&late).await.unwrap();
        store.failed(&late, 0, false).await.unwrap();
        store.leave_provisional(&late, 0).await.unwrap();
        store.give_up(&late, &announcer, TODAY).await.unwrap();
        let stored = store.store_window(&late, &departures(3), &announcer, TODAY).await.unwrap();
        assert_eq!(stored, Stored::NoLonger);
        assert!(claim(&store, "third").await.is_none(), "it is the other one's still");

        let stored = store.store_window(&other, &departures(2), &announcer, TODAY).await.unwrap();
        assert_eq!(stored, Stored::Yes { messages: 0 });
        let again = store.store_window(&late, &departures(3), &announcer, TODAY).await.unwrap();
        assert_eq!(again, Stored::NoLonger);
        let days = store.days(kjfk(), TODAY - DAY, TODAY).await.unwrap();
        assert_eq!(days, [Day { day: TODAY - DAY, arrivals: 0, departures: 2 }]);
        assert_eq!(flights(&store, "KJFK", Direction::Departures).await, 2);
    }
}

#[tokio::test]
async fn a_claim_that_would_hold_for_days_was_made_by_a_clock_that_was_ahead() {
    for store in stores().await {
        claim(&store, "early").await.unwrap();
        sql(&store, "UPDATE airport_window SET claimed_until = claimed_until + 864000").await;
        assert!(claim(&store, "other").await.is_some());
    }
}

#[tokio::test]
async fn a_pause_holds_as_long_as_the_longest_says_and_no_longer_than_a_day() {
    for store in stores().await {
        let take = async || store.take_credits(1, 100, 8).await.unwrap();
        assert_eq!(take().await, Budget::Taken { day: 1 });
        store.pause(3600).await.unwrap();
        store.pause(60).await.unwrap();
        let Budget::Paused(seconds) = take().await else { panic!("there is a pause") };
        assert!((61..=3600).contains(&seconds), "{seconds} s");
        // It is told, also when midnight has passed since the last call.
        let credits = store.credits(2).await.unwrap().unwrap();
        assert!(credits.remaining.is_none() && credits.paused_until > Clock::System.now());

        sql(&store, "UPDATE credit SET paused_until = paused_until + 864000").await;
        assert_eq!(take().await, Budget::Taken { day: 1 });
        store.pause(60).await.unwrap();
        assert!(matches!(take().await, Budget::Paused(1..=60)));
    }
}

#[tokio::test]
async fn a_flight_stays_at_the_airport_that_saw_it_whatever_the_other_one_supposes() {
    let [from, seen, supposed] = ["KBOS", "KJFK", "KLGA"];
    for store in stores().await {
        for (number, arrival_first) in [true, false].into_iter().enumerate() {
            let icao24 = format!("f0000{number}");
            let mut tx = store.0.begin().await.unwrap();
            for arrival in [arrival_first, !arrival_first] {
                let (airport, to) = if arrival { (seen, seen) } else { (from, supposed) };
                let put = [flight(&icao24, TODAY - DAY, Some(from), Some(to))];
                let (arrivals, departures) = if arrival { (&put[..], &[][..]) } else { (&[][..], &put[..]) };
                flights::put(&mut tx, airport.parse().unwrap(), arrivals, departures).await.unwrap();
            }
            tx.commit().await.unwrap();
            assert_eq!(flights(&store, seen, Direction::Arrivals).await, number + 1);
            assert_eq!(flights(&store, supposed, Direction::Arrivals).await, 0);
            assert_eq!(flights(&store, from, Direction::Departures).await, number + 1);
        }
    }
}

#[test]
fn a_flight_counts_once_and_in_its_own_window() {
    let window = Window { begin: TODAY - DAY, end: TODAY };
    let landing_at = |time: i64| flight("f00001", time - 3600, None, Some("KJFK"));
    let arrivals = [TODAY - DAY - 1, TODAY - DAY, TODAY - DAY, TODAY - 1, TODAY].map(landing_at).to_vec();
    let leaving_at = |time: i64| flight("f00001", time, Some("KJFK"), None);
    let departures = [TODAY - DAY - 1, TODAY - DAY, TODAY - 1, TODAY].map(leaving_at).to_vec();
    let fetched = Fetched { arrivals, departures };
    assert_eq!(fetched.counts(window), Counts { arrivals: 2, departures: 2 });
}

#[tokio::test]
async fn a_day_that_was_not_collected_as_a_whole_has_no_total() {
    let announcer = announcer();
    for store in stores().await {
        let mut tx = store.0.begin().await.unwrap();
        for quarter in 0..12 {
            // One of the second day's four is missing.
            let state = if quarter == 5 { "missing" } else { "stored" };
            on!(&mut tx, |tx| {
                sqlx::query(
                    "INSERT INTO airport_window (airport, window_begin, window_end, state, due_since, arrivals, \
                     departures, trace) VALUES ('KBTV', $1, $1 + 21600, $2, 0, 10, 5, '')",
                )
                .bind(TODAY - 3 * DAY + quarter * 21_600)
                .bind(state)
                .execute(&mut **tx)
                .await
                .map(|_| ())
            })
            .unwrap();
        }
        let window = Window { begin: TODAY - 21_600, end: TODAY };
        let latest = CountedWindow { window, counts: Counts { arrivals: 10, departures: 5 } };
        let message = announcer.message(&mut tx, "KBTV".parse().unwrap(), latest, "0", &[]).await.unwrap();
        assert_eq!(message.history, [60, 60]);
    }
}
