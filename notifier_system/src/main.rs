//! The notifier_system service.

use std::process::ExitCode;

use common::service::{self, Parts};
use notifier_system::{App, Config};

fn main() -> ExitCode {
    service::main("notifier_system", "Vedetta's mails", |config: Config, token| async move {
        App::build(config, Parts::default()).await?.run(token).await
    })
}
