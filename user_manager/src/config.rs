//! Options of user_manager.

use clap::Args;
use common::bus::BusArgs;
use common::service::{DatabaseArgs, NodeArgs};

/// Options of user_manager.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:5001")]
    pub listen: String,
    /// Address of /healthz, /readyz, /metrics and the key feed /keys
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9901")]
    pub admin_listen: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub node: NodeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusArgs,
}
