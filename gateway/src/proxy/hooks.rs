//! Pingora's hooks, in the order in which a request meets them.

use std::any::Any;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use common::trace;
use http::{StatusCode, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

use super::{Context, Hooks, LINGER, X_REQUEST_ID, exchange};
use crate::exchange::Exchange;
use crate::policy::{body, forwarding};
use crate::problem::Refusal;
use crate::streams;
use crate::upstream::Failure;

/// The reason is in [`Context::refusal`].
pub(super) const REFUSED: ErrorType = ErrorType::new("Refused");

#[async_trait]
impl ProxyHttp for Hooks {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.0.clone())
    }

    /// What the connection's loop wrote down of this request (HTTP/1).
    fn on_connection_reuse(
        &self,
        _session: &mut Session,
        context: &mut Context,
        exchange: Box<dyn Any + Send + Sync>,
    ) {
        context.exchange = exchange.downcast::<Arc<Exchange>>().ok().map(|exchange| *exchange);
    }

    // Pingora's own would compress.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let timeouts = &self.0.settings.timeouts;
        if session.is_http2() {
            context.exchange = exchange(session);
        }
        if let Some(exchange) = &context.exchange {
            let proxies = &self.0.settings.trusted_proxies;
            exchange.connection.has_asked();
            context.client = Some(exchange.connection.told.client(proxies, &session.req_header().headers));
        }
        context.id = trace::request_id(&session.req_header().headers);
        context.method = Some(session.req_header().method.clone());
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(timeouts.idle.as_secs()));
        }
        session.set_read_timeout(Some(timeouts.body));
        // Over HTTP/1 the socket itself notices; here it would be a bound on whole pieces of an answer.
        let write_timeout = session.is_http2().then_some(timeouts.write);
        session.set_write_timeout(write_timeout);
        session.set_total_drain_timeout(Some(LINGER));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        // Over HTTP/2 a stream that was reset looks like one that has ended.
        let cut_short = session.is_body_done() && body::length(&session.req_header().headers) > Some(0);
        let admitted = match self.0.admit(session, context) {
            Ok(None) if cut_short => Err(Refusal::Malformed),
            Ok(None) => {
                self.gather(session, context).await?;
                let arriving = !session.is_body_done();
                let route = context.route.as_ref();
                context.in_flight = route.and_then(|route| self.0.upstream(route).admit(arriving));
                if context.in_flight.is_some() {
                    return Ok(false);
                }
                Err(Refusal::Overloaded)
            }
            Ok(Some(reply)) => Ok(reply),
            Err(refusal) => Err(refusal),
        };
        let reply = admitted.unwrap_or_else(|refusal| {
            if matches!(refusal, Refusal::Rate(_)) {
                self.0.metrics.rate_limited();
            }
            refusal.reply(&context.id)
        });
        context.status = reply.status.as_u16();
        self.0.answer(session, context, reply).await;
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        chunk: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<()> {
        self.received(chunk.as_ref(), end, context)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let upstream = context.route.as_ref().map(|route| self.0.upstream(route));
        let now = Instant::now();
        let Some(address) = upstream.and_then(|upstream| upstream.pick(&context.tried, now)) else {
            context.refusal = Some(Refusal::NoAddress);
            return Err(Error::new_up(REFUSED));
        };
        context.tried.push(address);
        // When a request is sent again, so is its body, from the start.
        context.received = 0;
        let timeouts = &self.0.settings.timeouts;
        let mut peer = HttpPeer::new(address, false, String::new());
        peer.options.connection_timeout = Some(timeouts.connect);
        peer.options.total_connection_timeout = Some(timeouts.connect);
        // Pingora asks for it before the answer says what it is.
        let endless = streams::may_become_one(session.req_header());
        let read_timeout = if endless { timeouts.stream_idle } else { timeouts.upstream_read };
        peer.options.read_timeout = Some(read_timeout);
        peer.options.write_timeout = Some(timeouts.upstream_write);
        peer.options.idle_timeout = Some(timeouts.upstream_idle);
        // Hop-by-hop fields go, and no protocol but WebSocket is asked for: what is in another would be seen by nobody.
        peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::standard();
        Ok(Box::new(peer))
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let told = context.exchange.as_ref().zip(context.client);
        let told = told.map(|(exchange, client)| exchange.connection.told.headers(client, &request.headers));
        for name in &forwarding::ours(&request.headers) {
            request.remove_header(name);
        }
        for (name, value) in told.into_iter().flatten() {
            request.insert_header(name, value)?;
        }
        if let Some(cookies) = forwarding::joined_cookies(&request.headers) {
            request.insert_header(header::COOKIE, cookies)?;
        }
        request.insert_header(X_REQUEST_ID, context.id.as_str())?;
        request.set_raw_path(&context.target)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _socket: RawFd,
        _digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        if let Some(route) = &context.route {
            self.0.upstream(route).connected(reused);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        use ErrorType::{ConnectError, ConnectNoRoute, ConnectRefused, ConnectTimedout};
        // Otherwise it is our own fault: no sockets or ports are left.
        let theirs =
            matches!(error.etype(), ConnectRefused | ConnectTimedout | ConnectNoRoute | ConnectError);
        let retry = self.failed(context, theirs, Failure::Connect);
        error.set_retry(retry);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        _reused: bool,
    ) -> Box<Error> {
        use ErrorType::{ReadTimedout, WriteTimedout};
        // What we refuse ourselves, and a stream that is silent, are not the service's faults.
        let theirs = *error.esource() == ErrorSource::Upstream
            && context.refusal.is_none()
            && context.stream.is_none();
        let timed_out = theirs && matches!(error.etype(), ReadTimedout | WriteTimedout);
        // Who was too slow once is not helped by being asked again.
        let repeatable = theirs
            && !timed_out
            && session.req_header().method.is_idempotent()
            && session.response_written().is_none()
            && !session.as_ref().retry_buffer_truncated();
        let retry = self.failed(context, timed_out, Failure::Exchange { repeatable });
        error.set_retry(retry);
        error
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let passing =
            response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS;
        // Or Pingora would end the connection because the body is not there yet when it writes the 100.
        session.set_close_on_response_before_downstream_finish(!passing);
        if passing {
            return Ok(());
        }
        if let (Some(route), Some(address)) = (&context.route, context.tried.last()) {
            self.0.upstream(route).succeeded(address);
        }
        if response.status == StatusCode::SWITCHING_PROTOCOLS
            && !streams::asks_for_websocket(session.req_header())
        {
            context.refusal = Some(Refusal::Unreachable);
            return Err(Error::new_up(REFUSED));
        }
        if streams::is_one(response.status, &response.headers) {
            self.become_stream(session, response, context)?;
        }
        if self.0.lifecycle.is_stopping() {
            session.set_keepalive(None);
        }
        context.status = response.status.as_u16();
        self.0.finish_head(session, response, &context.id)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _chunk: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if let (Some(exchange), Some(_)) = (&context.exchange, &context.stream) {
            exchange.moves();
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> FailToProxy {
        let fault = context.exchange.as_ref().and_then(|exchange| exchange.fault());
        let refusal = context.refusal.take().or(fault).or_else(|| refusal(error));
        if *error.esource() != ErrorSource::Downstream {
            let address = context.tried.last().map(tracing::field::display);
            tracing::warn!(request_id = %context.id, address, %error, "a request could not be passed on");
        }
        if *error.etype() == ErrorType::WriteTimedout
            && *error.esource() == ErrorSource::Downstream
            && let Some(exchange) = &context.exchange
        {
            // Over HTTP/2 its other streams wait for the same client.
            exchange.connection.cut();
        }
        let begun = session.response_written().is_some_and(|head| !head.status.is_informational());
        let Some(refusal) = refusal.filter(|_| !begun) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        // Pingora ends the connection after a failure; the answer says so.
        session.set_keepalive(None);
        let reply = refusal.reply(&context.id);
        let error_code = reply.status.as_u16();
        context.status = error_code;
        self.0.answer(session, context, reply).await;
        FailToProxy { error_code, can_reuse_downstream: false }
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

impl Hooks {
    /// A try has failed, by the address's fault or not. Whether there is another.
    fn failed(&self, context: &Context, theirs: bool, failure: Failure) -> bool {
        let (Some(route), Some(address)) = (&context.route, context.tried.last()) else { return false };
        let (upstream, now) = (self.0.upstream(route), Instant::now());
        if theirs {
            upstream.failed(address, now);
        }
        upstream.may_retry(failure, &context.tried, now)
    }

    /// The answer has no end: what bounds a request ends here.
    fn become_stream(
        &self,
        session: &mut Session,
        response: &ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let Some(exchange) = context.exchange.clone() else { return Ok(()) };
        let Some(place) = self.0.streams.enter(&exchange, context.claims.clone()) else {
            context.refusal = Some(Refusal::TooManyStreams);
            return Err(Error::new_up(REFUSED));
        };
        context.stream = Some(place);
        context.holds_drain = None;
        context.in_flight = None;
        exchange.moves();
        exchange.body_ends();
        session.set_read_timeout(None);
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            exchange.becomes_tunnel();
        }
        Ok(())
    }
}

/// The answer to a failure of pingora's, or none when the client is gone.
fn refusal(error: &Error) -> Option<Refusal> {
    use ErrorType::{ConnectTimedout, ConnectionClosed, ReadError, ReadTimedout, WriteError, WriteTimedout};
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => Some(Refusal::Timeout),
        (ErrorSource::Upstream, _) => Some(Refusal::Unreachable),
        (ErrorSource::Downstream, ReadTimedout) => Some(Refusal::SlowBody),
        (ErrorSource::Downstream, ReadError | WriteError | WriteTimedout | ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => Some(Refusal::Malformed),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Refusal::Internal),
    }
}
