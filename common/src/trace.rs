//! The thread that ties one person's request to the mail it ends in: a request id and a W3C `traceparent`,
//! carried in HTTP headers and in message headers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Headers of a message: names to values.
pub type Headers = BTreeMap<String, String>;

/// Name of the request id in message headers.
pub const REQUEST_ID: &str = "request_id";
/// Name of the W3C trace context, in HTTP and in message headers alike.
pub const TRACEPARENT: &str = "traceparent";

/// Where a piece of work comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// Names the request that caused the work, or the collection cycle when nobody asked.
    pub request_id: String,
    /// W3C trace context, handed on as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl Trace {
    /// A trace that begins here.
    pub fn start() -> Trace {
        Trace { request_id: new_request_id(), traceparent: None }
    }

    /// The trace of an HTTP request: its `x-request-id` if that is a sane token, else one that begins here.
    pub fn of_request(headers: &http::HeaderMap) -> Trace {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let traceparent = text(TRACEPARENT).filter(|value| value.len() <= 128).map(str::to_owned);
        Trace { request_id: request_id(headers), traceparent }
    }

    /// The trace of a message, or one that begins here when it carries none.
    pub fn of_message(headers: &Headers) -> Trace {
        match headers.get(REQUEST_ID).filter(|id| is_sane(id)) {
            Some(id) => Trace { request_id: id.clone(), traceparent: headers.get(TRACEPARENT).cloned() },
            None => Trace::start(),
        }
    }

    /// As message headers.
    pub fn headers(&self) -> Headers {
        let mut headers = Headers::from([(REQUEST_ID.to_owned(), self.request_id.clone())]);
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT.to_owned(), traceparent.clone());
        }
        headers
    }
}

/// The id of an HTTP request: its `x-request-id` if that is a sane token, else a new one.
pub fn request_id(headers: &http::HeaderMap) -> String {
    let sent = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(|id| is_sane(id));
    sent.map_or_else(new_request_id, str::to_owned)
}

/// A new request id.
pub fn new_request_id() -> String {
    Uuid::new_v4().to_string()
}

/// Whether a client's request id may be kept: 1 to 64 letters, digits, `.`, `_`, `-`.
pub fn is_sane(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
