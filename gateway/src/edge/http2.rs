//! HTTP/2 connections: floods are met and stalled requests ended here, the streams are Pingora's.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use h2::Reason;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{
    H2Accept, H2Options, HttpSession, default_h2_options, handshake,
};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use crate::edge::Worker;
use crate::edge::socket::Tls;
use crate::exchange::{Connection, Exchange};
use crate::policy::flood::Flood;
use crate::settings::Limits;

/// How long a client may take to go after it was told to.
const GOODBYE: Duration = Duration::from_secs(1);
/// Requests refused for their form before the connection ends: Pingora's own figure, which it keeps to itself.
const MALFORMED: u32 = 32;

/// What every connection is served with.
pub(super) fn options(limits: &Limits) -> H2Options {
    let mut options = default_h2_options();
    options.max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX));
    options.max_concurrent_streams(limits.h2_streams);
    options
}

/// Serves a connection until it ends.
pub(super) async fn serve(worker: &Worker, tls: Tls, connection: Arc<Connection>) {
    let settings = &worker.gateway.settings;
    let alarm = Arc::new(Alarm::default());
    let flood = Flood::new(settings.limits.h2_control_frames, std::time::Instant::now());
    let patience = settings.timeouts.head;
    let stream = Http2Stream { tls, flood, alarm: alarm.clone(), patience, head: None };
    let greeted = timeout(settings.timeouts.head, handshake(Box::new(stream), Some(worker.h2.clone()))).await;
    let Ok(Ok(mut client)) = greeted else { return };

    let requests = TaskTracker::new();
    requests.close();
    let mut next = None;
    let mut malformed = 0;
    // Once it is told to go: when it has to be gone.
    let mut told = false;
    let mut gone_by = None;
    loop {
        let (exchange, digest) = next.get_or_insert_with(|| described(&connection));
        let idle = async {
            requests.wait().await;
            sleep(if told { GOODBYE } else { settings.timeouts.idle }).await;
            // The library may have the end of an answer that Pingora is done with. Who takes none of it is cut below.
            while alarm.blocked.load(Ordering::Relaxed) {
                sleep(GOODBYE).await;
            }
        };
        tokio::select! {
            accepted = HttpSession::from_h2_conn(&mut client, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(session))) => {
                    let exchange = exchange.clone();
                    next = None;
                    // It was made when the wait for this stream began.
                    exchange.moves();
                    let task = requests.spawn(answer(worker.clone(), session, exchange.clone()));
                    exchange.is_served_by(task.abort_handle());
                }
                Ok(Some(H2Accept::Rejected)) => {
                    worker.gateway.metrics.malformed_stream();
                    malformed += 1;
                    if malformed == MALFORMED {
                        alarm.raise();
                    }
                }
                Ok(None) | Err(_) => return,
            },
            () = alarm.is_raised(), if gone_by.is_none() => {
                worker.gateway.metrics.flood();
                tracing::info!(peer = %connection.peer, "a client floods its HTTP/2 connection, or does not end what it began");
                client.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                gone_by = Some(Instant::now() + GOODBYE);
            }
            () = worker.lifecycle.stopping().cancelled(), if !told => {
                client.graceful_shutdown();
                told = true;
            }
            () = idle => {
                if told {
                    return;
                }
                client.graceful_shutdown();
                told = true;
            }
            () = async { match gone_by { Some(time) => sleep_until(time).await, None => std::future::pending().await } } => return,
        }
    }
}

/// An exchange for the next stream, in the form in which Pingora carries it.
fn described(connection: &Arc<Connection>) -> (Arc<Exchange>, Arc<Digest>) {
    let exchange = Arc::new(Exchange::new(connection.clone(), None));
    let digest = Digest {
        ssl_digest: None,
        timing_digest: Vec::new(),
        proxy_digest: super::digest(exchange.clone()),
        socket_digest: None,
    };
    (exchange, Arc::new(digest))
}

/// One stream. Pingora has no time-out for the body of a request over HTTP/2.
async fn answer(worker: Worker, session: HttpSession, exchange: Arc<Exchange>) {
    let mut session = ServerSession::new_http2(session);
    let has_body = !session.is_body_done();
    // Bodies that are waited for whole have their answer by then.
    let limit = worker.gateway.settings.timeouts.body + GOODBYE;
    tokio::select! {
        biased;
        _ = worker.http.process_new_http(session, worker.lifecycle.watch()) => {}
        () = exchange.body_stalls(limit), if has_body => worker.gateway.metrics.stalled(),
    }
}

/// What the loop has to know of the stream below the library.
#[derive(Debug, Default)]
struct Alarm {
    /// The client floods.
    raised: AtomicBool,
    notify: Notify,
    /// There is more to write than the client takes.
    blocked: AtomicBool,
}

impl Alarm {
    fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    async fn is_raised(&self) {
        self.notify.notified().await;
    }
}

/// An HTTP/2 connection whose frames are counted as they come.
#[derive(Debug)]
pub(crate) struct Http2Stream {
    tls: Tls,
    flood: Flood,
    alarm: Arc<Alarm>,
    /// How long a head may take.
    patience: Duration,
    /// Runs while a head is on its way.
    head: Option<Pin<Box<Sleep>>>,
}

impl Http2Stream {
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.alarm.blocked.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(bytes)) = written {
            self.flood.sent(bytes);
        }
        written
    }
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.alarm.raised.load(Ordering::Relaxed) {
            // Nothing is listened to any more; what is left is to say so and go.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.tls).poll_read(context, buffer);
        if read.is_pending() {
            if let Some(head) = &mut self.head {
                ready!(head.as_mut().poll(context));
                self.alarm.raise();
            }
            return Poll::Pending;
        }
        if self.flood.received(&buffer.filled()[before..], std::time::Instant::now()) {
            self.alarm.raise();
        }
        if !self.flood.is_amid_head() {
            self.head = None;
        } else if self.head.is_none() {
            self.head = Some(Box::pin(sleep(self.patience)));
        }
        read
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tls).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tls).poll_flush(context);
        self.alarm.blocked.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Http2Stream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

super::stream_without_digests!(Http2Stream);
