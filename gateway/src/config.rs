//! The gateway's options.

use std::path::PathBuf;

use clap::Args;

use crate::policy::auth::Auth;
use crate::upstream::Endpoint;

/// Options of `gateway serve`; every flag has a twin in the environment.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where HTTPS is served
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8443")]
    pub listen: String,

    /// The certificate chain, PEM
    #[arg(long, env = "TLS_CERT", default_value = "cert.pem")]
    pub tls_cert: PathBuf,

    /// The certificate's private key, PEM
    #[arg(long, env = "TLS_KEY", default_value = "key.pem")]
    pub tls_key: PathBuf,

    /// Addresses of user_manager, separated by commas: http://host:port
    #[arg(long, env = "USER_MANAGER_URL", value_delimiter = ',', default_value = "http://user_manager:5001")]
    pub user_manager_url: Vec<Endpoint>,

    /// Addresses of data_collector, separated by commas: http://host:port
    #[arg(
        long,
        env = "DATA_COLLECTOR_URL",
        value_delimiter = ',',
        default_value = "http://data_collector:5002"
    )]
    pub data_collector_url: Vec<Endpoint>,

    /// The port on user_manager's hosts that serves the key feed
    #[arg(long, env = "USER_MANAGER_ADMIN_PORT", default_value_t = 9901)]
    pub user_manager_admin_port: u16,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9900")]
    pub admin_listen: String,

    /// Whether tokens are asked for; off is the classroom mode, in which anybody may be anyone
    #[arg(long, env = "AUTH", value_enum, default_value = "required")]
    pub auth: Auth,

    /// This process's name in metrics
    #[arg(long, env = "NODE", default_value = "gateway")]
    pub node: String,

    /// Client connections at once; further ones wait
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
}
