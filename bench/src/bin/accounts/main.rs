//! `accounts`: how many registrations and logins a second user_manager takes, and with how much memory; and how soon a
//! deleted account's token is refused by another service.

mod load;
mod revocation;
mod service;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use bench::database::Database;
use bench::table::Report;
use clap::Parser;
use serde_json::json;

use crate::load::{Load, run};
use crate::service::Service;

/// Clients at once.
const CLIENTS: [usize; 2] = [1, 64];
/// Clients of the flood, more than may wait.
const FLOOD: usize = 1000;
/// What the service may hold during a flood, in MB: a hash for each core, 16 at most, and this beside them.
const HASH_MB: f64 = 19.0;
const BESIDE_MB: f64 = 100.0;
/// How soon a token has to be refused everywhere, in seconds.
const REVOKED_WITHIN: f64 = 15.0;

#[derive(Parser)]
#[command(about = "How many registrations and logins a second user_manager takes")]
struct Options {
    /// A PostgreSQL server, postgres://…, on which the database `vedetta_bench` is made anew; or sqlite:DIRECTORY
    #[arg(long)]
    database: String,
    /// The program
    #[arg(long)]
    user_manager: PathBuf,
    /// How long each part takes
    #[arg(long, value_parser = humantime::parse_duration, default_value = "15s")]
    each: Duration,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    common::tls::install();
    let options = Options::parse();
    let mut report = Report::default();
    let cores = std::thread::available_parallelism()?.get();
    report.title(&format!("Argon2id alone, 19 MiB and two passes, on {cores} threads"));
    let alone = hashes(cores, Duration::from_secs(5))?;
    report.row("hashes", "/s", alone, None);

    let database = Database::create(&options.database).await?;
    let service = Service::start(&options.user_manager, &database.url).await?;
    report.title("user_manager");
    report.row("memory at rest", "MB", service.peak_mb()?, None);
    for (kind, load) in [("registrations", Load::Register), ("logins", Load::Login)] {
        for clients in CLIENTS {
            let done = run(&service, load, clients, options.each).await?;
            let what = format!("{kind}, {clients} clients");
            report.row(&what, "/s", done.per_second(), None);
            report.row(&format!("{what}: share of the hashes above"), "", done.per_second() / alone, None);
            report.row(&format!("{what}: median"), "ms", done.median_ms(), None);
            report.row(&format!("{what}: p99"), "ms", done.p99_ms(), None);
            report.row(&format!("{what}: most memory"), "MB", done.peak_mb, None);
            report.at_most(&format!("{what}: refused"), "", done.refused as f64, 0.0);
        }
    }
    let flood = run(&service, Load::Login, FLOOD, options.each).await?;
    let what = format!("logins, {FLOOD} clients");
    report.row(&what, "/s", flood.per_second(), None);
    report.row(&format!("{what}: sent away with 503"), "/s", flood.refused_per_second(), None);
    let most = HASH_MB * cores.min(16) as f64 + BESIDE_MB;
    report.at_most(&format!("{what}: most memory"), "MB", flood.peak_mb, most);

    let ends = revocation::measure(&service, 20).await?;
    report.title("From the deletion of an account to the refusal of its token elsewhere, 20 times");
    report.row("median", "s", ends[ends.len() / 2], None);
    report.at_most("longest", "s", ends[ends.len() - 1], REVOKED_WITHIN);
    service.stop().await?;
    database.remove().await?;
    Ok(report.verdict())
}

/// How many passwords this machine can hash a second when it does nothing else, with user_manager's parameters.
fn hashes(threads: usize, time: Duration) -> anyhow::Result<f64> {
    let params = Params::new(19 * 1024, 2, 1, None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let began = Instant::now();
    let count = || {
        let (mut done, mut out) = (0_u32, [0; 32]);
        while began.elapsed() < time
            && argon.hash_password_into(b"correct horse", b"16 bytes of salt", &mut out).is_ok()
        {
            done += 1;
        }
        done
    };
    let done: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    });
    Ok(f64::from(done) / began.elapsed().as_secs_f64())
}

/// A registration of the `n`th person.
fn person(n: u64) -> serde_json::Value {
    json!({"id": "{{$uuid}}", "email": email(n), "name": "Ada", "surname": "Example", "password": PASSWORD})
}

fn email(n: u64) -> String {
    format!("p{n}@example.com")
}

const PASSWORD: &str = "correct horse battery";
