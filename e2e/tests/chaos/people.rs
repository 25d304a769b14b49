//! Who wants to know what.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// Airports that have flights on every day of the recording.
const AIRPORTS: [&str; 50] = [
    "KORD", "KDFW", "KATL", "KLAX", "KPHX", "KSTL", "KDTW", "KMSP", "KBOS", "KLAS", "KIAH", "KCLT", "KDEN",
    "KEWR", "KLGA", "KPHL", "KSFO", "KPIT", "KMCO", "KBWI", "KSEA", "KDCA", "KSAN", "KMIA", "KSLC", "KSJC",
    "KTPA", "KCVG", "KJFK", "KOAK", "KMCI", "KHOU", "KCLE", "KMEM", "KFLL", "KBNA", "KPDX", "KIAD", "KMSY",
    "KMDW", "KDAL", "KAUS", "KSNA", "KSMF", "PHNL", "KCMH", "KIND", "KSAT", "KBDL", "KONT",
];
/// The mail server does not know addresses that begin so.
pub(crate) const UNKNOWN: &str = "unknown";
/// The mail server has no time for addresses that begin so, at first.
pub(crate) const BUSY: &str = "busy";
/// How many there are of either.
const OF_EITHER: usize = 2;
/// How many airports they watch.
const AIRPORTS_OF_EITHER: usize = 3;

/// Whom an alert goes to, and of which airport.
pub(crate) type Alert = (String, &'static str);

/// Somebody with an account.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) airports: Vec<&'static str>,
}

impl Person {
    fn alerts(&self) -> impl Iterator<Item = Alert> {
        self.airports.iter().map(|airport| (self.email.clone(), *airport))
    }
}

pub(crate) struct People {
    /// In the order in which they come.
    pub(crate) all: Vec<Person>,
    /// What has to be mailed.
    pub(crate) expected: BTreeSet<Alert>,
    /// What no mail server will ever take.
    pub(crate) undeliverable: BTreeSet<Alert>,
}

/// As many people as so many alerts need: about as many as airports, up to all of those.
pub(crate) fn people(alerts: usize, random: &mut StdRng) -> People {
    let airports = alerts.isqrt().clamp(AIRPORTS_OF_EITHER, AIRPORTS.len());
    let mut all = Vec::new();
    let mut add = |name: &str, number: usize, airports: usize| {
        let mut airports = AIRPORTS[..airports].to_vec();
        airports.shuffle(random);
        all.push(Person { email: format!("{name}{number}@example.com"), airports });
    };
    for number in 0..alerts.div_ceil(airports) {
        add("person", number, airports);
    }
    for number in 0..OF_EITHER {
        add(UNKNOWN, number, AIRPORTS_OF_EITHER);
        add(BUSY, number, AIRPORTS_OF_EITHER);
    }
    all.shuffle(random);
    let (unknown, known): (Vec<&Person>, Vec<&Person>) =
        all.iter().partition(|person| person.email.starts_with(UNKNOWN));
    let alerts = |people: Vec<&Person>| people.into_iter().flat_map(Person::alerts).collect();
    let (expected, undeliverable) = (alerts(known), alerts(unknown));
    People { all, expected, undeliverable }
}

/// The airport of that code.
pub(crate) fn airport(code: &str) -> Option<&'static str> {
    AIRPORTS.into_iter().find(|airport| *airport == code)
}
