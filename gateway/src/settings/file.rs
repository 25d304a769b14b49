//! The file of `--config`: TOML with every key optional, laid over the defaults. Whatever is wrong with it is told at
//! once, each problem with its key's path.

mod apply;
mod values;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{CertificateFiles, Settings};
use crate::certificate::Current;

/// Something wrong with a file, in one line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl Problem {
    /// `path` leads to the key: `routes[0].upstream`.
    fn new(path: &str, why: impl fmt::Display) -> Problem {
        // A quoted key may hold anything, a line break too.
        Problem(format!("{path}: {why}").replace(char::is_control, " "))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings that a file makes, or all that is wrong with it; files that it names are not looked at.
pub(crate) fn read(path: &Path) -> Result<Settings, Vec<Problem>> {
    let (file, mut problems) = open(path)?;
    let settings = apply::apply(file, &mut problems);
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// All that is wrong with a file, certificates that it names included.
pub(crate) fn check(path: &Path) -> Vec<Problem> {
    let (file, mut problems) = match open(path) {
        Ok(opened) => opened,
        Err(problems) => return problems,
    };
    let certificates: Vec<Problem> = file
        .certificates
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(place, table)| unservable(place, table.cert.as_deref()?, table.key.as_deref()?))
        .collect();
    apply::apply(file, &mut problems);
    problems.extend(certificates);
    problems
}

fn unservable(place: usize, cert: &Path, key: &Path) -> Option<Problem> {
    let pair = CertificateFiles { cert: cert.to_owned(), key: key.to_owned() };
    let why = Current::load(&[pair]).err()?.to_string();
    // The complaint names the flag; here it is the key that is to be named.
    let (culprit, why) = match why.split_once(": ") {
        Some(("--tls-cert", why)) => (".cert", why),
        Some(("--tls-key", why)) => (".key", why),
        _ => ("", why.as_str()),
    };
    Some(Problem::new(&format!("certificates[{place}]{culprit}"), why))
}

fn open(path: &Path) -> Result<(File, Vec<Problem>), Vec<Problem>> {
    let text = std::fs::read_to_string(path).map_err(|why| vec![Problem(why.to_string())])?;
    parse(&text)
}

/// The file as it stands, with the keys in it that mean nothing. A value of the wrong type ends the reading.
fn parse(text: &str) -> Result<(File, Vec<Problem>), Vec<Problem>> {
    let toml = toml::de::Deserializer::parse(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        vec![Problem::new(&format!("line {}", before.matches('\n').count() + 1), error.message())]
    })?;
    let mut problems = Vec::new();
    let mut unknown =
        |path: serde_ignored::Path<'_>| problems.push(Problem::new(&dotted(&path), "there is no such key"));
    match serde_path_to_error::deserialize(serde_ignored::Deserializer::new(toml, &mut unknown)) {
        Ok(file) => Ok((file, problems)),
        Err(error) => {
            problems.push(Problem::new(&error.path().to_string(), error.inner().message()));
            Err(problems)
        }
    }
}

/// A path in the notation of `serde_path_to_error`.
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path::{Map, NewtypeStruct, NewtypeVariant, Root, Seq, Some};
    match path {
        Root => String::new(),
        Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Map { parent: Root, key } => key.clone(),
        Map { parent, key } => format!("{}.{key}", dotted(parent)),
        Some { parent } | NewtypeStruct { parent } | NewtypeVariant { parent } => dotted(parent),
    }
}

/// The whole file. Values that need more than a type are looked at in [`apply`], so that all of them are told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    listen: Option<String>,
    admin_listen: Option<String>,
    redirect_listen: Option<String>,
    node: Option<String>,
    workers: Option<i64>,
    auth: Option<String>,
    encoded_slash: Option<String>,
    trusted_proxies: Option<Vec<String>>,
    cors_origins: Option<Vec<String>>,
    access_log: Option<bool>,
    keys: Option<String>,
    certificates: Option<Vec<CertificateTable>>,
    limits: LimitsTable,
    timeouts: TimeoutsTable,
    upstreams: BTreeMap<String, UpstreamTable>,
    routes: Option<Vec<RouteTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CertificateTable {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitsTable {
    connections: Option<i64>,
    connections_per_client: Option<NumberOrWord>,
    head: Option<i64>,
    rate: Option<String>,
    rate_login: Option<String>,
    rate_clients: Option<i64>,
    h2_streams: Option<i64>,
    h2_control_frames: Option<i64>,
    streams: Option<i64>,
    body_rate: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TimeoutsTable {
    handshake: Option<String>,
    head: Option<String>,
    idle: Option<String>,
    body: Option<String>,
    write: Option<String>,
    stream_idle: Option<String>,
    connect: Option<String>,
    upstream_read: Option<String>,
    upstream_write: Option<String>,
    upstream_idle: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UpstreamTable {
    addresses: Option<Vec<String>>,
    admin_port: Option<i64>,
    max_in_flight: Option<i64>,
    health_interval: Option<String>,
    eject_after: Option<i64>,
    eject_for: Option<String>,
    retry_budget: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RouteTable {
    prefix: Option<String>,
    upstream: Option<String>,
    max_body: Option<i64>,
    public: Option<Vec<String>>,
    costly: Option<Vec<String>>,
}

/// What may be a number or the word `off`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number or \"off\"")]
enum NumberOrWord {
    Number(i64),
    Word(String),
}
