//! The data_collector service.

use std::process::ExitCode;

use common::service::{self, Parts};
use data_collector::{App, Config};

fn main() -> ExitCode {
    service::main(
        "data_collector",
        "Vedetta's flights",
        Some("admin_listen"),
        |config: Config, token| async move { App::build(config, Parts::default()).await?.run(token).await },
    )
}
