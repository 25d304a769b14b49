//! `gateway check`: whether a configuration file is right.

use std::path::PathBuf;

use clap::Args;

use crate::settings::file;

/// What is checked.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A configuration file (TOML)
    #[arg(long, env = "CONFIG", value_name = "FILE")]
    pub config: PathBuf,
}

/// All that is wrong with the file, certificates that it names included: one line for each problem, with the key's
/// path. None is good.
pub fn check(options: &Options) -> Vec<String> {
    file::check(&options.config).iter().map(ToString::to_string).collect()
}
