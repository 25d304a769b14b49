//! The accept loop: from a TCP connection to pingora's HTTP.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{GetProxyDigest, GetSocketDigest, SocketDigest};
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::{Connection, Lifecycle};
use crate::metrics::Metrics;
use crate::proxy::Gateway;

/// The longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The pause after an error of accept: no file descriptors are left, and some may be given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every connection is served with.
pub(crate) struct Edge {
    acceptor: Acceptor,
    proxy: Arc<HttpProxy<Gateway>>,
    lifecycle: Arc<Lifecycle>,
    metrics: Metrics,
    places: Arc<Semaphore>,
}

impl Edge {
    /// Serves `proxy` over TLS to at most `places` connections at once.
    pub(crate) fn new(
        tls: Arc<ServerConfig>,
        proxy: Arc<HttpProxy<Gateway>>,
        lifecycle: Arc<Lifecycle>,
        metrics: Metrics,
        places: u32,
    ) -> Edge {
        let places = Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(Semaphore::MAX_PERMITS)));
        Edge { acceptor: Acceptor::from_server_config(tls), proxy, lifecycle, metrics, places }
    }

    /// Accepts until `token` is cancelled, then closes the listener and drains what was accepted. Dropping the future
    /// cuts everything off.
    pub(crate) async fn serve(self, listener: TcpListener, token: CancellationToken) {
        let edge = Arc::new(self);
        let _cut_off = edge.lifecycle.cut_off_when_dropped();
        token.run_until_cancelled(edge.accept(&listener)).await;
        drop(listener);
        edge.lifecycle.drain(edge.proxy.cleanup()).await;
    }

    /// Beyond the cap connections wait in the kernel's backlog.
    async fn accept(self: &Arc<Edge>, listener: &TcpListener) {
        while let Ok(place) = self.places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((tcp, peer)) => {
                    let edge = self.clone();
                    let connection = self.lifecycle.connection(peer);
                    self.lifecycle.spawn(connection.clone(), async move {
                        let _counted = edge.metrics.connection();
                        edge.handle(tcp, connection).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn handle(&self, tcp: TcpStream, connection: Arc<Connection>) {
        let peer = connection.peer;
        let handshake = async { self.acceptor.tls_handshake(described(tcp, connection)?).await };
        let shaken = timeout(HANDSHAKE, handshake)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorType::TLSHandshakeTimedout)));
        match shaken {
            Ok(stream) => {
                self.proxy.process_new(Box::new(stream), &self.lifecycle.watch()).await;
            }
            Err(error) => {
                self.metrics.handshake_failed();
                tracing::debug!(%peer, %error, "a TLS handshake failed");
            }
        }
    }
}

/// The connection as pingora's stream. Its digests carry what the filters will want to know of it: the proxy digest
/// is the one place for data of our own that HTTP/1 and HTTP/2 sessions both hand on.
fn described(tcp: TcpStream, connection: Arc<Connection>) -> pingora_error::Result<Stream> {
    let digest = SocketDigest::from_raw_fd(tcp.as_raw_fd());
    let mut stream = Stream::from(tcp);
    stream.set_nodelay()?;
    stream.set_socket_digest(digest);
    let unused = Box::new(ResponseHeader::build_no_case(200, Some(0))?);
    stream.set_proxy_digest(ProxyDigest::new(unused, Some(Box::new(connection))));
    Ok(stream)
}
