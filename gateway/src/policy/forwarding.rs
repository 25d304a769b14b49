//! Headers that tell a service who asked, and headers that tell a browser what it may do with an answer.
//!
//! Only a proxy that is configured as trusted may say for whom it asks. Of what it says, `X-Forwarded-For`,
//! `-Proto` and `-Host` count; `Forwarded` does not, because a proxy that knows only the former lets a client's own
//! through.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

use super::only;

/// On every answer, unless the service set its own.
pub(crate) const SECURITY: [(HeaderName, HeaderValue); 5] = [
    (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("frame-ancestors 'none'")),
];

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The most entries of `X-Forwarded-For` that are read and passed on, counted from the right.
const HOPS: usize = 16;

/// The other end of a connection. Made once, so that its requests copy no text.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    address: IpAddr,
    text: HeaderValue,
    trusted: bool,
}

impl Peer {
    /// The peer at `address`, which may speak for others if it is in one of the networks `proxies`.
    pub(crate) fn new(address: IpAddr, proxies: &[IpNet]) -> Peer {
        let address = address.to_canonical();
        Peer { address, text: text(address), trusted: trusts(proxies, address) }
    }

    /// Whether it may speak for others.
    pub(crate) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whose request this is: the peer's, or that of whom a trusted one names. `X-Forwarded-For` is read from the
    /// right, where our own proxies write; the first address that is not one of theirs is the client. What
    /// stands left of an entry that is no address could be anybody's invention: the last address before it counts.
    pub(crate) fn client(&self, proxies: &[IpNet], headers: &HeaderMap) -> IpAddr {
        if !self.trusted {
            return self.address;
        }
        let mut client = self.address;
        for entry in hops(headers).map_while(address) {
            client = entry;
            if !trusts(proxies, client) {
                break;
            }
        }
        client
    }

    /// The headers to set on a request of `client` after all [`ours`] were removed; `headers` is the request as it
    /// came, with its Host.
    pub(crate) fn headers(
        &self,
        client: IpAddr,
        headers: &HeaderMap,
    ) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        let mut chain = self.text.clone();
        let mut proto = HeaderValue::from_static("https");
        let mut host = headers.get(header::HOST).cloned();
        let mut real_ip = self.text.clone();
        if self.trusted {
            chain = self.chain(headers);
            real_ip = text(client);
            if let Some(told) = only(headers, &PROTO).filter(|told| *told == "http" || *told == "https") {
                proto = told.clone();
            }
            host = only(headers, &HOST).filter(|told| !told.is_empty()).cloned().or(host);
        }
        let host = host.map(|host| (HOST, host));
        [Some((FOR, chain)), Some((REAL_IP, real_ip)), Some((PROTO, proto)), host].into_iter().flatten()
    }

    /// What the trusted peer sent, at most [`HOPS`] entries of it, and the peer itself.
    fn chain(&self, headers: &HeaderMap) -> HeaderValue {
        let mut entries: Vec<&[u8]> = hops(headers).collect();
        entries.reverse();
        entries.push(self.text.as_bytes());
        joined(&entries, b", ").unwrap_or_else(|| self.text.clone())
    }
}

/// The headers of a request that only the gateway may set: what came under these names is dropped.
pub(crate) fn ours(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| is_ours(name)).cloned().collect()
}

fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
}

/// One cookie header for many: HTTP/2 may send each cookie in a field of its own, HTTP/1.1 knows one (RFC 9113,
/// 8.2.3). None if there is nothing to join.
pub(crate) fn joined_cookies(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut fields = headers.get_all(header::COOKIE).iter();
    let (first, second) = (fields.next()?, fields.next()?);
    let fields: Vec<&[u8]> = [first, second].into_iter().chain(fields).map(HeaderValue::as_bytes).collect();
    joined(&fields, b"; ")
}

/// The entries of `X-Forwarded-For` from the right, over all lines.
fn hops(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(FOR).iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii).take(HOPS)
}

/// The address in an entry: with or without a port, IPv6 with or without brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?;
    let plain = || entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    plain().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

fn trusts(proxies: &[IpNet], address: IpAddr) -> bool {
    proxies.iter().any(|net| net.contains(&address))
}

fn text(address: IpAddr) -> HeaderValue {
    // An address has no character that a header could not have.
    HeaderValue::try_from(address.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn joined(parts: &[&[u8]], between: &[u8]) -> Option<HeaderValue> {
    let mut value = BytesMut::with_capacity(parts.iter().map(|part| part.len() + between.len()).sum());
    for (n, part) in parts.iter().enumerate() {
        value.put_slice(if n == 0 { b"" } else { between });
        value.put_slice(part);
    }
    HeaderValue::from_maybe_shared(Bytes::from(value)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn proxies() -> Vec<IpNet> {
        ["10.0.0.0/8", "2001:db8:ff::/48"].iter().map(|net| net.parse().unwrap()).collect()
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().unwrap(), &proxies())
    }

    fn client(peer_address: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        peer(peer_address).client(&proxies(), &map(&lines)).to_string()
    }

    /// What the service gets, `name: value`.
    fn sent(peer_address: &str, fields: &[(&'static str, &str)]) -> Vec<String> {
        let (peer, headers) = (peer(peer_address), map(fields));
        let client = peer.client(&proxies(), &headers);
        peer.headers(client, &headers)
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_client_cannot_speak_for_the_gateway() {
        for name in ["x-forwarded-for", "x-forwarded-user", "forwarded", "x-real-ip", "x-request-id"] {
            assert_eq!(ours(&map(&[(name, "a"), ("accept", "b"), (name, "c")])), [name], "{name}");
        }
        assert!(ours(&map(&[("traceparent", "a"), ("authorization", "a"), ("x-forwarded", "a")])).is_empty());
    }

    #[test]
    fn a_peer_that_is_not_trusted_speaks_for_itself_only() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("::ffff:192.0.2.1", &[]), "192.0.2.1");
        assert_eq!(
            sent(
                "192.0.2.1",
                &[
                    ("host", "example.com"),
                    ("x-forwarded-for", "198.51.100.7"),
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-host", "other.example.com"),
                ]
            ),
            [
                "x-forwarded-for: 192.0.2.1",
                "x-real-ip: 192.0.2.1",
                "x-forwarded-proto: https",
                "x-forwarded-host: example.com",
            ]
        );
        assert_eq!(sent("192.0.2.1", &[]).len(), 3, "no host, no x-forwarded-host");
    }

    #[test]
    fn the_client_of_a_trusted_proxy_is_the_rightmost_address_that_is_not_a_proxy_s() {
        for (lines, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
            (&["203.0.113.9, 198.51.100.7 ,10.1.2.3"], "198.51.100.7"),
            (&["203.0.113.9", "198.51.100.7", "10.1.2.3,2001:db8:ff::1"], "198.51.100.7"),
            (&["10.1.2.3, 10.1.2.4"], "10.1.2.3"),
            (&["::ffff:198.51.100.7, ::ffff:10.0.0.9"], "198.51.100.7"),
            (&["198.51.100.7:1234, [2001:db8:ff::1]:443, [2001:db8:ff::2], 10.0.0.1:9"], "198.51.100.7"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]:1"], "2001:db8::7"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", lines), expected, "{lines:?}");
            assert_eq!(client("::ffff:10.0.0.1", lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn an_entry_that_is_no_address_ends_the_search() {
        for bad in [
            "unknown",
            "",
            "198.51.100.7.",
            "198.51.100.300",
            "198.51.100.7:x",
            "198.51.100.7:99999",
            "[198.51.100.7]",
            "fe80::1%eth0",
            "[2001:db8::7",
            "2001:db8::7]",
            "[]",
            "198.51.100.7 198.51.100.8",
            "for=198.51.100.7",
            "\u{e9}",
        ] {
            assert_eq!(
                client("10.0.0.1", &[&format!("198.51.100.7, {bad}, 10.0.0.2")]),
                "10.0.0.2",
                "{bad:?}"
            );
            assert_eq!(client("10.0.0.1", &["198.51.100.7", bad]), "10.0.0.1", "{bad:?}");
        }
    }

    #[test]
    fn a_trusted_proxy_s_chain_is_passed_on_with_itself() {
        let fields = [
            ("host", "internal.example.com"),
            ("x-forwarded-for", "203.0.113.9,198.51.100.7"),
            ("x-forwarded-for", "10.1.2.3"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "app.example.com"),
        ];
        assert_eq!(
            sent("10.0.0.1", &fields),
            [
                "x-forwarded-for: 203.0.113.9, 198.51.100.7, 10.1.2.3, 10.0.0.1",
                "x-real-ip: 198.51.100.7",
                "x-forwarded-proto: http",
                "x-forwarded-host: app.example.com",
            ]
        );
        let plain = [
            "x-forwarded-for: 10.0.0.1",
            "x-real-ip: 10.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: a",
        ];
        assert_eq!(sent("10.0.0.1", &[("host", "a")]), plain, "a proxy that asks for itself");
        let doubtful = [
            ("host", "a"),
            ("x-forwarded-proto", "gopher"),
            ("x-forwarded-host", "b"),
            ("x-forwarded-host", "c"),
        ];
        assert_eq!(sent("10.0.0.1", &doubtful), plain);
    }

    #[test]
    fn a_chain_is_cut_at_its_left() {
        let long: Vec<String> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        let sent = sent("10.0.0.1", &[("x-forwarded-for", &long.join(","))]);
        assert_eq!(sent[0].split(", ").count(), HOPS + 1);
        assert!(
            sent[0].starts_with("x-forwarded-for: 10.0.0.84, ") && sent[0].ends_with("10.0.0.99, 10.0.0.1")
        );
        assert_eq!(sent[1], "x-real-ip: 10.0.0.84");
    }

    #[test]
    fn split_cookies_are_joined() {
        let join = |fields: &[(&'static str, &str)]| joined_cookies(&map(fields));
        assert_eq!(join(&[]), None);
        assert_eq!(join(&[("cookie", "a=1; b=2")]), None);
        assert_eq!(
            join(&[("cookie", "a=1"), ("accept", "x"), ("cookie", "b=2; c=3"), ("cookie", "d=\u{e9}")]),
            { Some(HeaderValue::from_bytes("a=1; b=2; c=3; d=\u{e9}".as_bytes()).unwrap()) }
        );
    }

    proptest! {
        /// Whatever a client writes, what our proxy wrote right of it counts.
        #[test]
        fn a_client_behind_a_proxy_cannot_choose_its_address(
            forged in "[0-9a-f:., \\[\\]x%]{0,40}",
            split in any::<bool>(),
        ) {
            let lines = if split {
                vec![forged, "198.51.100.7".to_owned()]
            } else {
                vec![format!("{forged},198.51.100.7")]
            };
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(client("10.0.0.1", &lines), "198.51.100.7");
        }

        #[test]
        fn any_value_is_survived(
            value in prop::collection::vec(prop_oneof![Just(b','), 0x20_u8..0x7f, 0x80_u8..], 0..80),
        ) {
            let mut headers = HeaderMap::new();
            headers.append(FOR, HeaderValue::from_bytes(&value).unwrap());
            let peer = peer("10.0.0.1");
            let client = peer.client(&proxies(), &headers);
            let sent = peer.headers(client, &headers).next().unwrap().1;
            prop_assert!(sent.as_bytes().ends_with(b"10.0.0.1"));
        }
    }
}
