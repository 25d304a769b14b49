//! The answers that the gateway makes itself: one shape, one place, never an internal message.

use bytes::Bytes;
use common::auth;
use common::http::Problem;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::normalize::BadTarget;
use crate::policy::rate::Exceeded;
use crate::route::Route;

/// Why the gateway answers a request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request target cannot be brought into normal form.
    Target(BadTarget),
    /// No Host header, or more than one.
    Host,
    /// The head of the request breaks a rule of HTTP.
    Head(&'static str),
    /// The length of the body is not said, or said twice.
    Length,
    /// The head is too large.
    HeadTooLarge,
    /// CONNECT.
    Tunnel,
    /// The body is not what its head announced.
    Malformed,
    /// The body has more than so many bytes.
    BodyTooLarge(u64),
    /// The head did not come in time.
    SlowHead,
    /// The body did not come in time.
    SlowBody,
    /// No service has this path.
    Unknown,
    /// A page of an origin that is not allowed asks what it may do.
    Origin,
    /// The client asks too often.
    Rate(Exceeded),
    /// No token, not a valid one, or no keys to tell.
    Token(auth::Error),
    /// The service's name does not resolve, or none of its addresses is up.
    NoAddress,
    /// The service has as many requests as it may have at once.
    Overloaded,
    /// The service refuses connections or does not speak HTTP.
    Unreachable,
    /// The service is too slow.
    Timeout,
    /// No more answers without an end can be served.
    TooManyStreams,
    /// Our own fault.
    Internal,
}

/// An answer, ready to be written.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: StatusCode,
    /// Headers of this answer only; length and security headers come on top.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; a HEAD request gets its length only.
    pub(crate) body: Bytes,
}

impl From<BadTarget> for Refusal {
    fn from(why: BadTarget) -> Refusal {
        Refusal::Target(why)
    }
}

impl Refusal {
    /// The answer to the request that has this id.
    pub(crate) fn reply(&self, request_id: &str) -> Reply {
        let problem = self.problem();
        let mut headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        headers.extend(self.headers());
        let body = problem.body(Some(request_id)).to_string();
        Reply { status: problem.status(), headers, body: body.into() }
    }

    fn problem(&self) -> Problem {
        let (status, slug, title, detail) = match self {
            Refusal::Target(why) => return Problem::bad_request(why.to_string()),
            Refusal::Host => return Problem::bad_request("the request must name exactly one host"),
            Refusal::Length => {
                return Problem::bad_request("the body must have one length: a number, or chunks");
            }
            Refusal::Head(why) => return Problem::bad_request(*why),
            Refusal::Malformed => return Problem::bad_request("the body is not what the head announced"),
            Refusal::Unknown => return Problem::not_found("no service has this path"),
            Refusal::Token(why) => return Problem::from(why.clone()),
            Refusal::NoAddress => {
                return Problem::unavailable("the service is not there at the moment", RETRY);
            }
            Refusal::Overloaded => {
                return Problem::unavailable("the service has as much to do as it can take", RETRY_SOON);
            }
            Refusal::TooManyStreams => {
                return Problem::unavailable("no more streams can be opened at the moment", RETRY);
            }
            Refusal::Internal => return Problem::internal(),
            Refusal::Origin => (
                StatusCode::FORBIDDEN,
                "origin-not-allowed",
                "Pages of this origin may not call here",
                "the origin is not among those that this gateway allows",
            ),
            Refusal::Rate(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                "Too many requests",
                "wait as long as Retry-After says",
            ),
            Refusal::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "The request head is too large",
                "target and headers together have more bytes, or more lines, than are taken",
            ),
            Refusal::Tunnel => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This method is not allowed",
                "the gateway opens no tunnels",
            ),
            Refusal::BodyTooLarge(limit) => {
                let detail = format!("a body may have at most {limit} bytes here");
                let title = "The body is too large";
                return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", title, detail);
            }
            Refusal::SlowHead | Refusal::SlowBody => (
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                "The request took too long to arrive",
                "nothing more came within the time-out",
            ),
            Refusal::Unreachable => (
                StatusCode::BAD_GATEWAY,
                "bad-gateway",
                "The service cannot be reached",
                "the service behind this path did not give a usable answer",
            ),
            Refusal::Timeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "gateway-timeout",
                "The service did not answer in time",
                "whether the request took effect is not known",
            ),
        };
        Problem::new(status, slug, title, detail)
    }

    /// What the status asks for beyond the body.
    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let header = match self {
            Refusal::Rate(exceeded) => return exceeded.headers().collect(),
            Refusal::Token(auth::Error::Missing) => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Refusal::Token(auth::Error::Invalid(_)) => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                Some((header::WWW_AUTHENTICATE, challenge))
            }
            Refusal::Token(auth::Error::Unavailable) | Refusal::NoAddress | Refusal::TooManyStreams => {
                Some((header::RETRY_AFTER, RETRY.into()))
            }
            Refusal::Overloaded => Some((header::RETRY_AFTER, RETRY_SOON.into())),
            Refusal::Tunnel => {
                let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
                Some((header::ALLOW, allowed))
            }
            _ => None,
        };
        header.into_iter().collect()
    }
}

/// Seconds until a service or its keys may be there again: they are looked for more often than that.
const RETRY: u32 = 5;
/// Seconds until a service may have a place again: a request takes less.
const RETRY_SOON: u32 = 1;

/// Sends the bare name of a route to the name with a slash.
pub(crate) fn redirect(route: &Route, query: Option<&[u8]>, method: &Method) -> Reply {
    moved(route.location(query), method)
}

/// Sends a request to the plain port to the same target over HTTPS.
pub(crate) fn to_https(host: &[u8], port: u16, target: &[u8], method: &Method) -> Result<Reply, Refusal> {
    let name = match host.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !host.ends_with(b"]") => &host[..colon],
        _ => host,
    };
    if !target.starts_with(b"/") {
        return Err(Refusal::Target(BadTarget::NotAPath));
    }
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    Ok(moved([b"https://", name, port.as_bytes(), target].concat(), method))
}

/// Only GET and HEAD may be turned into GET by 301.
fn moved(location: Vec<u8>, method: &Method) -> Reply {
    let status = match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let location = HeaderValue::from_maybe_shared(Bytes::from(location));
    let headers = location.into_iter().map(|location| (header::LOCATION, location)).collect();
    Reply { status, headers, body: Bytes::new() }
}
