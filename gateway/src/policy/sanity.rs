//! Heads that no honest client sends, and that services could read differently from the gateway. Over HTTP/1
//! [`head`](super::head) has looked before; what is here holds for HTTP/2, too.

use http::{HeaderMap, Method, header};

use crate::policy::head::is_authority;
use crate::problem::Refusal;

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    /// The method.
    pub(crate) method: &'a Method,
    /// The headers after parsing.
    pub(crate) headers: &'a HeaderMap,
    /// `:authority` of HTTP/2, which stands for Host.
    pub(crate) authority: Option<&'a str>,
}

/// Refuses a head that is ambiguous about host or length, or asks for a tunnel.
pub(crate) fn check(head: &Head<'_>) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next(), head.authority) {
        (_, Some(_), _) | (None, None, None) => return Err(Refusal::Host),
        (_, None, Some(authority)) => authority.as_bytes(),
        (Some(host), None, None) => host.as_bytes(),
    };
    if !is_authority(host) {
        return Err(Refusal::Host);
    }
    let chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
    if chunked && head.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(Refusal::Length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(
        method: &Method,
        headers: &[(&'static str, &'static str)],
        authority: Option<&str>,
    ) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        check(&Head { method, headers: &map, authority })
    }

    #[test]
    fn an_ordinary_head_passes() {
        assert_eq!(judge(&Method::GET, &[("host", "a")], None), Ok(()));
        assert_eq!(judge(&Method::GET, &[], Some("localhost:8443")), Ok(()));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let both = [("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")];
        assert_eq!(judge(&Method::POST, &both, None), Err(Refusal::Length));
        assert_eq!(judge(&Method::GET, &[], None), Err(Refusal::Host));
        assert_eq!(judge(&Method::GET, &[("host", "a"), ("host", "a")], None), Err(Refusal::Host));
        for authority in ["a,b", "a@b", "a:b", ""] {
            assert_eq!(judge(&Method::GET, &[], Some(authority)), Err(Refusal::Host), "{authority}");
        }
        assert_eq!(judge(&Method::CONNECT, &[("host", "a")], None), Err(Refusal::Tunnel));
    }
}
