//! What goes wrong.

use std::time::Duration;

use faults::tcp;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::servers::Server;

/// What can be befallen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) what: What,
    /// Whether it shows only while mails leave.
    pub(crate) has_to_do_with_mails: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// The service in this place.
    Service(usize),
    Server(Server),
    /// The way in this place.
    Path(usize),
    MailServer,
    Mood(Mood),
}

/// How the mail server can be without being away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mood {
    /// It takes some mails and tells nobody.
    TakesAndCuts,
    /// It takes its time.
    Slow,
    /// It has no time for somebody.
    Refuses,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// How long after the one before it begins.
    pub(crate) pause: Duration,
    /// How long it lasts; who was killed is started again after it.
    pub(crate) lasts: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    ServiceKilled(usize),
    ServerKilled(Server),
    Path(usize, tcp::Fault),
    MailServerAway,
    /// With so many mails, or recipients, or milliseconds.
    Mood(Mood, u32),
}

impl Target {
    /// Something that befalls it, by chance.
    pub(crate) fn fault(&self, random: &mut StdRng) -> Fault {
        let mut milliseconds = |range| Duration::from_millis(random.random_range(range));
        let (pause, lasts, away) = (milliseconds(200..2000), milliseconds(500..4000), milliseconds(0..2000));
        let (kind, lasts) = match self.what {
            What::Service(place) => (Kind::ServiceKilled(place), away),
            What::Server(server) => (Kind::ServerKilled(server), away),
            What::Path(place) => (Kind::Path(place, on_the_way(random)), lasts),
            What::MailServer => (Kind::MailServerAway, lasts),
            What::Mood(mood) => (Kind::Mood(mood, amount(mood, random)), lasts),
        };
        Fault { kind, pause, lasts }
    }
}

fn on_the_way(random: &mut StdRng) -> tcp::Fault {
    match random.random_range(0..6) {
        0 => tcp::Fault::Refuse,
        1 => tcp::Fault::Reset,
        2 => tcp::Fault::Swallow,
        3 => tcp::Fault::Delay(Duration::from_millis(random.random_range(20..300))),
        4 => tcp::Fault::Cut(random.random_range(0..2000)),
        _ => tcp::Fault::Mute,
    }
}

fn amount(mood: Mood, random: &mut StdRng) -> u32 {
    match mood {
        Mood::TakesAndCuts => random.random_range(1..6),
        Mood::Slow => random.random_range(100..2000),
        Mood::Refuses => 1,
    }
}
