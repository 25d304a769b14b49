//! What is known of a client's connection, and of one request on it. The accept loop and the hooks meet here: Pingora
//! carries an [`Exchange`] from the one to the other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::policy::forwarding::Peer;
use crate::problem::Refusal;

/// One client connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// The other end as services are told of it.
    pub(crate) told: Peer,
    newcomer: Mutex<Option<TaskTrackerToken>>,
    task: OnceLock<AbortHandle>,
    is_cut: AtomicBool,
    waits: AtomicWaker,
}

impl Connection {
    /// A connection that has not asked for anything yet; `newcomer` is held until it has.
    pub(crate) fn new(peer: SocketAddr, told: Peer, newcomer: TaskTrackerToken) -> Connection {
        Connection {
            peer,
            told,
            newcomer: Mutex::new(Some(newcomer)),
            task: OnceLock::new(),
            is_cut: AtomicBool::new(false),
            waits: AtomicWaker::new(),
        }
    }

    /// The task that serves it.
    pub(crate) fn is_served_by(&self, task: AbortHandle) {
        let task = self.task.get_or_init(|| task);
        if self.is_cut.load(Ordering::SeqCst) {
            task.abort();
        }
    }

    /// Ends it at once. Nobody looks out for this: a task is ended from outside, so that serving costs nothing more.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    /// Ends it at once unless it has asked for something.
    pub(crate) fn cut_newcomer(&self) {
        let newcomer = self.newcomer.lock().unwrap_or_else(PoisonError::into_inner);
        if newcomer.is_some() {
            self.cut();
        }
    }

    /// Has the task woken by [`Connection::wake`].
    pub(crate) fn wait(&self, context: &Context<'_>) {
        self.waits.register(context.waker());
    }

    /// Wakes the task if it waits for a request.
    pub(crate) fn wake(&self) {
        self.waits.wake();
    }

    /// The first request has come, or begins to.
    pub(crate) fn has_asked(&self) {
        self.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// One request and its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// The connection that it came on.
    pub(crate) connection: Arc<Connection>,
    /// HTTP/1: the target as it came. Pingora sees another one, which its parser cannot choke on.
    pub(crate) target: Option<Bytes>,
    /// When it began; times below are counted from here.
    began: Instant,
    /// HTTP/2: the task that serves this request alone.
    task: OnceLock<AbortHandle>,
    fault: OnceLock<Refusal>,
    tunnel: AtomicBool,
    body_ended: AtomicBool,
    /// When something last moved, in milliseconds.
    moved: AtomicU64,
}

impl Exchange {
    /// A request that begins now.
    pub(crate) fn new(connection: Arc<Connection>, target: Option<Bytes>) -> Exchange {
        Exchange {
            connection,
            target,
            began: Instant::now(),
            task: OnceLock::new(),
            fault: OnceLock::new(),
            tunnel: AtomicBool::new(false),
            body_ended: AtomicBool::new(false),
            moved: AtomicU64::new(0),
        }
    }

    /// The task that serves this request and no other.
    pub(crate) fn is_served_by(&self, task: AbortHandle) {
        let _ = self.task.set(task);
    }

    /// Ends it without another word; over HTTP/1 the connection ends with it.
    pub(crate) fn cut(&self) {
        match self.task.get() {
            Some(task) => task.abort(),
            None => self.connection.cut(),
        }
    }

    /// The body broke a rule; the first one counts.
    pub(crate) fn blame(&self, refusal: Refusal) {
        let _ = self.fault.set(refusal);
    }

    /// The rule that the body broke.
    pub(crate) fn fault(&self) -> Option<Refusal> {
        self.fault.get().cloned()
    }

    /// From here on bytes pass both ways as they come (101).
    pub(crate) fn becomes_tunnel(&self) {
        self.tunnel.store(true, Ordering::Relaxed);
    }

    /// Whether bytes pass as they come.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.load(Ordering::Relaxed)
    }

    /// Something has come or gone.
    pub(crate) fn moves(&self) {
        self.moved.store(self.began.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long nothing has come or gone.
    pub(crate) fn idle(&self) -> Duration {
        self.last_move().elapsed()
    }

    /// The whole request body has come.
    pub(crate) fn body_ends(&self) {
        self.body_ended.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing of the body has come for `limit`; for ever when it has come in whole.
    pub(crate) async fn body_stalls(&self, limit: Duration) {
        loop {
            let due = self.last_move() + limit;
            sleep_until(due).await;
            if self.body_ended.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            if self.last_move() + limit <= due {
                return;
            }
        }
    }

    fn last_move(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }
}
