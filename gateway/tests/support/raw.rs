//! HTTP by hand, for requests that no client library would send.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects with one TLS version and these ALPN protocols; the handshake is done.
pub fn connect(
    addr: SocketAddr,
    cert: &Path,
    version: &'static SupportedProtocolVersion,
    alpn: &[&str],
) -> std::io::Result<Tls> {
    connect_as(&client(cert, version, alpn), addr)
}

/// What [`connect_as`] needs; connections that share one resume each other's sessions.
pub fn client(cert: &Path, version: &'static SupportedProtocolVersion, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects; the handshake is done.
pub fn connect_as(client: &Arc<ClientConfig>, addr: SocketAddr) -> std::io::Result<Tls> {
    handshake(client, TcpStream::connect(addr)?)
}

/// Shakes hands on a fresh connection.
pub fn handshake(client: &Arc<ClientConfig>, mut tcp: TcpStream) -> std::io::Result<Tls> {
    let name = ServerName::try_from("localhost").unwrap();
    tcp.set_read_timeout(Some(super::LONG))?;
    tcp.set_write_timeout(Some(super::LONG))?;
    let mut tls = ClientConnection::new(client.clone(), name).unwrap();
    tls.complete_io(&mut tcp)?;
    Ok(StreamOwned::new(tls, tcp))
}

/// Sends bytes over TLS 1.3 and HTTP/1.1 and returns all that comes back until the connection ends.
pub fn exchange(addr: SocketAddr, cert: &Path, request: &[u8]) -> String {
    let mut tls = connect(addr, cert, &rustls::version::TLS13, &["http/1.1"]).unwrap();
    tls.write_all(request).unwrap();
    read_to_close(&mut tls)
}

/// What comes until the connection ends; an end without TLS's goodbye is one, too.
pub fn read_to_close(tls: &mut Tls) -> String {
    let mut answer = Vec::new();
    match tls.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
        Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}
