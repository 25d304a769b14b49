//! Answers: those that the gateway makes itself, and what is on every one, whoever made it.

use http::{Method, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{Context, Gateway, X_REQUEST_ID};
use crate::policy::forwarding;
use crate::problem::Reply;

impl Gateway {
    /// Answers by ourselves: the one way in which the gateway speaks. A client that is gone is no error.
    pub(super) async fn answer(&self, session: &mut Session, context: &Context, reply: Reply) {
        if let Err(error) = self.write(session, context, reply).await {
            tracing::debug!(request_id = %context.id, %error, "an answer could not be delivered");
        }
    }

    async fn write(&self, session: &mut Session, context: &Context, reply: Reply) -> Result<()> {
        let mut head = ResponseHeader::build(reply.status, Some(12))?;
        for (name, value) in reply.headers {
            head.insert_header(name, value)?;
        }
        head.insert_header(header::CONTENT_LENGTH, reply.body.len())?;
        finish_head(&mut head, context)?;
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
        if !waits && session.drain_request_body().await.is_err() {
            session.set_keepalive(None);
        }
        Ok(())
    }
}

/// What is on every answer, whoever made it; a service may set its own security headers.
pub(super) fn finish_head(head: &mut ResponseHeader, context: &Context) -> Result<()> {
    head.remove_header(&header::SERVER);
    head.insert_header(X_REQUEST_ID, context.id.as_str())?;
    for (name, value) in forwarding::SECURITY {
        if !head.headers.contains_key(name) {
            head.insert_header(name, value)?;
        }
    }
    Ok(())
}
