//! What has to end before the gateway may stop, and the order in which it is ended.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long a connection that was accepted just before the stop may take to send its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// Connections and requests of one gateway, and whether it is stopping.
#[derive(Debug)]
pub struct Lifecycle {
    stopping: watch::Sender<bool>,
    /// Never looked at, so that every clone still has the change to `true` before it, however late it is made.
    watch: ShutdownWatch,
    /// Connections that have not sent a request yet.
    newcomers: TaskTracker,
    requests: TaskTracker,
    connections: TaskTracker,
    cut: CancellationToken,
}

/// What is known of one client connection.
#[derive(Debug)]
pub struct Connection {
    /// The client's address.
    pub peer: SocketAddr,
    newcomer: Mutex<Option<TaskTrackerToken>>,
}

impl Connection {
    /// The first request has come.
    pub fn has_asked(&self) {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Lifecycle {
    /// Nothing is open yet.
    pub fn new() -> Lifecycle {
        let (stopping, watch) = watch::channel(false);
        let lifecycle = Lifecycle {
            stopping,
            watch,
            newcomers: TaskTracker::new(),
            requests: TaskTracker::new(),
            connections: TaskTracker::new(),
            cut: CancellationToken::new(),
        };
        // A closed tracker is done whenever it is empty; it still takes more.
        for tracker in [&lifecycle.newcomers, &lifecycle.requests, &lifecycle.connections] {
            tracker.close();
        }
        lifecycle
    }

    /// A connection that was just accepted.
    pub fn connection(&self, peer: SocketAddr) -> Connection {
        Connection { peer, newcomer: Mutex::new(Some(self.newcomers.token())) }
    }

    /// Holds the drain until it is dropped: one request.
    pub fn request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// Serves a connection on a task of its own until it ends or is cut off.
    pub fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        self.connections.spawn(async move {
            cut.run_until_cancelled(connection).await;
        });
    }

    /// Whether connections are to be closed after the request in hand.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// For pingora: turns true when the gateway stops, upon which HTTP/2 connections say goodbye.
    pub fn watch(&self) -> ShutdownWatch {
        self.watch.clone()
    }

    /// Waits until no request is in flight and all connections have ended. `close_idle` closes the HTTP/1
    /// connections that wait for a next request. Dropping the future, or the lifecycle, cuts off what is left.
    pub async fn drain(&self, close_idle: impl Future<Output = ()>) {
        let _cut = self.cut.clone().drop_guard();
        self.stopping.send_replace(true);
        // Only a connection that never asks for anything makes this time out.
        let _ = timeout(FIRST_REQUEST, self.newcomers.wait()).await;
        self.requests.wait().await;
        close_idle.await;
        self.connections.wait().await;
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}
