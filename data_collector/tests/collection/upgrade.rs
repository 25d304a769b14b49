//! A database that an earlier release made.

use common::clock::rfc3339;
use common::on;
use serde_json::json;

use crate::expected::DAY;
use crate::world::{TODAY, World, databases};

/// What the first release's tables were made with.
const EARLIER: &[(&str, &str)] = &[
    ("flights", include_str!("../../migrations/0001_flights.sql")),
    ("outbox", include_str!("../../migrations/0002_outbox.sql")),
];

const FLIGHTS: &str = "INSERT INTO flight (icao24, first_seen, last_seen, departure_airport, arrival_airport, callsign) \
     VALUES ('a00002', $1 + 7200, $1 + 9000, 'KJFK', NULL, NULL), \
     ('a00001', $1, $1 + 3600, 'KBTV', 'KJFK', 'VED123'), ('a00001', $1 + 7200, $1 + 9000, NULL, 'KBTV', NULL)";

const WINDOW: &str = "INSERT INTO airport_window (airport, window_begin, window_end, state, due_since, arrivals, \
     departures, announced, trace) VALUES ('KJFK', $1, $1 + 86400, 'stored', $1, 1, 1, TRUE, '{}')";

#[tokio::test]
async fn flights_and_counts_of_an_earlier_release_are_carried_over() {
    for db in databases().await {
        let begin = TODAY - DAY;
        let earlier = common::db::open(&db.url, &common::db::migrations(EARLIER)).await.unwrap();
        for sql in [FLIGHTS, WINDOW] {
            on!(earlier.writer(), |pool| sqlx::query(sql).bind(begin).execute(pool).await.map(|_| ()))
                .unwrap();
        }
        earlier.close().await;

        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        let flight = |direction: &str,
                      icao24: &str,
                      times: (i64, i64),
                      airports: (Option<&str>, Option<&str>),
                      callsign: Option<&str>| {
            json!({
                "direction": direction, "icao24": icao24, "callsign": callsign,
                "first_seen": rfc3339(begin + times.0), "last_seen": rfc3339(begin + times.1),
                "departure_airport": airports.0, "arrival_airport": airports.1
            })
        };
        let (first, second) = ((0, 3600), (7200, 9000));
        let both = (Some("KBTV"), Some("KJFK"));
        assert_eq!(
            ada.json("/airports/KJFK/flights").await["items"],
            json!([
                flight("departures", "a00002", second, (Some("KJFK"), None), None),
                flight("arrivals", "a00001", first, both, Some("VED123")),
            ])
        );
        assert_eq!(
            ada.json("/airports/KBTV/flights").await["items"],
            json!([
                flight("arrivals", "a00001", second, (None, Some("KBTV")), None),
                flight("departures", "a00001", first, both, Some("VED123")),
            ])
        );
        assert_eq!(ada.daily("KJFK").await, [(common::clock::date(begin), 1, 1)]);
    }
}
