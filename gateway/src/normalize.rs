//! The request target in one normal form, before anything is decided on it: what nginx does for
//! `location /name/ { proxy_pass http://name/; }`. Pure; no allocation for a target that is normal already.

use std::borrow::Cow;

use crate::settings::EncodedSlash;

/// A request target, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// The path, decoded once: begins with `/`, has no empty, `.` or `..` segment (an empty last one is the trailing
    /// slash) and no NUL.
    pub(crate) path: Cow<'a, [u8]>,
    /// The query, byte for byte; an empty one is none.
    pub(crate) query: Option<&'a [u8]>,
    /// The authority of an absolute form, with its port.
    pub(crate) authority: Option<&'a [u8]>,
}

/// Why a target is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    /// A byte up to 0x20, or 0x7F.
    #[error("the request target has a space or a control character")]
    ForbiddenByte,
    /// Neither origin form nor absolute form.
    #[error("the request target is not a path")]
    NotAPath,
    /// An absolute form whose authority is none.
    #[error("the request target names an impossible host")]
    BadAuthority,
    /// `%` without two hexadecimal digits, or `%00`.
    #[error("the path has an invalid percent-escape")]
    BadEscape,
    /// `%2F`, where that is not allowed.
    #[error("the path has an encoded slash")]
    EncodedSlash,
    /// More `..` than there are segments before them.
    #[error("the path leads above the root")]
    AboveRoot,
}

/// Takes a raw request target apart and brings its path into normal form.
pub(crate) fn normalize(target: &[u8], encoded_slash: EncodedSlash) -> Result<Target<'_>, BadTarget> {
    if target.iter().any(|byte| *byte <= 0x20 || *byte == 0x7F) {
        return Err(BadTarget::ForbiddenByte);
    }
    let (authority, rest) = split_authority(target)?;
    let rest = before(rest, b'#');
    let raw = before(rest, b'?');
    let query = rest.get(raw.len() + 1..).filter(|query| !query.is_empty());
    let raw = if authority.is_some() && raw.is_empty() { b"/" } else { raw };
    if raw.first() != Some(&b'/') {
        return Err(BadTarget::NotAPath);
    }
    let path =
        if is_normal(raw) { Cow::Borrowed(raw) } else { Cow::Owned(resolve(&decode(raw, encoded_slash)?)?) };
    Ok(Target { path, query, authority })
}

/// Percent-encodes a decoded path as it is sent upstream: upper-case hexadecimal for everything that could be
/// misunderstood, nothing else.
pub(crate) fn encode(path: &[u8]) -> Cow<'_, str> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if let Ok(text) = std::str::from_utf8(path)
        && !path.iter().any(|byte| must_be_encoded(*byte))
    {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(path.len() + 16);
    for byte in path.iter().copied() {
        if must_be_encoded(byte) {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            encoded.extend(['%', char::from(digits[0]), char::from(digits[1])]);
        } else {
            encoded.push(char::from(byte));
        }
    }
    Cow::Owned(encoded)
}

/// Appends a query as it is sent upstream: byte for byte, but for three that no URI may have and pingora refuses.
pub(crate) fn push_query(target: &mut Vec<u8>, query: &[u8]) {
    target.push(b'?');
    for byte in query {
        match byte {
            b'"' => target.extend_from_slice(b"%22"),
            b'<' => target.extend_from_slice(b"%3C"),
            b'>' => target.extend_from_slice(b"%3E"),
            byte => target.push(*byte),
        }
    }
}

fn must_be_encoded(byte: u8) -> bool {
    matches!(byte, 0..=0x20 | 0x7F..=0xFF)
        || matches!(byte, b'"' | b'#' | b'%' | b'<' | b'>' | b'?' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// What comes before the first `mark`.
fn before(bytes: &[u8], mark: u8) -> &[u8] {
    bytes.split(|byte| *byte == mark).next().unwrap_or_default()
}

/// Splits `scheme://authority` of an absolute form off, and gives its authority.
fn split_authority(target: &[u8]) -> Result<(Option<&[u8]>, &[u8]), BadTarget> {
    let scheme = target
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')))
        .filter(|_| target[0].is_ascii_alphabetic());
    let Some(authority) = scheme.and_then(|end| target[end..].strip_prefix(b"://")) else {
        return Ok((None, target));
    };
    let end = authority.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(authority.len());
    let (authority, rest) = authority.split_at(end);
    if is_authority(authority) { Ok((Some(authority), rest)) } else { Err(BadTarget::BadAuthority) }
}

/// Whether these bytes are a host, with or without a port: nobody's name and password, nothing that could be read as
/// another host.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = literal.iter().position(|byte| *byte == b']') else { return false };
            let address = literal[..end].iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte));
            (if address { &literal[..end] } else { &[] }, &literal[end + 1..])
        }
        None => {
            let host = before(authority, b':');
            let name = host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(byte));
            (if name { host } else { &[] }, &authority[host.len()..])
        }
    };
    let port = port.strip_prefix(b":").or(port.is_empty().then_some(port));
    !host.is_empty()
        && !host.windows(2).any(|pair| pair == b"..")
        && port.is_some_and(|port| port.iter().all(u8::is_ascii_digit))
}

/// Whether decoding and resolving would change nothing (a name that begins with a dot is looked at closer).
fn is_normal(path: &[u8]) -> bool {
    !path.contains(&b'%') && !path.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

fn decode(path: &[u8], encoded_slash: EncodedSlash) -> Result<Vec<u8>, BadTarget> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        if path[at] == b'%' {
            let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
                return Err(BadTarget::BadEscape);
            };
            // Two hexadecimal digits fit a byte.
            let byte = (high * 16 + low) as u8;
            if byte == b'/' && encoded_slash == EncodedSlash::Reject {
                return Err(BadTarget::EncodedSlash);
            }
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(path[at]);
            at += 1;
        }
    }
    if decoded.contains(&0) { Err(BadTarget::BadEscape) } else { Ok(decoded) }
}

/// Resolves empty, `.` and `..` segments of a decoded path that begins with `/`.
fn resolve(path: &[u8]) -> Result<Vec<u8>, BadTarget> {
    let mut resolved = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"" | b"." => {}
            b".." => {
                let parent = resolved.iter().rposition(|byte| *byte == b'/').ok_or(BadTarget::AboveRoot)?;
                resolved.truncate(parent);
            }
            name => {
                resolved.push(b'/');
                resolved.extend_from_slice(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            resolved.push(b'/');
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::route::{Found, Routes};
    use crate::settings::EncodedSlash::{Decode, Reject};
    use crate::settings::Settings;

    const VECTORS: &str = include_str!("../tests/data/nginx-path-vectors.tsv");

    /// Undoes the file's notation: `\\` and `\xNN` (and `\t`) stand for bytes.
    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, if c == '\\' { chars.next() } else { None }) {
                ('\\', Some('x')) => {
                    let digits: String = chars.by_ref().take(2).collect();
                    bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                }
                ('\\', Some('t')) => bytes.push(b'\t'),
                ('\\', Some(other)) => bytes.push(other as u8),
                (c, _) => bytes.push(c as u8),
            }
        }
        bytes
    }

    /// The same target with its path re-encoded: nginx sends some paths on as they came.
    fn reencoded(target: &[u8]) -> String {
        let path = before(target, b'?');
        let query = String::from_utf8_lossy(&target[path.len()..]);
        format!("{}{query}", encode(&decode(path, Decode).unwrap()))
    }

    /// What becomes of a target, in the words of the vectors' last two columns.
    fn outcome(target: &[u8]) -> (String, String) {
        let Ok(target) = normalize(target, Decode) else { return ("400".into(), String::new()) };
        let query =
            target.query.map(|query| format!("?{}", String::from_utf8_lossy(query))).unwrap_or_default();
        let routes = Routes::new(&Settings::default().routes);
        match routes.find(&target.path) {
            Found::Proxy { route, rest } => (route.name.to_string(), format!("{}{query}", encode(rest))),
            Found::Redirect(route) => {
                ("301".into(), String::from_utf8_lossy(&route.location(target.query)).into())
            }
            Found::Unknown => ("404".into(), String::new()),
        }
    }

    #[test]
    fn every_target_goes_where_nginx_sends_it() {
        let mut cases = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let columns: Vec<&str> = line.split('\t').collect();
            let (upstream, sent) = outcome(&unescape(columns[0]));
            let expected = reencoded(&unescape(columns[2]));
            assert_eq!((upstream.as_str(), sent), (columns[1], expected), "{line}");
            cases += 1;
        }
        assert!(cases >= 59, "the vectors file is cut short: {cases}");
    }

    #[test]
    fn the_absolute_form_loses_scheme_and_authority() {
        for (target, path, query) in [
            ("https://host:8443/user_manager/a?b", "/user_manager/a", Some("b")),
            ("http://host", "/", None),
            ("http://host?b", "/", Some("b")),
            ("http://host/#f", "/", None),
            ("http://host:/a", "/a", None),
            ("x+y-z.1://[::1]:80/a", "/a", None),
        ] {
            let normal = normalize(target.as_bytes(), Decode).unwrap();
            assert_eq!(
                (&*normal.path, normal.query),
                (path.as_bytes(), query.map(str::as_bytes)),
                "{target}"
            );
        }
    }

    #[test]
    fn what_is_not_a_path_is_refused() {
        for target in [
            "", "*", "?x", "#", "a/b", "host:443", "://x", "1://x", "/a%", "/a%4", "/a%00", "/..", "/a/../..",
        ] {
            assert!(normalize(target.as_bytes(), Decode).is_err(), "{target}");
        }
    }

    #[test]
    fn a_query_is_sent_as_it_came_but_for_what_no_uri_may_have() {
        let mut target = b"/a".to_vec();
        push_query(&mut target, b"x=%zz&y=\"<>`{|}\xff?/../");
        assert_eq!(target, b"/a?x=%zz&y=%22%3C%3E`{|}\xff?/../");
    }

    #[test]
    fn an_absolute_form_needs_a_possible_host() {
        for authority in [
            "", ":1", "a_b", "a:b", "a..b", "user@a", "%61", "a\\b", "[::1", "[]", "[g]", "[::1]a", "a:1:1",
            "a#f", "\u{e9}",
        ] {
            let target = format!("http://{authority}/a");
            assert_eq!(normalize(target.as_bytes(), Decode), Err(BadTarget::BadAuthority), "{target}");
        }
    }

    #[test]
    fn an_encoded_slash_can_be_refused() {
        for target in ["/user_manager%2Fa", "/user_manager/a%2fb", "http://a/%2f", "/%2e%2F"] {
            assert_eq!(normalize(target.as_bytes(), Reject), Err(BadTarget::EncodedSlash), "{target}");
            assert!(normalize(target.as_bytes(), Decode).is_ok(), "{target}");
        }
        for target in ["/user_manager/a?b=%2F", "/a%252Fb", "/a%5Cb", "/a#%2F"] {
            assert_eq!(
                normalize(target.as_bytes(), Reject),
                normalize(target.as_bytes(), Decode),
                "{target}"
            );
        }
    }

    #[test]
    fn a_normal_target_is_not_copied() {
        let target = normalize(b"/user_manager/register?x=%41", Decode).unwrap();
        assert!(matches!(target.path, Cow::Borrowed(_)));
        assert!(matches!(encode(&target.path), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn a_path_sent_upstream_is_normal_there_too(target in "/[a-z./%?#{2}5EF\\\\é-]{0,40}") {
            if let Ok(first) = normalize(target.as_bytes(), Decode) {
                let sent = encode(&first.path).into_owned();
                let again = normalize(sent.as_bytes(), Decode).unwrap();
                prop_assert_eq!(&again.path, &first.path);
                prop_assert!(sent.is_ascii());
                prop_assert!(normalize(sent.as_bytes(), Reject).is_ok());
            }
        }

        #[test]
        fn no_target_panics(target in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = outcome(&target);
        }
    }
}
