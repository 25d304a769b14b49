//! A service that tells what reached it, and a key feed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use common::auth::Feed;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A service in the test's process.
pub struct Echo {
    pub addr: SocketAddr,
    gate: Gate,
}

/// Holds requests to `/slow` until the test lets them go.
#[derive(Clone)]
struct Gate {
    name: &'static str,
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Echo {
    pub async fn start(name: &'static str) -> Echo {
        let gate = Gate { name, arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let router = Router::new().fallback(echo).with_state(gate.clone());
        Echo { addr: serve(router).await, gate }
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

async fn echo(State(gate): State<Gate>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    if head.uri.path() == "/slow" {
        gate.arrived.add_permits(1);
        gate.open.acquire().await.unwrap().forget();
    }
    let Ok(body) = to_bytes(body, usize::MAX).await else { return Body::empty().into_response() };
    let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in &head.headers {
        headers.entry(name.as_str()).or_default().push(value.to_str().unwrap_or("?"));
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

/// Serves a key feed at `/keys`.
pub async fn serve_feed(feed: Feed) -> SocketAddr {
    serve(Router::new().route("/keys", get(async move || Json(feed)))).await
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}
