//! Dead topics: what lies there, and how it is put back.
//!
//! What was put back is removed there. A Kafka bus is asked straight; the embedded log belongs to one process, so there the
//! running service is asked, on its admin port.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::{Bus, BusArgs, BusUrl, Envelope, Error, ORIGIN, Position, ProducerStyle, REASON, Record};
use crate::http::{Problem, Query};
use crate::messages::{Message, dead_topic};
use crate::service::reachable;
use crate::types::Email;

/// Messages that are read and put back together.
const BATCH: usize = 100;
/// Messages that a list shows unless more are asked for, and how many may be.
const LISTED: usize = 100;
const MOST_LISTED: usize = 10_000;

/// The undeliverable messages of one topic.
#[derive(Clone, Debug)]
pub struct DeadLetters {
    bus: Bus,
    topic: &'static str,
}

/// An undeliverable message, as a person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Where it lies: `<topic>.dead/<partition>/<offset>`.
    pub place: String,
    /// Where it was: `<topic>/<partition>/<offset>`.
    pub origin: String,
    /// Why it could not be handled.
    pub reason: String,
    /// The message's key; a mail address is masked.
    pub key: String,
    /// The message's own id, if it has one.
    pub id: Option<String>,
}

impl DeadLetters {
    /// Those of `M`'s topic.
    pub fn new<M: Message>(bus: Bus) -> DeadLetters {
        DeadLetters { bus, topic: M::TOPIC }
    }

    /// What lies there, oldest first, at most `most`.
    pub async fn list(&self, most: usize) -> Result<Vec<DeadLetter>, Error> {
        let (topic, mut from, mut found) = (dead_topic(self.topic), BTreeMap::new(), Vec::new());
        let ends = self.bus.ends(&topic).await?;
        // Some at a time: a message for a thousand users has some hundred thousand bytes.
        while found.len() < most {
            let batch = BATCH.min(most - found.len());
            let dead = self.bus.read_between(&topic, &positions(&from), &ends, batch).await?;
            if dead.is_empty() {
                break;
            }
            found.extend(dead.iter().map(shown));
            go_behind(&mut from, &dead);
        }
        Ok(found)
    }

    /// Puts back, oldest first, what lies there now, or at most `most` of it; says how many. They are handled as if they came for
    /// the first time, with the ids that they had. Interrupted, it may put up to 100 back a second time.
    pub async fn replay(&self, most: usize) -> Result<usize, Error> {
        let topic = dead_topic(self.topic);
        // What fails again while this goes on lies behind.
        let ends = self.bus.ends(&topic).await?;
        let (mut from, mut count) = (BTreeMap::new(), 0);
        while count < most {
            let batch = BATCH.min(most - count);
            let dead = self.bus.read_between(&topic, &positions(&from), &ends, batch).await?;
            if dead.is_empty() {
                break;
            }
            let records = dead.iter().map(|envelope| self.put_back(&envelope.record)).collect();
            self.bus.publish(records).await.into_iter().collect::<Result<(), Error>>()?;
            go_behind(&mut from, &dead);
            self.bus.remove_before(&topic, &positions(&from)).await?;
            count += dead.len();
        }
        tracing::info!(topic = self.topic, count, "dead messages were put back");
        Ok(count)
    }

    fn put_back(&self, dead: &Record) -> Record {
        let mut record = Record { topic: self.topic.to_owned(), ..dead.clone() };
        record.headers.remove(REASON);
        record
    }

    /// `GET /dead` and `POST /dead/replay`, both with `?limit=`, for the admin port.
    pub fn routes(self) -> Router {
        Router::new().route("/dead", get(list)).route("/dead/replay", post(replay)).with_state(self)
    }
}

fn shown(envelope: &Envelope) -> DeadLetter {
    let Envelope { partition, offset, record, .. } = envelope;
    let header = |name| record.headers.get(name).cloned().unwrap_or_default();
    let payload: Value = serde_json::from_slice(&record.payload).unwrap_or_default();
    let key = record.key.parse::<Email>().map_or_else(|_| record.key.clone(), |email| email.masked());
    DeadLetter {
        place: format!("{}/{partition}/{offset}", record.topic),
        origin: header(ORIGIN),
        reason: header(REASON),
        key,
        id: payload["id"].as_str().map(str::to_owned),
    }
}

/// Moves positions, by partition, behind these.
fn go_behind(from: &mut BTreeMap<i32, i64>, envelopes: &[Envelope]) {
    for envelope in envelopes {
        from.insert(envelope.partition, envelope.offset + 1);
    }
}

fn positions(from: &BTreeMap<i32, i64>) -> Vec<Position> {
    from.iter().map(|(partition, next)| Position { partition: *partition, next: *next }).collect()
}

#[derive(Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn list(
    State(dead): State<DeadLetters>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Vec<DeadLetter>>, Problem> {
    dead.list(limit.unwrap_or(LISTED).min(MOST_LISTED)).await.map(Json).map_err(|error| away(&error))
}

async fn replay(
    State(dead): State<DeadLetters>,
    Query(Limit { limit }): Query<Limit>,
) -> Result<Json<Value>, Problem> {
    let count = dead.replay(limit.unwrap_or(usize::MAX)).await.map_err(|error| away(&error))?;
    Ok(Json(json!({"replayed": count})))
}

fn away(error: &Error) -> Problem {
    tracing::warn!(%error, "the dead topic cannot be used");
    Problem::unavailable("the bus does not answer", 5)
}

/// `dead list`, `dead replay`.
#[derive(Args, Clone, Debug)]
pub struct DeadCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Clone, Debug)]
enum Verb {
    /// Shows them, oldest first, each as a line of JSON
    List {
        /// At most so many
        #[arg(long, default_value_t = LISTED)]
        limit: usize,
    },
    /// Puts them back into their topic, oldest first
    Replay {
        /// At most so many; all of them when left out
        #[arg(long)]
        limit: Option<usize>,
    },
}

impl DeadCommand {
    /// Runs it for the topic of `M`. A Kafka bus is used straight, otherwise the service whose admin port listens at
    /// `admin_listen` on this machine.
    pub async fn run<M: Message>(self, bus: &BusArgs, admin_listen: &str) -> anyhow::Result<()> {
        let lines = match bus.url() {
            Ok(BusUrl::Kafka(_)) => {
                let bus = Bus::open(bus, ProducerStyle::Immediate).await?;
                self.ask_bus(&DeadLetters::new::<M>(bus)).await?
            }
            _ => self.ask_service(admin_listen).await?,
        };
        print(&lines);
        Ok(())
    }

    async fn ask_bus(self, dead: &DeadLetters) -> anyhow::Result<Vec<String>> {
        Ok(match self.verb {
            Verb::List { limit } => lines(&dead.list(limit.min(MOST_LISTED)).await?)?,
            Verb::Replay { limit } => vec![replayed(dead.replay(limit.unwrap_or(usize::MAX)).await?)],
        })
    }

    async fn ask_service(self, admin_listen: &str) -> anyhow::Result<Vec<String>> {
        // Putting many back takes a while.
        let http = crate::http::client(Duration::from_secs(600))?;
        let mut url = Url::parse(&format!("http://{}", reachable(admin_listen)?))?;
        let (request, list) = match self.verb {
            Verb::List { limit } => {
                url.set_path("/dead");
                (http.get(url.clone()).query(&[("limit", limit)]), true)
            }
            Verb::Replay { limit } => {
                url.set_path("/dead/replay");
                (http.post(url.clone()).query(&limit.map(|limit| [("limit", limit)])), false)
            }
        };
        let answer = request.send().await.with_context(|| {
            format!("nobody answers at {url}; with an embedded log the service has to run, with Kafka BUS_URL has to be set")
        })?;
        ensure!(answer.status().is_success(), "{url} answers {}", answer.status());
        if list {
            return lines(&answer.json::<Vec<DeadLetter>>().await?);
        }
        let answer: Value = answer.json().await?;
        Ok(vec![replayed(usize::try_from(answer["replayed"].as_u64().unwrap_or_default())?)])
    }
}

fn lines(dead: &[DeadLetter]) -> anyhow::Result<Vec<String>> {
    Ok(dead.iter().map(serde_json::to_string).collect::<Result<_, _>>()?)
}

fn replayed(count: usize) -> String {
    format!("{count} put back")
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn print(lines: &[String]) {
    for line in lines {
        println!("{line}");
    }
}
