//! What the gateway counts. Labels are bounded: none of them is a client's text.

use std::sync::Arc;

use common::telemetry::Metrics as Registry;
use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::route::Service;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    route: &'static str,
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

/// Handles of all metrics; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Outcome, Counter>,
    seconds: Family<RouteLabel, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    connections: Gauge,
    handshake_failures: Counter,
    certificate_expiry: Gauge,
}

/// One more of something, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Registers all metrics of the gateway called `node`.
    pub(crate) fn new(node: &str) -> (Metrics, Arc<Registry>) {
        let mut registry = Registry::new("gateway", node);
        let metrics = Metrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16))),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            handshake_failures: Counter::default(),
            certificate_expiry: Gauge::default(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("request_seconds", "Time from head to end of answer", metrics.seconds.clone());
        registry.register("requests_in_flight", "Requests being answered", metrics.in_flight.clone());
        registry.register("connections", "Open client connections", metrics.connections.clone());
        let failures = metrics.handshake_failures.clone();
        registry.register("tls_handshake_failures", "TLS handshakes that failed", failures);
        let expiry = metrics.certificate_expiry.clone();
        registry.register("certificate_expiry_timestamp_seconds", "When the certificate expires", expiry);
        (metrics, Arc::new(registry))
    }

    /// A request was answered with `status` after `seconds`.
    pub(crate) fn answered(&self, route: Option<Service>, method: &Method, status: u16, seconds: f64) {
        let route = route.map_or("none", Service::name);
        let outcome = Outcome { route, method: method_class(method), status: status_class(status) };
        self.requests.get_or_create(&outcome).inc();
        self.seconds.get_or_create(&RouteLabel { route }).observe(seconds);
    }

    /// Counts a request as in flight.
    pub(crate) fn request(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// Counts a connection as open.
    pub(crate) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// A TLS handshake failed or took too long.
    pub(crate) fn handshake_failed(&self) {
        self.handshake_failures.inc();
    }

    /// The certificate expires at `time`, in Unix seconds.
    pub(crate) fn certificate_expires(&self, time: i64) {
        self.certificate_expiry.set(time);
    }
}

/// A bounded set of methods, since a client may send any.
fn method_class(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
