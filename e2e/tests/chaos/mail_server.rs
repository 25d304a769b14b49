//! The mail server, and its moods.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use faults::smtp::{Answer, Options, Sink, Step, Taken};

use crate::fault::Mood;
use crate::ledger::Ledger;
use crate::people::{BUSY, UNKNOWN};
use crate::port;

/// How often somebody who is busy is told to come again.
const BUSY_TIMES: u32 = 3;

pub(crate) struct MailServer {
    sink: Sink,
    state: Arc<Mutex<State>>,
    /// It is away, or in a mood, once at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// How often each busy one was told so.
    told: BTreeMap<String, u32>,
    /// Mails that are taken without an answer.
    cuts: u32,
    /// Recipients that are refused for now.
    refusals: u32,
    /// How long an answer takes.
    latency: Duration,
}

impl State {
    fn answer(&mut self, step: &Step<'_>) -> Answer {
        match step {
            Step::Recipient(to) if to.starts_with(UNKNOWN) => Answer::No("550 5.1.1 no such user".to_owned()),
            Step::Recipient(to) if self.is_busy(to) => Answer::No("450 4.2.1 mailbox busy".to_owned()),
            Step::Recipient(_) if self.refusals > 0 => {
                self.refusals -= 1;
                Answer::No("451 4.3.0 come again".to_owned())
            }
            Step::Data { .. } if self.cuts > 0 => {
                self.cuts -= 1;
                Answer::TakeAndCut
            }
            Step::Data { .. } if !self.latency.is_zero() => Answer::After(self.latency),
            _ => Answer::Yes,
        }
    }

    fn is_busy(&mut self, to: &str) -> bool {
        if !to.starts_with(BUSY) {
            return false;
        }
        let told = self.told.entry(to.to_owned()).or_default();
        *told += 1;
        *told <= BUSY_TIMES
    }
}

impl MailServer {
    /// Starts it; it takes so long over each mail.
    pub(crate) async fn start(latency: Duration) -> MailServer {
        let sink = Sink::on(port::listener().await, Options::default()).await;
        let state = Arc::new(Mutex::new(State { latency, ..State::default() }));
        let answering = state.clone();
        sink.answer(move |step| answering.lock().unwrap().answer(step));
        MailServer { sink, state, turn: tokio::sync::Mutex::default() }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.sink.addr()
    }

    /// How many mails it has taken.
    pub(crate) fn count(&self) -> usize {
        self.sink.count()
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.sink.taken()
    }

    /// Nobody listens for so long.
    pub(crate) async fn away(&self, lasts: Duration, ledger: &Ledger) {
        let _turn = self.turn.lock().await;
        let began = Instant::now();
        self.sink.stop().await;
        tokio::time::sleep(lasts).await;
        self.sink.resume().await;
        ledger.disturbed(began, self.sink.most_at_once() as usize);
    }

    /// It is in a mood for so long.
    pub(crate) async fn moody(&self, mood: Mood, amount: u32, lasts: Duration) {
        let _turn = self.turn.lock().await;
        let healthy = self.state.lock().unwrap().latency;
        {
            let mut state = self.state.lock().unwrap();
            match mood {
                Mood::TakesAndCuts => state.cuts = amount,
                Mood::Slow => state.latency = Duration::from_millis(amount.into()),
                Mood::Refuses => state.refusals = amount,
            }
        }
        tokio::time::sleep(lasts).await;
        let mut state = self.state.lock().unwrap();
        (state.cuts, state.refusals, state.latency) = (0, 0, healthy);
    }
}
