//! What every request passes through, in one place.

use std::any::Any;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

use super::Problem;
use crate::telemetry::Metrics;
use crate::trace::Trace;

/// How long a handler may take before the client gets 503.
const HANDLER_TIME: Duration = Duration::from_secs(25);
/// The largest body.
const BODY_LIMIT: usize = 1 << 20;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    route: String,
    method: &'static str,
    status: &'static str,
}

type Requests = Family<Labels, Histogram, fn() -> Histogram>;

/// Wraps a service's routes: request id, access log, metrics, time-out, body limit, panics and unknown routes as
/// problems.
pub fn layers(router: Router, metrics: &mut Metrics) -> Router {
    let requests: Requests =
        Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 14)));
    metrics.register("http_request_seconds", "Time from a request's head to its answer's", requests.clone());
    router
        .fallback(|| async { Problem::not_found("there is no such route") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This route does not take that method",
                "see the Allow header",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(move |request, next| observe(request, next, requests.clone())))
}

/// Gives the request its id, bounds its time, and tells of it in the log and in the metrics.
async fn observe(mut request: Request, next: Next, requests: Requests) -> Response {
    let trace = Trace::of_request(request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", |path| path.as_str()).to_owned();
    request.extensions_mut().insert(trace.clone());
    let span = tracing::info_span!("request", request_id = %trace.request_id);
    let began = Instant::now();
    async move {
        let handled = tokio::time::timeout(HANDLER_TIME, next.run(request)).await;
        let late = || Problem::unavailable("the answer took too long", 5).into_response();
        let response = complete(handled.unwrap_or_else(|_| late()), &trace);
        let took = began.elapsed();
        let labels = Labels { route, method: method_name(&method), status: class(response.status()) };
        // The gateway has the access log; here a request is worth a line only when it went wrong.
        let (status, took_ms) =
            (response.status().as_u16(), u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        if response.status().is_server_error() {
            tracing::warn!(%method, route = labels.route, status, took_ms, "answered");
        } else {
            tracing::debug!(%method, route = labels.route, status, took_ms, "answered");
        }
        requests.get_or_create(&labels).observe(took.as_secs_f64());
        response
    }
    .instrument(span)
    .await
}

/// Puts the request id on the answer, and into the body of a problem.
fn complete(mut response: Response, trace: &Trace) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        *response.body_mut() = Body::from(problem.body(Some(&trace.request_id)).to_string());
    }
    if let Ok(id) = HeaderValue::from_str(&trace.request_id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text =
        cause.downcast_ref::<&str>().copied().or_else(|| cause.downcast_ref::<String>().map(String::as_str));
    tracing::error!(cause = text.unwrap_or("unknown"), "a handler panicked");
    Problem::internal().into_response()
}

/// A bounded set of method names, since a client may send any.
fn method_name(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
