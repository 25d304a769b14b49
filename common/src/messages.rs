//! The contracts of the bus. Fields are only ever added; every type has a golden test.

use std::fmt;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Account, Condition, Counts, Email, Icao, Invalid, Metric, Notify};

/// A message of one topic.
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The topic's name on the wire.
    const TOPIC: &'static str;

    /// Messages with the same key stay in order.
    fn key(&self) -> String;

    /// Completes a message that came without an id (the assignment's have none), from where it stood.
    fn adopt(&mut self, origin: &Origin) {
        let _ = origin;
    }
}

/// Where a message stood in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The topic.
    pub topic: String,
    /// The partition; 0 in the embedded log.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

impl Origin {
    fn id(&self) -> String {
        format!("{}-{}-{}", self.topic, self.partition, self.offset)
    }
}

/// `<topic>/<partition>/<offset>`
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Origin {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Origin, Invalid> {
        let invalid = || Invalid(format!("'{text}' is not <topic>/<partition>/<offset>"));
        let mut parts = text.splitn(3, '/');
        let mut next = || parts.next().ok_or_else(invalid);
        let topic = next()?.to_owned();
        // Kafka's rule for names of topics. The text may be somebody else's.
        let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > 249 || !topic.chars().all(is_legal) {
            return Err(invalid());
        }
        let partition = next()?.parse().map_err(|_| invalid())?;
        let offset = next()?.parse().map_err(|_| invalid())?;
        Ok(Origin { topic, partition, offset })
    }
}

/// The topic of the undeliverable messages of `topic`.
pub fn dead_topic(topic: &str) -> String {
    format!("{topic}.dead")
}

/// A window of an airport was stored: its counts, and who wants to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowCounted {
    /// `<airport>/<window begin>/<length>/<part>`.
    #[serde(default)]
    pub id: String,
    /// ICAO code.
    pub airport: Icao,
    /// The catalogue's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub airport_name: Option<String>,
    /// First second of the window, Unix seconds.
    #[serde(default)]
    pub window_begin: i64,
    /// The second after the window's last, Unix seconds.
    #[serde(default)]
    pub window_end: i64,
    /// Flights that landed in the window.
    pub arrival_count: i64,
    /// Flights that took off in the window.
    pub departure_count: i64,
    /// The directly preceding window, if it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousCounts>,
    /// Totals of the last 14 days, oldest first, this window's included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<i64>,
    /// The interests to evaluate, at most 1,000.
    pub users: Vec<WatchingUser>,
}

impl WindowCounted {
    /// The window's counts.
    pub fn counts(&self) -> Counts {
        Counts { arrivals: self.arrival_count, departures: self.departure_count }
    }
}

impl Message for WindowCounted {
    const TOPIC: &'static str = "to-alert-system";

    fn key(&self) -> String {
        self.airport.to_string()
    }

    fn adopt(&mut self, origin: &Origin) {
        if self.id.is_empty() {
            self.id = origin.id();
        }
    }
}

/// Counts of the directly preceding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousCounts {
    /// Flights that landed in it.
    pub arrival_count: i64,
    /// Flights that took off in it.
    pub departure_count: i64,
}

impl From<PreviousCounts> for Counts {
    fn from(previous: PreviousCounts) -> Counts {
        Counts { arrivals: previous.arrival_count, departures: previous.departure_count }
    }
}

/// One person's interest, as it stood when the message was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchingUser {
    /// Absent in the assignment's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// Where mails go.
    pub email: Email,
    /// Above this a count is high.
    #[serde(default)]
    pub high_value: Option<i64>,
    /// Below this a count is low.
    #[serde(default)]
    pub low_value: Option<i64>,
    /// What is counted.
    #[serde(default = "total")]
    pub metric: Metric,
    /// When to mail.
    #[serde(default = "every_window")]
    pub notify: Notify,
    /// The signed token that ends this interest without a login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<String>,
}

fn total() -> Metric {
    Metric::Total
}

fn every_window() -> Notify {
    Notify::EveryWindow
}

/// A mail to be sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// The same mail has the same id however often it is produced.
    #[serde(default)]
    pub id: String,
    /// Whose mail it is; absent in the assignment's messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    /// To whom.
    pub email: Email,
    /// One line of text.
    pub subject: String,
    /// Plain text.
    pub body: String,
    /// What the mail tells, when it is an alert.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
    /// The signed token for `List-Unsubscribe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsubscribe: Option<String>,
}

/// What an alert tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// ICAO code.
    pub airport: Icao,
    /// Which side of the range.
    pub condition: Condition,
    /// What was counted.
    pub metric: Metric,
    /// The count.
    pub value: i64,
    /// The threshold it crossed.
    pub threshold: i64,
    /// First second of the window, Unix seconds.
    pub window_begin: i64,
    /// The second after the window's last, Unix seconds.
    pub window_end: i64,
    /// Totals of the last 14 days, oldest first.
    #[serde(default)]
    pub history: Vec<i64>,
}

impl Message for Letter {
    const TOPIC: &'static str = "to-notifier";

    fn key(&self) -> String {
        self.email.as_str().to_owned()
    }

    fn adopt(&mut self, origin: &Origin) {
        if self.id.is_empty() {
            self.id = origin.id();
        }
    }
}

/// An account was deleted: whoever holds something of it forgets it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserForgotten {
    /// The deleted account.
    pub account: Account,
    /// The address it had.
    pub email: Email,
}

impl Message for UserForgotten {
    const TOPIC: &'static str = "user-forgotten";

    fn key(&self) -> String {
        self.account.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The message written in this text is read, and written back as the same JSON.
    fn golden<M: Message + std::fmt::Debug>(text: Value) -> M {
        let message: M = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&message).unwrap(), text);
        message
    }

    const ACCOUNT: &str = "6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22";

    #[test]
    fn window_counted_is_as_documented() {
        let message: WindowCounted = golden(json!({
            "id": "KJFK/2001-04-03T00:00:00Z/24h/0", "airport": "KJFK",
            "airport_name": "John F Kennedy International Airport",
            "window_begin": 986_256_000, "window_end": 986_342_400,
            "arrival_count": 172, "departure_count": 179,
            "previous": {"arrival_count": 149, "departure_count": 180}, "history": [329, 351],
            "users": [{"account": ACCOUNT, "email": "ada@example.com", "high_value": 200, "low_value": 0,
                "metric": "total", "notify": "every_window", "unsubscribe": "signed"}]
        }));
        assert_eq!((message.key().as_str(), WindowCounted::TOPIC), ("KJFK", "to-alert-system"));
    }

    #[test]
    fn a_letter_is_as_documented() {
        let message: Letter = golden(json!({
            "id": "a", "account": ACCOUNT, "email": "ada@example.com",
            "subject": "KJFK: 351 flights, above your high threshold of 200", "body": "text",
            "airport": "KJFK", "condition": "high", "metric": "total", "value": 351, "threshold": 200,
            "window_begin": 986_256_000, "window_end": 986_342_400, "history": [329, 351], "unsubscribe": "signed"
        }));
        assert_eq!((message.key().as_str(), Letter::TOPIC), ("ada@example.com", "to-notifier"));
    }

    #[test]
    fn user_forgotten_is_as_documented() {
        let message: UserForgotten = golden(json!({"account": ACCOUNT, "email": "ada@example.com"}));
        assert_eq!((message.key().as_str(), UserForgotten::TOPIC), (ACCOUNT, "user-forgotten"));
    }

    #[test]
    fn an_origin_is_a_place_in_a_topic_that_kafka_could_have() {
        let origin = Origin { topic: "to-notifier".into(), partition: 2, offset: 7 };
        assert_eq!("to-notifier/2/7".parse(), Ok(origin));
        for bad in
            ["", "to-notifier", "to-notifier/2", "/2/7", "a\0/2/7", "ä/2/7", "a b/2/7", "a/2/x", "a/2/7/8"]
        {
            assert!(bad.parse::<Origin>().is_err(), "{bad:?}");
        }
        assert!(format!("{}/0/0", "x".repeat(250)).parse::<Origin>().is_err());
    }

    #[test]
    fn the_assignments_messages_are_taken_with_an_id_from_their_place() {
        let origin = Origin { topic: "to-alert-system".into(), partition: 0, offset: 7 };
        let mut counted: WindowCounted = serde_json::from_value(json!({
            "airport": "LICC", "arrival_count": 3, "departure_count": 4,
            "users": [{"email": "ada@example.com", "high_value": 5, "low_value": null}]
        }))
        .unwrap();
        counted.adopt(&origin);
        assert_eq!(counted.id, "to-alert-system-0-7");
        assert_eq!((counted.users[0].metric, counted.users[0].notify), (Metric::Total, Notify::EveryWindow));

        let mut letter: Letter =
            serde_json::from_value(json!({"email": "ada@example.com", "subject": "s", "body": "b"})).unwrap();
        letter.adopt(&Origin { topic: "to-notifier".into(), ..origin });
        assert_eq!((letter.id.as_str(), letter.alert), ("to-notifier-0-7", None));
    }
}
