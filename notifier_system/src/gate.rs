//! The way out for all mails: closed while nothing leaves, so that a server in trouble is asked by one mail at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::retry::Backoff;
use common::telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why nothing leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// No connection, or none that holds.
    Away,
    /// No TLS, or a certificate that is not to be trusted.
    Tls,
    /// The login is refused.
    Login,
    /// The sender is refused.
    Sender,
    /// The server takes no more for now.
    Quota,
}

impl Cause {
    fn name(self) -> &'static str {
        match self {
            Cause::Away => "away",
            Cause::Tls => "tls",
            Cause::Login => "login",
            Cause::Sender => "sender",
            Cause::Quota => "quota",
        }
    }

    /// What only passes when somebody acts, or in hours, is tried rarely, first after `patience`: servers shut out those who
    /// insist.
    fn backoff(self, patience: Duration) -> Backoff {
        match self {
            Cause::Away => Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
            Cause::Tls | Cause::Login | Cause::Sender | Cause::Quota => {
                Backoff::new(patience, Duration::from_secs(1800).max(patience))
            }
        }
    }

    fn tell(self, why: &str, wait: Duration) {
        let wait_s = wait.as_secs_f64();
        match self {
            Cause::Away => tracing::warn!(why, wait_s, "the mail server cannot be used; mails wait"),
            Cause::Quota => tracing::warn!(why, wait_s, "the mail server takes no more for now; mails wait"),
            Cause::Login => tracing::error!(
                why,
                wait_s,
                "the mail server refuses the login: see MAIL_URL or GMAIL_USER and GMAIL_APP_PASSWORD; mails wait"
            ),
            Cause::Sender => {
                tracing::error!(why, wait_s, "the mail server refuses the sender: see MAIL_FROM; mails wait");
            }
            Cause::Tls => tracing::error!(
                why,
                wait_s,
                "no secure connection to the mail server: see MAIL_URL; mails wait"
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    cause: &'static str,
}

/// The gate. Clones share it.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    /// `None` is open.
    closed: Mutex<Option<Closed>>,
    changed: Notify,
    patience: Duration,
    failures: Family<Labels, Counter>,
    stopped: Gauge,
}

struct Closed {
    until: Instant,
    /// The trial, after which it is decided anew.
    trying: bool,
    failing: Option<(Cause, Backoff)>,
}

impl Gate {
    /// Closed until the first mail has found a server that answers. `patience` is the first wait after a refused login and the
    /// like.
    pub(crate) fn new(patience: Duration, metrics: &mut Metrics) -> Gate {
        let (failures, stopped) = (Family::default(), Gauge::default());
        metrics.register("failed_attempts", "Attempts that ended because nothing leaves", failures.clone());
        metrics.register(
            "stopped",
            "1 while mails wait for the server or for a limit, else 0",
            stopped.clone(),
        );
        let closed = Mutex::new(Some(Closed { until: Instant::now(), trying: false, failing: None }));
        Gate(Arc::new(Inner { closed, changed: Notify::new(), patience, failures, stopped }))
    }

    /// Waits until it is this mail's turn to try.
    pub(crate) async fn pass(&self) -> Pass {
        loop {
            let changed = self.0.changed.notified();
            let until = match &mut *self.closed() {
                None => return Pass { gate: self.clone(), trial: false },
                Some(closed) if !closed.trying && closed.until <= Instant::now() => {
                    closed.trying = true;
                    return Pass { gate: self.clone(), trial: true };
                }
                Some(closed) if closed.trying => None,
                Some(closed) => Some(closed.until),
            };
            match until {
                // Whoever changes it while this is being set up has not been missed: `changed` was made before the look.
                None => changed.await,
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, changed).await;
                }
            }
        }
    }

    fn closed(&self) -> MutexGuard<'_, Option<Closed>> {
        self.0.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what there is, and tells those who wait.
    fn change(&self, change: impl FnOnce(Option<Closed>) -> Option<Closed>) {
        let mut closed = self.closed();
        *closed = change(closed.take());
        self.0.stopped.set(i64::from(closed.is_some()));
        drop(closed);
        self.0.changed.notify_waiters();
    }
}

/// Leave to try one mail. Dropped without a verdict it changes nothing.
pub(crate) struct Pass {
    gate: Gate,
    /// The gate is closed, and this is the one that finds out whether it can be opened.
    trial: bool,
}

impl Pass {
    /// The server has answered about this mail.
    pub(crate) fn answered(mut self) {
        if std::mem::take(&mut self.trial) {
            if self.gate.0.stopped.get() == 1 {
                tracing::info!("mails leave again");
            }
            self.gate.change(|_| None);
        }
    }

    /// Nothing leaves, for this reason.
    pub(crate) fn failed(mut self, cause: Cause, why: &str) {
        self.gate.0.failures.get_or_create(&Labels { cause: cause.name() }).inc();
        let trial = std::mem::take(&mut self.trial);
        let patience = self.gate.0.patience;
        self.gate.change(|before| {
            let mut backoff = match before {
                // This one was under way when another closed the gate.
                Some(other) if !trial => return Some(other),
                Some(Closed { failing: Some((same, backoff)), .. }) if same == cause => backoff,
                _ => cause.backoff(patience),
            };
            let wait = backoff.next_wait();
            cause.tell(why, wait);
            Some(Closed { until: Instant::now() + wait, trying: false, failing: Some((cause, backoff)) })
        });
    }

    /// A limit is reached; there is room again in so long. What fails besides is not forgotten.
    pub(crate) fn limited(mut self, wait: Duration) {
        self.trial = false;
        tracing::info!(wait_s = wait.as_secs(), "the limit of mails is reached; mails wait");
        let until = Instant::now() + wait;
        self.gate.change(|before| {
            let (until, failing) = match before {
                Some(closed) if closed.failing.is_some() => (until.max(closed.until), closed.failing),
                _ => (until, None),
            };
            Some(Closed { until, trying: false, failing })
        });
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.trial {
            if let Some(closed) = self.gate.closed().as_mut() {
                closed.trying = false;
            }
            self.gate.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new(Duration::from_secs(60), &mut Metrics::new("test", "one"))
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_closed_one_mail_at_a_time_tries() {
        let gate = gate();
        gate.pass().await.answered();
        let (first, second) = (gate.pass().await, gate.pass().await);
        first.failed(Cause::Away, "refused");
        // It was under way, and says nothing new.
        second.failed(Cause::Away, "refused");
        let began = Instant::now();
        let trial = gate.pass().await;
        assert!(
            began.elapsed() >= Duration::from_millis(250) && began.elapsed() <= Duration::from_millis(500)
        );
        let mut next = Box::pin(gate.pass());
        assert!(futures::poll!(next.as_mut()).is_pending(), "one trial at a time");
        // Taken away without a verdict, it leaves its place to the next.
        drop(trial);
        let trial = next.await;
        trial.answered();
        gate.pass().await.answered();
        assert_eq!(gate.0.stopped.get(), 0);
    }

    #[tokio::test]
    async fn the_first_mail_of_all_is_a_trial() {
        let gate = gate();
        let first = gate.pass().await;
        let mut second = Box::pin(gate.pass());
        assert!(futures::poll!(second.as_mut()).is_pending());
        first.answered();
        second.await.answered();
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_fails_doubles_the_wait_and_another_cause_begins_anew() {
        let gate = gate();
        gate.pass().await.failed(Cause::Login, "535");
        for (cause, least, most) in [(Cause::Login, 30, 60), (Cause::Login, 60, 120), (Cause::Away, 120, 240)]
        {
            let began = Instant::now();
            let trial = gate.pass().await;
            let waited = began.elapsed().as_secs();
            assert!((least..=most).contains(&waited), "{cause:?}: {waited} s");
            trial.failed(cause, "again");
        }
        let began = Instant::now();
        gate.pass().await.answered();
        assert!(began.elapsed() <= Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_is_waited_for_without_a_failure() {
        let gate = gate();
        gate.pass().await.limited(Duration::from_secs(30));
        let began = Instant::now();
        gate.pass().await.answered();
        assert_eq!(began.elapsed().as_secs(), 30);
        assert_eq!(gate.0.failures.get_or_create(&Labels { cause: "away" }).get(), 0);
    }
}
