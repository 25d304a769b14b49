//! The run in JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::tally::{Failure, Histogram, Tally};

/// `requests` is all that were tried: the answers of any status and the errors.
pub(crate) fn of(
    tally: &Tally,
    connections: usize,
    took: Duration,
    cpu: Duration,
    unsent: u64,
    late: &Histogram,
) -> Value {
    let failed: u64 = tally.failures.values().sum();
    let answered = tally.latency.total();
    let mut errors: Map<String, Value> = Failure::ALL
        .iter()
        .map(|failure| (failure.name().to_owned(), tally.failures.get(failure).copied().unwrap_or(0).into()))
        .collect();
    errors.insert("unsent".to_owned(), unsent.into());
    let statuses: Map<String, Value> =
        tally.statuses.iter().map(|(status, count)| (status.to_string(), (*count).into())).collect();
    let ok: u64 = tally.statuses.range(200..300).map(|(_, count)| count).sum();
    json!({
        "requests": answered + failed + unsent,
        "ok": ok,
        "errors": errors,
        "status": statuses,
        "retry_after": tally.retry_after,
        "seconds": took.as_secs_f64(),
        "per_second": answered as f64 / took.as_secs_f64(),
        "bytes": tally.bytes,
        "p50_us": tally.latency.quantile(0.5),
        "p99_us": tally.latency.quantile(0.99),
        "p999_us": tally.latency.quantile(0.999),
        "ok_p99_us": tally.ok_latency.quantile(0.99),
        "max_us": tally.latency.max(),
        "late_p99_us": late.quantile(0.99),
        "cpu_us": u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX),
        "connections": connections,
        "full_handshakes": tally.full_handshakes,
        "resumed_handshakes": tally.resumed_handshakes,
        "tls": tally.tls,
    })
}
