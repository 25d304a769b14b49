//! What is on the bus.

use tokio_util::sync::CancellationToken;

use crate::messages::{Message, dead_topic};
use crate::trace::{Headers, Trace};

/// A message on its way to the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: String,
    /// Records of one key stay in order.
    pub key: String,
    /// JSON.
    pub payload: Vec<u8>,
    /// Names to values.
    pub headers: Headers,
}

impl Record {
    /// As it goes to the dead topic: with the reason, and the place (`<topic>/<partition>/<offset>`) that it had first.
    pub fn buried(mut self, origin: &str, reason: &str) -> Record {
        self.topic = dead_topic(&self.topic);
        self.headers.insert(REASON.to_owned(), reason.to_owned());
        self.headers.insert(ORIGIN.to_owned(), origin.to_owned());
        self
    }

    /// A dead record that is too large for its topic: the beginning of it. The whole lies where it came from, for as long as
    /// records are kept there.
    pub(super) fn cut(mut self) -> Record {
        let bytes = self.payload.len();
        self.payload.truncate(CUT);
        self.key.clear();
        self.headers.retain(|name, _| [REASON, ORIGIN].contains(&name.as_str()));
        if let Some(reason) = self.headers.get_mut(REASON) {
            *reason = format!("{reason} (too large to be kept: the first {CUT} of {bytes} bytes)");
        }
        self
    }

    /// A typed message as a record.
    pub fn of<M: Message>(message: &M, trace: &Trace) -> serde_json::Result<Record> {
        Ok(Record {
            topic: M::TOPIC.to_owned(),
            key: message.key(),
            payload: serde_json::to_vec(message)?,
            headers: trace.headers(),
        })
    }
}

/// Bytes that are kept of a dead record that is too large.
const CUT: usize = 10_000;

/// The header of dead messages that says why.
pub(super) const REASON: &str = "reason";
/// And the one that says where they were: `<topic>/<partition>/<offset>`. They keep it when they are put back.
pub(super) const ORIGIN: &str = "origin";

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) record: Record,
    /// Cancelled when the record is no longer this reader's: at a stop, and when its partition is taken away.
    pub(crate) held: CancellationToken,
}

/// How far a group has got in a partition: the next offset to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) partition: i32,
    pub(crate) next: i64,
}
