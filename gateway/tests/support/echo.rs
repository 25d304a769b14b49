//! A service that tells what reached it, and its admin port.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::auth::{Feed, Revocation, Signer};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

/// The length of the answer to `/large`, in bytes: more than sockets hold, less than the gateway's HTTP/2 library.
pub const LARGE: usize = 380 * 1024;

/// A service in the test's process. It has a runtime of its own, so that it can be killed with all its connections.
pub struct Echo {
    pub addr: SocketAddr,
    gate: Gate,
    running: Option<Runtime>,
    /// Keeps the port while nobody listens on it.
    stopped: Option<TcpSocket>,
}

#[derive(Clone)]
struct Gate {
    name: &'static str,
    /// Requests that came in.
    served: Arc<AtomicUsize>,
    /// Holds requests to `/slow` until the test lets them go.
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Echo {
    pub async fn start(name: &'static str) -> Echo {
        let socket = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let addr = socket.local_addr().unwrap();
        let gate = Gate {
            name,
            served: Arc::default(),
            arrived: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
        };
        let mut echo = Echo { addr, gate, running: None, stopped: Some(socket) };
        echo.restart();
        echo
    }

    /// Dies with all its connections, and refuses new ones when this returns.
    pub async fn stop(&mut self) {
        self.running.take().unwrap().shutdown_background();
        super::eventually(async || TcpStream::connect(self.addr).await.is_err()).await;
        self.stopped = Some(bound(self.addr));
    }

    /// Lives, on the same port as before.
    pub fn restart(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let entered = runtime.enter();
        let listener = self.stopped.take().unwrap().listen(1024).unwrap();
        let router = Router::new().fallback(echo).with_state(self.gate.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        drop(entered);
        self.running = Some(runtime);
    }

    /// How many requests have come in.
    pub fn served(&self) -> usize {
        self.gate.served.load(Ordering::SeqCst)
    }

    /// Waits until a request to `/slow` has come in.
    pub async fn has_slow_request(&self) {
        tokio::time::timeout(super::LONG, self.gate.arrived.acquire()).await.unwrap().unwrap().forget();
    }

    /// Lets one request to `/slow` go.
    pub fn let_go(&self) {
        self.gate.open.add_permits(1);
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

/// A port that nobody listens on. It may be taken over from connections that are about to end.
fn bound(addr: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

async fn echo(State(gate): State<Gate>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    gate.served.fetch_add(1, Ordering::SeqCst);
    if head.uri.path() == "/slow" {
        gate.arrived.add_permits(1);
        gate.open.acquire().await.unwrap().forget();
    }
    let Ok(body) = to_bytes(body, usize::MAX).await else { return Body::empty().into_response() };
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers.entry(name.as_str()).or_default().push(value.to_str().unwrap_or("?"));
    }
    if head.uri.path() == "/large" {
        return vec![b'x'; LARGE].into_response();
    }
    let seen = json!({
        "service": gate.name,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "headers": headers,
        "body": body.len(),
    });
    ([("server", "echo"), ("x-request-id", "from-the-service")], Json(seen)).into_response()
}

/// A service's admin port: `/readyz`, and a key feed at `/keys` if there is one.
pub struct AdminPort {
    pub addr: SocketAddr,
    ready: Arc<AtomicBool>,
    feed: Arc<Mutex<Option<Feed>>>,
}

impl AdminPort {
    /// It is ready.
    pub async fn start(feed: Option<Feed>) -> AdminPort {
        let ready = Arc::new(AtomicBool::new(true));
        let readyz = {
            let ready = ready.clone();
            get(async move || match ready.load(Ordering::SeqCst) {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            })
        };
        let feed = Arc::new(Mutex::new(feed));
        let keys = {
            let feed = feed.clone();
            get(async move || feed.lock().unwrap().clone().map(Json).ok_or(StatusCode::NOT_FOUND))
        };
        let router = Router::new().route("/readyz", readyz).route("/keys", keys);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        AdminPort { addr, ready, feed }
    }

    /// From now on this is the feed.
    pub fn publish(&self, keys: &[&Signer], revoked: Vec<Revocation>) {
        let keys = keys.iter().map(|signer| signer.public().clone()).collect();
        *self.feed.lock().unwrap() = Some(Feed { keys, revoked });
    }

    /// From now on the feed cannot be had.
    pub fn withhold_feed(&self) {
        *self.feed.lock().unwrap() = None;
    }

    /// What `/readyz` says from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::SeqCst);
    }
}

/// Serves a key feed at `/keys`.
pub async fn serve_feed(feed: Feed) -> SocketAddr {
    AdminPort::start(Some(feed)).await.addr
}
