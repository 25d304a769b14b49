//! What has to end before the gateway may stop, and the order in which it is ended.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pingora_core::server::ShutdownWatch;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::exchange::Connection;
use crate::policy::forwarding::Peer;

/// How long a connection that was accepted, or answered, just before the stop may take to send a request.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// How often connections that wait for a request are asked to look whether they may go.
const PACE: Duration = Duration::from_millis(20);

/// Connections and requests of one gateway, and whether it is stopping.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    stops: AtomicBool,
    cut_off: AtomicBool,
    stopping: CancellationToken,
    /// The same for Pingora, which asks for it in this form.
    watch: (watch::Sender<bool>, ShutdownWatch),
    /// Connections that have not sent a request yet.
    newcomers: TaskTracker,
    requests: TaskTracker,
    connections: TaskTracker,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

/// Takes a connection off the list when its task ends, however it does.
struct Listed {
    lifecycle: Arc<Lifecycle>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.lifecycle.open().remove(&self.number);
    }
}

impl Default for Lifecycle {
    /// Nothing is open yet.
    fn default() -> Lifecycle {
        let lifecycle = Lifecycle {
            stops: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            watch: watch::channel(false),
            newcomers: TaskTracker::new(),
            requests: TaskTracker::new(),
            connections: TaskTracker::new(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
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
    pub(crate) fn connection(&self, peer: SocketAddr, told: Peer) -> Arc<Connection> {
        Arc::new(Connection::new(peer, told, self.newcomer()))
    }

    /// Holds the drain for a moment at most: one who may be about to ask.
    pub(crate) fn newcomer(&self) -> TaskTrackerToken {
        self.newcomers.token()
    }

    /// Holds the drain until it is dropped: one request.
    pub(crate) fn request(&self) -> TaskTrackerToken {
        self.requests.token()
    }

    /// Serves a connection on a task of its own until it ends or is cut.
    pub(crate) fn spawn(
        self: &Arc<Lifecycle>,
        connection: Arc<Connection>,
        serving: impl Future<Output = ()> + Send + 'static,
    ) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let listed = Listed { lifecycle: self.clone(), number };
        self.open().insert(number, connection.clone());
        let task = self.connections.spawn(async move {
            serving.await;
            drop(listed);
        });
        connection.is_served_by(task.abort_handle());
        if self.cut_off.load(Ordering::SeqCst) {
            connection.cut();
        }
    }

    /// Connections live no longer than this guard.
    pub(crate) fn cut_off_when_dropped(self: &Arc<Lifecycle>) -> CutOff {
        CutOff(self.clone())
    }

    /// Whether connections are to be closed after the request in hand.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }

    /// Cancelled when the gateway begins to stop.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// For Pingora: turns true when the gateway stops.
    pub(crate) fn watch(&self) -> &ShutdownWatch {
        &self.watch.1
    }

    /// Whether a connection that was `answered` then and has not asked again is to be closed because of a stop; if not,
    /// its task is woken to ask once more. Who was answered just now may be about to ask, and a request that meets a
    /// closing connection would be lost: it has a moment, and then its answer tells it to close.
    pub(crate) fn poll_closing(
        &self,
        connection: &Connection,
        answered: Instant,
        context: &Context<'_>,
    ) -> Poll<()> {
        connection.wait(context);
        if self.is_stopping() && answered.elapsed() >= LAST_REQUEST { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether a request is still being answered.
    pub(crate) fn has_requests(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Waits until all connections have ended.
    pub(crate) async fn all_closed(&self) {
        self.connections.wait().await;
    }

    /// Waits until no request is in flight and all connections have ended.
    pub(crate) async fn drain(&self) {
        self.stops.store(true, Ordering::Relaxed);
        self.watch.0.send_replace(true);
        self.stopping.cancel();
        let asked_to_go = async {
            loop {
                self.each(Connection::wake);
                sleep(PACE).await;
            }
        };
        let drained = async {
            // Only a connection that never asks for anything makes this time out.
            let _ = timeout(LAST_REQUEST, self.newcomers.wait()).await;
            self.requests.wait().await;
            // Who has not asked for anything yet is too late; it may hang in a handshake.
            self.each(Connection::cut_newcomer);
            self.connections.wait().await;
        };
        tokio::select! {
            () = drained => {}
            () = asked_to_go => {}
        }
    }

    fn each(&self, act: impl Fn(&Connection)) {
        self.open().values().for_each(|connection| act(connection));
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts all connections when it is dropped.
pub(crate) struct CutOff(Arc<Lifecycle>);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.cut_off.store(true, Ordering::SeqCst);
        self.0.each(Connection::cut);
    }
}
