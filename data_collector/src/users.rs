//! What user_manager tells us about accounts.

use common::bus::{Consumer, Delivery, Failure};
use common::messages::UserForgotten;
use tokio_util::sync::CancellationToken;

use crate::State;

/// The consumer group.
pub(crate) const GROUP: &str = "collector_group";

/// Forgets the accounts that were deleted, until cancelled.
pub(crate) async fn forget_deleted(
    consumer: Consumer,
    state: State,
    token: CancellationToken,
) -> anyhow::Result<()> {
    consumer.run(token, move |delivery| forget(state.clone(), delivery)).await
}

async fn forget(state: State, delivery: Delivery<UserForgotten>) -> Result<(), Failure> {
    let account = delivery.message.account;
    state.store.forget(account, &state.announcer, &delivery.trace, state.flight_clock.now()).await?;
    state.outbox.notify_one();
    tracing::info!(%account, "forgotten");
    Ok(())
}
