//! Answers: those that the gateway makes itself, and what is on every one, whoever made it.

use std::net::SocketAddr;

use common::trace;
use http::{Method, StatusCode, header};
use pingora_error::{ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::time::Instant;

use super::{Context, Gateway, X_REQUEST_ID};
use crate::policy::cors;
use crate::policy::forwarding::SECURITY;
use crate::problem::{Refusal, Reply};

impl Gateway {
    /// Answers by ourselves: the one way in which the gateway speaks once a request was understood. A client that is
    /// gone is no error.
    pub(super) async fn answer(&self, session: &mut Session, context: &Context, reply: Reply) {
        if let Err(error) = self.write(session, context, reply).await {
            tracing::debug!(request_id = %context.id, %error, "an answer could not be delivered");
            if let (ErrorType::WriteTimedout, Some(exchange)) = (error.etype(), &context.exchange) {
                exchange.connection.cut();
            }
        }
    }

    async fn write(&self, session: &mut Session, context: &Context, reply: Reply) -> Result<()> {
        let mut head = ResponseHeader::build(reply.status, Some(12))?;
        for (name, value) in reply.headers {
            head.insert_header(name, value)?;
        }
        if reply.status != StatusCode::NO_CONTENT {
            head.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
        }
        self.finish_head(session, &mut head, &context.id)?;
        // A client that waits for 100 never sends its body now; what it sends next could be taken for it.
        let waits = session.req_header().headers.contains_key(header::EXPECT);
        if waits || self.lifecycle.is_stopping() {
            session.set_keepalive(None);
        }
        session.set_close_on_response_before_downstream_finish(false);
        let bare = reply.body.is_empty() || session.req_header().method == Method::HEAD;
        session.write_response_header(Box::new(head), bare).await?;
        if !bare {
            session.write_response_body(Some(reply.body), true).await?;
        }
        let is_faulty = || context.exchange.as_ref().is_some_and(|exchange| exchange.fault().is_some());
        if !is_faulty() && (waits || session.drain_request_body().await.is_ok()) {
            return Ok(());
        }
        session.set_keepalive(None);
        if is_faulty() {
            // Where its body ends nobody knows: what still comes is read away, or it would destroy the answer.
            session.shutdown().await;
            let _ = session.drain_request_body().await;
        }
        Ok(())
    }

    /// The bytes of an answer to an HTTP/1 request whose head Pingora never saw; the connection ends with it.
    pub(crate) fn refuse_head(
        &self,
        peer: SocketAddr,
        refusal: &Refusal,
        began: Instant,
        request_id: Option<&[u8]>,
        bare: bool,
    ) -> Vec<u8> {
        let kept = request_id.and_then(|id| std::str::from_utf8(id).ok()).filter(|id| trace::is_sane(id));
        let id = kept.map_or_else(trace::new_request_id, str::to_owned);
        self.answer_head(peer, refusal.reply(&id), began, id, bare)
    }

    /// The bytes of an answer outside Pingora, accounted for; a `bare` one has no body, because HEAD asked for it.
    pub(crate) fn answer_head(
        &self,
        peer: SocketAddr,
        reply: Reply,
        began: Instant,
        id: String,
        bare: bool,
    ) -> Vec<u8> {
        let status = reply.status;
        let reason = status.canonical_reason().unwrap_or("");
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        };
        for (name, value) in reply.headers.iter().chain(&SECURITY) {
            line(name.as_str(), value.as_bytes());
        }
        line("content-length", reply.body.len().to_string().as_bytes());
        line("x-request-id", id.as_bytes());
        line("connection", b"close");
        bytes.extend(b"\r\n");
        if !bare {
            bytes.extend_from_slice(&reply.body);
        }
        self.account(None, None, status.as_u16(), began.elapsed(), || (id, String::new(), Some(peer)));
        bytes
    }

    /// What is on every answer, whoever made it; a service may set its own security headers.
    pub(super) fn finish_head(&self, session: &Session, head: &mut ResponseHeader, id: &str) -> Result<()> {
        head.remove_header(&header::SERVER);
        head.insert_header(X_REQUEST_ID, id)?;
        for (name, value) in &SECURITY {
            if !head.headers.contains_key(name) {
                head.insert_header(name, value.clone())?;
            }
        }
        let origins = &self.settings.cors_origins;
        if !origins.is_empty() {
            for (name, value) in cors::shared(origins, &session.req_header().headers) {
                head.insert_header(name, value)?;
            }
            head.append_header(header::VARY, cors::VARY)?;
        }
        Ok(())
    }
}
