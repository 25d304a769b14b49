//! The plain port: it sends everybody to HTTPS and does nothing else.

use std::sync::Arc;

use bytes::BytesMut;
use common::trace;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::ACCEPT_PAUSE;
use crate::policy::client::{Client, Clients};
use crate::policy::head::{self, Scanner};
use crate::problem::{Refusal, Reply, to_https};
use crate::proxy::Gateway;

/// Connections at once; further ones wait in the kernel's backlog.
const PLACES: usize = 256;
/// Of one client.
const SHARE: u32 = 16;
/// For a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Redirects to the HTTPS port `port` for as long as it is polled.
pub(crate) async fn redirect(gateway: Arc<Gateway>, listener: TcpListener, port: u16) {
    let places = Arc::new(Semaphore::new(PLACES));
    let clients = Arc::new(Clients::new(SHARE));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let Some(share) = clients.enter(Client::of(peer.ip())) else { continue };
                let gateway = gateway.clone();
                let newcomer = gateway.lifecycle.newcomer();
                tokio::spawn(async move {
                    let patience = gateway.settings.timeouts.head.min(PATIENCE);
                    let _ = timeout(patience, answer(&gateway, tcp, port, newcomer)).await;
                    drop((place, share));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the plain port could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request and closes.
async fn answer(
    gateway: &Gateway,
    mut tcp: TcpStream,
    port: u16,
    newcomer: TaskTrackerToken,
) -> std::io::Result<()> {
    let peer = tcp.peer_addr()?;
    let began = Instant::now();
    let mut bytes = BytesMut::new();
    let mut _holds_drain = newcomer;
    let mut scanner = Scanner::default();
    let judged = loop {
        match scanner.find_end(&bytes) {
            Ok(Some(end)) => break target(&bytes[..end], port),
            Ok(None) if bytes.len() <= gateway.settings.limits.head => {}
            Ok(None) => break Err(Refusal::HeadTooLarge),
            Err(refusal) => break Err(refusal),
        }
        if tcp.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        _holds_drain = gateway.lifecycle.request();
    };
    let id = trace::new_request_id();
    let reply = judged.unwrap_or_else(|refusal| refusal.reply(&id));
    let answer = gateway.answer_head(peer, reply, began, id, bytes.starts_with(b"HEAD "));
    tcp.write_all(&answer).await?;
    tcp.shutdown().await?;
    // What is still on its way would turn the end into a reset, and that could destroy the answer.
    while tcp.read_buf(&mut bytes).await? > 0 {
        bytes.clear();
    }
    Ok(())
}

/// The same target over HTTPS.
fn target(head: &[u8], port: u16) -> Result<Reply, Refusal> {
    let head = head::parse(head)?;
    let method = Method::from_bytes(head.method).map_err(|_| Refusal::Head("the method is not a word"))?;
    to_https(head.host, port, head.target, &method)
}
