//! What came of the requests.

use std::collections::BTreeMap;
use std::time::Duration;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No TCP connection.
    Connect,
    /// No TLS handshake.
    Tls,
    /// A kept connection turned out to be closed, before a byte of the answer; a browser would ask again.
    Closed,
    /// The connection or stream ended before the answer did.
    Reset,
    /// It took longer than `--timeout`.
    Timeout,
    /// The answer is no HTTP.
    Protocol,
}

impl Failure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Connect, Self::Tls, Self::Closed, Self::Reset, Self::Timeout, Self::Protocol];

    /// Its key in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
        }
    }
}

/// An answer that was read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) bytes: u64,
    /// Does it say when to come again?
    pub(crate) retry_after: bool,
    /// Is the connection good for another request?
    pub(crate) keeps: bool,
}

/// Counts of one run.
#[derive(Default)]
pub(crate) struct Tally {
    /// Of answers with any status, and with --handshakes of those.
    pub(crate) latency: Histogram,
    /// Of answers with 2xx alone.
    pub(crate) ok_latency: Histogram,
    /// By status.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Answers with a Retry-After.
    pub(crate) retry_after: u64,
    pub(crate) failures: BTreeMap<Failure, u64>,
    /// Bytes of answers' bodies.
    pub(crate) bytes: u64,
    pub(crate) full_handshakes: u64,
    pub(crate) resumed_handshakes: u64,
    /// Version, cipher, key exchange and signature of the last handshake.
    pub(crate) tls: String,
}

impl Tally {
    pub(crate) fn answered(&mut self, answer: &Answer, took: Duration) {
        self.latency.record(took);
        if answer.status / 100 == 2 {
            self.ok_latency.record(took);
        }
        *self.statuses.entry(answer.status).or_default() += 1;
        self.retry_after += u64::from(answer.retry_after);
        self.bytes += answer.bytes;
    }

    /// A handshake, which is all that was wanted.
    pub(crate) fn shaken(&mut self, took: Duration) {
        self.answered(&Answer { status: 200, bytes: 0, retry_after: false, keeps: true }, took);
    }

    pub(crate) fn failed(&mut self, failure: Failure) {
        *self.failures.entry(failure).or_default() += 1;
    }
}

/// Durations in microseconds, to three digits.
#[derive(Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// Below twice this a value has a bucket of its own; above, each doubling is divided into so many.
const STEPS: u64 = 512;

impl Histogram {
    pub(crate) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(micros);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `share` (0 to 1) of all values do not exceed; 0 when there are none.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, least)
    }
}

fn bucket(value: u64) -> usize {
    let shift = (value / STEPS).checked_ilog2().unwrap_or(0);
    (STEPS * u64::from(shift) + (value >> shift)) as usize
}

/// The least value of a bucket.
fn least(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / STEPS).saturating_sub(1);
    (bucket - STEPS * shift) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_does_not_count_as_what_was_admitted() {
        let mut tally = Tally::default();
        let answer = |status, retry_after| Answer { status, bytes: 3, retry_after, keeps: true };
        tally.answered(&answer(200, false), Duration::from_micros(7));
        tally.answered(&answer(503, true), Duration::from_micros(900));
        assert_eq!((tally.ok_latency.max(), tally.latency.max()), (7, 900));
        assert_eq!((tally.retry_after, tally.bytes), (1, 6));
        assert_eq!(tally.statuses, BTreeMap::from([(200, 1), (503, 1)]));
    }

    #[test]
    fn buckets_are_exact_when_small_and_close_when_large() {
        for value in 0..2 * STEPS {
            assert_eq!(least(bucket(value)), value);
        }
        for value in (0..40).map(|power| (1_u64 << power) + 12_345) {
            let low = least(bucket(value));
            assert!(low <= value && value - low <= value / 500, "{value} is in the bucket of {low}");
            assert!(bucket(low) == bucket(value) && (low == 0 || bucket(low - 1) + 1 == bucket(value)));
        }
    }

    #[test]
    fn a_quantile_is_the_value_that_so_many_do_not_exceed() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.quantile(0.5), 500);
        assert_eq!(histogram.quantile(0.99), 990);
        assert_eq!(histogram.quantile(1.0), 1000);
        assert_eq!((histogram.max(), histogram.total()), (1000, 1000));
    }
}
