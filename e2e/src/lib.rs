//! What the tests of the whole system share. They look at it from outside: through the gateway, and into the mails.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "only tests use this"
)]

#[cfg(feature = "kafka")]
pub mod broker;
pub mod client;
pub mod expected;
pub mod five;
pub mod in_process;
pub mod journey;
pub mod mailbox;
pub mod openapi;
pub mod process;

use std::time::Duration;

pub use common::testing::{PATIENCE, eventually};

/// Waits, if midnight UTC is near, until it is past. Tests that run real processes by the real date call this first: a day
/// that closes in the middle would be one more than they count.
pub async fn away_from_midnight() {
    away_from_midnight_by(180).await;
}

/// The same for a test that takes up to so many seconds.
pub async fn away_from_midnight_by(seconds: i64) {
    let left = 86_400 - common::clock::Clock::System.now().rem_euclid(86_400);
    if left < seconds {
        tokio::time::sleep(Duration::from_secs(left.unsigned_abs() + 1)).await;
    }
}
