//! A consumer and its thread.
//!
//! The thread polls whatever the service is doing: a long backoff is no eviction. A partition that is taken away is given
//! back when what is in flight of it is done and committed.

use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{as_record, list_of};
use crate::bus::{Envelope, Error, Position};

/// How long a partition that is taken away waits for the whole batch in hand. What of a key is done behind a message that is
/// not would be handled again by the next who has the partition.
const FINISH: Duration = Duration::from_secs(5);
/// How long it then waits, from the beginning, for what is in flight.
const HAND_BACK: Duration = Duration::from_secs(30);
/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(2);
/// How long is waited for a command that is near, and for records when there is nothing to do.
const SOON: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_millis(50);
/// How long a poll may wait when enough is ready; a rebalance is noticed only then.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records kept ready; beyond them nothing is polled, and after a while the partitions are paused.
const READY: usize = 2000;
/// And payload bytes: a message for a thousand users has some hundred thousand.
const READY_BYTES: usize = 16 << 20;

/// The async side of a consumer's thread.
pub(in crate::bus) struct Reader {
    commands: Sender<Command>,
    ended: oneshot::Receiver<()>,
}

enum Command {
    Next { most: usize, reply: oneshot::Sender<Vec<Envelope>> },
    Commit { positions: Vec<Position>, reply: oneshot::Sender<Result<(), KafkaError>> },
}

impl Reader {
    /// Joins the group and starts the thread. What it reads is held until `token` is cancelled, or its partition is taken
    /// away.
    pub(super) fn start(
        config: &ClientConfig,
        topic: &str,
        token: &CancellationToken,
    ) -> Result<Reader, Error> {
        let (commands, inbox) = channel();
        let hand = Arc::new(Hand(Mutex::new(State {
            inbox,
            ready: VecDeque::new(),
            bytes: 0,
            wanted: None,
            batch_out: false,
            paused: false,
            full_since: None,
            closed: false,
            topic: topic.to_owned(),
            lost: Vec::new(),
            token: token.clone(),
            held: HashMap::new(),
        })));
        let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks(hand.clone()))?;
        consumer.subscribe(&[topic])?;
        let thread = std::thread::Builder::new().name(format!("kafka-{topic}"));
        let (end, ended) = oneshot::channel();
        // Detached: it ends when the reader's command channel closes.
        let poll = move || {
            hand.poll_until_closed(&consumer);
            // Leaves the group.
            drop(consumer);
            let _ = end.send(());
        };
        thread.spawn(poll).map_err(|_| Error::Stopped)?;
        Ok(Reader { commands, ended })
    }

    pub(in crate::bus) async fn next(&mut self, most: usize) -> Result<Vec<Envelope>, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Next { most, reply }).map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    pub(in crate::bus) async fn commit(&mut self, positions: &[Position]) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Commit { positions: positions.to_vec(), reply })
            .map_err(|_| Error::Stopped)?;
        Ok(answer.await.map_err(|_| Error::Stopped)??)
    }

    /// Leaves the group, if the broker answers in time. A process that ended before that would keep its partitions
    /// until its session has run out, and its successor would wait.
    pub(in crate::bus) async fn close(self) {
        drop(self.commands);
        let _ = tokio::time::timeout(LEAVE, self.ended).await;
    }
}

/// The thread's side, shared with the rebalance callback (which runs on that thread, inside a poll).
struct Hand(Mutex<State>);

struct State {
    inbox: Receiver<Command>,
    ready: VecDeque<Envelope>,
    /// Of the payloads that are ready.
    bytes: usize,
    wanted: Option<(usize, oneshot::Sender<Vec<Envelope>>)>,
    batch_out: bool,
    paused: bool,
    full_since: Option<Instant>,
    closed: bool,
    topic: String,
    /// Partitions of the batch that is out that were given back before it was done.
    lost: Vec<i32>,
    /// The reader's.
    token: CancellationToken,
    /// By partition: cancelled when it is taken away.
    held: HashMap<i32, CancellationToken>,
}

/// The callback's view of the [`Hand`].
struct Callbacks(Arc<Hand>);

impl ClientContext for Callbacks {}

impl ConsumerContext for Callbacks {
    /// Before partitions are given back: forgets what was read ahead of them, and lets the batch in hand finish; one that
    /// takes long ends with what is in flight. What is done is committed.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Callbacks>, rebalance: &Rebalance<'_>) {
        let mut state = self.0.state();
        // A partition that was paused would be so for good when it comes back.
        if std::mem::take(&mut state.paused)
            && let Err(error) = consumer.assignment().and_then(|all| consumer.resume(&all))
        {
            tracing::warn!(%error, "paused partitions cannot be resumed");
        }
        state.full_since = None;
        let Rebalance::Revoke(partitions) = rebalance else { return };
        state.ready.retain(|envelope| {
            partitions.find_partition(&envelope.record.topic, envelope.partition).is_none()
        });
        state.bytes = size(&state.ready);
        let began = Instant::now();
        let mut recalled = false;
        while state.batch_out && !state.closed && began.elapsed() < HAND_BACK {
            if !recalled && began.elapsed() > FINISH {
                state.recall(partitions);
                recalled = true;
            }
            state.obey(consumer, Duration::from_millis(100));
        }
        state.recall(partitions);
        if state.batch_out {
            state.lost.extend(partitions.elements().iter().map(|partition| partition.partition()));
        }
    }
}

impl Hand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads ahead and obeys the reader until the reader is gone or the consumer has failed for good. The lock is never held
    /// during a poll.
    fn poll_until_closed(&self, consumer: &BaseConsumer<Callbacks>) {
        let mut trouble = Trouble::default();
        while !self.state().closed && consumer.client().fatal_error().is_none() {
            // Paused, a poll gives nothing, but it is what Kafka sees of a consumer that lives.
            while !self.state().is_full_and_reads_on() {
                let Some(polled) = consumer.poll(Duration::ZERO) else { break };
                self.take(polled, &mut trouble);
            }
            let mut state = self.state();
            while state.obey(consumer, Duration::ZERO) {}
            state.deliver();
            state.balance(consumer);
            if state.batch_out || !state.ready.is_empty() {
                // The next command is near.
                state.obey(consumer, SOON);
                state.deliver();
            } else {
                drop(state);
                if let Some(polled) = consumer.poll(IDLE) {
                    self.take(polled, &mut trouble);
                }
            }
        }
    }

    /// Keeps what was polled ready.
    fn take(&self, polled: Result<BorrowedMessage<'_>, KafkaError>, trouble: &mut Trouble) {
        let message = match polled {
            Ok(message) => message,
            Err(error) => return trouble.tell(&error),
        };
        trouble.told = false;
        let mut state = self.state();
        state.bytes += message.payload_len();
        let envelope = Envelope {
            partition: message.partition(),
            offset: message.offset(),
            record: as_record(&message),
            held: state.held(message.partition()),
        };
        state.ready.push_back(envelope);
    }
}

/// librdkafka tries again by itself, and reports each time; once is enough.
#[derive(Default)]
struct Trouble {
    told: bool,
}

impl Trouble {
    fn tell(&mut self, error: &KafkaError) {
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(%error, "Kafka cannot be read");
        } else {
            tracing::warn!(%error, "Kafka cannot be read; trying on");
        }
    }
}

impl State {
    fn held(&mut self, partition: i32) -> CancellationToken {
        self.held.entry(partition).or_insert_with(|| self.token.child_token()).clone()
    }

    /// Tells those who work on records of these partitions that they are another's now.
    fn recall(&mut self, partitions: &TopicPartitionList) {
        for partition in partitions.elements() {
            if let Some(held) = self.held.remove(&partition.partition()) {
                held.cancel();
            }
        }
    }

    /// Does one command of the reader, if one comes within `wait`.
    fn obey(&mut self, consumer: &BaseConsumer<Callbacks>, wait: Duration) -> bool {
        match self.inbox.recv_timeout(wait) {
            Ok(Command::Next { most, reply }) => self.wanted = Some((most, reply)),
            Ok(Command::Commit { mut positions, reply }) => {
                // Whoever has those partitions now may have got further.
                positions.retain(|position| !self.lost.contains(&position.partition));
                let _ = reply.send(commit(consumer, &self.topic, &positions));
                self.batch_out = false;
                self.lost.clear();
            }
            Err(RecvTimeoutError::Timeout) => return false,
            Err(RecvTimeoutError::Disconnected) => {
                self.closed = true;
                return false;
            }
        }
        true
    }

    /// Hands what is ready to a reader that waits.
    fn deliver(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        let Some((most, reply)) = self.wanted.take() else { return };
        let batch: Vec<Envelope> = self.ready.drain(..most.min(self.ready.len())).collect();
        match reply.send(batch) {
            Ok(()) => self.batch_out = true,
            // The reader stopped waiting; the records keep their place.
            Err(batch) => batch.into_iter().rev().for_each(|envelope| self.ready.push_front(envelope)),
        }
        self.bytes = size(&self.ready);
    }

    fn is_full(&self) -> bool {
        self.ready.len() >= READY || self.bytes >= READY_BYTES
    }

    /// Nothing more is to be polled: it would be kept.
    fn is_full_and_reads_on(&self) -> bool {
        self.is_full() && !self.paused
    }

    /// Pauses the partitions when there has been enough for a while: then it can be polled without getting more. Not at once,
    /// since librdkafka throws away what it has fetched of a partition that is paused.
    fn balance(&mut self, consumer: &BaseConsumer<Callbacks>) {
        if !self.is_full() {
            self.full_since = None;
        } else if self.full_since.is_none() {
            self.full_since = Some(Instant::now());
        }
        let pause = self.full_since.is_some_and(|since| since.elapsed() > PATIENCE);
        let drained = self.ready.len() < READY / 2 && self.bytes < READY_BYTES / 2;
        if pause == self.paused || (self.paused && !drained) {
            return;
        }
        let changed = consumer.assignment().and_then(|partitions| {
            if pause { consumer.pause(&partitions) } else { consumer.resume(&partitions) }
        });
        if changed.is_ok() {
            self.paused = pause;
        }
    }
}

fn size<'a>(envelopes: impl IntoIterator<Item = &'a Envelope>) -> usize {
    envelopes.into_iter().map(|envelope| envelope.record.payload.len()).sum()
}

fn commit(consumer: &BaseConsumer<Callbacks>, topic: &str, positions: &[Position]) -> Result<(), KafkaError> {
    if positions.is_empty() {
        return Ok(());
    }
    consumer.commit(&list_of(topic, positions)?, CommitMode::Sync)
}
