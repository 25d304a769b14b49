//! What is decided about a request before it is passed on, in the order in which it is decided: sanity of the head,
//! (normal form and route), CORS preflight, rate, authentication, body limit, forwarding headers. No input and
//! output here: time, addresses and headers are handed in.

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod cors;
pub(crate) mod flood;
pub(crate) mod forwarding;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod rate;
pub(crate) mod sanity;

/// The value of a header that is there exactly once: of two, a service might look at the other one.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
