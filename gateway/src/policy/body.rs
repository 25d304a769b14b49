//! How much a client may send. Counted as it streams, because a chunked body does not say its length.

use http::{HeaderMap, header};

use crate::problem::Refusal;

/// The largest request body, in bytes.
pub(crate) const MAX_BODY: u64 = 1 << 20;

/// Refuses a body that is announced as too large.
pub(crate) fn announced(headers: &HeaderMap) -> Result<(), Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    counted(length.unwrap_or(0))
}

/// Refuses a body of which `received` bytes have come already.
pub(crate) fn counted(received: u64) -> Result<(), Refusal> {
    if received > MAX_BODY { Err(Refusal::BodyTooLarge) } else { Ok(()) }
}
