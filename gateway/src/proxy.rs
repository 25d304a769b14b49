//! The policies in pingora's hooks. What is decided, `policy`, `route` and `problem` decide; this file fetches their
//! input from a session and carries out their verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use common::auth::Verifier;
use common::trace::Trace;
use http::{HeaderName, Method, header};
use pingora_core::apps::HttpServerOptions;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, HttpProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::lifecycle::{Connection, Lifecycle};
use crate::metrics::{Counted, Metrics};
use crate::normalize::{encode, normalize};
use crate::policy::auth::{self, Auth};
use crate::policy::{body, forwarding, sanity};
use crate::problem::{Refusal, Reply, redirect};
use crate::route::{Route, Service, route};
use crate::upstream::Upstream;

const KEEPALIVE: Duration = Duration::from_secs(75);
const READ: Duration = Duration::from_secs(30);
const WRITE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(1);
/// Shorter than the services keep their idle connections (75 s), or a POST would now and then hit a closing one.
const UPSTREAM_IDLE: Duration = Duration::from_secs(55);
/// How long the rest of a refused body is read and thrown away: closing at once could destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(2);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The gateway as pingora sees it.
pub struct Gateway {
    /// Whether tokens are asked for.
    pub auth: Auth,
    /// Verifies them.
    pub verifier: Verifier,
    /// Where user_manager is.
    pub user_manager: Arc<Upstream>,
    /// Where data_collector is.
    pub data_collector: Arc<Upstream>,
    /// Counts requests in flight, for the drain.
    pub lifecycle: Arc<Lifecycle>,
    /// Counts everything, for people.
    pub metrics: Metrics,
}

/// One request on its way.
pub struct Context {
    began: Instant,
    id: String,
    /// The path in normal form, as it is logged.
    path: String,
    /// Who gets the request, and the target as it is sent there.
    service: Option<Service>,
    target: Vec<u8>,
    received: u64,
    refusal: Option<Refusal>,
    _holds_drain: TaskTrackerToken,
    _in_flight: Counted,
}

/// What `admit` came to: the request goes on, or it has its answer.
type Verdict = std::result::Result<(), Reply>;

impl Gateway {
    /// Pingora's HTTP server around this gateway.
    pub fn into_http(self) -> HttpProxy<Gateway> {
        let mut conf = ServerConf::default();
        // Upstreams speak plain HTTP, so no authority is trusted. Pingora would read the machine's, and panic where a
        // slim image has none.
        conf.ca_file = Some("/dev/null".to_owned());
        conf.threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut options = HttpServerOptions::default();
        // CONNECT reaches the filters, and is refused there with an answer of our own.
        options.allow_connect_method_proxying = true;
        options.h2_idle_timeout = Some(KEEPALIVE);
        let mut h2 = default_h2_options();
        h2.max_header_list_size(u32::try_from(sanity::MAX_HEAD).unwrap_or(u32::MAX));
        let mut http = HttpProxy::new(self, Arc::new(conf));
        http.server_options = Some(options);
        http.h2_options = Some(h2);
        http.handle_init_modules();
        http
    }

    fn upstream(&self, service: Service) -> &Upstream {
        match service {
            Service::UserManager => &self.user_manager,
            Service::DataCollector => &self.data_collector,
        }
    }

    /// Every check before the proxy, in their one order.
    fn admit(&self, session: &Session, context: &mut Context) -> Verdict {
        let request = session.req_header();
        let refuse = |id: &str, refusal: Refusal| refusal.reply(id);
        let id = context.id.clone();
        let raw = session.as_downstream().as_http1().map(|http1| http1.get_headers_raw_bytes());
        let head = sanity::Head {
            method: &request.method,
            headers: &request.headers,
            authority: request.uri.authority().map(http::uri::Authority::as_str),
            raw: raw.as_deref(),
        };
        sanity::check(&head).map_err(|why| refuse(&id, why))?;
        let target = normalize(request.raw_path()).map_err(|why| refuse(&id, Refusal::Target(why)))?;
        context.path = encode(&target.path).into_owned();
        let (service, rest) = match route(&target.path) {
            Route::Proxy { service, rest } => (service, rest),
            Route::Redirect(service) => {
                context.service = Some(service);
                return Err(redirect(service, target.query, &request.method));
            }
            Route::Unknown => return Err(refuse(&id, Refusal::Unknown)),
        };
        context.service = Some(service);
        let path = encode(rest);
        if self.auth == Auth::Required && !auth::is_public(service, &request.method, &path) {
            auth::verify(&self.verifier, &request.headers).map_err(|why| refuse(&id, why))?;
        }
        body::announced(&request.headers).map_err(|why| refuse(&id, why))?;
        context.target = path.into_owned().into_bytes();
        if let Some(query) = target.query {
            context.target.push(b'?');
            context.target.extend_from_slice(query);
        }
        Ok(())
    }

    /// Writes an answer of our own: the one way in which the gateway speaks for itself.
    async fn reply(&self, session: &mut Session, context: &Context, reply: Reply) -> Result<()> {
        let mut head = ResponseHeader::build(reply.status, Some(12))?;
        for (name, value) in reply.headers {
            head.insert_header(name, value)?;
        }
        head.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
        self.finish_head(&mut head, context)?;

        let downstream = session.as_downstream_mut();
        // A client that waits for 100 never sends its body now; what it sends next could be taken for it.
        let waits = downstream.req_header().headers.contains_key(header::EXPECT);
        if waits || self.lifecycle.is_stopping() {
            downstream.set_keepalive(None);
        }
        downstream.set_close_on_response_before_downstream_finish(false);
        let bare = reply.body.is_empty() || downstream.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(head), bare).await?;
        if !bare {
            session.write_response_body(Some(reply.body), true).await?;
        }
        if !waits {
            session.as_downstream_mut().drain_request_body().await?;
        }
        Ok(())
    }

    /// What is on every answer, whoever made it.
    fn finish_head(&self, head: &mut ResponseHeader, context: &Context) -> Result<()> {
        head.remove_header(&header::SERVER);
        head.insert_header(X_REQUEST_ID, context.id.as_str())?;
        for (name, value) in forwarding::SECURITY {
            head.insert_header(name, value)?;
        }
        Ok(())
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            began: Instant::now(),
            id: String::new(),
            path: String::new(),
            service: None,
            target: Vec::new(),
            received: 0,
            refusal: None,
            _holds_drain: self.lifecycle.request(),
            _in_flight: self.metrics.request(),
        }
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        if let Some(connection) = connection(session) {
            connection.has_asked();
        }
        context.id = Trace::of_request(&session.req_header().headers).request_id;
        let downstream = session.as_downstream_mut();
        if downstream.get_keepalive().is_some() {
            downstream.set_keepalive(Some(KEEPALIVE.as_secs()));
        }
        downstream.set_read_timeout(Some(READ));
        downstream.set_write_timeout(Some(WRITE));
        downstream.set_total_drain_timeout(Some(LINGER));
        downstream.set_pipelining_enabled(true);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        match self.admit(session, context) {
            Ok(()) => Ok(false),
            Err(reply) => self.reply(session, context, reply).await.map(|()| true),
        }
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        body::counted(context.received).map_err(|why| refused(context, why))
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let address = context.service.and_then(|service| self.upstream(service).next());
        let address = address.ok_or_else(|| refused(context, Refusal::NoAddress))?;
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(CONNECT);
        peer.options.total_connection_timeout = Some(CONNECT);
        peer.options.read_timeout = Some(READ);
        peer.options.write_timeout = Some(WRITE);
        peer.options.idle_timeout = Some(UPSTREAM_IDLE);
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let ours: Vec<HeaderName> =
            request.headers.keys().filter(|name| forwarding::is_ours(name)).cloned().collect();
        for name in &ours {
            request.remove_header(name);
        }
        if let Some(peer) = connection(session).map(|connection| connection.peer.ip().to_canonical().to_string()) {
            request.insert_header("x-forwarded-for", peer.as_str())?;
            request.insert_header("x-real-ip", peer)?;
        }
        request.insert_header("x-forwarded-proto", "https")?;
        if let Some(host) = request.headers.get(header::HOST).cloned() {
            request.insert_header("x-forwarded-host", host)?;
        }
        request.insert_header(X_REQUEST_ID, context.id.as_str())?;
        request.set_raw_path(&context.target)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        if self.lifecycle.is_stopping() {
            session.set_keepalive(None);
        }
        self.finish_head(response, context)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let refusal = context.refusal.take().or_else(|| refusal(error));
        if *error.esource() != ErrorSource::Downstream {
            tracing::warn!(request_id = %context.id, %error, "a request could not be passed on");
        }
        let begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        let Some(refusal) = refusal.filter(|_| !begun) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // Pingora ends the connection after a failure; the answer says so.
        session.set_keepalive(None);
        let reply = refusal.reply(&context.id);
        let error_code = reply.status.as_u16();
        if let Err(error) = self.reply(session, context, reply).await {
            tracing::debug!(request_id = %context.id, %error, "an answer could not be delivered");
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        let gone = |error: &Error| *error.esource() == ErrorSource::Downstream;
        // 499 is nginx's name for a client that did not wait.
        let status = match session.response_written() {
            Some(head) => head.status.as_u16(),
            None => if error.is_some_and(gone) { 499 } else { 500 },
        };
        let took = context.began.elapsed();
        let method = &session.req_header().method;
        self.metrics.answered(context.service, method, status, took.as_secs_f64());
        tracing::info!(
            request_id = %context.id, %method, path = %context.path, status,
            route = context.service.map_or("none", Service::name),
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            peer = connection(session).map(|connection| tracing::field::display(connection.peer)),
            "answered"
        );
    }

    // Pingora's own lines would carry queries, and with them the tokens of links in mails.
    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _context: &Context,
        _error: &Error,
        _when: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}

/// What the accept loop wrote down of the connection.
fn connection(session: &Session) -> Option<&Connection> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// Keeps the reason where `fail_to_proxy` finds it.
fn refused(context: &mut Context, why: Refusal) -> Box<Error> {
    context.refusal = Some(why);
    Error::new_in(ErrorType::new("Refused"))
}

/// The answer to a failure of pingora's, or none when the client is gone.
fn refusal(error: &Error) -> Option<Refusal> {
    use ErrorType::{ConnectTimedout, ConnectionClosed, ReadError, ReadTimedout, WriteError, WriteTimedout};
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => Some(Refusal::Timeout),
        (ErrorSource::Upstream, _) => Some(Refusal::Unreachable),
        (ErrorSource::Downstream, ReadTimedout) => Some(Refusal::SlowClient),
        (ErrorSource::Downstream, ReadError | WriteError | WriteTimedout | ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::Malformed),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::Internal),
    }
}
