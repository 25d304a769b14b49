//! Options of alert_system.

use clap::Args;
use common::bus::BusArgs;
use common::service::NodeArgs;
use url::Url;

/// Options of alert_system.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9903")]
    pub admin_listen: String,
    /// Where people reach the gateway: the base of links in mails
    #[arg(long, env = "PUBLIC_URL", default_value = "https://localhost:8443")]
    pub public_url: Url,
    /// A line for the foot of every mail, where the flights are not what they seem (recorded ones)
    #[arg(long, env = "DATA_NOTE")]
    pub data_note: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub node: NodeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusArgs,
}
