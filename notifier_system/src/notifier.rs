//! From a letter on the bus to a mail that the server has taken, or one that waits, or one in the dead topic.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::bus::{Consumer, Delivery, Failure, Record};
use common::clock::Clock;
use common::messages::Letter;
use common::retry::Backoff;
use common::telemetry::Metrics;
use futures::future::join_all;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::config::LimitArgs;
use crate::gate::{Gate, Pass};
use crate::in_hand::InHand;
use crate::mail::Composer;
use crate::mailer::{self, Mailer};
use crate::store::{Leave, Mail, Postponed, Source, Store};

/// How often the database is asked for mails that are due.
const LOOK: Duration = Duration::from_secs(1);
/// How long the database may take to record mails. A connection to it that hangs must not hold up the others.
const RECORD: Duration = Duration::from_secs(10);
/// Bytes of an id; ours have fewer than 100.
const LONGEST_ID: usize = 500;
/// A mail with which the connection broke so many times is parked.
const BROKEN: u32 = 3;

/// Sends letters. Clones share it.
#[derive(Clone)]
pub(crate) struct Notifier(Arc<Inner>);

struct Inner {
    store: Store,
    mailer: Mailer,
    composer: Composer,
    clock: Clock,
    gate: Gate,
    /// Mails on their way at once: a server that sees more connections from one client may send it away.
    places: Semaphore,
    in_hand: InHand,
    give_up: Duration,
    /// Buries what had been parked.
    consumer: Consumer,
    /// Something was parked.
    parked: Notify,
    /// Ids of mails that were taken and are not recorded yet.
    unrecorded: Mutex<Vec<String>>,
    recording: tokio::sync::Mutex<()>,
    sent: Counter,
    failed_recordings: Counter,
    waiting: Gauge,
}

/// What became of an attempt.
enum Outcome {
    Sent,
    /// It needs no sending any more, or not by us.
    Done(Leave),
    /// The server does not take it for now.
    NotNow(String),
    /// The server will never take it.
    Refused(String),
}

impl Notifier {
    pub(crate) fn new(
        store: Store,
        mailer: Mailer,
        composer: Composer,
        clock: Clock,
        consumer: Consumer,
        limits: &LimitArgs,
        metrics: &mut Metrics,
    ) -> Notifier {
        let (sent, failed_recordings, waiting) = (Counter::default(), Counter::default(), Gauge::default());
        metrics.register("sent_mails", "Mails that the server has taken", sent.clone());
        let help = "Attempts to record a sent mail that failed and are repeated";
        metrics.register("failed_recordings", help, failed_recordings.clone());
        let help = "Mails that wait in the database, over all replicas";
        metrics.register("parked_mails", help, waiting.clone());
        Notifier(Arc::new(Inner {
            store,
            mailer,
            composer,
            clock,
            gate: Gate::new(limits.mail_patience, metrics),
            places: Semaphore::new(limits.mail_connections as usize),
            in_hand: InHand::default(),
            give_up: limits.mail_give_up,
            consumer,
            parked: Notify::new(),
            unrecorded: Mutex::default(),
            recording: tokio::sync::Mutex::default(),
            sent,
            failed_recordings,
            waiting,
        }))
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Handles a letter of the bus: in the end it is sent, parked, or nobody wants it.
    pub(crate) async fn notify(self, delivery: Delivery<Letter>) -> Result<(), Failure> {
        let Delivery { message: letter, trace, origin, held } = delivery;
        // PostgreSQL has no text for the one, and no index for the other.
        if letter.id.contains('\0') || letter.id.len() > LONGEST_ID {
            let why = format!("the id has a NUL in it, or more than {LONGEST_ID} bytes");
            return Err(Failure::Reject(why));
        }
        let mail = Mail { letter, trace, origin };
        let Some(_hand) = held.run_until_cancelled(self.0.in_hand.take(&mail.letter.id)).await else {
            return Err(handed_back());
        };
        // Nothing of a mail that is not begun is lost when its partition is taken away, and one that is begun is finished.
        match self.attempt(&mail, Source::Bus, &held).await? {
            Some(Outcome::Sent | Outcome::Done(Leave::Sent)) => Ok(()),
            Some(Outcome::Done(Leave::Forgotten)) => {
                tracing::info!(id = mail.letter.id, "not sent: the account was deleted");
                Ok(())
            }
            Some(Outcome::Done(_)) => {
                self.0.parked.notify_one();
                Ok(())
            }
            Some(Outcome::NotNow(why)) => {
                let wait = self.0.store.park(&mail).await?;
                tracing::warn!(why, wait_s = wait.as_secs(), "the server does not take the mail for now");
                self.0.parked.notify_one();
                Ok(())
            }
            Some(Outcome::Refused(why)) => {
                self.0.store.release(&mail.letter.id).await?;
                Err(Failure::Reject(why))
            }
            None => Err(handed_back()),
        }
    }

    /// Tries parked mails when they are due, until cancelled.
    pub(crate) async fn retry_parked(self, token: CancellationToken) {
        while !token.is_cancelled() {
            let found = match self.retry_due(&token).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "parked mails cannot be looked at");
                    0
                }
            };
            if found == 0 {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = self.0.parked.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
    }

    /// Tries those that are due; says how many got further.
    async fn retry_due(&self, token: &CancellationToken) -> anyhow::Result<usize> {
        self.0.waiting.set(self.0.store.count_parked().await?);
        if self.0.waiting.get() == 0 {
            return Ok(0);
        }
        let due = self.0.store.due().await?;
        let tried = due.iter().map(|mail| {
            let span = tracing::info_span!("parked", request_id = %mail.trace.request_id);
            self.retry_one(mail, token).instrument(span)
        });
        let mut further = 0;
        for tried in join_all(tried).await {
            match tried {
                Ok(got) => further += usize::from(got),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "a parked mail waits on"),
            }
        }
        Ok(further)
    }

    /// Tries one; says whether it got further.
    async fn retry_one(&self, mail: &Mail, token: &CancellationToken) -> anyhow::Result<bool> {
        let Some(_hand) = token.run_until_cancelled(self.0.in_hand.take(&mail.letter.id)).await else {
            return Ok(false);
        };
        let buried = match self.attempt(mail, Source::Parking, token).await? {
            Some(Outcome::Sent | Outcome::Done(Leave::Sent | Leave::Forgotten)) => return Ok(true),
            Some(Outcome::Done(_)) | None => return Ok(false),
            Some(Outcome::Refused(why)) => why,
            Some(Outcome::NotNow(why)) => match self.0.store.postpone(mail, self.0.give_up).await? {
                Postponed::For(wait) => {
                    tracing::warn!(why, wait_s = wait.as_secs(), "the server does not take the mail for now");
                    return Ok(true);
                }
                Postponed::Gone => return Ok(true),
                Postponed::TooLong => {
                    format!("tried for {}, and then: {why}", humantime::format_duration(self.0.give_up))
                }
            },
        };
        let record = Record::of(&mail.letter, &mail.trace)?;
        self.0.consumer.bury_record(record, &mail.origin, &buried).await?;
        self.0.store.unpark(mail).await?;
        Ok(true)
    }

    /// Tries a mail until the server has said something about it, for as long as it is `held`; waits while nothing leaves.
    /// `None` when it is to be handed back before it was tried.
    async fn attempt(
        &self,
        mail: &Mail,
        source: Source,
        held: &CancellationToken,
    ) -> anyhow::Result<Option<Outcome>> {
        let Inner { store, mailer, composer, clock, .. } = &*self.0;
        let letter = &mail.letter;
        let composed = match composer.compose(letter, &mail.trace, clock.now()) {
            Ok(composed) => composed,
            Err(error) => return Ok(Some(Outcome::Refused(format!("no mail can be made of it: {error:#}")))),
        };
        let mut broken = 0;
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let Some(turn) = held.run_until_cancelled(self.turn()).await else { return Ok(None) };
            let (place, pass) = turn?;
            match store.begin(mail, source).await? {
                Leave::Send => {}
                Leave::Limited(wait) => {
                    pass.limited(wait);
                    continue;
                }
                other => return Ok(Some(Outcome::Done(other))),
            }
            let sent = mailer.send(&Composer::name(letter), &composed).await;
            // Servers repeat the address in what they answer.
            let masked = |why: String| why.replace(letter.email.as_str(), &letter.email.masked());
            match sent {
                Ok(()) => {
                    pass.answered();
                    self.record(&letter.id).await;
                    // Only now: while nothing can be recorded, nothing more is sent.
                    drop(place);
                    self.0.sent.inc();
                    tracing::info!(to = letter.email.masked(), subject = letter.subject, "sent");
                    return Ok(Some(Outcome::Sent));
                }
                Err(mailer::Failure::Everything(cause, why)) => {
                    pass.failed(cause, &masked(why));
                    store.release(&letter.id).await?;
                }
                Err(mailer::Failure::Broken(why)) => {
                    pass.answered();
                    broken += 1;
                    if broken == BROKEN {
                        return Ok(Some(Outcome::NotNow(masked(why))));
                    }
                    store.release(&letter.id).await?;
                    drop(place);
                    held.run_until_cancelled(tokio::time::sleep(backoff.next_wait())).await;
                }
                Err(mailer::Failure::NotNow(why)) => {
                    pass.answered();
                    return Ok(Some(Outcome::NotNow(masked(why))));
                }
                Err(mailer::Failure::Refused(why)) => {
                    pass.answered();
                    let why = format!("the server refuses the mail for good: {}", masked(why));
                    return Ok(Some(Outcome::Refused(why)));
                }
            }
        }
    }

    /// Waits for a place and for the gate. The lease comes after it: it must not run out while waiting here.
    async fn turn(&self) -> anyhow::Result<(SemaphorePermit<'_>, Pass)> {
        let place = self.0.places.acquire().await?;
        Ok((place, self.0.gate.pass().await))
    }

    /// Records that a mail was taken, however long the database is away: to give up would be to send it again. Whoever's turn it is
    /// records all that were taken meanwhile, in one transaction.
    async fn record(&self, id: &str) {
        self.unrecorded().push(id.to_owned());
        let _turn = self.0.recording.lock().await;
        let ids = std::mem::take(&mut *self.unrecorded());
        if ids.is_empty() {
            return;
        }
        // Tried often: when the database is back, this is to be known before another replica asks.
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        while let Err(error) = in_time(self.0.store.sent(&ids)).await {
            self.0.failed_recordings.inc();
            tracing::warn!(?ids, %error, "mails were sent, which cannot be recorded; trying again");
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    fn unrecorded(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.unrecorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn handed_back() -> Failure {
    Failure::Retry(anyhow::anyhow!("it is handed back"))
}

async fn in_time(recording: impl Future<Output = sqlx::Result<()>>) -> anyhow::Result<()> {
    Ok(tokio::time::timeout(RECORD, recording).await??)
}
