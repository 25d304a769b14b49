//! The access log: a line for each request, written by a thread of its own. Who answers requests never waits for it; what
//! does not fit in the queue is dropped, and counted.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Method;
use prometheus_client::metrics::counter::Counter;

/// Lines that may wait to be written.
const QUEUE: usize = 16 * 1024;
/// Lines are written at least this often. A request that woke the writer would pay for it.
const PACE: Duration = Duration::from_millis(100);

/// One answered request.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The request's id.
    pub(crate) request_id: String,
    /// The method; none when the head could not be read.
    pub(crate) method: Option<Method>,
    /// The path in normal form, without the query, which may hold a token.
    pub(crate) path: String,
    /// The status of the answer; 499 when nobody waited for it.
    pub(crate) status: u16,
    /// The route's name.
    pub(crate) route: Arc<str>,
    /// From the whole head to the end of the answer.
    pub(crate) took: Duration,
    /// The other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
}

/// The queue and its writer.
#[derive(Debug)]
pub(crate) struct AccessLog {
    queue: Arc<Queue>,
    dropped: Counter,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Mutex<Lines>,
    stop: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<Entry>,
    stopping: bool,
}

impl AccessLog {
    /// Starts the writer; `dropped` counts lines that did not fit.
    pub(crate) fn start(dropped: Counter) -> std::io::Result<AccessLog> {
        let queue = Arc::new(Queue::default());
        let for_writer = queue.clone();
        // Where lines go is the starting thread's choice: tests have a log each.
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || tracing::dispatcher::with_default(&dispatch, || for_writer.write_all()))?;
        Ok(AccessLog { queue, dropped, writer: Mutex::new(Some(writer)) })
    }

    /// Queues a line.
    pub(crate) fn write(&self, entry: Entry) {
        let mut lines = self.queue.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.waiting.len() < QUEUE {
            lines.waiting.push(entry);
        } else {
            self.dropped.inc();
        }
    }

    /// Writes what is left, and nothing from then on.
    pub(crate) fn close(&self) {
        self.queue.lines.lock().unwrap_or_else(PoisonError::into_inner).stopping = true;
        self.queue.stop.notify_all();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

impl Queue {
    fn write_all(&self) {
        loop {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.stop.wait_timeout_while(lines, PACE, |lines| !lines.stopping);
            let (mut lines, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let (batch, stopping) = (take(&mut lines.waiting), lines.stopping);
            drop(lines);
            batch.iter().for_each(write);
            if stopping {
                return;
            }
        }
    }
}

fn write(entry: &Entry) {
    tracing::info!(
        request_id = %entry.request_id,
        method = entry.method.as_ref().map_or("none", Method::as_str),
        path = %entry.path,
        status = entry.status,
        route = &*entry.route,
        took_ms = u64::try_from(entry.took.as_millis()).unwrap_or(u64::MAX),
        peer = entry.peer.map(tracing::field::display),
        "answered"
    );
}
