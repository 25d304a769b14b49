use std::sync::LazyLock;

use super::*;

/// Monday 2 April 2001.
const MONDAY: i64 = 986_169_600;
const WEEKS: i64 = 28 * DAY;

static APRIL: LazyLock<Tape> = LazyLock::new(|| Tape::read(crate::EMBEDDED).unwrap());

fn icao(code: &str) -> Icao {
    code.parse().unwrap()
}

fn day(start: i64) -> RangeInclusive<i64> {
    start..=start + DAY - 1
}

/// One flight a row: icao24, departure, firstSeen, arrival, lastSeen; times in hours after `MONDAY`.
fn tape(flights: &[(&str, &str, i64, &str, i64)]) -> Tape {
    let line = |(icao24, from, first, to, last): &(&str, &str, i64, &str, i64)| {
        let (first, last) = (MONDAY + first * 3600, MONDAY + last * 3600);
        let flight = serde_json::json!({"icao24": icao24, "firstSeen": first, "estDepartureAirport": from,
            "lastSeen": last, "estArrivalAirport": to, "callsign": format!("C{icao24}")});
        format!("{flight}\n")
    };
    Tape::read(flights.iter().map(line).collect::<String>().as_bytes()).unwrap()
}

/// icao24, firstSeen and lastSeen in hours after `MONDAY`, of the flights at KJFK.
fn seen(tape: &Tape, direction: Direction, hours: RangeInclusive<i64>) -> Vec<(u32, i64, i64)> {
    let times = MONDAY + hours.start() * 3600..=MONDAY + hours.end() * 3600;
    let hours = |time: i64| (time - MONDAY) / 3600;
    let flights = tape.flights(icao("KJFK"), direction, times);
    flights.map(|f| (f.icao24, hours(f.first_seen), hours(f.last_seen))).collect()
}

#[test]
fn known_days_of_jfk() {
    let count = |direction, start| APRIL.flights(icao("KJFK"), direction, day(start)).count();
    assert_eq!(APRIL.length, 28 * DAY as u32);
    assert_eq!(count(Direction::Arrivals, MONDAY + DAY), 172);
    assert_eq!(count(Direction::Departures, MONDAY + DAY), 179);
    // 149 as recorded, and the 34 that land after the last midnight.
    assert_eq!(count(Direction::Arrivals, MONDAY), 183);
    assert_eq!(count(Direction::Departures, MONDAY), 180);
}

#[test]
fn a_turn_shows_each_flight_once_in_each_direction() {
    // Twenty-eight days that begin anywhere, here on a Thursday of 2026.
    let start = 1_792_022_400;
    assert_eq!((start - MONDAY) % DAY, 0);
    for direction in [Direction::Arrivals, Direction::Departures] {
        // How often each flight is still to be shown; two may be alike in everything.
        let mut missing = HashMap::<_, i32>::new();
        for flight in &APRIL.flights {
            let airport = |n: u16| APRIL.airports.get(usize::from(n)).copied();
            let key = (flight.icao24, flight.first_seen, airport(flight.departure), airport(flight.arrival));
            *missing.entry(key).or_default() += 1;
        }
        let days = (0..28).map(|n| day(start + n * DAY));
        for (airport, day) in
            days.flat_map(|day| APRIL.airports.iter().map(move |airport| (*airport, day.clone())))
        {
            for flight in APRIL.flights(airport, direction, day) {
                let first_seen = (flight.first_seen - MONDAY).rem_euclid(WEEKS) as u32;
                let key =
                    (flight.icao24, first_seen, flight.est_departure_airport, flight.est_arrival_airport);
                *missing.entry(key).or_default() -= 1;
            }
        }
        assert!(missing.values().all(|times| *times == 0), "{direction}");
    }
}

#[test]
fn any_date_shows_the_same_weekday() {
    let count = |start| APRIL.flights(icao("KORD"), Direction::Departures, day(start)).count();
    let weekday = |start: i64| (start / DAY).rem_euclid(7);
    // Before the recording, at the epoch, and far after it.
    for date in [0, 3 * DAY, 946_684_800, 1_792_022_400, 4_102_444_800] {
        let recorded = MONDAY + (date - MONDAY).rem_euclid(WEEKS);
        assert_eq!(weekday(date), weekday(recorded));
        assert_eq!(count(date), count(recorded));
    }
}

#[test]
fn flights_move_by_whole_turns_and_keep_their_duration() {
    let tape = tape(&[("f00001", "KJFK", 5, "KBOS", 7), ("f00002", "KBOS", 150, "KJFK", 152)]);
    let week = 7 * 24;
    for turn in [-2, -1, 0, 1, 1300] {
        let shift = turn * week;
        assert_eq!(
            seen(&tape, Direction::Departures, shift..=shift + week - 1),
            [(0xf00001, shift + 5, shift + 7)]
        );
        assert_eq!(
            seen(&tape, Direction::Arrivals, shift..=shift + week - 1),
            [(0xf00002, shift + 150, shift + 152)]
        );
    }
}

#[test]
fn a_flight_over_the_last_midnight_lands_on_the_first_day_of_the_next_turn() {
    let tape = tape(&[("f00001", "KBOS", 0, "KJFK", 3), ("f00002", "KBOS", 166, "KJFK", 170)]);
    // Hour 170 is hour 2 of the next turn; the same flight of the turn before lands at hour 2 of this one.
    assert_eq!(seen(&tape, Direction::Arrivals, 0..=23), [(0xf00002, -2, 2), (0xf00001, 0, 3)]);
    assert_eq!(seen(&tape, Direction::Arrivals, 168..=191), [(0xf00002, 166, 170), (0xf00001, 168, 171)]);
    // An interval over the seam is in order too.
    assert_eq!(seen(&tape, Direction::Arrivals, 160..=171), [(0xf00002, 166, 170), (0xf00001, 168, 171)]);
}

#[test]
fn both_ends_of_an_interval_belong_to_it() {
    let tape = tape(&[("f00001", "KJFK", 10, "KBOS", 12), ("f00002", "KBOS", 150, "KORD", 152)]);
    assert_eq!(seen(&tape, Direction::Departures, 10..=10).len(), 1);
    assert_eq!(seen(&tape, Direction::Departures, 8..=10).len(), 1);
    assert_eq!(seen(&tape, Direction::Departures, 10..=12).len(), 1);
    assert!(seen(&tape, Direction::Departures, 11..=20).is_empty());
    assert!(seen(&tape, Direction::Departures, RangeInclusive::new(12, 8)).is_empty());
    assert_eq!(tape.flights(icao("KSFO"), Direction::Arrivals, day(MONDAY)).count(), 0);
}

#[test]
fn days_beyond_whole_weeks_are_cut_off() {
    let rows = [("f00001", "KJFK", 0, "KBOS", 2), ("f00002", "KJFK", 160, "KBOS", 162)];
    let cut = tape(&[rows[0], rows[1], ("f00003", "KJFK", 180, "KBOS", 182)]);
    assert_eq!(seen(&cut, Direction::Departures, 0..=335).len(), 4);
    assert!(seen(&cut, Direction::Departures, 0..=335).iter().all(|(icao24, ..)| *icao24 != 0xf00003));
}

#[test]
fn less_than_a_week_is_no_tape() {
    let line = r#"{"icao24":"f00001","firstSeen":986169600,"lastSeen":986169601}"#;
    let complaint = |text: &str| Tape::read(text.as_bytes()).err().unwrap().to_string();
    assert_eq!(complaint(line), "flights on 1 UTC days; a tape needs at least one whole week");
    assert_eq!(complaint(""), "flights on 0 UTC days; a tape needs at least one whole week");
}

#[test]
fn a_flight_object_has_the_fields_of_opensky() {
    let tape = tape(&[("f00001", "KJFK", 5, "KBOS", 7), ("f00002", "KBOS", 150, "KORD", 152)]);
    let flights: Vec<_> = tape.flights(icao("KBOS"), Direction::Arrivals, day(MONDAY)).collect();
    assert_eq!(
        serde_json::to_string(&flights).unwrap(),
        "[{\"icao24\":\"f00001\",\"firstSeen\":986187600,\"estDepartureAirport\":\"KJFK\",\
         \"lastSeen\":986194800,\"estArrivalAirport\":\"KBOS\",\"callsign\":\"Cf00001\",\
         \"estDepartureAirportHorizDistance\":null,\"estDepartureAirportVertDistance\":null,\
         \"estArrivalAirportHorizDistance\":null,\"estArrivalAirportVertDistance\":null,\
         \"departureAirportCandidatesCount\":0,\"arrivalAirportCandidatesCount\":0}]"
    );
}

#[test]
fn the_embedded_recording_is_small_in_memory() {
    let entries = APRIL.flights.capacity() * size_of::<Entry>();
    let places: usize = APRIL
        .timetables
        .iter()
        .map(|t| (t.arrivals.capacity() + t.departures.capacity()) * size_of::<u32>())
        .sum();
    assert_eq!(APRIL.flights.len(), 467_473);
    assert_eq!(APRIL.airports.len(), 223);
    assert!(entries + places < 15_000_000, "{entries} + {places} bytes");
}
