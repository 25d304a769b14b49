//! How much a client may send, and how slowly. Counted as it streams, because a chunked body does not say its length.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::problem::Refusal;
use crate::settings::Settings;

/// The length that the head announces, in bytes.
pub(crate) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Refuses a body that is announced as larger than `limit` bytes.
pub(crate) fn announced(headers: &HeaderMap, limit: u64) -> Result<(), Refusal> {
    counted(length(headers).unwrap_or(0), limit)
}

/// The largest body that is waited for before a service is troubled with its request, in bytes: as much as Pingora keeps.
const SMALL: u64 = 64 * 1024;

/// The length of a body that is small enough to be waited for. A client that expects 100 waits itself.
pub(crate) fn small(headers: &HeaderMap) -> Option<u32> {
    let length = length(headers).filter(|length| *length <= SMALL && !headers.contains_key(header::EXPECT));
    length.and_then(|length| u32::try_from(length).ok())
}

/// Refuses a body of which `received` bytes have come already.
pub(crate) fn counted(received: u64, limit: u64) -> Result<(), Refusal> {
    if received > limit { Err(Refusal::BodyTooLarge(limit)) } else { Ok(()) }
}

/// Refuses a body that drips: `received` bytes since `elapsed`, and it has not ended. The first time-out is free.
pub(crate) fn fast_enough(
    received: u64,
    elapsed: Duration,
    settings: &Settings,
    ended: bool,
) -> Result<(), Refusal> {
    let counted = elapsed.saturating_sub(settings.timeouts.body);
    let least = settings.limits.body_rate.saturating_mul(counted.as_secs());
    if !ended && received < least { Err(Refusal::SlowBody) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_be_slow_but_not_drip() {
        let settings = Settings::default();
        let judge =
            |received, seconds, ended| fast_enough(received, Duration::from_secs(seconds), &settings, ended);
        assert_eq!(judge(0, 30, false), Ok(()));
        assert_eq!(judge(4999, 40, false), Err(Refusal::SlowBody));
        assert_eq!(judge(5000, 40, false), Ok(()));
        assert_eq!(judge(4999, 40, true), Ok(()), "it has ended");
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        assert_eq!(counted(10, 10), Ok(()));
        assert_eq!(counted(11, 10), Err(Refusal::BodyTooLarge(10)));
    }
}
