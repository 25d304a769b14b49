//! What the gateway counts. Labels are bounded: none of them is a client's text.

use std::sync::Arc;

use common::telemetry::Metrics as Registry;
use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::upstream::Counters;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    route: Arc<str>,
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabel {
    route: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Handshake {
    version: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reload {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UpstreamLabel {
    upstream: String,
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
    certificate_reloads: Family<Reload, Counter>,
    ejections: Family<UpstreamLabel, Counter>,
    connected: Family<UpstreamLabel, Counter>,
    reused: Family<UpstreamLabel, Counter>,
    retries: Family<UpstreamLabel, Counter>,
    healthy: Family<UpstreamLabel, Gauge>,
    handshakes: Family<Handshake, Counter>,
    floods: Counter,
    malformed_streams: Counter,
    stalled: Counter,
    streams: Gauge,
    too_many_connections: Counter,
    rate_limited: Counter,
    log_drops: Counter,
    no_route: Arc<str>,
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
            certificate_reloads: Family::default(),
            ejections: Family::default(),
            connected: Family::default(),
            reused: Family::default(),
            retries: Family::default(),
            healthy: Family::default(),
            handshakes: Family::default(),
            floods: Counter::default(),
            malformed_streams: Counter::default(),
            stalled: Counter::default(),
            streams: Gauge::default(),
            too_many_connections: Counter::default(),
            rate_limited: Counter::default(),
            log_drops: Counter::default(),
            no_route: "none".into(),
        };
        registry.register("requests", "Requests answered", metrics.requests.clone());
        registry.register("request_seconds", "Time from head to end of answer", metrics.seconds.clone());
        registry.register("requests_in_flight", "Requests being answered", metrics.in_flight.clone());
        registry.register("connections", "Open client connections", metrics.connections.clone());
        let failures = metrics.handshake_failures.clone();
        registry.register("tls_handshake_failures", "TLS handshakes that failed", failures);
        let expiry = metrics.certificate_expiry.clone();
        registry.register("certificate_expiry_timestamp_seconds", "When the certificate expires", expiry);
        let reloads = metrics.certificate_reloads.clone();
        registry.register("certificate_reloads", "New certificates that were found", reloads);
        let ejections = metrics.ejections.clone();
        registry.register("upstream_ejections", "Addresses left alone because requests failed", ejections);
        registry.register(
            "upstream_retries",
            "Requests sent to a service once more",
            metrics.retries.clone(),
        );
        registry.register("upstream_healthy", "Addresses neither down nor ejected", metrics.healthy.clone());
        registry.register("tls_handshakes", "TLS handshakes", metrics.handshakes.clone());
        registry.register(
            "http2_floods",
            "HTTP/2 connections ended for their flood of frames",
            metrics.floods.clone(),
        );
        let malformed = metrics.malformed_streams.clone();
        registry.register("http2_malformed_requests", "HTTP/2 requests refused for their form", malformed);
        registry.register(
            "http2_stalled_bodies",
            "HTTP/2 requests ended because their body did not come",
            metrics.stalled.clone(),
        );
        let connected = metrics.connected.clone();
        registry.register("upstream_connects", "Connections made to services", connected);
        let reused = metrics.reused.clone();
        registry.register("upstream_reuses", "Requests sent on a kept connection to a service", reused);
        registry.register("streams", "Upgraded connections and event streams", metrics.streams.clone());
        let closed = metrics.too_many_connections.clone();
        registry.register(
            "connections_refused",
            "Connections closed because their client had too many",
            closed,
        );
        let limited = metrics.rate_limited.clone();
        registry.register("requests_rate_limited", "Requests of clients that asked too often", limited);
        registry.register(
            "access_log_dropped_lines",
            "Lines of the access log that did not fit",
            metrics.log_drops.clone(),
        );
        (metrics, Arc::new(registry))
    }

    /// A request was answered with `status` after `seconds`.
    pub(crate) fn answered(&self, route: &Arc<str>, method: Option<&Method>, status: u16, seconds: f64) {
        let method = method.map_or("none", method_class);
        let outcome = Outcome { route: route.clone(), method, status: status_class(status) };
        self.requests.get_or_create(&outcome).inc();
        self.seconds.get_or_create(&RouteLabel { route: route.clone() }).observe(seconds);
    }

    /// The name of no route.
    pub(crate) fn no_route(&self) -> Arc<str> {
        self.no_route.clone()
    }

    /// A TLS handshake succeeded.
    pub(crate) fn handshake(&self, tls: &rustls::ServerConnection) {
        let version = match tls.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
            _ => "1.2",
        };
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        self.handshakes
            .get_or_create(&Handshake { version, kind: if resumed { "resumed" } else { "full" } })
            .inc();
    }

    /// A connection was ended because of its flood of HTTP/2 frames.
    pub(crate) fn flood(&self) {
        self.floods.inc();
    }

    /// A request over HTTP/2 was refused for its form.
    pub(crate) fn malformed_stream(&self) {
        self.malformed_streams.inc();
    }

    /// A request over HTTP/2 was ended because its body did not come.
    pub(crate) fn stalled(&self) {
        self.stalled.inc();
    }

    /// Shows how many answers without an end there are.
    pub(crate) fn streams(&self) -> Gauge {
        self.streams.clone()
    }

    /// A connection was closed because its client has too many.
    pub(crate) fn too_many_connections(&self) {
        self.too_many_connections.inc();
    }

    /// A client has asked too often.
    pub(crate) fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// Lines of the access log that did not fit.
    pub(crate) fn log_drops(&self) -> Counter {
        self.log_drops.clone()
    }

    /// What is counted of the service called `name`.
    pub(crate) fn upstream(&self, name: &str) -> Counters {
        let label = UpstreamLabel { upstream: name.to_owned() };
        Counters {
            ejections: self.ejections.get_or_create(&label).clone(),
            retries: self.retries.get_or_create(&label).clone(),
            healthy: self.healthy.get_or_create(&label).clone(),
            connected: self.connected.get_or_create(&label).clone(),
            reused: self.reused.get_or_create(&label).clone(),
        }
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

    /// New certificates were taken, or refused.
    pub(crate) fn certificate_reloaded(&self, taken: bool) {
        let result = if taken { "ok" } else { "refused" };
        self.certificate_reloads.get_or_create(&Reload { result }).inc();
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
