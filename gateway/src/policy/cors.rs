//! Cross-origin requests of browsers: which pages of other origins may call, and what they may see of an answer.
//! Tokens travel in `Authorization`, never in cookies, so no answer allows credentials. Without allowed origins all
//! this is off.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::only;
use crate::problem::{Refusal, Reply};

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// What a page may send when it did not say what it wants to.
const HEADERS: &str = "authorization, content-type, idempotency-key, x-request-id, traceparent";
/// What a page may see of an answer besides the few headers that it always may.
const EXPOSED: &str = "x-request-id, retry-after, idempotency-replayed, link";
/// How long a browser may remember a preflight, in seconds.
const MAX_AGE: u32 = 600;
/// The longest list of headers that is echoed, in bytes.
const LONGEST: usize = 1024;

/// Answers a browser's question whether a page of another origin may send a request: yes, or a refusal. None if
/// this is no such question; then it goes on as any request.
pub(crate) fn preflight(
    origins: &[HeaderValue],
    method: &Method,
    headers: &HeaderMap,
) -> Option<Result<Reply, Refusal>> {
    let asks = !origins.is_empty()
        && *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !asks {
        return None;
    }
    let Some(origin) = allowed(origins, headers) else {
        return Some(Err(Refusal::Origin));
    };
    let wanted =
        only(headers, &header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|list| is_sane(list.as_bytes()));
    let headers = vec![
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()),
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            wanted.cloned().unwrap_or_else(|| HeaderValue::from_static(HEADERS)),
        ),
        (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE.into()),
    ];
    Some(Ok(Reply { status: StatusCode::NO_CONTENT, headers, body: Bytes::new() }))
}

/// Added to (not put in place of) the `Vary` of every answer while origins are allowed: caches must not give one
/// page's answer to another's.
pub(crate) const VARY: HeaderValue = HeaderValue::from_static("Origin");

/// The headers to set on the answer to a request with these headers, refusals included: none unless its origin is
/// allowed.
pub(crate) fn shared(
    origins: &[HeaderValue],
    request: &HeaderMap,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let origin = allowed(origins, request).cloned();
    let headers = origin.map(|origin| {
        [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED)),
        ]
    });
    headers.into_iter().flatten()
}

/// The request's origin, if it has exactly one that is allowed. Origins are compared as they are written (RFC 6454: a
/// browser always writes one in the same way).
fn allowed<'a>(origins: &'a [HeaderValue], headers: &HeaderMap) -> Option<&'a HeaderValue> {
    if origins.is_empty() {
        return None;
    }
    let origin = only(headers, &header::ORIGIN)?;
    origins.iter().find(|allowed| *allowed == origin)
}

/// Whether this is a list of header names, and not too long a one.
fn is_sane(list: &[u8]) -> bool {
    list.len() <= LONGEST
        && list.split(|byte| *byte == b',').all(|name| HeaderName::from_bytes(name.trim_ascii()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "https://app.example.com";

    fn origins() -> [HeaderValue; 2] {
        [HeaderValue::from_static("http://localhost:3000"), HeaderValue::from_static(PAGE)]
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn lines(headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Vec<String> {
        headers.into_iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    const ASKS: [(&str, &str); 2] = [("origin", PAGE), ("access-control-request-method", "PUT")];

    /// The headers that an allowed page may send, having asked for `wanted`.
    fn granted(wanted: &[&str]) -> String {
        let wanted: Vec<_> = wanted.iter().map(|list| ("access-control-request-headers", *list)).collect();
        let request = map(&[&ASKS[..], &wanted].concat());
        let reply = preflight(&origins(), &Method::OPTIONS, &request).unwrap().unwrap();
        lines(reply.headers.into_iter().filter(|(name, _)| name == header::ACCESS_CONTROL_ALLOW_HEADERS))
            .concat()
    }

    #[test]
    fn an_allowed_page_is_told_what_it_may_send() {
        let reply = preflight(&origins(), &Method::OPTIONS, &map(&ASKS)).unwrap().unwrap();
        assert_eq!((reply.status, reply.body.len()), (StatusCode::NO_CONTENT, 0));
        assert_eq!(
            lines(reply.headers),
            [
                "access-control-allow-origin: https://app.example.com",
                "access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
                "access-control-allow-headers: authorization, content-type, idempotency-key, x-request-id, traceparent",
                "access-control-max-age: 600",
            ]
        );
    }

    #[test]
    fn the_headers_that_a_page_asks_for_are_granted_if_they_are_names() {
        assert_eq!(
            granted(&["x-a,authorization , x-b"]),
            "access-control-allow-headers: x-a,authorization , x-b"
        );
        let usual = granted(&[]);
        let long = format!("x-{}", "a".repeat(LONGEST));
        for wanted in [&["x-a, b c"][..], &["x-a,"], &[""], &["x-a;b"], &["x-a", "x-b"], &[&long]] {
            assert_eq!(granted(wanted), usual, "{wanted:?}");
        }
    }

    #[test]
    fn a_page_of_another_origin_is_refused() {
        for origin in [
            "https://app.example.com.evil.example",
            "https://app.example.com:8443",
            "http://app.example.com",
            "https://APP.example.com",
            "null",
            "",
        ] {
            let request = map(&[("origin", origin), ASKS[1]]);
            let verdict = preflight(&origins(), &Method::OPTIONS, &request).unwrap();
            assert_eq!(verdict.unwrap_err(), Refusal::Origin, "{origin:?}");
            assert_eq!(lines(shared(&origins(), &request)), [""; 0], "{origin:?}");
        }
        let twice = map(&[ASKS[0], ASKS[0], ASKS[1]]);
        assert_eq!(preflight(&origins(), &Method::OPTIONS, &twice).unwrap().unwrap_err(), Refusal::Origin);
        assert_eq!(Refusal::Origin.reply("r").status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn everything_else_goes_on_as_any_request() {
        assert!(preflight(&[], &Method::OPTIONS, &map(&ASKS)).is_none(), "off");
        assert!(preflight(&origins(), &Method::GET, &map(&ASKS)).is_none(), "another method");
        assert!(preflight(&origins(), &Method::OPTIONS, &map(&ASKS[..1])).is_none(), "no method asked for");
        assert!(preflight(&origins(), &Method::OPTIONS, &map(&ASKS[1..])).is_none(), "no origin");
    }

    #[test]
    fn an_allowed_page_may_see_the_answer() {
        assert_eq!(
            lines(shared(&origins(), &map(&ASKS[..1]))),
            [
                "access-control-allow-origin: https://app.example.com",
                "access-control-expose-headers: x-request-id, retry-after, idempotency-replayed, link",
            ]
        );
        assert_eq!(lines(shared(&origins(), &map(&[]))), [""; 0]);
        assert_eq!(lines(shared(&[], &map(&ASKS))), [""; 0], "off");
    }
}
