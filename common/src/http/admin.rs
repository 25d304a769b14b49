//! The admin port: `/healthz`, `/readyz`, `/metrics`. Never behind the gateway.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};

use crate::telemetry::Metrics;

/// Asks whether a service can do its work; the error says what is missing.
pub type Readiness = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// A [`Readiness`] from an async closure.
pub fn ready_when<F, Fut>(check: F) -> Readiness
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), String>> + Send + 'static,
{
    Arc::new(move || Box::pin(check()))
}

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// The service's metrics, all registered.
    pub metrics: Arc<Metrics>,
    /// What `/readyz` asks.
    pub ready: Readiness,
}

/// The routes of the admin port; a service may merge its own, such as the key feed.
pub fn admin(admin: Admin) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match tokio::time::timeout(Duration::from_secs(2), (admin.ready)()).await {
        Ok(Ok(())) => "ready\n".into_response(),
        Ok(Err(missing)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: no answer in 2 s\n").into_response(),
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.metrics.encode()).into_response()
}
