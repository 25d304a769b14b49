//! Access tokens: opaque, in memory, for a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::clock::Clock;
use rand::distr::{Alphanumeric, SampleString};
use secrecy::ExposeSecret;

use crate::config::Client;
use crate::lock;

/// Tokens held at once; a further one ends the oldest.
const CAPACITY: usize = 10_000;

/// The clients that may fetch tokens, and the tokens they hold.
pub(crate) struct Tokens {
    /// Empty: any client may.
    clients: Vec<Client>,
    lifetime: Duration,
    issued: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    grants: HashMap<Arc<str>, Grant>,
    /// Oldest first.
    order: VecDeque<Arc<str>>,
}

struct Grant {
    client: Arc<str>,
    /// By the clock, Unix seconds.
    since: i64,
}

impl Tokens {
    /// No tokens yet; they will be good for `lifetime` of real time.
    pub(crate) fn new(clients: Vec<Client>, lifetime: Duration) -> Tokens {
        Tokens { clients, lifetime, issued: Mutex::default() }
    }

    /// How long a token is good for, in real time.
    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// A token for the client; none if the secret is not its own.
    pub(crate) fn issue(&self, id: &str, secret: &str, clock: &Clock) -> Option<Arc<str>> {
        let known = |client: &Client| client.id == id && client.secret.expose_secret() == secret;
        if !self.clients.is_empty() && !self.clients.iter().any(known) {
            return None;
        }
        let token: Arc<str> = Alphanumeric.sample_string(&mut rand::rng(), 64).into();
        let mut issued = lock(&self.issued);
        if issued.order.len() == CAPACITY
            && let Some(oldest) = issued.order.pop_front()
        {
            issued.grants.remove(&oldest);
        }
        issued.grants.insert(token.clone(), Grant { client: id.into(), since: clock.now() });
        issued.order.push_back(token.clone());
        Some(token)
    }

    /// Whose token it is; none if it is unknown or has expired.
    pub(crate) fn client(&self, token: &str, clock: &Clock) -> Option<Arc<str>> {
        let issued = lock(&self.issued);
        let grant = issued.grants.get(token)?;
        let age = u64::try_from(clock.now() - grant.since).unwrap_or(0);
        (clock.real(Duration::from_secs(age)) < self.lifetime).then(|| grant.client.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_further_token_ends_the_oldest() {
        let (clock, _) = Clock::manual(0);
        let tokens = Tokens::new(Vec::new(), Duration::from_secs(60));
        let issue = || tokens.issue("id", "secret", &clock).unwrap();
        let (oldest, second) = (issue(), issue());
        for _ in 2..=CAPACITY {
            issue();
        }
        assert_eq!(tokens.client(&oldest, &clock), None);
        assert_eq!(tokens.client(&second, &clock).as_deref(), Some("id"));
    }

    #[test]
    fn a_clock_that_runs_faster_does_not_age_a_token() {
        let tokens = Tokens::new(Vec::new(), Duration::from_secs(3600));
        let clock = Clock::scaled(0, 4320);
        let token = tokens.issue("id", "secret", &clock).unwrap();
        // Ten days later by the clock, 200 s later in fact.
        lock(&tokens.issued).grants.get_mut(&token).unwrap().since -= 10 * 86_400;
        assert!(tokens.client(&token, &clock).is_some());
    }
}
