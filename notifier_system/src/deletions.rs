//! No letter is read before the deletions are known that may have come before it.
//!
//! A deletion is told on a topic of its own, which may be behind the letters: when this service was away, or the bus, so that
//! user_manager could not tell.

use std::time::Duration;

use common::bus::{Bus, Consumer};
use common::messages::UserForgotten;
use tokio_util::sync::CancellationToken;

/// How often the bus is asked whether it is there.
const LOOK: Duration = Duration::from_secs(5);
/// The same while it is not.
const LOOK_FOR_IT: Duration = Duration::from_secs(1);

/// Runs `read` while the deletions are known: it is stopped when the bus goes away, and begun again when it is back and
/// whoever was deleted meanwhile has been told of. `deletions` is a consumer of their topic. Until cancelled.
pub(crate) async fn while_known<F>(
    deletions: Consumer,
    bus: Bus,
    token: CancellationToken,
    read: impl Fn(CancellationToken) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    while token.run_until_cancelled(until_known(&deletions, &bus, &token)).await.is_some() {
        let reading = token.child_token();
        let watching = async {
            while bus.ready().await.is_ok() {
                tokio::time::sleep(LOOK).await;
            }
            tracing::warn!("the bus is away; letters wait until the deletions are known again");
            reading.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            read = read(reading.clone()) => read?,
            () = watching => {}
        }
    }
    Ok(())
}

/// Waits until the bus has been there for long enough that everybody has told what they had to, and that is read.
async fn until_known(deletions: &Consumer, bus: &Bus, token: &CancellationToken) {
    loop {
        while bus.ready().await.is_err() {
            tokio::time::sleep(LOOK_FOR_IT).await;
        }
        tokio::time::sleep(until_told(bus)).await;
        if bus.ready().await.is_ok() {
            return deletions.caught_up::<UserForgotten>(token).await;
        }
    }
}

/// How long user_manager may take to tell what it could not while the bus was away: its relay's longest pause, and its
/// client's. The embedded log is never away; its relay only has to start, in the same process.
fn until_told(bus: &Bus) -> Duration {
    if matches!(bus, Bus::Embedded(_)) { Duration::from_millis(500) } else { Duration::from_secs(30) }
}
