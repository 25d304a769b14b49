//! The options.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use secrecy::SecretString;

use crate::faults::Faults;

const LISTEN: &str = "127.0.0.1:5010";
/// As at OpenSky.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 60);
/// What a standard user of OpenSky has.
const CREDITS: u32 = 4000;

/// What the replay can be told at its start.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address and port to listen on
    #[arg(long, env = "OPENSKY_REPLAY_LISTEN", default_value = LISTEN)]
    pub listen: String,
    /// Flights to replay instead of the embedded ones of April 2001: a file of flight objects, one a line, plain
    /// or gzip; its UTC days are cut to whole weeks
    #[arg(long, env = "OPENSKY_REPLAY_DATA", value_name = "FILE.ndjson[.gz]")]
    pub data: Option<PathBuf>,
    /// A client that may fetch tokens, may be repeated; without one, any id and secret may
    #[arg(long = "client", env = "OPENSKY_REPLAY_CLIENT", hide_env_values = true, value_name = "ID:SECRET")]
    pub clients: Vec<Client>,
    /// Answer calls without a token too, from a bucket of at most 400 credits
    #[arg(long, env = "OPENSKY_REPLAY_ANONYMOUS")]
    pub anonymous: bool,
    /// How long a token is good for
    #[arg(long, env = "OPENSKY_REPLAY_TOKEN_LIFETIME", value_parser = humantime::parse_duration,
        default_value = "30m")]
    pub token_lifetime: Duration,
    /// Credits of a client for one UTC day
    #[arg(long, env = "OPENSKY_REPLAY_CREDITS", default_value_t = CREDITS)]
    pub credits: u32,
    /// Seed of the faults that come by chance; the same seed and calls, the same faults
    #[arg(long, env = "OPENSKY_REPLAY_SEED", default_value_t = 0)]
    pub seed: u64,
    /// What goes wrong from the start
    #[command(flatten)]
    pub faults: Faults,
}

/// What holds without any option, for a process that holds a replay among other things.
impl Default for Config {
    fn default() -> Config {
        Config {
            listen: LISTEN.into(),
            data: None,
            clients: Vec::new(),
            anonymous: false,
            token_lifetime: TOKEN_LIFETIME,
            credits: CREDITS,
            seed: 0,
            faults: Faults::default(),
        }
    }
}

/// A client that may fetch tokens.
#[derive(Clone, Debug)]
pub struct Client {
    /// `client_id`; has no colon.
    pub id: String,
    /// `client_secret`.
    pub secret: SecretString,
}

impl FromStr for Client {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Client, &'static str> {
        match text.split_once(':') {
            Some((id, secret)) if !id.is_empty() && !secret.is_empty() => {
                Ok(Client { id: id.into(), secret: secret.into() })
            }
            _ => Err("must be ID:SECRET"),
        }
    }
}
