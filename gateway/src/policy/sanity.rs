//! Heads that no honest client sends, and that services could read differently from the gateway.

use http::{HeaderMap, Method, header};

use crate::problem::Refusal;

/// The largest request head, in bytes.
pub(crate) const MAX_HEAD: usize = 32 * 1024;

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// The method.
    pub(crate) method: &'a Method,
    /// The headers after parsing.
    pub(crate) headers: &'a HeaderMap,
    /// `:authority` of HTTP/2, which stands for Host.
    pub(crate) authority: Option<&'a str>,
    /// The head as it came, of HTTP/1 only.
    pub(crate) raw: Option<&'a [u8]>,
}

/// Refuses a head that is too large, is ambiguous about host or length, or asks for a tunnel.
pub(crate) fn check(head: &Head<'_>) -> Result<(), Refusal> {
    if head.raw.is_some_and(|raw| raw.len() > MAX_HEAD) {
        return Err(Refusal::HeadTooLarge);
    }
    if head.method == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), head.authority) {
        (_, Some(_), _) | (None, None, None) => return Err(Refusal::Host),
        _ => {}
    }
    // The parser has dropped the length by now; only the raw head still tells.
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    if chunked && head.raw.is_some_and(|raw| has_header(raw, b"content-length")) {
        return Err(Refusal::Length);
    }
    Ok(())
}

fn has_header(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let field = line.split(|byte| *byte == b':').next().unwrap_or_default();
        field.trim_ascii().eq_ignore_ascii_case(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(method: &Method, headers: &[(&'static str, &'static str)], raw: &[u8]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        check(&Head { method, headers: &map, authority: None, raw: Some(raw) })
    }

    #[test]
    fn an_ordinary_head_passes() {
        assert_eq!(judge(&Method::GET, &[("host", "a")], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(()));
        let head = Head {
            method: &Method::GET,
            headers: &HeaderMap::new(),
            authority: Some("localhost:8443"),
            raw: None,
        };
        assert_eq!(check(&head), Ok(()));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let both = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-LENGTH : 3\r\n\r\n";
        let chunked = [("host", "a"), ("transfer-encoding", "chunked")];
        assert_eq!(judge(&Method::POST, &chunked, both), Err(Refusal::Length));
        assert_eq!(judge(&Method::GET, &[], b""), Err(Refusal::Host));
        assert_eq!(judge(&Method::GET, &[("host", "a"), ("host", "a")], b""), Err(Refusal::Host));
        assert_eq!(judge(&Method::CONNECT, &[("host", "a")], b""), Err(Refusal::Tunnel));
        assert_eq!(judge(&Method::GET, &[("host", "a")], &[b'x'; MAX_HEAD + 1]), Err(Refusal::HeadTooLarge));
    }
}
