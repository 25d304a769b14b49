//! OpenSky Network's REST API, answered from recorded flights: for demonstrations without credentials, for tests
//! and for faults on demand.
//!
//! - `GET /api/flights/arrival|departure?airport&begin&end`, as OpenSky documents it: at most two days, arrivals
//!   only of closed days, 404 with an empty body for no flights, credits.
//! - `POST /token`, and under OpenSky's own long path: OAuth2 client credentials.
//! - `GET` and `PATCH /admin/faults`, `GET /admin/stats`: what goes wrong, and what was asked.
//! - `/healthz`, `/readyz`, `/metrics`, as at every service.
//!
//! The clock is handed in. Dates, credits and what counts as past follow it; a token's age and `Retry-After` are
//! real time, also under a clock that runs faster.

mod admin;
mod api;
mod config;
mod credits;
mod faults;
mod recording;
mod stats;
mod tape;
mod tokens;

use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use anyhow::Context;
use axum::Router;
use common::clock::Clock;
use common::http::{Admin, ready_when};
use common::service::{self, StartError};
use common::telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;

pub use crate::config::{Client, Config};
use crate::credits::Credits;
use crate::faults::Dice;
pub use crate::faults::{Faults, Latency, Rate};
use crate::recording::Broken;
use crate::stats::Stats;
use crate::tape::Tape;
use crate::tokens::Tokens;

/// The flights of April 2001; `data/README.md` tells where they come from.
const EMBEDDED: &[u8] = include_bytes!("../data/flights-2001-04.ndjson.gz");

/// The replay, bound to its listener and ready to run.
pub struct App {
    listener: TcpListener,
    addr: SocketAddr,
    router: Router,
}

/// What the handlers share.
struct Replay {
    source: Source,
    clock: Clock,
    anonymous: bool,
    tokens: Tokens,
    credits: Credits,
    faults: Mutex<Faults>,
    dice: Dice,
    stats: Stats,
}

impl App {
    /// Binds the listener and returns; the embedded flights are read in the background, and requests wait for
    /// them. Fails with a [`StartError`] on an address that cannot be had and on a `--data` file that cannot be
    /// read, which names the line.
    pub async fn build(config: Config, clock: Clock) -> anyhow::Result<App> {
        let source = match config.data {
            Some(file) => Source::File(Box::new(tokio::task::spawn_blocking(move || read(&file)).await??)),
            None => Source::embedded(),
        };
        let listener = service::bind("--listen", &config.listen).await?;
        let addr = service::local_addr(&listener)?;
        let replay = Arc::new(Replay {
            source,
            clock,
            anonymous: config.anonymous,
            tokens: Tokens::new(config.clients, config.token_lifetime),
            credits: Credits::new(config.credits),
            faults: Mutex::new(config.faults),
            dice: Dice::new(config.seed),
            stats: Stats::default(),
        });
        Ok(App { listener, addr, router: router(&replay, addr) })
    }

    /// Where it listens; the port is the one it got if 0 was asked.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `token` is cancelled, then finishes the requests in flight.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, "replaying recorded flights");
        common::http::serve(self.listener, self.router, token).await.context("serving")
    }
}

fn router(replay: &Arc<Replay>, addr: SocketAddr) -> Router {
    let mut metrics = Metrics::new("opensky_replay", &addr.to_string());
    let routes = api::routes(replay).merge(admin::routes()).with_state(replay.clone());
    let routes = common::http::layers(routes, &mut metrics);
    let replay = replay.clone();
    let ready = ready_when(move || {
        let replay = replay.clone();
        async move { replay.source.tape().await.map(|_| ()).map_err(|broken| broken.to_string()) }
    });
    routes.merge(common::http::admin(Admin { metrics: Arc::new(metrics), ready }))
}

/// Where the flights come from.
enum Source {
    Embedded,
    File(Box<Tape>),
}

/// The embedded flights, which are the same for every [`App`] of a process: read once.
static TAPE: SetOnce<Result<Tape, Broken>> = SetOnce::const_new();

impl Source {
    /// Begins to read the embedded flights, unless that has begun. The thread is nobody's to wait for, so that a
    /// stop at once after the start is not held up.
    fn embedded() -> Source {
        static BEGIN: Once = Once::new();
        BEGIN.call_once(|| {
            std::thread::spawn(|| {
                // Set here and nowhere else.
                let _ = TAPE.set(Tape::read(EMBEDDED));
            });
        });
        Source::Embedded
    }

    /// The flights; waits until they have been read.
    async fn tape(&self) -> Result<&Tape, &Broken> {
        match self {
            Source::Embedded => TAPE.wait().await.as_ref(),
            Source::File(tape) => Ok(tape),
        }
    }
}

fn read(file: &Path) -> Result<Tape, StartError> {
    let complain =
        |why: &dyn std::fmt::Display| StartError::new(format!("--data: {}: {why}", file.display()));
    let input = File::open(file).map_err(|error| complain(&error))?;
    Tape::read(BufReader::with_capacity(64 * 1024, input)).map_err(|broken| complain(&broken))
}

/// What a mutex holds, also after a panic in another thread: each change under these locks is complete in itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
