//! Options of user_manager.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use common::auth::Auth;
use common::bus::BusArgs;
use common::service::{DatabaseArgs, NodeArgs, StartError, secret};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// Options of user_manager.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of the API
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:5001")]
    pub listen: String,
    /// Address of VerifyUser, for other services (gRPC)
    #[arg(long, env = "GRPC_LISTEN", default_value = "0.0.0.0:50051")]
    pub grpc_listen: String,
    /// Address of /healthz, /readyz, /metrics and the key feed /keys
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9901")]
    pub admin_listen: String,
    /// Where people reach the gateway: the base of links in mails
    #[arg(long, env = "PUBLIC_URL", default_value = "https://localhost:8443")]
    pub public_url: Url,
    /// Whether tokens are asked for; off: the email in a request says who asks
    #[arg(long, env = "AUTH", value_enum, default_value = "required")]
    pub auth: Auth,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub confirm: ConfirmArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: KeyArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub node: NodeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusArgs,
}

/// What becomes of an account's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// It counts when the link in a mail was opened.
    Asked,
    /// It counts at once.
    Assumed,
    /// It does not matter, and does not count where it will (AUTH=off).
    Ignored,
}

impl Config {
    /// What becomes of addresses, and why.
    pub(crate) fn confirmation(&self) -> Result<(Confirmation, &'static str), StartError> {
        let mails_leave = self.confirm.mails_leave()?;
        Ok(match (self.auth, self.confirm.confirm_email, mails_leave) {
            (Auth::Off, _, _) => (Confirmation::Ignored, "AUTH=off"),
            (_, Confirm::On, _) => (Confirmation::Asked, "CONFIRM_EMAIL=on"),
            (_, Confirm::Off, _) => (Confirmation::Assumed, "CONFIRM_EMAIL=off"),
            (_, Confirm::Auto, true) => (Confirmation::Asked, "mails go to a server"),
            (_, Confirm::Auto, false) => (Confirmation::Assumed, "mails go to a folder"),
        })
    }
}

/// Whether addresses are confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Confirm {
    /// Exactly when mails leave for a server.
    #[default]
    Auto,
    /// No login before the link in the mail was opened.
    On,
    /// An account can log in at once.
    Off,
}

/// Whether addresses are confirmed, and where mails go: the same variables as notifier_system's, of which only the kind of
/// destination matters here.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfirmArgs {
    /// Whether an address must be confirmed by the link in a mail; auto: when mails go to a server, not to a folder
    #[arg(long, env = "CONFIRM_EMAIL", value_enum, default_value = "auto")]
    pub confirm_email: Confirm,
    /// Where notifier_system sends mails (user and password may be left out)
    #[arg(long, env = "MAIL_URL", hide_env_values = true)]
    pub mail_url: Option<SecretString>,
    /// A file that holds MAIL_URL
    #[arg(long, env = "MAIL_URL_FILE")]
    pub mail_url_file: Option<PathBuf>,
    /// The Gmail address that notifier_system sends from
    #[arg(long, env = "GMAIL_USER")]
    pub gmail_user: Option<String>,
}

impl ConfirmArgs {
    /// Whether mails go to a server.
    fn mails_leave(&self) -> Result<bool, StartError> {
        let url = secret("MAIL_URL", self.mail_url.as_ref(), self.mail_url_file.as_deref())?;
        let Some(url) = url else {
            return Ok(self.gmail_user.as_ref().is_some_and(|user| !user.trim().is_empty()));
        };
        match url.expose_secret() {
            url if url.starts_with("smtp://") || url.starts_with("smtps://") => Ok(true),
            url if url.starts_with("file:") => Ok(false),
            _ => Err(StartError::new("MAIL_URL must be smtp://…, smtps://… or file:FOLDER")),
        }
    }
}

/// The keys that tokens are signed with.
#[derive(Args, Clone, Debug)]
pub struct KeyArgs {
    /// How long a signing key is in use; the next one is made then
    #[arg(long, env = "KEY_ROTATION", value_parser = rotation, default_value = "30d")]
    pub key_rotation: Duration,
    /// 32 bytes in base64 that encrypt the signing keys in the database; several, separated by commas: the first encrypts,
    /// all decrypt
    #[arg(long, env = "KEY_ENCRYPTION_KEY", hide_env_values = true)]
    pub key_encryption_key: Option<SecretString>,
    /// A file that holds KEY_ENCRYPTION_KEY
    #[arg(long, env = "KEY_ENCRYPTION_KEY_FILE")]
    pub key_encryption_key_file: Option<PathBuf>,
}

impl Default for KeyArgs {
    fn default() -> KeyArgs {
        KeyArgs {
            key_rotation: Duration::from_secs(30 * 86_400),
            key_encryption_key: None,
            key_encryption_key_file: None,
        }
    }
}

impl KeyArgs {
    pub(crate) fn encryption_keys(&self) -> Result<Option<SecretString>, StartError> {
        let (keys, file) = (self.key_encryption_key.as_ref(), self.key_encryption_key_file.as_deref());
        secret("KEY_ENCRYPTION_KEY", keys, file)
    }
}

/// Shorter, and every replica would hold many keys; longer, and a stolen one is worth much.
fn rotation(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        3600..=31_622_400 => Ok(duration),
        _ => Err("must be from an hour to a year".to_owned()),
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

    fn confirmation(options: &[&str]) -> Result<Confirmation, StartError> {
        let config = Cli::parse_from([&["user_manager"], options].concat()).config;
        config.confirmation().map(|(confirmation, _)| confirmation)
    }

    #[test]
    fn addresses_are_confirmed_exactly_when_mails_leave() {
        use Confirmation::{Asked, Assumed, Ignored};
        for (options, expected) in [
            (&[][..], Assumed),
            (&["--mail-url=file:mail"], Assumed),
            (&["--mail-url=smtp://mail.example.com"], Asked),
            (&["--mail-url=smtps://ada:hush@mail.example.com"], Asked),
            (&["--gmail-user=ada@example.com"], Asked),
            (&["--gmail-user= "], Assumed),
            (&["--gmail-user=ada@example.com", "--mail-url=file:mail"], Assumed),
            (&["--confirm-email=on", "--mail-url=file:mail"], Asked),
            (&["--confirm-email=off", "--mail-url=smtp://mail.example.com"], Assumed),
            (&["--auth=off", "--confirm-email=on"], Ignored),
        ] {
            assert_eq!(confirmation(options).unwrap(), expected, "{options:?}");
        }
        for wrong in [&["--mail-url=hush"][..], &["--mail-url=smtp:hush", "--confirm-email=off"]] {
            let wrong = confirmation(wrong).unwrap_err().to_string();
            assert!(wrong.contains("MAIL_URL") && !wrong.contains("hush"), "{wrong}");
        }
    }
}
