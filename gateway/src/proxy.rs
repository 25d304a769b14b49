//! The gateway on Pingora. What is decided, `policy`, `route` and `problem` decide; here their input is fetched from a
//! session and their verdict carried out.

mod answer;
mod bodies;
mod hooks;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::auth::{Auth, Claims, Verifier};
use http::uri::Authority;
use http::{HeaderName, Method, header};
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, Session};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::access_log::{AccessLog, Entry};
use crate::exchange::Exchange;
use crate::lifecycle::Lifecycle;
use crate::metrics::{Counted, Metrics};
use crate::normalize::{encode, normalize, push_query};
use crate::policy::auth;
use crate::policy::client::Client;
use crate::policy::rate::Limiter;
use crate::policy::{body, cors, sanity};
use crate::problem::{Refusal, Reply, redirect};
use crate::route::{Found, Route, Routes};
use crate::settings::Settings;
use crate::streams::{Place, Streams};
use crate::upstream::{InFlight, MAX_RETRIES, Tried, Upstream};

/// Pingora takes no longer one.
const LONGEST_TARGET: usize = 65_534;
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all requests share.
pub(crate) struct Gateway {
    /// Everything that can be set.
    pub(crate) settings: Settings,
    /// Which path is whose.
    pub(crate) routes: Routes,
    /// The services, in the order of the settings.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// Verifies tokens.
    pub(crate) verifier: Verifier,
    /// Bounds how often a client may ask.
    pub(crate) rate: Option<Limiter>,
    /// Bounds how often a client may ask for what costs much.
    pub(crate) rate_login: Option<Limiter>,
    /// What may still be kept of bodies that are waited for, in bytes.
    pub(crate) gathered: Arc<Semaphore>,
    /// Answers without an end.
    pub(crate) streams: Arc<Streams>,
    /// Counts requests in flight, for the drain.
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Counts everything, for people.
    pub(crate) metrics: Metrics,
    /// A line for each request, if they are wanted.
    pub(crate) access_log: Option<AccessLog>,
}

/// The gateway as one worker's Pingora sees it.
pub(crate) struct Hooks(pub(crate) Arc<Gateway>);

impl Hooks {
    /// Pingora's HTTP server around this gateway.
    pub(crate) fn into_http(self) -> HttpProxy<Hooks> {
        let conf = ServerConf {
            // Upstreams speak plain HTTP, so no authority is trusted. Pingora would read the machine's, and panic
            // where a slim image has none.
            ca_file: Some("/dev/null".to_owned()),
            threads: 1,
            upstream_keepalive_pool_size: POOL,
            max_retries: 1 + MAX_RETRIES,
            ..ServerConf::default()
        };
        let mut options = HttpServerOptions::default();
        // CONNECT over HTTP/2 reaches the filters, and is refused there with an answer of our own.
        options.allow_connect_method_proxying = true;
        let mut http = HttpProxy::new(self, Arc::new(conf));
        http.server_options = Some(options);
        http.handle_init_modules();
        http
    }
}

/// How long the rest of a refused request is read and thrown away: closing at once could destroy the answer on its way.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// What is kept at once of bodies that are waited for, in bytes.
pub(crate) const GATHERED: usize = 32 << 20;

/// Unused connections to services that a worker keeps.
const POOL: usize = 256;

/// One request on its way. Its line in the log and in the metrics is written when it is dropped, however it ended.
pub(crate) struct Context {
    gateway: Arc<Gateway>,
    exchange: Option<Arc<Exchange>>,
    began: Instant,
    id: String,
    method: Option<Method>,
    /// The path in normal form, as it is logged.
    path: String,
    route: Option<Arc<Route>>,
    /// The target as it is sent to the service.
    target: Bytes,
    /// Whose request this is.
    client: Option<IpAddr>,
    claims: Option<Arc<Claims>>,
    received: u64,
    /// Pays for a body that was waited for: Pingora keeps it until the end.
    kept: Option<OwnedSemaphorePermit>,
    tried: Tried,
    /// Its place at the service.
    in_flight: Option<InFlight>,
    status: u16,
    refusal: Option<Refusal>,
    stream: Option<Place>,
    holds_drain: Option<TaskTrackerToken>,
    _in_flight: Counted,
}

impl Context {
    fn new(gateway: Arc<Gateway>) -> Context {
        Context {
            exchange: None,
            began: Instant::now(),
            id: String::new(),
            method: None,
            path: String::new(),
            route: None,
            target: Bytes::new(),
            client: None,
            claims: None,
            received: 0,
            kept: None,
            tried: Tried::default(),
            in_flight: None,
            // nginx's word for a client that did not wait.
            status: 499,
            refusal: None,
            stream: None,
            holds_drain: Some(gateway.lifecycle.request()),
            _in_flight: gateway.metrics.request(),
            gateway,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let route = self.route.as_ref().map(|route| route.name.clone());
        self.gateway.account(route, self.method.take(), self.status, took, || {
            let peer = self.exchange.as_ref().map(|exchange| exchange.connection.peer);
            (std::mem::take(&mut self.id), std::mem::take(&mut self.path), peer)
        });
    }
}

impl Gateway {
    fn upstream(&self, route: &Route) -> &Arc<Upstream> {
        &self.upstreams[route.settings.upstream]
    }

    /// Writes down that a request was answered.
    fn account(
        &self,
        route: Option<Arc<str>>,
        method: Option<Method>,
        status: u16,
        took: Duration,
        describe: impl FnOnce() -> (String, String, Option<std::net::SocketAddr>),
    ) {
        let route = route.unwrap_or_else(|| self.metrics.no_route());
        self.metrics.answered(&route, method.as_ref(), status, took.as_secs_f64());
        if let Some(log) = &self.access_log {
            let (request_id, path, peer) = describe();
            log.write(Entry { request_id, method, path, status, route, took, peer });
        }
    }

    /// Every check before the proxy, in their one order. `None` lets the request go on; the answer may also be a
    /// redirect.
    fn admit(&self, session: &Session, context: &mut Context) -> std::result::Result<Option<Reply>, Refusal> {
        let request = session.req_header();
        sanity::check(&sanity::Head {
            method: &request.method,
            headers: &request.headers,
            authority: request.uri.authority().map(Authority::as_str),
        })?;
        let raw = context.exchange.as_ref().and_then(|exchange| exchange.target.clone());
        let raw = raw.as_deref().unwrap_or_else(|| request.raw_path());
        let target = normalize(raw, self.settings.encoded_slash)?;
        // An absolute form stands above Host; a service that is told another host here than there may believe either.
        let host = request.headers.get(header::HOST);
        if target
            .authority
            .is_some_and(|name| host.is_none_or(|host| !host.as_bytes().eq_ignore_ascii_case(name)))
        {
            return Err(Refusal::Host);
        }
        if self.access_log.is_some() {
            context.path = encode(&target.path).into_owned();
        }
        let (route, rest) = match self.routes.find(&target.path) {
            Found::Proxy { route, rest } => (route, rest),
            Found::Redirect(route) => {
                context.route = Some(route.clone());
                return Ok(Some(redirect(route, target.query, &request.method)));
            }
            Found::Unknown => return Err(Refusal::Unknown),
        };
        context.route = Some(route.clone());
        if let Some(answer) = cors::preflight(&self.settings.cors_origins, &request.method, &request.headers)
        {
            return answer.map(Some);
        }
        let path = encode(rest);
        if let Some(client) = context.client {
            let costly =
                self.rate_login.as_ref().filter(|_| route.settings.is_costly(&request.method, &path));
            let now = Instant::now();
            for limiter in self.rate.iter().chain(costly) {
                limiter.check(Client::of(client), now).map_err(Refusal::Rate)?;
            }
        }
        if self.settings.auth == Auth::Required && !route.settings.is_public(&request.method, &path) {
            context.claims = Some(auth::verify(&self.verifier, &request.headers)?);
        }
        body::announced(&request.headers, route.settings.max_body)?;
        let mut upstream_target = path.into_owned().into_bytes();
        if let Some(query) = target.query {
            push_query(&mut upstream_target, query);
        }
        // Encoding may make it three times as long, which a head may not be.
        if upstream_target.len() > self.settings.limits.head.min(LONGEST_TARGET) {
            return Err(Refusal::HeadTooLarge);
        }
        context.target = upstream_target.into();
        Ok(None)
    }
}

/// What the connection's loop wrote down of this request (HTTP/2).
fn exchange(session: &Session) -> Option<Arc<Exchange>> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Exchange>>().cloned()
}
