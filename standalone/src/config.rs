//! Options of the standalone.

use std::path::PathBuf;

use clap::Args;
use common::auth::Auth;
use data_collector::{BreakerArgs, CollectArgs, OpenSkyArgs};
use notifier_system::MailArgs;
use url::Url;
use user_manager::{Confirm, KeyArgs};

use crate::lapse::Lapse;

/// Options of the standalone: its own, and those of the services that make sense in one process.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Folder of everything that lasts: databases, log, certificate, mails
    #[arg(long, env = "DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// Address of the gateway
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8443")]
    pub listen: String,
    /// First of five admin ports on 127.0.0.1 (gateway, user_manager, data_collector, alert_system, notifier_system);
    /// 0: any free ones
    #[arg(long, env = "ADMIN_PORT", default_value_t = 9900, value_parser = clap::value_parser!(u16).range(..=65_531))]
    pub admin_port: u16,
    /// Where people reach the gateway: the base of links in mails; by default localhost with the gateway's port
    #[arg(long, env = "PUBLIC_URL")]
    pub public_url: Option<Url>,
    /// Lets flight time run faster, as 1d=20s: a day in 20 seconds. Only with recorded flights
    #[arg(long, env = "TIME_LAPSE")]
    pub time_lapse: Option<Lapse>,
    /// Address of the replay of recorded flights, which runs when there are no OpenSky credentials
    #[arg(long, env = "REPLAY_LISTEN", default_value = "127.0.0.1:5010")]
    pub replay_listen: String,
    /// Whether tokens are asked for; off, the classroom mode: the email in a request says who asks
    #[arg(long, env = "AUTH", value_enum, default_value = "required")]
    pub auth: Auth,
    /// Whether an address must be confirmed by the link in a mail; auto: when mails go to a server, not to a folder
    #[arg(long, env = "CONFIRM_EMAIL", value_enum, default_value = "auto")]
    pub confirm_email: Confirm,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: KeyArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opensky: OpenSkyArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub collect: CollectArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub breaker: BreakerArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub mail: MailArgs,
    /// Low threshold of an interest that names none; nothing is below 0
    #[arg(long, env = "DEFAULT_LOW_VALUE", default_value_t = 0)]
    pub default_low_value: i64,
    /// High threshold of an interest that names none
    #[arg(long, env = "DEFAULT_HIGH_VALUE", default_value_t = 200)]
    pub default_high_value: i64,
    /// Interests an account may have
    #[arg(long, env = "MAX_INTERESTS", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    pub max_interests: i64,
}
