//! The certificate and the TLS configuration around it.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use common::service::StartError;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// A certificate chain with its key, known to belong together.
#[derive(Debug)]
pub(crate) struct Certificate {
    key: Arc<CertifiedKey>,
    expiry: i64,
}

impl Certificate {
    /// Reads chain and key from PEM files.
    pub(crate) fn load(chain: &Path, key: &Path) -> Result<Certificate, StartError> {
        let unreadable = |option: &str, path: &Path, why: &dyn std::fmt::Display| {
            StartError::new(format!("{option}: {}: {why}", path.display()))
        };
        let bad_chain = |why: &dyn std::fmt::Display| unreadable("--tls-cert", chain, why);
        let bad_key = |why: &dyn std::fmt::Display| unreadable("--tls-key", key, why);

        let certificates = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad_chain(&error))?;
        let leaf = certificates.first().ok_or_else(|| bad_chain(&"there is no certificate in it"))?;
        let expiry = not_after(leaf).ok_or_else(|| bad_chain(&"it is not an X.509 certificate"))?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(&error))?;
        let key = CertifiedKey::from_der(certificates, private, &aws_lc_rs::default_provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(_) => bad_key(&"it is not the key of the certificate"),
                other => bad_key(&other),
            },
        )?;
        Ok(Certificate { key: Arc::new(key), expiry })
    }

    /// When it expires, in Unix seconds.
    pub(crate) fn expiry(&self) -> i64 {
        self.expiry
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// The certificate in use. Every handshake takes the one that is current then, so it can change under load.
#[derive(Debug)]
pub(crate) struct Current(ArcSwap<Certificate>);

impl Current {
    /// Begins with this one.
    pub(crate) fn new(certificate: Certificate) -> Current {
        Current(ArcSwap::from_pointee(certificate))
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

/// TLS 1.2 and 1.3, HTTP/2 preferred.
pub(crate) fn server_config(current: Arc<Current>) -> Result<Arc<ServerConfig>, StartError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(StartError::new)?
        .with_no_client_auth()
        .with_cert_resolver(current);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
