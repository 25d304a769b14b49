//! Which mails this replica is trying.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Ids of mails that are being tried. A lease tells replicas apart, but not two tries within one: of a letter that comes again
/// while its partition is away and back, or of a mail that another replica has parked meanwhile.
#[derive(Default)]
pub(crate) struct InHand {
    ids: Mutex<HashSet<String>>,
    freed: Notify,
}

/// Until it is dropped, which is when the outcome is written down, nobody else of this replica tries the mail.
pub(crate) struct Hand<'a> {
    of: &'a InHand,
    id: &'a str,
}

impl InHand {
    /// Waits until nobody else tries it.
    pub(crate) async fn take<'a>(&'a self, id: &'a str) -> Hand<'a> {
        loop {
            // Made before the look, so that what is freed after it wakes us.
            let freed = self.freed.notified();
            if self.ids().insert(id.to_owned()) {
                return Hand { of: self, id };
            }
            freed.await;
        }
    }

    fn ids(&self) -> MutexGuard<'_, HashSet<String>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.of.ids().remove(self.id);
        self.of.freed.notify_waiters();
    }
}
