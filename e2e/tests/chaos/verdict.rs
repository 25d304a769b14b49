//! Whether every alert was mailed, and every copy is accounted for.

use std::collections::{BTreeMap, BTreeSet};

use common::messages::Letter;
use faults::smtp::Taken;

use crate::ledger::{Cause, Ledger};
use crate::people::{Alert, airport};

/// The alert that a mail is.
fn alert(mail: &Taken) -> Option<Alert> {
    let subject = mail.subject();
    let (code, _) = subject.split_once(':')?;
    Some((mail.to.clone(), airport(code)?))
}

/// Those that were not mailed yet.
pub(crate) fn missing(expected: &BTreeSet<Alert>, taken: &[Taken]) -> Vec<Alert> {
    let mailed: BTreeSet<Alert> = taken.iter().filter_map(alert).collect();
    expected.difference(&mailed).cloned().collect()
}

/// Nothing was mailed that nobody expects, every mail has an id of its own, a copy that of the first, and a cause. Gives
/// how many copies there are of which cause.
pub(crate) fn mails_are_right(
    expected: &BTreeSet<Alert>,
    taken: &[Taken],
    ledger: &Ledger,
) -> BTreeMap<&'static str, usize> {
    let mut by_alert: BTreeMap<Alert, Vec<&Taken>> = BTreeMap::new();
    for mail in taken {
        let told = alert(mail).filter(|alert| expected.contains(alert));
        let told = told.unwrap_or_else(|| panic!("nobody expects '{}' to {}", mail.subject(), mail.to));
        by_alert.entry(told).or_default().push(mail);
    }
    let mut ids = BTreeMap::new();
    let mut causes: BTreeMap<Cause, usize> = BTreeMap::new();
    for (alert, mails) in &by_alert {
        for mail in mails {
            let id = mail.message_id();
            assert!(!id.is_empty(), "a mail to {} has no Message-ID", mail.to);
            assert_eq!(mails[0].message_id(), id, "a copy for {alert:?} is another mail");
            let first = *ids.entry(id).or_insert(alert);
            assert_eq!(first, alert, "they share a Message-ID");
        }
        for pair in mails.windows(2) {
            let cause = ledger.cause(pair[0], pair[1]);
            let between = pair[1].at - pair[0].at;
            let cause =
                cause.unwrap_or_else(|| panic!("{alert:?}: a copy after {between:?} without a cause"));
            *causes.entry(cause).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    for (cause, count) in causes {
        let most = match cause {
            Cause::Killed => ledger.most_killed(),
            Cause::Disturbed => ledger.most_disturbed(),
            Cause::Unanswered => usize::MAX,
        };
        assert!(count <= most, "{count} copies {}", cause.name());
        *counts.entry(cause.name()).or_default() += count;
    }
    counts
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Unanswered => "without an answer",
            Cause::Disturbed => "with the way disturbed",
            Cause::Killed => "after a kill",
        }
    }
}

/// The dead letters are those that no mail server takes, each under one id. What befalls others than the mail server may
/// bring a batch of which nothing was committed once more, and with it a copy of each dead letter in it: the bound is wide.
/// Gives how many copies there are.
pub(crate) fn dead_letters_are_right(
    undeliverable: &BTreeSet<Alert>,
    dead: &[Vec<u8>],
    ledger: &Ledger,
) -> usize {
    let mut letters: BTreeMap<String, (Alert, usize)> = BTreeMap::new();
    for payload in dead {
        let letter: Letter = serde_json::from_slice(payload).unwrap();
        let told = letter.alert.as_ref().and_then(|told| airport(told.airport.as_str()));
        let told = told.map(|airport| (letter.email.as_str().to_owned(), airport));
        let told = told.filter(|alert| undeliverable.contains(alert));
        let told = told.unwrap_or_else(|| panic!("'{}' is dead", letter.subject));
        letters.entry(letter.id).or_insert((told, 0)).1 += 1;
    }
    let alerts: BTreeSet<&Alert> = letters.values().map(|(alert, _)| alert).collect();
    let missing: Vec<&Alert> = undeliverable.iter().filter(|alert| !alerts.contains(alert)).collect();
    assert!(missing.is_empty(), "not in the dead topic: {missing:?}");
    assert_eq!(letters.len(), alerts.len(), "an alert is dead under two ids: {:?}", letters.keys());
    let counts = ledger.counts();
    let others = counts.iter().filter(|(what, _)| !what.contains("mail server"));
    let most = 1 + others.map(|(_, count)| count).sum::<usize>();
    assert!(
        letters.values().all(|(_, times)| *times <= most),
        "more often dead than {most} times: {letters:?}"
    );
    dead.len() - letters.len()
}
