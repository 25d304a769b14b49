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

/// A mail that was taken is recorded within this time, though the database be away.
const RECORD: Duration = Duration::from_secs(20);

/// Why a mail was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The mail server took it and never said so.
    Unanswered,
    /// The way to the mail server was disturbed, so the answer may not have arrived: by the disturbance of this number.
    Disturbed(usize),
    /// Whoever had sent it was killed, before it was written down: by the kill of this number.
    Killed(usize),
}

#[derive(Default)]
pub(crate) struct Ledger {
    counts: Mutex<BTreeMap<String, usize>>,
    /// Of those who send mails.
    kills: Mutex<Vec<Instant>>,
    /// Of the ways to the mail server, and of itself: from when to when.
    disturbances: Mutex<Vec<(Instant, Instant)>>,
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

    /// Until now, and since `began`, mails or the answers to them may have been lost.
    pub(crate) fn disturbed(&self, began: Instant) {
        self.disturbances.lock().unwrap().push((began, Instant::now()));
    }

    /// Why there is a copy of a mail that was taken before.
    pub(crate) fn cause(&self, earlier: &Taken, copy: &Taken) -> Option<Cause> {
        if !earlier.answered {
            return Some(Cause::Unanswered);
        }
        let disturbances = self.disturbances.lock().unwrap();
        let lost = |(began, ended): &(Instant, Instant)| {
            *began <= (earlier.at + ANSWER).min(copy.at) && earlier.at <= *ended + LATE
        };
        if let Some(number) = disturbances.iter().position(lost) {
            return Some(Cause::Disturbed(number));
        }
        let kills = self.kills.lock().unwrap();
        let unrecorded =
            |kill: &Instant| earlier.at <= *kill + LATE && *kill <= (earlier.at + RECORD).min(copy.at);
        kills.iter().position(unrecorded).map(Cause::Killed)
    }
}
