//! What went wrong, and when: by it a copy is accounted for.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use faults::smtp::Taken;

/// A mail may be taken so long after whoever sent it was killed, or what cut it off was over: the mail server is slow, and
/// so are delays on the way.
const LATE: Duration = Duration::from_secs(5);
/// A lost answer to a mail is lost within this time.
const ANSWER: Duration = Duration::from_secs(10);

/// What somebody who sends mails may have in hand: MAIL_CONNECTIONS, of which each is given back only when its mail is recorded.
pub(crate) const MOST_IN_HAND: usize = 4;
/// A mail that was taken is recorded within this time, though the database be away.
const RECORD: Duration = Duration::from_secs(20);

/// Why a mail was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The mail server took it and never said so.
    Unanswered,
    /// The way to the mail server was disturbed, so the answer may not have arrived.
    Disturbed,
    /// Whoever had sent it was killed, before it was written down.
    Killed,
}

#[derive(Default)]
pub(crate) struct Ledger {
    counts: Mutex<BTreeMap<String, usize>>,
    /// Of those who send mails.
    kills: Mutex<Vec<Instant>>,
    /// Of the ways to the mail server, and of itself.
    disturbances: Mutex<Vec<Disturbance>>,
}

struct Disturbance {
    began: Instant,
    ended: Instant,
    /// Connections that it may have cost, each with the answer to one mail at most.
    connections: usize,
}

impl Ledger {
    /// How often what went wrong.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.counts.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, what: String) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    /// Somebody who sends mails is killed now.
    pub(crate) fn kill(&self) {
        self.kills.lock().unwrap().push(Instant::now());
    }

    /// Until now, and since `began`, the answers to mails may have been lost, one on each of so many connections.
    pub(crate) fn disturbed(&self, began: Instant, connections: usize) {
        self.disturbances.lock().unwrap().push(Disturbance { began, ended: Instant::now(), connections });
    }

    /// How many mails all killed together may have had in hand.
    pub(crate) fn most_killed(&self) -> usize {
        MOST_IN_HAND * self.kills.lock().unwrap().len()
    }

    /// How many answers all disturbances together may have cost.
    pub(crate) fn most_disturbed(&self) -> usize {
        self.disturbances.lock().unwrap().iter().map(|disturbance| disturbance.connections).sum()
    }

    /// Why there is a copy of a mail that was taken before.
    pub(crate) fn cause(&self, earlier: &Taken, copy: &Taken) -> Option<Cause> {
        if !earlier.answered {
            return Some(Cause::Unanswered);
        }
        let disturbances = self.disturbances.lock().unwrap();
        let lost = |Disturbance { began, ended, .. }: &Disturbance| {
            *began <= (earlier.at + ANSWER).min(copy.at) && earlier.at <= *ended + LATE
        };
        if disturbances.iter().any(lost) {
            return Some(Cause::Disturbed);
        }
        let kills = self.kills.lock().unwrap();
        let unrecorded =
            |kill: &Instant| earlier.at <= *kill + LATE && *kill <= (earlier.at + RECORD).min(copy.at);
        kills.iter().any(unrecorded).then_some(Cause::Killed)
    }
}
