//! Options of data_collector.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use common::auth::Auth;
use common::bus::BusArgs;
use common::clock::DAY;
use common::service::{DatabaseArgs, NodeArgs, StartError, secret};
use common::types::Thresholds;
use humantime::parse_duration;
use reqwest::Url;
use secrecy::SecretString;

use crate::circuit_breaker::Settings;
use crate::opensky::{Credentials, Fault};

/// Options of data_collector.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:5002")]
    pub listen: String,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9902")]
    pub admin_listen: String,
    /// user_manager's key feed, by which tokens are verified
    #[arg(long, env = "KEY_FEED_URL", default_value = "http://user_manager:9901/keys")]
    pub key_feed_url: String,
    /// user_manager's VerifyUser (gRPC), asked when an interest is made
    #[arg(long, env = "USER_MANAGER_GRPC_URL", default_value = "http://user_manager:50051")]
    pub user_manager_grpc_url: String,
    /// Whether tokens are asked for; off: the email in a request says who asks
    #[arg(long, env = "AUTH", value_enum, default_value = "required")]
    pub auth: Auth,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub node: NodeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub opensky: OpenSkyArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub collect: CollectArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub breaker: BreakerArgs,
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

impl Config {
    /// Checks the addresses of others.
    pub(crate) fn check_urls(&self) -> Result<(), StartError> {
        let OpenSkyArgs { opensky_api_url, opensky_token_url, .. } = &self.opensky;
        for (option, text) in [
            ("KEY_FEED_URL", &self.key_feed_url),
            ("OPENSKY_API_URL", opensky_api_url),
            ("OPENSKY_TOKEN_URL", opensky_token_url),
        ] {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            url.ok_or_else(|| StartError::new(format!("{option}: '{text}' is not http://… or https://…")))?;
        }
        let (option, text) = ("USER_MANAGER_GRPC_URL", &self.user_manager_grpc_url);
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
        url.ok_or_else(|| StartError::new(format!("{option}: '{text}' is not http://host:port")))?;
        Ok(())
    }

    /// The thresholds of an interest that names none.
    pub(crate) fn default_thresholds(&self) -> Result<Thresholds, StartError> {
        Thresholds::new(Some(self.default_low_value), Some(self.default_high_value))
            .map_err(|error| StartError::new(format!("DEFAULT_LOW_VALUE, DEFAULT_HIGH_VALUE: {error}")))
    }
}

/// Where OpenSky Network is, and who asks.
#[derive(Args, Clone, Debug)]
pub struct OpenSkyArgs {
    /// OpenSky's API
    #[arg(long, env = "OPENSKY_API_URL", default_value = "https://opensky-network.org/api")]
    pub opensky_api_url: String,
    /// OpenSky's token endpoint
    #[arg(
        long,
        env = "OPENSKY_TOKEN_URL",
        default_value = "https://auth.opensky-network.org/auth/realms/opensky-network/protocol/openid-connect/token"
    )]
    pub opensky_token_url: String,
    /// Client id of an OpenSky account; without it nothing is collected
    #[arg(long, env = "OPENSKY_CLIENT_ID")]
    pub opensky_client_id: Option<String>,
    /// Client secret of that account
    #[arg(long, env = "OPENSKY_CLIENT_SECRET", hide_env_values = true)]
    pub opensky_client_secret: Option<SecretString>,
    /// A file that holds the client secret
    #[arg(long, env = "OPENSKY_CLIENT_SECRET_FILE")]
    pub opensky_client_secret_file: Option<PathBuf>,
    /// Credits a day (anonymous users have 400, standard users 4000, feeders 8000)
    #[arg(long, env = "OPENSKY_DAILY_CREDITS", default_value_t = 4000, value_parser = clap::value_parser!(i64).range(0..))]
    pub opensky_daily_credits: i64,
    /// How long a call may take
    #[arg(long, env = "OPENSKY_TIMEOUT", value_parser = call, default_value = "30s")]
    pub opensky_timeout: Duration,
}

impl OpenSkyArgs {
    /// Whether there are credentials; one alone is an error.
    pub fn has_credentials(&self) -> Result<bool, StartError> {
        Ok(self.credentials()?.is_some())
    }

    /// Both credentials, or neither; one alone is an error.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>, StartError> {
        let id = self.opensky_client_id.clone().filter(|id| !id.trim().is_empty());
        let secret = secret(
            "OPENSKY_CLIENT_SECRET",
            self.opensky_client_secret.as_ref(),
            self.opensky_client_secret_file.as_deref(),
        )?;
        match (id, secret) {
            (Some(id), Some(secret)) => Ok(Some(Credentials { id, secret })),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(StartError::new("OPENSKY_CLIENT_SECRET is needed beside OPENSKY_CLIENT_ID"))
            }
            (None, Some(_)) => {
                Err(StartError::new("OPENSKY_CLIENT_ID is needed beside OPENSKY_CLIENT_SECRET"))
            }
        }
    }
}

/// What is collected, and when. In flight time.
#[derive(Args, Clone, Debug)]
pub struct CollectArgs {
    /// Length of a window; a divisor of 24h
    #[arg(long, env = "COLLECT_WINDOW", default_value = "24h")]
    pub collect_window: WindowLength,
    /// How long after its end a window is closed
    #[arg(long, env = "COLLECT_LAG", value_parser = bounded, default_value = "12h")]
    pub collect_lag: Duration,
    /// Time from one collection cycle to the next
    #[arg(long, env = "COLLECT_EVERY", value_parser = positive, default_value = "12h")]
    pub collect_every: Duration,
    /// How far back a newly watched airport is collected
    #[arg(long, env = "COLLECT_BACKFILL", value_parser = bounded, default_value = "7d")]
    pub collect_backfill: Duration,
    /// How long after a window's end no flights at all may still be a gap in the data
    #[arg(long, env = "COLLECT_SETTLE", value_parser = bounded, default_value = "36h")]
    pub collect_settle: Duration,
    /// How long after its end an unanswered window is given up
    #[arg(long, env = "COLLECT_GIVE_UP", value_parser = bounded, default_value = "14d")]
    pub collect_give_up: Duration,
    /// How long flights are kept; counts stay
    #[arg(long, env = "FLIGHT_RETENTION", value_parser = parse_duration, default_value = "400d")]
    pub flight_retention: Duration,
}

impl CollectArgs {
    /// Checks what no option can check by itself.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        if seconds(self.collect_backfill) / self.collect_window.0 > MOST_WINDOWS {
            return Err(StartError::new(format!(
                "COLLECT_BACKFILL: that is more than {MOST_WINDOWS} windows"
            )));
        }
        Ok(())
    }
}

/// A duration in whole seconds.
pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Windows that one interest may make due at once.
const MOST_WINDOWS: i64 = 11_000;

/// In seconds.
const YEAR: u64 = 366 * 86_400;

fn positive(text: &str) -> Result<Duration, String> {
    nonzero(text).and_then(|duration| match duration.as_secs() {
        0 => Err("must be at least a second".to_owned()),
        _ => Ok(duration),
    })
}

fn nonzero(text: &str) -> Result<Duration, String> {
    let duration = bounded(text)?;
    (!duration.is_zero()).then_some(duration).ok_or_else(|| "must be more than nothing".to_owned())
}

/// A call holds a claim, which holds for less than a day.
fn call(text: &str) -> Result<Duration, String> {
    let duration = nonzero(text)?;
    (duration.as_secs() <= 3600).then_some(duration).ok_or_else(|| "must be at most an hour".to_owned())
}

fn bounded(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    (duration.as_secs() <= YEAR).then_some(duration).ok_or_else(|| "must be at most a year".to_owned())
}

/// A window's length in seconds: from a minute to a day, a divisor of a day.
#[derive(Clone, Copy, Debug)]
pub struct WindowLength(i64);

impl WindowLength {
    pub(crate) fn seconds(self) -> i64 {
        self.0
    }
}

impl FromStr for WindowLength {
    type Err = String;
    fn from_str(text: &str) -> Result<WindowLength, String> {
        let length = parse_duration(text).map_err(|error| error.to_string())?;
        match seconds(length) {
            length @ 60..=DAY if DAY % length == 0 => Ok(WindowLength(length)),
            _ => Err("must be a divisor of 24h, at least 1m".to_owned()),
        }
    }
}

/// The circuit breaker in front of OpenSky. In real time.
#[derive(Args, Clone, Debug)]
pub struct BreakerArgs {
    /// Failures in a row that open the breaker
    #[arg(long, env = "BREAKER_FAILURE_THRESHOLD", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub breaker_failure_threshold: u32,
    /// How long it stays open before a trial
    #[arg(long, env = "BREAKER_TIMEOUT", value_parser = nonzero, default_value = "60s")]
    pub breaker_timeout: Duration,
    /// Successful trials in a row that close it
    #[arg(long, env = "BREAKER_SUCCESS_THRESHOLD", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub breaker_success_threshold: u32,
    /// Which errors count as failures
    #[arg(
        long,
        env = "BREAKER_EXPECTED_ERRORS",
        value_enum,
        value_delimiter = ',',
        default_value = "connect,timeout,server,decode"
    )]
    pub breaker_expected_errors: Vec<Fault>,
}

impl BreakerArgs {
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            failure_threshold: self.breaker_failure_threshold,
            success_threshold: self.breaker_success_threshold,
            timeout: self.breaker_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    fn config(options: &[&str]) -> Result<Config, clap::Error> {
        Cli::try_parse_from([&["data_collector"], options].concat()).map(|cli| cli.config)
    }

    #[test]
    fn the_breakers_parameters_are_the_operators() {
        let settings = |options: &[&str]| config(options).unwrap().breaker.settings();
        let timeout = Duration::from_secs(60);
        assert_eq!(settings(&[]), Settings { failure_threshold: 5, success_threshold: 1, timeout });
        let options =
            ["--breaker-failure-threshold=2", "--breaker-success-threshold=3", "--breaker-timeout=90s"];
        let timeout = Duration::from_secs(90);
        assert_eq!(settings(&options), Settings { failure_threshold: 2, success_threshold: 3, timeout });
    }

    #[test]
    fn what_is_without_bounds_is_refused() {
        for option in [
            "--collect-window=25h",
            "--collect-window=7h",
            "--collect-window=30s",
            "--collect-lag=400d",
            "--collect-backfill=400d",
            "--collect-settle=400d",
            "--collect-give-up=400d",
            "--collect-every=0s",
            "--opensky-timeout=2h",
            "--opensky-timeout=0s",
            "--opensky-daily-credits=-1",
            "--max-interests=0",
        ] {
            assert!(config(&[option]).is_err(), "{option}");
        }
        let most = config(&["--collect-window=1m", "--collect-backfill=8d"]).unwrap();
        assert!(most.collect.check().unwrap_err().to_string().contains("COLLECT_BACKFILL"));
        config(&["--collect-window=1m", "--collect-backfill=7d"]).unwrap().collect.check().unwrap();
    }
}
