//! What the topics are filled with.

use common::bus::Bus;
use common::clock::{DAY, rfc3339};
use common::messages::{Alert, Letter, Message, PreviousCounts, WatchingUser, WindowCounted};
use common::signed::{Signer, fresh_secret};
use common::trace::Trace;
use common::types::{Account, Condition, Icao, Metric, Notify};

/// The busiest of the recording that opensky_replay plays.
pub(crate) const AIRPORTS: [&str; 50] = [
    "KORD", "KDFW", "KATL", "KLAX", "KPHX", "KSTL", "KDTW", "KMSP", "KBOS", "KLAS", "KIAH", "KCLT", "KDEN",
    "KEWR", "KLGA", "KPHL", "KSFO", "KPIT", "KMCO", "KBWI", "KSEA", "KDCA", "KSAN", "KMIA", "KSLC", "KSJC",
    "KTPA", "KCVG", "KJFK", "KOAK", "KMCI", "KHOU", "KCLE", "KMEM", "KFLL", "KBNA", "KPDX", "KIAD", "KMSY",
    "KMDW", "KDAL", "KAUS", "KSNA", "KSMF", "KCMH", "KIND", "KSAT", "KBDL", "KONT", "KABQ",
];
/// One interest of so many has a threshold that is crossed.
pub(crate) const ONE_IN: usize = 100;
/// The first window, a midnight.
const BEGIN: i64 = 986_256_000;
const HISTORY: [i64; 14] = [312, 329, 351, 347, 350, 339, 359, 346, 355, 331, 328, 344, 360, 331];
/// Messages that are published together.
const TOGETHER: usize = 50;

/// Publishes all, in order.
pub(crate) async fn fill<M: Message>(
    bus: &Bus,
    mut messages: impl Iterator<Item = anyhow::Result<M>>,
) -> anyhow::Result<()> {
    loop {
        let some = messages.by_ref().take(TOGETHER).collect::<anyhow::Result<Vec<M>>>()?;
        if some.is_empty() {
            return Ok(());
        }
        let records = some.iter().map(|message| common::bus::Record::of(message, &Trace::start()));
        let published = bus.publish(records.collect::<Result<_, _>>()?).await;
        published.into_iter().collect::<Result<(), _>>()?;
    }
}

/// Counted windows of all airports in turn, day after day, each with the same number of interests.
pub(crate) struct Windows {
    watched: Vec<(Icao, Vec<WatchingUser>)>,
    users: usize,
}

impl Windows {
    pub(crate) fn new(users: usize) -> anyhow::Result<Windows> {
        let signer = Signer::new(&fresh_secret()?)?;
        let watched = AIRPORTS.iter().enumerate().map(|(n, airport)| {
            let airport = airport.parse()?;
            let users = (0..users).map(|place| watching(n * users + place, airport, &signer));
            Ok((airport, users.collect::<anyhow::Result<_>>()?))
        });
        Ok(Windows { watched: watched.collect::<anyhow::Result<_>>()?, users })
    }

    /// The `n`th message.
    pub(crate) fn nth(&self, n: usize) -> anyhow::Result<WindowCounted> {
        let (airport, users) = &self.watched[n % self.watched.len()];
        let window_begin = BEGIN + DAY * i64::try_from(n / self.watched.len())?;
        let mut users = users.clone();
        for (place, user) in users.iter_mut().enumerate() {
            if is_crossed(n * self.users + place) {
                user.high_value = Some(150);
            }
        }
        Ok(WindowCounted {
            id: format!("{airport}/{}/24h/0", rfc3339(window_begin)),
            airport: *airport,
            airport_name: Some(format!("Airport of {airport}")),
            window_begin,
            window_end: window_begin + DAY,
            arrival_count: 164,
            departure_count: 167,
            previous: Some(PreviousCounts { arrival_count: 180, departure_count: 175 }),
            history: HISTORY.to_vec(),
            users,
        })
    }
}

/// One of each [`ONE_IN`] interests that follow each other, not always at the same airport.
fn is_crossed(interest: usize) -> bool {
    (interest + interest / ONE_IN).is_multiple_of(ONE_IN)
}

/// An interest whose thresholds nothing crosses.
fn watching(person: usize, airport: Icao, signer: &Signer) -> anyhow::Result<WatchingUser> {
    let account = Account::new_random();
    Ok(WatchingUser {
        account: Some(account),
        email: format!("p{person}@example.com").parse()?,
        high_value: Some(400),
        low_value: Some(0),
        metric: [Metric::Total, Metric::Arrivals, Metric::Departures][person % 3],
        notify: Notify::EveryWindow,
        unsubscribe: Some(signer.sign(&format!("{account}.{airport}"))),
    })
}

/// Alerts to as many people, as alert_system words them.
pub(crate) struct Letters(Signer);

impl Letters {
    pub(crate) fn new() -> anyhow::Result<Letters> {
        Ok(Letters(Signer::new(&fresh_secret()?)?))
    }

    /// The letter to the `n`th person.
    pub(crate) fn nth(&self, n: usize) -> anyhow::Result<Letter> {
        let (account, airport) = (Account::new_random(), AIRPORTS[n % AIRPORTS.len()]);
        let unsubscribe = self.0.sign(&format!("{account}.{airport}"));
        let crossed = "331 flights, above your high threshold of 150";
        Ok(Letter {
            id: format!("{account}/{airport}/total/{}/86400/high", rfc3339(BEGIN)),
            account: Some(account),
            email: format!("p{n}@example.com").parse()?,
            subject: format!("{airport}: {crossed}"),
            body: format!(
                "Airport of {airport} ({airport}) had {crossed}.\n\n\
                 Window:      2001-04-03 00:00 to 2001-04-04 00:00 UTC\n\
                 Arrivals:    164\nDepartures:  167\nTotal:       331\n\n\
                 Change your thresholds: PATCH https://localhost:8443/data_collector/interests/{airport}\n\
                 No more of these mails: https://localhost:8443/data_collector/unsubscribe?token={unsubscribe}\n"
            ),
            alert: Some(Alert {
                airport: airport.parse()?,
                condition: Condition::High,
                metric: Metric::Total,
                value: 331,
                threshold: 150,
                window_begin: BEGIN,
                window_end: BEGIN + DAY,
                history: HISTORY.to_vec(),
            }),
            unsubscribe: Some(unsubscribe),
        })
    }
}
