//! Ports that stay somebody's while he is away.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;

use rand::RngExt;
use tokio::net::TcpListener;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A listener on a port that nobody was given. It is below 32768, where no system takes the ports of outgoing connections
/// from: nobody can take it while whoever has it is away.
pub(crate) async fn listener() -> TcpListener {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if !GIVEN.lock().unwrap().insert(port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
    }
}

/// The address of such a port, for somebody who listens by himself.
pub(crate) async fn address() -> SocketAddr {
    listener().await.local_addr().unwrap()
}
