//! HTTP/1 connections. The head of every request is read and judged here, before Pingora sees it, and of what follows
//! the stream hands over only what belongs to that request: Pingora cannot be led to another idea of where a request
//! ends, and one deadline holds for the whole head.

use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout, timeout_at};

use crate::edge::Worker;
use crate::edge::socket::Tls;
use crate::exchange::{Connection, Exchange};
use crate::policy::framing::Framing;
use crate::policy::head::{self, Scanner};
use crate::problem::Refusal;
use crate::proxy::LINGER;

/// Bytes of following requests that are held while one is being answered.
const READ_AHEAD: usize = 32 * 1024;
/// Answers are gathered up to this size before they are encrypted: a TLS record.
const GATHER: usize = 16 * 1024;

/// Serves a connection until it ends.
pub(super) async fn serve(worker: &Worker, tls: Tls, connection: Arc<Connection>) {
    let settings = &worker.gateway.settings;
    // It is large: it stays where it is while it goes to and fro.
    let mut stream = Box::new(Http1Stream::new(tls, connection));
    let mut answered = None;
    loop {
        match stream.next_head(worker, answered).await {
            Ok(true) => {}
            Ok(false) => return stream.close().await,
            Err(Fault { refusal, began, request_id }) => {
                let bare = stream.incoming.starts_with(b"HEAD ");
                let peer = stream.connection.peer;
                let answer = worker.gateway.refuse_head(peer, &refusal, began, request_id.as_deref(), bare);
                return stream.say_goodbye(&answer, settings.timeouts.write).await;
            }
        }
        let exchange = stream.exchange.clone();
        let mut session = ServerSession::new_http1(stream);
        // Pingora hands it to the hooks.
        session.set_connection_user_context(exchange.map(|exchange| Box::new(exchange) as Box<_>));
        let Some(reused) = worker.http.process_new_http(session, worker.lifecycle.watch()).await else {
            return;
        };
        let (reused, _) = reused.consume();
        let Ok(reused) = reused.into_any().downcast::<Http1Stream>() else { return };
        stream = reused;
        answered = Some(Instant::now());
    }
}

/// Why a head was not accepted.
struct Fault {
    refusal: Refusal,
    began: Instant,
    request_id: Option<Bytes>,
}

/// An HTTP/1 connection that hands over one request at a time.
#[derive(Debug)]
pub(crate) struct Http1Stream {
    tls: Tls,
    connection: Arc<Connection>,
    /// Come, but not handed over.
    incoming: BytesMut,
    /// So many bytes of `incoming` may be handed over.
    ready: usize,
    /// What is still to come of the request's body.
    body: Framing,
    /// The client sends nothing more.
    ended: bool,
    /// Pingora knows that the body broke a rule; what still comes of it is thrown away.
    told: bool,
    /// Written by Pingora, not encrypted yet.
    outgoing: BytesMut,
    exchange: Option<Arc<Exchange>>,
}

impl Http1Stream {
    fn new(tls: Tls, connection: Arc<Connection>) -> Http1Stream {
        Http1Stream {
            tls,
            connection,
            incoming: BytesMut::new(),
            ready: 0,
            body: Framing::length(0),
            ended: false,
            told: false,
            outgoing: BytesMut::new(),
            exchange: None,
        }
    }

    /// Waits for the head of a next request; none has been `answered` yet if this is the first. Whether there is one:
    /// there is none when the client is gone or silent, and when the gateway stops.
    async fn next_head(&mut self, worker: &Worker, answered: Option<Instant>) -> Result<bool, Fault> {
        let settings = &worker.gateway.settings;
        let (whole, largest) = (settings.timeouts.head, settings.limits.head);
        // Pingora gives a connection back only when it has read the whole request. What is left of one is no head.
        if self.ready > 0 || !self.body.is_done() {
            return Ok(false);
        }
        self.exchange = None;
        let waits_since = Instant::now();
        if self.incoming.is_empty() {
            // An idle connection keeps no buffers.
            (self.incoming, self.outgoing) = (BytesMut::new(), BytesMut::new());
            let idle = if answered.is_none() { whole } else { settings.timeouts.idle };
            // Pingora's timer is a cheap one: tokio's would make a system call for many a request.
            match pingora_timeout::timeout(idle, self.first_bytes(worker, answered)).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return Ok(false),
            }
        }
        self.connection.has_asked();
        // The first head's time runs from the handshake.
        let began = if answered.is_none() { waits_since } else { Instant::now() };
        let fault = |refusal| Fault { refusal, began, request_id: None };
        let mut scanner = Scanner::default();
        loop {
            if scanner.is_at_start() {
                // Some clients end a body with a line of its own (RFC 9112, section 2.2).
                while self.incoming.starts_with(b"\r\n") {
                    self.incoming.advance(2);
                }
            }
            match scanner.find_end(&self.incoming).map_err(fault)? {
                Some(end) if end <= largest => return self.accept(end, began).map(|()| true),
                None if self.incoming.len() <= largest => {}
                _ => return Err(fault(Refusal::HeadTooLarge)),
            }
            match timeout_at(began + whole, self.fill()).await {
                Ok(Ok(read)) if read > 0 => {}
                Ok(_) => return Ok(false),
                Err(_) => return Err(fault(Refusal::SlowHead)),
            }
        }
    }

    /// Reads what is there; nothing when the gateway stops meanwhile.
    async fn first_bytes(&mut self, worker: &Worker, answered: Option<Instant>) -> io::Result<usize> {
        std::future::poll_fn(|context| {
            if let Poll::Ready(read) = self.poll_fill(context) {
                return Poll::Ready(read);
            }
            let Some(answered) = answered else { return Poll::Pending };
            worker.lifecycle.poll_closing(&self.connection, answered, context).map(|()| Ok(0))
        })
        .await
    }

    /// Judges the head of `end` bytes, and makes it ready to be handed over.
    fn accept(&mut self, end: usize, began: Instant) -> Result<(), Fault> {
        let head = head::parse(&self.incoming[..end]);
        let head = head.map_err(|refusal| Fault { refusal, began, request_id: None })?;
        if head.method == b"CONNECT" {
            let request_id = head.request_id.map(Bytes::copy_from_slice);
            return Err(Fault { refusal: Refusal::Tunnel, began, request_id });
        }
        let target = Bytes::copy_from_slice(head.target);
        let method = head.method.len() + 1;
        self.body = head.body;
        // Pingora reads `/` for a target: ours is taken from the exchange, byte for byte, and its parser refuses some.
        let start = target.len() - 1;
        self.incoming.copy_within(..method, start);
        self.incoming[start + method] = b'/';
        self.incoming.advance(start);
        self.ready = end - start;
        let exchange = Arc::new(Exchange::new(self.connection.clone(), Some(target)));
        self.exchange = Some(exchange);
        Ok(())
    }

    /// Reads what is there, at least a byte; 0 at the end.
    async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|context| self.poll_fill(context)).await
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); 8192];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.tls).poll_read(context, &mut buffer))?;
        self.ended |= buffer.filled().is_empty();
        self.incoming.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Finds out how much more may be handed over. The end of the request, or of the connection, is no more.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.told {
            self.incoming.clear();
            if ready!(self.poll_fill(context))? == 0 {
                return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
            }
        }
        loop {
            let tunnel = self.exchange.as_ref().is_some_and(|exchange| exchange.is_tunnel());
            if tunnel {
                self.ready = self.incoming.len();
            } else if !self.body.is_done() {
                match self.body.take(&self.incoming) {
                    Ok(ready) => self.ready = ready,
                    Err(refusal) => {
                        self.told = true;
                        if let Some(exchange) = &self.exchange {
                            exchange.blame(refusal);
                        }
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                }
                if self.body.is_done()
                    && let Some(exchange) = &self.exchange
                {
                    exchange.body_ends();
                }
            }
            if self.ready > 0 || (self.ended && self.incoming.is_empty()) {
                return Poll::Ready(Ok(()));
            }
            // Between requests Pingora reads only to notice that the client goes.
            if self.ended || self.incoming.len() >= READ_AHEAD {
                return Poll::Pending;
            }
            ready!(self.poll_fill(context))?;
        }
    }

    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let written = ready!(Pin::new(&mut self.tls).poll_write(context, &self.outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.outgoing.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye, as far as that is possible at once.
    async fn close(mut self) {
        let _ = timeout(LINGER, self.tls.shutdown()).await;
    }

    /// Sends an answer to a request that Pingora never saw, and closes.
    async fn say_goodbye(mut self, answer: &[u8], patience: Duration) {
        let told = async {
            self.tls.write_all(answer).await?;
            self.tls.shutdown().await
        };
        if !matches!(timeout(patience, told).await, Ok(Ok(()))) {
            return;
        }
        let until = Instant::now() + LINGER;
        while let Ok(Ok(1..)) = timeout_at(until, self.fill()).await {
            self.incoming.clear();
        }
    }
}

impl Drop for Http1Stream {
    // Pingora gives up an answer that its service breaks off, and with it what waits here: the client is to see as much of
    // it as came.
    fn drop(&mut self) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let _ = Pin::new(self).poll_flush(&mut context);
    }
}

impl AsyncRead for Http1Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ready == 0 {
            ready!(self.poll_more(context))?;
        }
        let count = self.ready.min(buffer.remaining());
        buffer.put_slice(&self.incoming[..count]);
        self.incoming.advance(count);
        self.ready -= count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http1Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.outgoing.len() + bytes.len() > GATHER {
            ready!(self.poll_write_out(context))?;
            if bytes.len() >= GATHER {
                return Pin::new(&mut self.tls).poll_write(context, bytes);
            }
        }
        self.outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(context))?;
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

#[async_trait]
impl Shutdown for Http1Stream {
    async fn shutdown(&mut self) {
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

super::stream_without_digests!(Http1Stream);
