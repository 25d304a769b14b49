//! What has to end before the gateway may stop, and the order in which it is ended.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long a connection that was accepted just before the stop may take to send its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Connections and requests of one gateway, and whether it is stopping.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    stopping: watch::Sender<bool>,
    /// Never looked at, so that every clone still has the change to `true` before it, however late it is made.
    watch: ShutdownWatch,
    /// Connections that have not sent a request yet.
    newcomers: TaskTracker,
    requests: TaskTracker,
    connections: TaskTracker,
    /// From here on, who has not asked for anything yet is too late.
    last_call: CancellationToken,
    cut: CancellationToken,
}

/// What is known of one client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The client's address.
    pub(crate) peer: SocketAddr,
    newcomer: Mutex<Option<TaskTrackerToken>>,
}

impl Connection {
    /// The first request has come.
    pub(crate) fn has_asked(&self) {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_newcomer(&self) -> bool {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Default for Lifecycle {
    /// Nothing is open yet.
    fn default() -> Lifecycle {
        let (stopping, watch) = watch::channel(false);
        let lifecycle = Lifecycle {
            stopping,
            watch,
            newcomers: TaskTracker::new(),
            requests: TaskTracker::new(),
            connections: TaskTracker::new(),
            last_call: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        // A closed tracker is done whenever it is empty; it still takes more.
        for tracker in [&lifecycle.newcomers, &lifecycle.requests, &lifecycle.connections] {
            tracker.close();
        }
        lifecycle
    }
}

impl Lifecycle {
    /// A connection that was just accepted.
    pub(crate) fn connection(&self, peer: SocketAddr) -> Arc<Connection> {
        Arc::new(Connection { peer, newcomer: Mutex::new(Some(self.newcomers.token())) })
    }

    /// Holds the drain until it is dropped: one request.
    pub(crate) fn request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// Serves a connection on a task of its own until it ends or is cut off.
    pub(crate) fn spawn(
        &self,
        connection: Arc<Connection>,
        serving: impl Future<Output = ()> + Send + 'static,
    ) {
        let (last_call, cut) = (self.last_call.clone(), self.cut.clone());
        // It may hang in its handshake, TLS's or HTTP/2's, where pingora does not look up.
        let too_late = async move {
            last_call.cancelled().await;
            if !connection.is_newcomer() {
                pending::<()>().await;
            }
        };
        self.connections.spawn(async move {
            tokio::select! {
                () = serving => {}
                () = too_late => {}
                () = cut.cancelled() => {}
            }
        });
    }

    /// Connections live no longer than this guard.
    pub(crate) fn cut_off_when_dropped(&self) -> DropGuard {
        self.cut.clone().drop_guard()
    }

    /// Whether connections are to be closed after the request in hand.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// For pingora: turns true when the gateway stops, upon which HTTP/2 connections say goodbye.
    pub(crate) fn watch(&self) -> ShutdownWatch {
        self.watch.clone()
    }

    /// Waits until no request is in flight and all connections have ended. `close_idle` closes the HTTP/1
    /// connections that wait for a next request.
    pub(crate) async fn drain(&self, close_idle: impl Future<Output = ()>) {
        self.stopping.send_replace(true);
        // Only a connection that never asks for anything makes this time out.
        let _ = timeout(FIRST_REQUEST, self.newcomers.wait()).await;
        self.requests.wait().await;
        self.last_call.cancel();
        close_idle.await;
        self.connections.wait().await;
    }
}
