//! The certificates and the TLS configuration around them.

mod load;
mod reload;

use std::sync::Arc;

use arc_swap::ArcSwap;
use common::service::StartError;
use rustls::ServerConfig;
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer, cipher_suite};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use self::load::{Certificates, Files};
pub(crate) use self::reload::hangups;
use crate::settings::CertificateFiles;

/// The certificates in use. Every handshake takes the set that is current then, so it can change under load.
#[derive(Debug)]
pub(crate) struct Current {
    files: Vec<CertificateFiles>,
    set: ArcSwap<Certificates>,
    /// What the files held when the set was made of them.
    first_look: reload::Look,
}

impl Current {
    /// Reads all pairs; the first is for clients that ask for none or for a name that no certificate has.
    pub(crate) fn load(files: &[CertificateFiles]) -> Result<Current, StartError> {
        let read = Files::read(files).map_err(StartError::new)?;
        let set = ArcSwap::from_pointee(read.certificates().map_err(StartError::new)?);
        Ok(Current { files: files.to_vec(), set, first_look: Ok(read.digest()) })
    }

    /// When the first of them expires, in Unix seconds.
    pub(crate) fn expiry(&self) -> i64 {
        self.set.load().expiry()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.set.load().choose(hello.server_name()))
    }
}

/// The server's own order. SHA-256 suites come first because the hash of the suite is the hash of the whole key
/// schedule: a TLS 1.3 handshake with AES-256 and SHA-384, which OpenSSL's clients put first, took 106 µs of our CPU
/// and one with AES-128 and SHA-256 79 µs, and no attack is nearer for it. ChaCha20 is last in each group: what has
/// no AES instructions has become rare, and rustls cannot honour the wish of those alone.
const SUITES: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// TLS 1.2 and 1.3, HTTP/2 preferred.
pub(crate) fn server_config(current: Arc<Current>) -> Result<Arc<ServerConfig>, StartError> {
    // The key exchange is the first of the client's groups that we know, whatever our own order: X25519 for most,
    // 28 µs cheaper than P-256. The hybrid with ML-KEM (20 µs more) is for those only who put it first.
    let provider = CryptoProvider { cipher_suites: SUITES.to_vec(), ..aws_lc_rs::default_provider() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(StartError::new)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.ignore_client_order = true;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions live in tickets (keys change every 6 h, a ticket lives 12 h), so that there is no table of them, with
    // its lock and its bound. Each ticket costs 3 µs; with HTTP/2 a client needs one, for its next connection.
    config.ticketer = Ticketer::new().map_err(StartError::new)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    // Early data can be replayed by whoever recorded it; a POST must not be.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}
