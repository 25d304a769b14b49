//! The answers that the gateway makes itself: one shape, one place, never an internal message.

use bytes::Bytes;
use common::auth;
use common::http::Problem;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::normalize::BadTarget;
use crate::route::{self, Service};

/// Why the gateway answers a request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request target cannot be brought into normal form.
    Target(BadTarget),
    /// No Host header, or more than one.
    Host,
    /// Both Transfer-Encoding and Content-Length.
    Length,
    /// The head is too large.
    HeadTooLarge,
    /// CONNECT.
    Tunnel,
    /// The body is not what its head announced.
    Malformed,
    /// The body is too large.
    BodyTooLarge,
    /// The client was too slow.
    SlowClient,
    /// No service has this path.
    Unknown,
    /// No token, not a valid one, or no keys to tell.
    Token(auth::Error),
    /// The service's name does not resolve.
    NoAddress,
    /// The service refuses connections or does not speak HTTP.
    Unreachable,
    /// The service is too slow.
    Timeout,
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
        headers.extend(self.header());
        let body = problem.body(Some(request_id)).to_string();
        Reply { status: problem.status(), headers, body: body.into() }
    }

    fn problem(&self) -> Problem {
        let (status, slug, title, detail) = match self {
            Refusal::Target(why) => return Problem::bad_request(why.to_string()),
            Refusal::Host => return Problem::bad_request("the request must name exactly one host"),
            Refusal::Length => {
                return Problem::bad_request("Transfer-Encoding and Content-Length exclude each other");
            }
            Refusal::Malformed => return Problem::bad_request("the body is not what the head announced"),
            Refusal::Unknown => return Problem::not_found("no service has this path"),
            Refusal::Token(why) => return Problem::from(why.clone()),
            Refusal::NoAddress => {
                return Problem::unavailable("the service cannot be found at the moment", RETRY);
            }
            Refusal::Internal => return Problem::internal(),
            Refusal::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "The request head is too large",
                "target and headers may have at most 32 KiB together",
            ),
            Refusal::Tunnel => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "This method is not allowed",
                "the gateway opens no tunnels",
            ),
            Refusal::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The body is too large",
                "a body may have at most 1 MiB",
            ),
            Refusal::SlowClient => (
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
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Refusal::Token(auth::Error::Missing) => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Refusal::Token(auth::Error::Invalid(_)) => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                Some((header::WWW_AUTHENTICATE, challenge))
            }
            Refusal::Token(auth::Error::Unavailable) | Refusal::NoAddress => {
                Some((header::RETRY_AFTER, RETRY.into()))
            }
            Refusal::Tunnel => {
                let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
                Some((header::ALLOW, allowed))
            }
            _ => None,
        }
    }
}

/// Seconds until a service or its keys may be there again: they are looked for more often than that.
const RETRY: u32 = 5;

/// Sends the bare name of a service to the name with a slash. Only GET and HEAD may be turned into GET by 301.
pub(crate) fn redirect(service: Service, query: Option<&[u8]>, method: &Method) -> Reply {
    let status = match *method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    let location = HeaderValue::from_maybe_shared(Bytes::from(route::location(service, query)));
    let headers = location.into_iter().map(|location| (header::LOCATION, location)).collect();
    Reply { status, headers, body: Bytes::new() }
}
