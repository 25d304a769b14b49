//! What goes wrong on demand.

use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::lock;

/// The faults in force.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Faults {
    /// Answer every call with 503, the token endpoint's too
    #[arg(long, env = "OPENSKY_REPLAY_OUTAGE")]
    pub outage: bool,
    /// Share of the calls for flights that are answered with 500, from 0 to 1
    #[arg(long, env = "OPENSKY_REPLAY_ERROR_RATE", default_value = "0")]
    pub error_rate: Rate,
    /// Time that every call takes at least, up to 20s
    #[arg(long, env = "OPENSKY_REPLAY_LATENCY", default_value = "0s")]
    #[serde(rename = "latency_ms")]
    pub latency: Latency,
    /// Share of the answers with flights whose JSON is cut in the middle, from 0 to 1
    #[arg(long, env = "OPENSKY_REPLAY_TRUNCATE_RATE", default_value = "0")]
    pub truncate_rate: Rate,
}

/// What `PATCH /admin/faults` changes; what is left out stays.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    outage: Option<bool>,
    error_rate: Option<Rate>,
    latency_ms: Option<Latency>,
    truncate_rate: Option<Rate>,
    /// What every client has left of today's credits.
    pub(crate) credits_remaining: Option<u32>,
}

impl Faults {
    /// Makes the change.
    pub(crate) fn change(&mut self, change: &Change) {
        self.outage = change.outage.unwrap_or(self.outage);
        self.error_rate = change.error_rate.unwrap_or(self.error_rate);
        self.latency = change.latency_ms.unwrap_or(self.latency);
        self.truncate_rate = change.truncate_rate.unwrap_or(self.truncate_rate);
    }
}

/// A share of the calls, from 0 (none) to 1 (all).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "f64", try_from = "f64")]
pub struct Rate(f64);

impl TryFrom<f64> for Rate {
    type Error = String;

    fn try_from(rate: f64) -> Result<Rate, String> {
        if (0.0..=1.0).contains(&rate) {
            Ok(Rate(rate))
        } else {
            Err(format!("a rate is from 0 to 1, not {rate}"))
        }
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> f64 {
        rate.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        text.parse::<f64>().map_err(|_| "a rate is a number from 0 to 1".to_owned())?.try_into()
    }
}

/// How long a call is held back, in real time: up to 20 s, so that the answer comes before the server's own
/// time-out. Whole milliseconds in JSON, `1500ms` or `2s` as an option.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "u64", try_from = "u64")]
pub struct Latency(Duration);

impl Latency {
    const MAX: Duration = Duration::from_secs(20);

    /// Waits that long.
    pub(crate) async fn pass(self) {
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
    }
}

impl TryFrom<Duration> for Latency {
    type Error = String;

    fn try_from(latency: Duration) -> Result<Latency, String> {
        if latency <= Latency::MAX { Ok(Latency(latency)) } else { Err("a latency is at most 20 s".into()) }
    }
}

impl TryFrom<u64> for Latency {
    type Error = String;

    fn try_from(milliseconds: u64) -> Result<Latency, String> {
        Duration::from_millis(milliseconds).try_into()
    }
}

impl From<Latency> for u64 {
    fn from(latency: Latency) -> u64 {
        latency.0.as_millis() as u64
    }
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Latency, String> {
        humantime::parse_duration(text).map_err(|error| error.to_string())?.try_into()
    }
}

/// Chance, from a seed: the same calls in the same order meet the same faults.
pub(crate) struct Dice(Mutex<StdRng>);

impl Dice {
    /// Dice that fall as the seed says.
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Whether this call is among the share.
    pub(crate) fn fall(&self, rate: Rate) -> bool {
        lock(&self.0).random_bool(rate.0)
    }
}
