//! The services' addresses: names resolved in the background, taken in turn.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::lookup_host;
use url::Url;

/// How often names are resolved anew.
const REFRESH: Duration = Duration::from_secs(10);

/// A service's address as configured: `http://host:port`, nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Endpoint, String> {
        let refusal = || format!("{text:?} is not of the form http://host:port");
        let url = Url::parse(text).map_err(|_| refusal())?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        match (url.scheme(), url.host_str(), url.port_or_known_default()) {
            ("http", Some(host), Some(port)) if bare && anonymous => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Ok(Endpoint { host, port })
            }
            _ => Err(refusal()),
        }
    }
}

impl Endpoint {
    /// The URL of `path` on another port of this host.
    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(host)) => format!("http://[{host}]:{port}{path}"),
            _ => format!("http://{}:{port}{path}", self.host),
        }
    }

    fn literal(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }

    /// The addresses of one family: a name with both (localhost) often has a listener on the IPv4 one only.
    async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.literal() {
            return Ok(vec![address]);
        }
        let all: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        let v4: Vec<SocketAddr> = all.iter().copied().filter(SocketAddr::is_ipv4).collect();
        Ok(if v4.is_empty() { all } else { v4 })
    }
}

/// One service's endpoints and what they resolve to now.
#[derive(Debug)]
pub(crate) struct Upstream {
    endpoints: Vec<Endpoint>,
    addresses: ArcSwap<Vec<SocketAddr>>,
    turn: AtomicUsize,
}

impl Upstream {
    /// An upstream that knows its literal addresses; names wait for [`Upstream::keep_resolving`].
    pub(crate) fn new(endpoints: Vec<Endpoint>) -> Upstream {
        let literals = endpoints.iter().filter_map(Endpoint::literal).collect();
        Upstream { endpoints, addresses: ArcSwap::from_pointee(literals), turn: AtomicUsize::new(0) }
    }

    /// The next address in turn, if any is known.
    pub(crate) fn next(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.load();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        addresses.get(turn.checked_rem(addresses.len())?).copied()
    }

    /// Resolves the names now and every 10 s, for ever. A name that fails keeps the others' addresses; when all
    /// fail, the last known ones stay.
    pub(crate) async fn keep_resolving(&self) {
        if self.endpoints.iter().all(|endpoint| endpoint.literal().is_some()) {
            return;
        }
        loop {
            let mut found = Vec::new();
            for endpoint in &self.endpoints {
                match endpoint.resolve().await {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => tracing::warn!(host = %endpoint.host, %error, "a name does not resolve"),
                }
            }
            found.sort_unstable();
            found.dedup();
            if !found.is_empty() && found != **self.addresses.load() {
                tracing::info!(addresses = ?found, "addresses of an upstream");
                self.addresses.store(found.into());
            }
            tokio::time::sleep(REFRESH).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port_over_http() {
        let endpoint: Endpoint = "http://user_manager:5001".parse().unwrap();
        assert_eq!(endpoint.url(9901, "/keys"), "http://user_manager:9901/keys");
        let endpoint: Endpoint = "http://[::1]:5001/".parse().unwrap();
        assert_eq!(endpoint.url(9901, "/keys"), "http://[::1]:9901/keys");
        for wrong in ["", "user_manager:5001", "https://a:1", "http://a:1/x", "http://a:1?x", "http://u@a:1"]
        {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_are_taken_in_turn() {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(|url| url.parse().unwrap());
        let upstream = Upstream::new(endpoints.into());
        let ports: Vec<u16> = (0..4).map(|_| upstream.next().unwrap().port()).collect();
        assert_eq!(ports, [1, 2, 1, 2]);
    }

    #[tokio::test]
    async fn a_name_has_no_address_until_it_was_resolved() {
        let upstream = Upstream::new(vec!["http://localhost:1".parse().unwrap()]);
        assert_eq!(upstream.next(), None);
        tokio::select! {
            () = upstream.keep_resolving() => unreachable!("it goes on for ever"),
            () = async { while upstream.next().is_none() { tokio::task::yield_now().await } } => {}
        }
    }
}
