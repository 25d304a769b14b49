//! The gateway's options.

use std::path::{Path, PathBuf};

use clap::Args;
use common::auth::Auth;
use common::service::StartError;

use crate::policy::rate::Rate;
use crate::settings::{Settings, file};
use crate::upstream::Endpoint;

/// Options of `gateway serve`; every flag has a twin in the environment. They overrule the file.
#[derive(Args, Clone, Debug, Default)]
pub struct Config {
    /// A configuration file (TOML); `gateway check` tells whether it is right
    #[arg(long, env = "CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where HTTPS is served [default: 0.0.0.0:8443]
    #[arg(long, env = "LISTEN")]
    pub listen: Option<String>,

    /// A plain port that only redirects to HTTPS, or off [default: off]
    #[arg(long, env = "REDIRECT_LISTEN", value_name = "ADDRESS|off")]
    pub redirect_listen: Option<String>,

    /// The certificate chain, PEM [default: cert.pem]
    #[arg(long, env = "TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM [default: key.pem]
    #[arg(long, env = "TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Addresses of user_manager, separated by commas [default: http://user_manager:5001]
    #[arg(long, env = "USER_MANAGER_URL", value_delimiter = ',', value_name = "URL")]
    pub user_manager_url: Vec<Endpoint>,

    /// Addresses of data_collector, separated by commas [default: http://data_collector:5002]
    #[arg(long, env = "DATA_COLLECTOR_URL", value_delimiter = ',', value_name = "URL")]
    pub data_collector_url: Vec<Endpoint>,

    /// The port on user_manager's hosts with the key feed and /readyz [default: 9901]
    #[arg(long, env = "USER_MANAGER_ADMIN_PORT", value_name = "PORT")]
    pub user_manager_admin_port: Option<u16>,

    /// The port on data_collector's hosts with /readyz [default: 9902]
    #[arg(long, env = "DATA_COLLECTOR_ADMIN_PORT", value_name = "PORT")]
    pub data_collector_admin_port: Option<u16>,

    /// Where /healthz, /readyz and /metrics are served [default: 0.0.0.0:9900]
    #[arg(long, env = "ADMIN_LISTEN")]
    pub admin_listen: Option<String>,

    /// Whether tokens are asked for; off is the classroom mode, in which anybody may be anyone [default: required]
    #[arg(long, env = "AUTH", value_enum)]
    pub auth: Option<Auth>,

    /// This process's name in metrics [default: gateway]
    #[arg(long, env = "NODE")]
    pub node: Option<String>,

    /// Client connections at once; further ones wait [default: 10000]
    #[arg(long, env = "MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_connections: Option<u32>,

    /// Connections of one client at once, or off [default: 256]
    #[arg(long, env = "MAX_CONNECTIONS_PER_CLIENT", value_name = "N|off")]
    pub max_connections_per_client: Option<OrOff<u32>>,

    /// Requests of one client, or off [default: 50/s burst 200]
    #[arg(long, env = "RATE_LIMIT", value_name = "RATE|off")]
    pub rate_limit: Option<OrOff<Rate>>,

    /// Logins and registrations of one client, or off [default: 1/s burst 20]
    #[arg(long, env = "RATE_LIMIT_LOGIN", value_name = "RATE|off")]
    pub rate_limit_login: Option<OrOff<Rate>>,
}

/// A value, or the word `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrOff<T> {
    /// Bounded by this.
    On(T),
    /// Not bounded.
    Off,
}

impl<T> OrOff<T> {
    /// None is off.
    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            OrOff::On(value) => Some(value),
            OrOff::Off => None,
        }
    }
}

impl<T: std::str::FromStr> std::str::FromStr for OrOff<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<OrOff<T>, String> {
        match text {
            "off" => Ok(OrOff::Off),
            _ => text.parse().map(OrOff::On).map_err(|why| format!("{why}, and not the word off")),
        }
    }
}

impl Config {
    /// The file, overruled by what was given here.
    pub(crate) fn resolve(self) -> Result<Settings, StartError> {
        let mut settings = self.config.as_deref().map_or_else(|| Ok(Settings::default()), from_file)?;
        let named = |settings: &Settings, name: &str, option: &str| {
            settings.upstreams.iter().position(|upstream| upstream.name == name).ok_or_else(|| {
                StartError::new(format!("{option}: the configuration file has no upstream {name}"))
            })
        };
        for (name, addresses, url_option, port, port_option) in [
            (
                "user_manager",
                self.user_manager_url,
                "--user-manager-url",
                self.user_manager_admin_port,
                "--user-manager-admin-port",
            ),
            (
                "data_collector",
                self.data_collector_url,
                "--data-collector-url",
                self.data_collector_admin_port,
                "--data-collector-admin-port",
            ),
        ] {
            if !addresses.is_empty() {
                let place = named(&settings, name, url_option)?;
                settings.upstreams[place].addresses = addresses;
            }
            if let Some(port) = port {
                let place = named(&settings, name, port_option)?;
                settings.upstreams[place].admin_port = port;
            }
        }
        if self.tls_cert.is_some() || self.tls_key.is_some() {
            settings.certificates.truncate(1);
            let files = &mut settings.certificates[0];
            put(&mut files.cert, self.tls_cert);
            put(&mut files.key, self.tls_key);
        }
        put(&mut settings.listen, self.listen);
        put(&mut settings.admin_listen, self.admin_listen);
        put(
            &mut settings.redirect_listen,
            self.redirect_listen.map(|listen| (listen != "off").then_some(listen)),
        );
        put(&mut settings.auth, self.auth);
        put(&mut settings.node, self.node);
        let limits = &mut settings.limits;
        put(&mut limits.connections, self.max_connections);
        put(&mut limits.connections_per_client, self.max_connections_per_client.map(OrOff::into_option));
        put(&mut limits.rate, self.rate_limit.map(OrOff::into_option));
        put(&mut limits.rate_login, self.rate_limit_login.map(OrOff::into_option));
        Ok(settings)
    }
}

fn from_file(path: &Path) -> Result<Settings, StartError> {
    file::read(path).map_err(|problems| {
        let path = path.display();
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        StartError::new(match problems.len().saturating_sub(1) {
            0 => format!("{path}: {first}"),
            more => format!("{path}: {first} (and {more} more: gateway check --config {path} lists all)"),
        })
    })
}

fn put<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    /// Every key that has a flag, and one that has none.
    const FILE: &str = "
        listen = 'file:1'
        admin_listen = 'file:2'
        redirect_listen = 'file:3'
        node = 'file'
        auth = 'off'
        access_log = false
        [[certificates]]
        cert = 'file.pem'
        key = 'file.key'
        [[certificates]]
        cert = 'second.pem'
        key = 'second.key'
        [limits]
        connections = 1
        connections_per_client = 2
        rate = '3/s burst 3'
        rate_login = '4/s burst 4'
        [upstreams.user_manager]
        addresses = ['http://file:5', 'http://file:6']
        admin_port = 7
        [upstreams.data_collector]
        addresses = ['http://file:8']
        admin_port = 9
    ";

    type Change = fn(&mut Settings);

    /// Every flag, and what it does to the settings.
    const FLAGS: &[(&str, Change)] = &[
        ("--listen=flag:1", |all| all.listen = "flag:1".into()),
        ("--admin-listen=flag:2", |all| all.admin_listen = "flag:2".into()),
        ("--redirect-listen=flag:3", |all| all.redirect_listen = Some("flag:3".into())),
        ("--redirect-listen=off", |all| all.redirect_listen = None),
        ("--node=flag", |all| all.node = "flag".into()),
        ("--auth=required", |all| all.auth = Auth::Required),
        ("--tls-cert=flag.pem", |all| {
            all.certificates.truncate(1);
            all.certificates[0].cert = "flag.pem".into();
        }),
        ("--tls-key=flag.key", |all| {
            all.certificates.truncate(1);
            all.certificates[0].key = "flag.key".into();
        }),
        ("--max-connections=91", |all| all.limits.connections = 91),
        ("--max-connections-per-client=92", |all| all.limits.connections_per_client = Some(92)),
        ("--max-connections-per-client=off", |all| all.limits.connections_per_client = None),
        ("--rate-limit=93/s burst 93", |all| all.limits.rate = Some(Rate::new(93.0, 93))),
        ("--rate-limit=off", |all| all.limits.rate = None),
        ("--rate-limit-login=94/s burst 94", |all| all.limits.rate_login = Some(Rate::new(94.0, 94))),
        ("--rate-limit-login=off", |all| all.limits.rate_login = None),
        ("--user-manager-url=http://flag:95", |all| {
            all.upstreams[0].addresses = vec![Endpoint::new("flag", 95)];
        }),
        ("--user-manager-admin-port=97", |all| all.upstreams[0].admin_port = 97),
        ("--data-collector-url=http://flag:98,http://flag:99", |all| {
            all.upstreams[1].addresses = vec![Endpoint::new("flag", 98), Endpoint::new("flag", 99)];
        }),
        ("--data-collector-admin-port=99", |all| all.upstreams[1].admin_port = 99),
    ];

    fn resolved(arguments: &[&str]) -> Result<Settings, String> {
        let all = std::iter::once("gateway").chain(arguments.iter().copied());
        Cli::parse_from(all).config.resolve().map_err(|error| error.to_string())
    }

    fn in_a_file(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.toml");
        std::fs::write(&path, text).unwrap();
        let flag = format!("--config={}", path.display());
        (folder, flag)
    }

    #[test]
    fn each_flag_overrules_the_file_and_nothing_else_of_it() {
        let (_folder, config) = in_a_file(FILE);
        let filed = resolved(&[&config]).unwrap();
        assert_ne!(filed, Settings::default());
        for (flag, change) in FLAGS {
            let mut expected = filed.clone();
            change(&mut expected);
            assert_ne!(expected, filed, "{flag}");
            assert_eq!(resolved(&[&config, flag]), Ok(expected), "{flag}");
        }
    }

    #[test]
    fn each_flag_works_without_a_file() {
        for (flag, change) in FLAGS {
            let mut expected = Settings::default();
            change(&mut expected);
            assert_eq!(resolved(&[flag]), Ok(expected), "{flag}");
        }
        assert_eq!(resolved(&[]), Ok(Settings::default()));
    }

    #[test]
    fn no_flag_is_left_out_here() {
        use clap::CommandFactory;
        for argument in Cli::command().get_arguments().filter_map(|argument| argument.get_long()) {
            let tested = FLAGS.iter().any(|(flag, _)| flag.starts_with(&format!("--{argument}=")));
            assert!(tested || argument == "config", "--{argument}");
        }
    }

    #[test]
    fn a_wrong_file_is_one_line_with_its_first_problem() {
        let told = |text: &str| {
            let (_folder, config) = in_a_file(text);
            let path = config.trim_start_matches("--config=").to_owned();
            resolved(&[&config]).unwrap_err().replace(&path, "FILE")
        };
        assert_eq!(told("a = 1"), "FILE: a: there is no such key");
        assert_eq!(
            told("a = 1\nnode = ''\nkeys = 'x'"),
            "FILE: a: there is no such key (and 2 more: gateway check --config FILE lists all)"
        );
        assert!(resolved(&["--config=nowhere.toml"]).unwrap_err().starts_with("nowhere.toml: No such file"));
    }
}
