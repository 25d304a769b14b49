//! Serving a router on a listener that was handed in.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::{Stream, stream};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 4096;
/// How long a connection may be idle, or take for one head. Longer than the gateway keeps its idle connections
/// (55 s), so that it never sends a request into a closing one.
const IDLE: Duration = Duration::from_secs(75);

/// Serves HTTP/1.1 until `token` is cancelled, then finishes the requests in flight and returns. Bounding the time
/// of that is the caller's.
pub async fn serve(listener: TcpListener, router: Router, token: CancellationToken) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(64 * 1024);
    loop {
        let Some(stream) = token.run_until_cancelled(accept(&listener)).await else { break };
        let Some(Ok(place)) = token.run_until_cancelled(places.clone().acquire_owned()).await else { break };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

/// The connections of a listener, for another server than [`serve`].
pub fn connections(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    stream::unfold(listener, async |listener| Some((Ok(accept(&listener).await), listener)))
}

/// The next connection. An error of accept (no more file descriptors, a peer already gone) concerns one connection
/// or passes; the listener stays.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
