//! Pingora's hooks, in the order in which a request meets them.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use common::trace::Trace;
use http::{HeaderName, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::answer::finish_head;
use super::{Context, Gateway, KEEPALIVE, X_REQUEST_ID, connection};
use crate::policy::{body, forwarding};
use crate::problem::Refusal;
use crate::route::Service;

/// Between two reads, of a client as of a service.
const READ: Duration = Duration::from_secs(30);
const WRITE: Duration = Duration::from_secs(15);
const CONNECT: Duration = Duration::from_secs(1);
/// Shorter than the services keep their idle connections (75 s), or a POST would now and then hit a closing one.
const UPSTREAM_IDLE: Duration = Duration::from_secs(55);
/// How long the rest of a refused body is read and thrown away: closing at once could destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(2);
/// The reason is in [`Context::refusal`].
const REFUSED: ErrorType = ErrorType::new("Refused");

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
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(KEEPALIVE.as_secs()));
        }
        session.set_read_timeout(Some(READ));
        session.set_write_timeout(Some(WRITE));
        session.set_total_drain_timeout(Some(LINGER));
        session.set_pipelining_enabled(true);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let reply = match self.admit(session, context) {
            Ok(None) => return Ok(false),
            Ok(Some(redirect)) => redirect,
            Err(refusal) => refusal.reply(&context.id),
        };
        self.answer(session, context, reply).await;
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        body::counted(context.received).map_err(|why| {
            context.refusal = Some(why);
            Error::new_down(REFUSED)
        })
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(address) = context.service.and_then(|service| self.upstream(service).next()) else {
            context.refusal = Some(Refusal::NoAddress);
            return Err(Error::new_up(REFUSED));
        };
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
        if let Some(peer) =
            connection(session).map(|connection| connection.peer.ip().to_canonical().to_string())
        {
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
        finish_head(response, context)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
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
        self.answer(session, context, reply).await;
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _error: Option<&Error>, context: &mut Context) {
        // 499 is nginx's name for a client that did not wait.
        let status = session.response_written().map_or(499, |head| head.status.as_u16());
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
