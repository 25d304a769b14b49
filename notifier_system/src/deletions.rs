//! Whether those are known who were deleted before a letter is sent that has waited.
//!
//! A deletion is told on a topic of its own, which may be behind the letters: when this service was away, or the bus, so that
//! user_manager could not tell. Then letters that are not fresh wait until the deletions have had the time to arrive.

use std::time::Duration;

use common::bus::{Bus, Consumer};
use common::messages::UserForgotten;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So young a letter has waited for nobody, in seconds.
const FRESH: i64 = 10;
/// How often the bus is asked whether it is there.
const LOOK: Duration = Duration::from_secs(5);

/// Clones share what is known.
#[derive(Clone)]
pub(crate) struct Deletions(watch::Receiver<bool>);

impl Deletions {
    /// Unknown, until the other half says otherwise.
    pub(crate) fn unknown() -> (watch::Sender<bool>, Deletions) {
        let (known, deletions) = watch::channel(false);
        (known, Deletions(deletions))
    }

    /// Waits until a letter may be sent that was written then; `false` when the service is to stop before that. Times are
    /// Unix seconds.
    pub(crate) async fn before(&self, written_at: i64, now: i64) -> bool {
        now - written_at < FRESH || self.0.clone().wait_for(|known| *known).await.is_ok()
    }
}

/// Finds out, again after each time that the bus was away, until cancelled.
pub(crate) async fn keep_known(
    known: watch::Sender<bool>,
    consumer: Consumer,
    bus: Bus,
    token: CancellationToken,
) {
    let keeping = async {
        loop {
            tokio::time::sleep(until_told(&bus)).await;
            consumer.caught_up::<UserForgotten>(&token).await;
            known.send_replace(true);
            while bus.ready().await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
            known.send_replace(false);
            while bus.ready().await.is_err() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    };
    token.run_until_cancelled(keeping).await;
}

/// How long user_manager may take to tell what it could not while the bus was away: its relay's longest pause, and its
/// client's. The embedded log is never away; there it only has to start.
fn until_told(bus: &Bus) -> Duration {
    Duration::from_secs(if matches!(bus, Bus::Embedded(_)) { 3 } else { 30 })
}

#[cfg(test)]
mod tests {
    use common::bus::Log;
    use common::telemetry::Metrics;
    use common::testing::temp_path;
    use futures::FutureExt;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    #[tokio::test]
    async fn a_letter_that_has_waited_waits_for_the_deletions_and_a_fresh_one_does_not() {
        let (known, deletions) = Deletions::unknown();
        assert_eq!(deletions.before(NOW - FRESH + 1, NOW).now_or_never(), Some(true));
        let mut waits = Box::pin(deletions.before(NOW - FRESH, NOW));
        assert_eq!(waits.as_mut().now_or_never(), None);
        known.send_replace(true);
        assert!(waits.await);
        known.send_replace(false);
        assert_eq!(deletions.before(NOW - FRESH, NOW).now_or_never(), None);
        drop(known);
        assert!(!deletions.before(NOW - FRESH, NOW).await, "the service stops");
    }

    #[tokio::test]
    async fn they_are_known_soon_after_the_start() {
        let log = Bus::Embedded(Log::open(&temp_path("bus.db")).await.unwrap());
        let consumer = Consumer::new(log.clone(), "test", &mut Metrics::new("test", "one"));
        let ((known, deletions), stop) = (Deletions::unknown(), CancellationToken::new());
        let keeping = tokio::spawn(keep_known(known, consumer, log, stop.clone()));
        assert!(deletions.before(NOW - FRESH, NOW).await);
        stop.cancel();
        keeping.await.unwrap();
    }
}
