//! One TLS stack (rustls) and one crypto provider (aws-lc-rs) for the whole process.

/// Makes aws-lc-rs the process's crypto provider. Two providers are linked (pingora names ring), so rustls
/// cannot choose by itself. Harmless when called again.
pub fn install() {
    // An error says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
