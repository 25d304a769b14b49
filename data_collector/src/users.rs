//! What user_manager tells us about accounts.

use std::sync::Arc;

use common::bus::{Consumer, Delivery, Failure};
use common::clock::Clock;
use common::messages::UserForgotten;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// The consumer group.
pub(crate) const GROUP: &str = "collector_group";

/// Forgets the accounts that were deleted, until cancelled.
pub(crate) async fn forget_deleted(
    consumer: Consumer,
    store: Store,
    clock: Clock,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let shared = Arc::new((store, clock));
    consumer
        .run(token, move |delivery: Delivery<UserForgotten>| {
            let shared = shared.clone();
            async move {
                let (store, clock) = &*shared;
                store.forget(delivery.message.account, clock.now()).await?;
                tracing::info!(account = %delivery.message.account, "forgotten");
                Ok::<(), Failure>(())
            }
        })
        .await
}
