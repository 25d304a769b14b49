//! The notifier_system service, and its dead messages.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use common::bus::DeadCommand;
use common::messages::Letter;
use common::service::{self, Parts};
use notifier_system::{App, Config};

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
        "notifier_system",
        "Vedetta's mails",
        Some("admin_listen"),
        |Options { config, command }, token| async move {
            match command {
                None => App::build(config, Parts::default()).await?.run(token).await,
                Some(Command::Dead(dead)) => dead.run::<Letter>(&config.bus, &config.admin_listen).await,
            }
        },
    )
}
