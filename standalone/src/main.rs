//! All of Vedetta in one process.

use std::process::ExitCode;

use common::service;
use standalone::{App, Config};

fn main() -> ExitCode {
    service::main("standalone", "All of Vedetta in one process", None, |config: Config, token| async move {
        let app = App::build(config).await?;
        app.introduce();
        app.run(token).await
    })
}
