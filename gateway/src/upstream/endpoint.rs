//! Where a service is, as it is configured.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use tokio::net::lookup_host;
use url::Url;

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
    /// A host (a name, or an address without brackets) and a port.
    pub(crate) fn new(host: &str, port: u16) -> Endpoint {
        Endpoint { host: host.to_owned(), port }
    }

    /// The URL of `path` on another port of this host.
    pub(crate) fn url(&self, port: u16, path: &str) -> String {
        match self.host.parse() {
            Ok(IpAddr::V6(host)) => format!("http://[{host}]:{port}{path}"),
            _ => format!("http://{}:{port}{path}", self.host),
        }
    }

    /// The host's name or address.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The address, where it needs no resolution.
    pub(super) fn literal(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }

    /// The addresses of one family: a name with both (localhost) often has a listener on the IPv4 one only.
    pub(super) async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.literal() {
            return Ok(vec![address]);
        }
        let all: Vec<SocketAddr> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        let v4: Vec<SocketAddr> = all.iter().copied().filter(SocketAddr::is_ipv4).collect();
        Ok(if v4.is_empty() { all } else { v4 })
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
}
