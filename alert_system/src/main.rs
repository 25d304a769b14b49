//! The alert_system service, and its dead messages.

use std::process::ExitCode;

use alert_system::{App, Config};
use clap::{Args, Subcommand};
use common::bus::DeadCommand;
use common::messages::WindowCounted;
use common::service::{self, Parts};

#[derive(Args)]
struct Options {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Messages that could not be handled
    Dead(DeadCommand),
}

fn main() -> ExitCode {
    service::main(
        "alert_system",
        "Vedetta's rule",
        Some("admin_listen"),
        |Options { config, command }, token| async move {
            match command {
                None => App::build(config, Parts::default()).await?.run(token).await,
                Some(Command::Dead(dead)) => {
                    dead.run::<WindowCounted>(&config.bus, &config.admin_listen).await
                }
            }
        },
    )
}
