//! What the tests of the whole system share. They look at it from outside: through the gateway, and into the mails.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "only tests use this")]

pub mod client;
pub mod expected;
pub mod in_process;
pub mod journey;
pub mod mailbox;
pub mod process;

use std::future::Future;
use std::time::Duration;

/// Asks again and again, for at most half a minute, until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(30), asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
