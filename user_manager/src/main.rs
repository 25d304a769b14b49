//! The user_manager service.

use std::process::ExitCode;

use common::service::{self, Parts};
use user_manager::{App, Config};

fn main() -> ExitCode {
    service::main(
        "user_manager",
        "Vedetta's accounts",
        Some("admin_listen"),
        |config: Config, token| async move { App::build(config, Parts::default()).await?.run(token).await },
    )
}
