//! Request bodies: counted as they come, and waited for when they are small.

use bytes::Bytes;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::hooks::REFUSED;
use super::{Context, Hooks};
use crate::policy::body;

impl Hooks {
    /// A piece of the body has come.
    pub(super) fn received(&self, chunk: Option<&Bytes>, end: bool, context: &mut Context) -> Result<()> {
        if let Some(exchange) = &context.exchange {
            exchange.moves();
            if end {
                exchange.body_ends();
            }
        }
        if context.stream.is_some() {
            return Ok(());
        }
        if let Some(place) = context.in_flight.as_mut().filter(|_| end) {
            place.has_arrived();
        }
        context.received += chunk.map_or(0, |chunk| chunk.len() as u64);
        let limit = context.route.as_ref().map_or(0, |route| route.settings.max_body);
        let settings = &self.0.settings;
        let allowed = body::counted(context.received, limit)
            .and_then(|()| body::fast_enough(context.received, context.began.elapsed(), settings, end));
        allowed.map_err(|why| {
            context.refusal = Some(why);
            Error::new_down(REFUSED)
        })
    }

    /// Waits for a small body before its request takes a place at the service, as nginx does with every body: however
    /// slowly it comes, it costs the service nothing. Pingora keeps it for a repetition, and sends what it keeps.
    pub(super) async fn gather(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        let small = body::small(&session.req_header().headers).filter(|_| !session.is_body_done());
        context.kept = small.and_then(|length| self.0.gathered.clone().try_acquire_many_owned(length).ok());
        if context.kept.is_none() {
            return Ok(());
        }
        session.enable_retry_buffering();
        loop {
            // Over HTTP/2 Pingora itself would wait for ever.
            let read =
                pingora_timeout::timeout(self.0.settings.timeouts.body, session.read_request_body()).await;
            let chunk = read.unwrap_or_else(|_| Err(Error::new(ErrorType::ReadTimedout)));
            let Some(chunk) = chunk.map_err(|error| error.into_down())? else { return Ok(()) };
            let end = session.is_body_done();
            self.received(Some(&chunk), end, context)?;
        }
    }
}
