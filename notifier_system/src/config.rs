//! Options of notifier_system.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use common::bus::BusArgs;
use common::service::{DatabaseArgs, NodeArgs, StartError, secret};
use lettre::message::Mailbox;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::mailer::{MailUrl, Security};
use crate::store::Limit;

/// Options of notifier_system.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9904")]
    pub admin_listen: String,
    /// Where people reach the gateway: the base of links in mails
    #[arg(long, env = "PUBLIC_URL", default_value = "https://localhost:8443")]
    pub public_url: Url,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub node: NodeArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub bus: BusArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub mail: MailArgs,
}

/// How mails leave.
#[derive(Args, Clone, Debug, Default)]
pub struct MailArgs {
    /// smtp://user:password@host:587 (STARTTLS), smtps://… or file:FOLDER; unset: Gmail if its two variables are set,
    /// else the folder "mail". `?tls=none` allows a plain connection; to this machine it is allowed anyway
    #[arg(long, env = "MAIL_URL", hide_env_values = true)]
    pub mail_url: Option<SecretString>,
    /// A file that holds MAIL_URL
    #[arg(long, env = "MAIL_URL_FILE")]
    pub mail_url_file: Option<PathBuf>,
    /// Sender; unset: GMAIL_USER, else the user of MAIL_URL if it is an address, else vedetta@localhost
    #[arg(long, env = "MAIL_FROM")]
    pub mail_from: Option<String>,
    /// A Gmail address to send from
    #[arg(long, env = "GMAIL_USER")]
    pub gmail_user: Option<String>,
    /// The app password of that address
    #[arg(long, env = "GMAIL_APP_PASSWORD", hide_env_values = true)]
    pub gmail_app_password: Option<SecretString>,
    /// A file that holds the app password
    #[arg(long, env = "GMAIL_APP_PASSWORD_FILE")]
    pub gmail_app_password_file: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitArgs,
}

/// How many mails leave, and for how long one is tried.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Connections to the mail server at once, of one replica
    #[arg(long, env = "MAIL_CONNECTIONS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub mail_connections: u32,
    /// Mails a minute at most, over all replicas; unset: no limit
    #[arg(long, env = "MAIL_RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub mail_rate: Option<u32>,
    /// Mails in 24 hours at most, over all replicas; unset: 450 with GMAIL_USER, else no limit
    #[arg(long, env = "MAIL_DAILY_MAX", value_parser = clap::value_parser!(u32).range(1..))]
    pub mail_daily_max: Option<u32>,
    /// How long mails wait after the server has refused the login or the sender, offered no TLS, or takes no more for now;
    /// doubling to half an hour
    #[arg(long, env = "MAIL_PATIENCE", value_parser = humantime::parse_duration, default_value = "1m")]
    pub mail_patience: Duration,
    /// How long a mail is tried that the server refuses for now (4xx), before it goes to the dead topic
    #[arg(long, env = "MAIL_GIVE_UP", value_parser = humantime::parse_duration, default_value = "4d")]
    pub mail_give_up: Duration,
}

/// What the options are when none is given.
impl Default for LimitArgs {
    fn default() -> LimitArgs {
        LimitArgs {
            mail_connections: 4,
            mail_rate: None,
            mail_daily_max: None,
            mail_patience: Duration::from_secs(60),
            mail_give_up: Duration::from_secs(4 * 86_400),
        }
    }
}

/// Mails in 24 hours that Gmail lets an account send by SMTP: 500, less a few that its owner may write.
const GMAIL_DAILY_MAX: u32 = 450;

impl MailArgs {
    /// Whether it was said where mails go.
    pub fn is_configured(&self) -> Result<bool, StartError> {
        Ok(self.configured()?.is_some())
    }

    /// The folder that mails go to; none if they go to a server.
    pub fn folder(&self) -> Result<Option<PathBuf>, StartError> {
        Ok(match self.url()? {
            MailUrl::Folder(folder) => Some(folder),
            MailUrl::Smtp { .. } => None,
        })
    }

    /// Where mails go.
    pub(crate) fn url(&self) -> Result<MailUrl, StartError> {
        Ok(self.configured()?.unwrap_or_else(|| MailUrl::Folder(PathBuf::from("mail"))))
    }

    fn configured(&self) -> Result<Option<MailUrl>, StartError> {
        let url = secret("MAIL_URL", self.mail_url.as_ref(), self.mail_url_file.as_deref())?;
        if let Some(url) = url {
            // The value may hold a password, so it is not repeated.
            let parsed = MailUrl::parse(url.expose_secret());
            return parsed.map(Some).map_err(|why| StartError::new(format!("MAIL_URL: {why}")));
        }
        let password = secret(
            "GMAIL_APP_PASSWORD",
            self.gmail_app_password.as_ref(),
            self.gmail_app_password_file.as_deref(),
        )?;
        match (self.gmail_user(), password) {
            (Some(user), Some(password)) => Ok(Some(MailUrl::Smtp {
                host: "smtp.gmail.com".to_owned(),
                port: 587,
                security: Security::StartTls,
                login: Some((user, password)),
            })),
            (None, None) => Ok(None),
            (Some(_), None) => Err(StartError::new("GMAIL_APP_PASSWORD is needed beside GMAIL_USER")),
            (None, Some(_)) => Err(StartError::new("GMAIL_USER is needed beside GMAIL_APP_PASSWORD")),
        }
    }

    /// Mails that may leave within so many seconds, over all replicas.
    pub(crate) fn limits(&self) -> Vec<Limit> {
        let gmail = self.gmail_user().map(|_| GMAIL_DAILY_MAX);
        let of = |most: Option<u32>, seconds| most.map(|most| Limit { most: most.into(), seconds });
        [of(self.limits.mail_rate, 60), of(self.limits.mail_daily_max.or(gmail), 86_400)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn gmail_user(&self) -> Option<String> {
        self.gmail_user.clone().filter(|user| !user.trim().is_empty())
    }

    /// The sender.
    pub(crate) fn from(&self, url: &MailUrl) -> Result<Mailbox, StartError> {
        let given = self.mail_from.clone().filter(|from| !from.trim().is_empty());
        let user = match url {
            MailUrl::Smtp { login: Some((user, _)), .. } if user.contains('@') => Some(user.clone()),
            _ => None,
        };
        let from =
            given.or(self.gmail_user()).or(user).unwrap_or_else(|| "Vedetta <vedetta@localhost>".to_owned());
        from.parse().map_err(|_| StartError::new("MAIL_FROM must be an address, or Name <address>"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gmail_has_a_limit_a_day_that_can_be_changed() {
        let limits = |gmail: Option<&str>, rate, daily| {
            let limits = LimitArgs { mail_rate: rate, mail_daily_max: daily, ..LimitArgs::default() };
            let args = MailArgs { gmail_user: gmail.map(str::to_owned), limits, ..MailArgs::default() };
            args.limits().into_iter().map(|limit| (limit.most, limit.seconds)).collect::<Vec<_>>()
        };
        assert_eq!(limits(None, None, None), []);
        assert_eq!(limits(Some("ada@example.com"), None, None), [(450, 86_400)]);
        assert_eq!(limits(Some("ada@example.com"), Some(20), Some(100)), [(20, 60), (100, 86_400)]);
        assert_eq!(limits(None, Some(20), None), [(20, 60)]);
    }
}
