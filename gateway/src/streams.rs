//! Answers without an end: upgraded connections and event streams. Nothing that bounds a request in time or size applies
//! to them, so they have bounds of their own: how many there are, how long nothing moves, and the token that they were
//! opened with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use common::auth::{Claims, Verifier};
use http::{HeaderMap, Method, StatusCode, Version, header, request};
use prometheus_client::metrics::gauge::Gauge;

use crate::exchange::Exchange;

/// How often tokens and silence are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// All streams of a gateway.
#[derive(Debug)]
pub(crate) struct Streams {
    limit: i64,
    count: Gauge,
    open: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    closed: bool,
    streams: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    exchange: Weak<Exchange>,
    claims: Option<Arc<Claims>>,
}

/// A place among the streams; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Streams>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count.dec();
    }
}

impl Streams {
    /// At most `limit` at once; `count` shows how many there are.
    pub(crate) fn new(limit: usize, count: Gauge) -> Streams {
        Streams { limit: i64::try_from(limit).unwrap_or(i64::MAX), count, open: Mutex::default() }
    }

    /// Takes a place for an answer that turned out to be a stream; none is left beyond the limit, and after
    /// [`Streams::close`].
    pub(crate) fn enter(
        self: &Arc<Streams>,
        exchange: &Arc<Exchange>,
        claims: Option<Arc<Claims>>,
    ) -> Option<Place> {
        let mut open = self.open();
        if open.closed || self.count.get() >= self.limit {
            return None;
        }
        self.count.inc();
        open.streams.push(Open { exchange: Arc::downgrade(exchange), claims });
        Some(Place(self.clone()))
    }

    /// Ends all streams, now and from now on.
    pub(crate) fn close(&self) {
        let mut open = self.open();
        open.closed = true;
        for stream in open.streams.drain(..) {
            if let Some(exchange) = stream.exchange.upgrade() {
                exchange.cut();
            }
        }
    }

    /// Ends streams that are silent for `idle`, or whose token has expired or was revoked; for ever.
    pub(crate) async fn keep_watch(&self, verifier: &Verifier, idle: Duration) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.open().streams.retain(|stream| {
                let Some(exchange) = stream.exchange.upgrade() else { return false };
                let valid = stream.claims.as_ref().is_none_or(|claims| verifier.still_valid(claims));
                let lively = exchange.idle() < idle;
                if !(valid && lively) {
                    exchange.cut();
                }
                valid && lively
            });
        }
    }

    fn open(&self) -> MutexGuard<'_, All> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the answer to a request may be a stream.
pub(crate) fn may_become_one(request: &request::Parts) -> bool {
    let accepted = request.headers.get_all(header::ACCEPT).iter();
    asks_for_websocket(request)
        || accepted.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).any(is_event_stream)
}

/// Whether a request asks to go on as a WebSocket (RFC 6455).
pub(crate) fn asks_for_websocket(request: &request::Parts) -> bool {
    let mut protocols = request.headers.get_all(header::UPGRADE).iter();
    let asked = protocols.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    asked
        && protocols.next().is_none()
        && request.method == Method::GET
        && request.version == Version::HTTP_11
}

/// Whether an answer is a stream.
pub(crate) fn is_one(status: StatusCode, answer: &HeaderMap) -> bool {
    let kind = answer.get(header::CONTENT_TYPE);
    status == StatusCode::SWITCHING_PROTOCOLS || kind.is_some_and(|kind| is_event_stream(kind.as_bytes()))
}

fn is_event_stream(media_type: &[u8]) -> bool {
    let essence = media_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    fn map(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn streams_are_known_by_their_headers() {
        let asked = |method: &str, version, name: header::HeaderName, value: &'static str| {
            let request = Request::builder().method(method).version(version).header(name, value);
            may_become_one(&request.body(()).unwrap().into_parts().0)
        };
        let get = |name, value| asked("GET", Version::HTTP_11, name, value);
        assert!(get(header::ACCEPT, "text/html, text/event-stream;q=0.5"));
        assert!(get(header::UPGRADE, "WebSocket"));
        assert!(!get(header::ACCEPT, "*/*") && !get(header::UPGRADE, "h2c"));
        assert!(!asked("POST", Version::HTTP_11, header::UPGRADE, "websocket"));
        assert!(!asked("GET", Version::HTTP_10, header::UPGRADE, "websocket"));
        assert!(is_one(StatusCode::OK, &map(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")));
        assert!(is_one(StatusCode::SWITCHING_PROTOCOLS, &HeaderMap::new()));
        assert!(!is_one(StatusCode::OK, &map(header::CONTENT_TYPE, "application/json")));
    }
}
