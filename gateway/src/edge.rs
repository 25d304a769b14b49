//! From the listening socket to Pingora: one thread accepts, and hands each connection to one of several worker threads
//! that serve it from the handshake to the end. A worker shares no connection with another, neither to clients nor to
//! services: what happens for a request happens on one thread.

mod http1;
mod http2;
mod redirect;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use rustix::net::sockopt;
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use self::redirect::redirect;
use self::socket::Socket;
use crate::exchange::{Connection, Exchange};
use crate::lifecycle::Lifecycle;
use crate::policy::client::{self, Client, Clients};
use crate::policy::forwarding::Peer;
use crate::proxy::{Gateway, Hooks};

/// The pause after an error of accept: no file descriptors are left, and some may be given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection that is silent for so long is probed, so often, and so many times before it is given up.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 4;
/// What the kernel holds of an answer beside what is on its way, in bytes.
const UNSENT: u32 = 64 * 1024;

/// Accepts connections and hands them out.
pub(crate) struct Edge {
    gateway: Arc<Gateway>,
    lifecycle: Arc<Lifecycle>,
    places: Arc<Semaphore>,
    clients: Option<Arc<Clients>>,
    workers: Vec<UnboundedSender<Accepted>>,
}

/// A connection on its way to a worker.
struct Accepted {
    tcp: std::net::TcpStream,
    connection: Arc<Connection>,
    place: OwnedSemaphorePermit,
    share: Option<client::Guard>,
}

/// What a worker serves connections with.
#[derive(Clone)]
struct Worker {
    gateway: Arc<Gateway>,
    http: Arc<HttpProxy<Hooks>>,
    h2: H2Options,
    acceptor: TlsAcceptor,
    lifecycle: Arc<Lifecycle>,
}

impl Edge {
    /// Starts the workers.
    pub(crate) fn new(tls: Arc<ServerConfig>, gateway: Arc<Gateway>) -> anyhow::Result<Edge> {
        let settings = &gateway.settings;
        let lifecycle = gateway.lifecycle.clone();
        let mut workers = Vec::new();
        for number in 0..settings.workers.get() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let worker = Worker {
                gateway: gateway.clone(),
                http: Arc::new(Hooks(gateway.clone()).into_http()),
                h2: http2::options(&settings.limits),
                acceptor: TlsAcceptor::from(tls.clone()),
                lifecycle: lifecycle.clone(),
            };
            let (sender, connections) = unbounded_channel();
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(worker.run(connections)))
                .context("a worker thread")?;
            workers.push(sender);
        }
        let places = usize::try_from(settings.limits.connections).unwrap_or(usize::MAX);
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let clients = settings.limits.connections_per_client.map(|most| Arc::new(Clients::new(most)));
        Ok(Edge { gateway, lifecycle, places, clients, workers })
    }

    /// Accepts until `token` is cancelled, then closes the listener and drains what was accepted. Dropping the future
    /// cuts everything off.
    pub(crate) async fn serve(self, listener: TcpListener, token: CancellationToken) {
        let _cut_off = self.lifecycle.cut_off_when_dropped();
        if let Err(error) = prepare(&listener) {
            tracing::warn!(%error, "the listening socket cannot be tuned");
        }
        token.run_until_cancelled(self.accept(&listener)).await;
        drop(listener);
        self.lifecycle.drain().await;
    }

    /// Beyond the cap connections wait in the kernel's backlog.
    async fn accept(&self, listener: &TcpListener) {
        let mut turn = self.workers.iter().cycle();
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    let told = Peer::new(peer.ip(), &self.gateway.settings.trusted_proxies);
                    let Ok(share) = self.share(peer, &told) else {
                        self.gateway.metrics.too_many_connections();
                        continue;
                    };
                    let connection = self.lifecycle.connection(peer, told);
                    // Another thread's reactor will drive it.
                    let handed = tcp.into_std().map(|tcp| Accepted { tcp, connection, place, share });
                    if let (Ok(accepted), Some(worker)) = (handed, turn.next())
                        && worker.send(accepted).is_err()
                    {
                        tracing::error!("a worker thread has ended; its connections are refused");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A client's share of all connections. Proxies that speak for many have no bound of their own.
    fn share(&self, peer: SocketAddr, told: &Peer) -> Result<Option<client::Guard>, TooMany> {
        match &self.clients {
            Some(clients) if !told.is_trusted() => {
                clients.enter(Client::of(peer.ip())).map(Some).ok_or(TooMany)
            }
            _ => Ok(None),
        }
    }
}

/// The client has as many connections as it may have.
struct TooMany;

impl Worker {
    /// Serves what it is handed, until nobody is left who hands it anything.
    async fn run(self, mut connections: UnboundedReceiver<Accepted>) {
        while let Some(Accepted { tcp, connection, place, share }) = connections.recv().await {
            let worker = self.clone();
            self.lifecycle.spawn(connection.clone(), async move {
                let _counted = worker.gateway.metrics.connection();
                worker.handle(tcp, connection).await;
                drop((place, share));
            });
        }
        self.lifecycle.all_closed().await;
    }

    async fn handle(&self, tcp: std::net::TcpStream, connection: Arc<Connection>) {
        let patience = &self.gateway.settings.timeouts;
        let handshake = async {
            let socket = Socket::new(TcpStream::from_std(tcp)?, patience.write);
            self.acceptor.accept(socket).await
        };
        let shaken = timeout(patience.handshake, handshake).await;
        let shaken = shaken.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match shaken {
            Ok(tls) => {
                self.gateway.metrics.handshake(tls.get_ref().1);
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    http2::serve(self, tls, connection).await;
                } else {
                    http1::serve(self, tls, connection).await;
                }
            }
            Err(error) => {
                self.gateway.metrics.handshake_failed();
                tracing::debug!(peer = %connection.peer, %error, "a TLS handshake failed");
            }
        }
    }
}

/// What accepted connections inherit: no delay of small writes, and probes that find out, for streams above all, that the
/// other end is gone.
fn prepare(listener: &TcpListener) -> std::io::Result<()> {
    // Writable is a socket again when half of this has gone, not only when a third of megabytes has: or a slow client
    // looked like one that takes nothing.
    SockRef::from(listener).set_tcp_notsent_lowat(UNSENT)?;
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(listener, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(listener, PROBES)?;
    Ok(())
}

/// An exchange in the one place for data of our own that Pingora's sessions over HTTP/2 hand on.
fn digest(exchange: Arc<Exchange>) -> Option<Arc<ProxyDigest>> {
    let unused = ResponseHeader::build_no_case(200, Some(0)).ok()?;
    Some(Arc::new(ProxyDigest::new(Box::new(unused), Some(Box::new(exchange)))))
}

/// What Pingora could ask of a stream and the gateway does not need.
macro_rules! stream_without_digests {
    ($stream:ty) => {
        impl UniqueID for $stream {
            fn id(&self) -> UniqueIDType {
                std::os::fd::AsRawFd::as_raw_fd(self.tls.get_ref().0)
            }
        }
        impl Ssl for $stream {}
        impl Peek for $stream {}
        impl GetProxyDigest for $stream {
            fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
                None
            }
        }
        impl GetTimingDigest for $stream {
            fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
                Vec::new()
            }
        }
        impl GetSocketDigest for $stream {
            fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
                None
            }
        }
    };
}
use stream_without_digests;
