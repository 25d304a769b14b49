//! The `gateway` command.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use common::clock::Clock;
use common::service::{self, ProcessArgs};
use gateway::{Config, check, gen_cert, takeover};

/// Vedetta's gateway: TLS, routing and tokens in front of the services
#[derive(Parser)]
#[command(name = "gateway", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, once")]
enum Command {
    /// Serves; what happens without a command, too
    Serve(Serve),
    /// Makes a self-signed certificate
    GenCert(gen_cert::Options),
    /// Tells whether a configuration file is right
    Check(check::Options),
    /// Asks the gateway that runs here whether it is ready
    Healthcheck(Healthcheck),
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    config: Config,
    #[command(flatten)]
    takeover: takeover::Options,
}

#[derive(Args)]
struct Healthcheck {
    /// The admin port of the gateway that is asked
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9900")]
    admin_listen: String,
}

// What a request costs is to a good part memory asked for and given back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            error.exit()
        }
        Err(error) => return complain(&service::one_line(&error), 2),
    };
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(Serve { process, config, takeover }) => {
            service::start("gateway", &process, |token| gateway::serve_command(config, takeover, token))
        }
        Command::GenCert(options) if gen_cert::is_kept(&options) => {
            println!("the certificate in {} stays as it is", options.out.display());
            ExitCode::SUCCESS
        }
        Command::GenCert(options) => match gen_cert::generate(&options, &Clock::System) {
            Ok(summary) => {
                println!("{summary}");
                ExitCode::SUCCESS
            }
            Err(error) => complain(&error.to_string(), 2),
        },
        Command::Check(options) => {
            let problems = check::check(&options);
            let file = options.config.display();
            for problem in &problems {
                eprintln!("{file}: {problem}");
            }
            if !problems.is_empty() {
                return ExitCode::from(2);
            }
            println!("{file} is right");
            ExitCode::SUCCESS
        }
        Command::Healthcheck(asked) => match service::healthcheck(&asked.admin_listen) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&format!("{error:#}"), 1),
        },
    }
}

fn complain(why: &str, code: u8) -> ExitCode {
    eprintln!("gateway: {why}");
    ExitCode::from(code)
}
