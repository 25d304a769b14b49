//! The alert_system service.

use std::process::ExitCode;

use alert_system::{App, Config};
use common::service::{self, Parts};

fn main() -> ExitCode {
    service::main("alert_system", "Vedetta's rule", |config: Config, token| async move {
        App::build(config, Parts::default()).await?.run(token).await
    })
}
