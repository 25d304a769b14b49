//! `opensky_replay`: see the library.

use std::process::ExitCode;

use common::clock::Clock;
use opensky_replay::{App, Config};

fn main() -> ExitCode {
    common::service::main(
        "opensky_replay",
        "OpenSky Network's REST API, answered from recorded flights",
        Some("listen"),
        async |config: Config, token| App::build(config, Clock::System).await?.run(token).await,
    )
}
