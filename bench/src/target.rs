//! Where requests go, and the way there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::Options;
use crate::slow::Slow;
use crate::tally::{Failure, Tally};

/// The first of the addresses of X-Forwarded-For.
const FIRST_FORWARDED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What every connection of a run has in common, and the run's counts.
pub(crate) struct Target {
    /// Of a connect with its handshake, and of a request.
    pub(crate) timeout: Duration,
    /// The request for HTTP/1.1: its head without the empty line, and the rest.
    wire: (Bytes, Bytes),
    forwarded_for: Option<u32>,
    /// A refused connection ends the run.
    pub(crate) until_refused: bool,
    asked: AtomicU32,
    /// The request's head for HTTP/2.
    pub(crate) head: http::Request<()>,
    pub(crate) body: Bytes,
    address: SocketAddr,
    /// Of the kernel, for slow readers.
    receive_buffer: Option<u32>,
    sources: u8,
    opened: AtomicU32,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    signature: Arc<OnceLock<SignatureScheme>>,
    tally: Mutex<Tally>,
}

impl Target {
    pub(crate) async fn new(options: &Options) -> anyhow::Result<Self> {
        let url = &options.url;
        let host = url.host_str().context("the URL has no host")?;
        let port = url.port_or_known_default().context("the URL has no port")?;
        let bare = host.trim_matches(['[', ']']);
        let mut addresses = tokio::net::lookup_host((bare, port)).await.context(host.to_owned())?;
        let address = addresses.next().context("the host has no address")?;
        let signature = Arc::default();
        let tls = match url.scheme() {
            "https" => {
                let config = tls_config(options.http2, Arc::clone(&signature))?;
                Some((TlsConnector::from(Arc::new(config)), ServerName::try_from(bare.to_owned())?))
            }
            _ => None,
        };
        let head = head(options)?;
        Ok(Self {
            timeout: options.timeout,
            wire: wire(&head, url, &options.body),
            forwarded_for: options.forwarded_for,
            until_refused: options.until_refused,
            asked: AtomicU32::new(0),
            head,
            body: Bytes::from(options.body.clone()),
            address,
            receive_buffer: options.slow.and_then(Slow::receive_buffer),
            sources: options.sources,
            opened: AtomicU32::new(0),
            tls,
            signature,
            tally: Mutex::default(),
        })
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request for HTTP/1.1, head and body.
    pub(crate) fn wire(&self) -> Bytes {
        let (front, back) = &self.wire;
        let mut wire = BytesMut::with_capacity(front.len() + back.len() + 40);
        wire.extend_from_slice(front);
        if let Some(clients) = self.forwarded_for {
            let number = self.asked.fetch_add(1, Ordering::Relaxed) % clients;
            let address = Ipv4Addr::from_bits(FIRST_FORWARDED.to_bits() + number);
            wire.extend_from_slice(format!("x-forwarded-for: {address}\r\n").as_bytes());
        }
        wire.extend_from_slice(back);
        wire.freeze()
    }

    /// For HTTP/1.1, to which more fields can be added.
    pub(crate) fn head_without_end(&self) -> &[u8] {
        &self.wire.0
    }

    /// A new connection, with its TLS handshake done.
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>, Failure> {
        tokio::time::timeout(self.timeout, self.connect()).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        let tcp = self.connect_tcp().await.map_err(|_| Failure::Connect)?;
        let Some((connector, name)) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let stream = connector.connect(name.clone(), tcp).await.map_err(|_| Failure::Tls)?;
        self.count_handshake(stream.get_ref().1);
        Ok(Box::new(stream))
    }

    async fn connect_tcp(&self) -> std::io::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_nodelay(true)?;
        if let Some(size) = self.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if self.sources > 1 {
            let last = self.opened.fetch_add(1, Ordering::Relaxed) % u32::from(self.sources) + 1;
            socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last as u8)), 0))?;
        }
        socket.connect(self.address).await
    }

    fn count_handshake(&self, connection: &ClientConnection) {
        let mut tally = self.tally();
        match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => tally.resumed_handshakes += 1,
            _ => tally.full_handshakes += 1,
        }
        if tally.tls.is_empty() {
            let cipher = connection.negotiated_cipher_suite().map(|suite| suite.suite());
            let group = connection.negotiated_key_exchange_group().map(|group| group.name());
            let parts = [
                connection.protocol_version().and_then(|it| it.as_str().map(str::to_owned)),
                cipher.and_then(|it| it.as_str().map(str::to_owned)),
                group.and_then(|it| it.as_str().map(str::to_owned)),
                self.signature.get().and_then(|it| it.as_str().map(str::to_owned)),
            ];
            tally.tls = parts.map(|part| part.unwrap_or_else(|| "?".to_owned())).join(" ");
        }
    }
}

fn head(options: &Options) -> anyhow::Result<http::Request<()>> {
    let mut request = http::Request::builder().method(&options.method).uri(options.url.as_str());
    for header in &options.headers {
        let (name, value) = header.split_once(':').context("a header is \"Name: value\"")?;
        request = request.header(name.trim(), value.trim());
    }
    if !options.body.is_empty() {
        request = request.header(http::header::CONTENT_LENGTH, options.body.len());
    }
    Ok(request.body(())?)
}

fn wire(head: &http::Request<()>, url: &Url, body: &str) -> (Bytes, Bytes) {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut wire = format!("{} {target} HTTP/1.1\r\n", head.method()).into_bytes();
    if !head.headers().contains_key(http::header::HOST) {
        wire.extend_from_slice(format!("host: {host}\r\n").as_bytes());
    }
    for (name, value) in head.headers() {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    (wire.into(), format!("\r\n{body}").into())
}

/// One key exchange only, so that every server under comparison does the same work, and no resumption.
fn tls_config(http2: bool, signature: Arc<OnceLock<SignatureScheme>>) -> anyhow::Result<ClientConfig> {
    let provider =
        CryptoProvider { kx_groups: vec![aws_lc_rs::kx_group::X25519], ..aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { signature }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(config)
}

/// Believes every server: what is measured is the server, and a client that checks only takes time from it.
#[derive(Debug)]
struct AnyCertificate {
    signature: Arc<OnceLock<SignatureScheme>>,
}

impl AnyCertificate {
    fn believe(&self, signed: &DigitallySignedStruct) -> HandshakeSignatureValid {
        self.signature.get_or_init(|| signed.scheme);
        HandshakeSignatureValid::assertion()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(self.believe(signed))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(self.believe(signed))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[tokio::test]
    async fn each_request_is_forwarded_for_the_next_client() {
        let target = async |more: &[&str]| {
            let line = ["load", "--url", "http://127.0.0.1:1/x?y"].iter().chain(more).copied();
            Target::new(&Options::parse_from(line)).await.unwrap()
        };
        let plain = "GET /x?y HTTP/1.1\r\nhost: 127.0.0.1:1\r\n";
        assert_eq!(target(&[]).await.wire(), format!("{plain}\r\n"));
        let two = target(&["--forwarded-for", "2"]).await;
        for address in ["10.0.0.0", "10.0.0.1", "10.0.0.0"] {
            assert_eq!(two.wire(), format!("{plain}x-forwarded-for: {address}\r\n\r\n"));
        }
    }
}
