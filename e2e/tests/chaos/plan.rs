//! How much there is to do, how much goes wrong, and how long it may take.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use crate::fault::{Fault, Target};
use crate::people::{People, people};

/// A number that the environment may set.
fn given(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn size(variable: &str, otherwise: u64) -> u64 {
    given(variable).unwrap_or(otherwise)
}

/// The seeds of the runs, one after another.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let first = size("CHAOS_SEED", u64::from(rand::rng().random::<u32>()));
    first..first + size("CHAOS_SEEDS", 1)
}

/// What one run has before it.
pub(crate) struct Plan {
    pub(crate) people: People,
    pub(crate) bound: Bound,
    /// Each target once unless something else is asked for.
    faults: Option<usize>,
    random: StdRng,
    _seed: Seed,
}

impl Plan {
    pub(crate) async fn new(seed: u64) -> Plan {
        eprintln!("CHAOS_SEED={seed}");
        let minutes = size("CHAOS_MINUTES", 10);
        // The alerts are those of the day before today, and today must not end meanwhile.
        e2e::away_from_midnight_by((minutes * 60 + 60).cast_signed()).await;
        let mut random = StdRng::seed_from_u64(seed);
        Plan {
            people: people(size("CHAOS_ALERTS", 300) as usize, &mut random),
            bound: Bound { seed, minutes, end: Instant::now() + Duration::from_secs(minutes * 60) },
            faults: given("CHAOS_FAULTS").map(|faults| faults as usize),
            random,
            _seed: Seed(seed),
        }
    }

    /// How long the mail server takes over a mail. Where there are few it takes its time, so that there are mails on their
    /// way when something goes wrong.
    pub(crate) fn latency(&self) -> Duration {
        Duration::from_millis(if self.people.expected.len() < 1000 { 150 } else { 0 })
    }

    /// What goes wrong while the alerts are asked for, and what while mails leave: each target in its turn, in an order by
    /// chance, as often as there are faults for. Where letters wait at first nobody is befallen early who has to do with
    /// mails.
    pub(crate) fn faults(&mut self, targets: &[Target], letters_wait: bool) -> [Vec<Fault>; 2] {
        let (mut drawn, count) = (Vec::new(), self.faults.unwrap_or(targets.len()));
        while drawn.len() < count {
            let mut round = targets.to_vec();
            round.shuffle(&mut self.random);
            drawn.extend(round);
        }
        drawn.truncate(count);
        let (mut late, mut early): (Vec<Target>, Vec<Target>) =
            drawn.into_iter().partition(|target| !letters_wait || target.has_to_do_with_mails);
        late.extend(early.split_off(early.len().min(count / 3)));
        late.shuffle(&mut self.random);
        [early, late].map(|targets| targets.iter().map(|target| target.fault(&mut self.random)).collect())
    }
}

/// Names the seed again when a run fails, whatever of.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it failed with CHAOS_SEED={}", self.0);
        }
    }
}

/// When a run has taken too long.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    seed: u64,
    minutes: u64,
    end: Instant,
}

impl Bound {
    /// Fails when the time is over, and says what is missing.
    pub(crate) fn check(&self, missing: &str) {
        let Bound { seed, minutes, .. } = self;
        assert!(!self.is_over(), "CHAOS_SEED={seed}: after {minutes} minutes there is missing: {missing}");
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Waits until nothing is missing.
    pub(crate) async fn until_nothing(&self, mut is_missing: impl AsyncFnMut() -> Option<String>) {
        while let Some(missing) = is_missing().await {
            self.check(&missing);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
