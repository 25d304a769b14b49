//! A year of collecting within the day's credits: what has to wait waits its turn, and nothing waits for ever.

use std::collections::BTreeMap;

use common::clock::rfc3339;
use serde_json::{Value, json};

use crate::expected::DAY;
use crate::world::{NOON, Person, TODAY, World, databases, expected_days};

const AIRPORTS: [&str; 5] = ["KBTV", "KABE", "KTYR", "KBZN", "KCRW"];

/// Goes on to the noon of a day, and waits until the collector has done what the day's credits allow (or, with `outage`,
/// has found out that it can do nothing). Gives how many windows of each airport wait.
async fn noon(world: &World, ada: &Person<'_>, day: i64, outage: bool) -> BTreeMap<String, i64> {
    let cycle = rfc3339(NOON + day * DAY);
    world.time.set(NOON + day * DAY);
    let done = |status: &Value| {
        // There was an attempt beyond the last window that the credits suffice for.
        let spent = status["credits"]["remaining"].as_i64() < Some(8) && status["obstacle"].is_string();
        let nothing_more =
            status["waiting"] == 0 || spent || (outage && status["breaker"]["state"] == "open");
        // What was closed by an outage's end is collected when the breaker has found out.
        let settled = outage || status["breaker"]["state"] == "closed";
        status["last_cycle"] == cycle && nothing_more && settled
    };
    ada.status_when(&format!("the work of day {day}"), done).await;
    let status = ada.status().await;
    let airports = status["airports"].as_array().unwrap().iter();
    airports
        .map(|airport| (airport["airport"].as_str().unwrap().to_owned(), airport["lag"].as_i64().unwrap()))
        .collect()
}

#[tokio::test]
async fn over_a_year_everything_is_collected_and_nothing_starves() {
    for db in databases().await {
        // Six windows a day: one more than closes.
        let flags =
            ["--opensky-daily-credits", "48", "--breaker-failure-threshold", "2", "--breaker-timeout", "1s"];
        let world = World::new(&db, &flags).await;
        let ada = world.person("ada@example.com");
        // Everybody's first week would be 35 windows at once; the last one joins later.
        for airport in &AIRPORTS[..4] {
            ada.put(airport, json!({})).await;
        }
        let mut longest = 0;
        for day in 0..365 {
            let outage = (180..185).contains(&day);
            match day {
                100 => drop(ada.put(AIRPORTS[4], json!({})).await),
                180 => world.replay.faults(json!({"outage": true})).await,
                185 => world.replay.faults(json!({"outage": false})).await,
                _ => {}
            }
            let lags = noon(&world, &ada, day, outage).await;
            let (least, most) = (lags.values().min().unwrap(), lags.values().max().unwrap());
            // Who came late begins with a week; the others go on meanwhile.
            let joining = day < 14 || (100..=114).contains(&day);
            assert!(joining || most - least <= 1, "day {day}: {lags:?}");
            let others = lags.iter().filter(|(airport, _)| day < 14 || **airport != AIRPORTS[4] || day > 130);
            longest = longest.max(*others.map(|(_, lag)| lag).max().unwrap());
        }
        assert!(longest <= 7, "a window waited behind {longest} others of its airport");
        assert_eq!(ada.status().await["waiting"], 0);
        for airport in AIRPORTS {
            let joined = if airport == AIRPORTS[4] { 99 } else { 0 };
            let all = expected_days(airport, TODAY + (joined - 7) * DAY, TODAY + 364 * DAY);
            assert!(days(&ada, airport).await == all, "{airport}: other days than recorded");
        }
        // Each window was asked for once; OpenSky would have given more.
        let windows = AIRPORTS.len() * 371 - 99;
        assert_eq!(world.replay.answered("departure", 200).await, windows as u64);
    }
}

async fn days(ada: &Person<'_>, airport: &str) -> Vec<(String, i64, i64)> {
    let answer = ada.json(&format!("/airports/{airport}/daily?days=400")).await;
    let number = |day: &Value, field: &str| day[field].as_i64().unwrap();
    let day = |day: &Value| {
        (day["day"].as_str().unwrap().to_owned(), number(day, "arrivals"), number(day, "departures"))
    };
    answer["days"].as_array().unwrap().iter().map(day).collect()
}

#[tokio::test]
async fn where_the_credits_never_suffice_all_fall_behind_alike_and_the_most_watched_least() {
    for db in databases().await {
        // Four windows a day, where five close.
        let world = World::new(&db, &["--opensky-daily-credits", "32", "--collect-backfill", "1d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        // It comes first, before the others can use up the first day's credits.
        let watched = "KTYR";
        bob.put(watched, json!({})).await;
        for airport in AIRPORTS {
            ada.put(airport, json!({})).await;
        }
        for day in 0..40 {
            let lags = noon(&world, &ada, day, false).await;
            let (least, most) = (*lags.values().min().unwrap(), *lags.values().max().unwrap());
            assert!(most - least <= 1, "day {day}: {lags:?}");
            assert_eq!(lags[watched], least, "day {day}: {lags:?}");
        }
        // One window short on each day.
        let status = ada.status().await;
        assert_eq!((&status["waiting"], &status["credits"]["windows_waiting"]), (&json!(40), &json!(40)));
        assert_eq!(status["airports"].as_array().unwrap().iter().filter(|a| a["missing"] != 0).count(), 0);
    }
}
