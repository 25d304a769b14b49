//! How a mail leaves: by SMTP, or into a folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use common::service::StartError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::{Error as SmtpError, PoolConfig};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWriteExt;
use url::Url;

use crate::gate::Cause;

/// How long the server may take over one command.
const COMMAND: Duration = Duration::from_secs(30);
/// How long a whole mail may take. Shorter than the lease on it.
const WHOLE: Duration = Duration::from_secs(90);

/// A parsed `MAIL_URL`.
#[derive(Clone, Debug)]
pub(crate) enum MailUrl {
    /// `file:FOLDER`
    Folder(PathBuf),
    /// `smtp://…`, `smtps://…`
    Smtp { host: String, port: u16, security: Security, login: Option<(String, SecretString)> },
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// STARTTLS, or nothing is sent.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// None.
    Plain,
}

impl MailUrl {
    /// The error says what is wrong without repeating the value.
    pub(crate) fn parse(text: &str) -> Result<MailUrl, &'static str> {
        const FORM: &str =
            "must be smtp://user:password@host:587, smtps://user:password@host:465 or file:FOLDER";
        if let Some(folder) = text.strip_prefix("file:") {
            let folder = folder.strip_prefix("//").unwrap_or(folder);
            return if folder.is_empty() { Err(FORM) } else { Ok(MailUrl::Folder(PathBuf::from(folder))) };
        }
        let url = Url::parse(text).map_err(|_| FORM)?;
        // An IPv6 address stands in brackets in a URL only.
        let host = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
        let host = host.filter(|host| !host.is_empty()).ok_or(FORM)?.to_owned();
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let security = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) if is_this_machine(&host) => Security::Plain,
            ("smtp", None | Some("required")) => Security::StartTls,
            ("smtp", Some("none")) => Security::Plain,
            ("smtps", None) => Security::Tls,
            ("smtp" | "smtps", _) => return Err("tls must be required or none, and none only with smtp://"),
            _ => return Err(FORM),
        };
        let port = url.port().unwrap_or(if security == Security::Tls { 465 } else { 587 });
        let decoded =
            |text: &str| percent_decoded(text).ok_or("user and password must be percent-encoded UTF-8");
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => Some((decoded(user)?, decoded(password)?.into())),
            _ => return Err("user and password go together"),
        };
        Ok(MailUrl::Smtp { host, port, security, login })
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The text behind percent-encoding, which is what form decoding does but for `+`.
fn percent_decoded(text: &str) -> Option<String> {
    let text = text.replace('+', "%2B");
    let (value, _) = url::form_urlencoded::parse(text.as_bytes()).next()?;
    (!value.contains('\u{fffd}')).then(|| value.into_owned())
}

/// Why a mail did not leave.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing leaves now. Everything waits.
    Everything(Cause, String),
    /// The server does not take this mail for now.
    NotNow(String),
    /// The server will never take this mail.
    Refused(String),
}

/// Sends mails.
pub(crate) enum Mailer {
    /// Into a folder, one file a mail.
    Folder(PathBuf),
    /// To an SMTP server, over a pool of connections.
    Smtp(Box<AsyncSmtpTransport<Tokio1Executor>>),
}

impl Mailer {
    /// Makes the folder, or the pool (no connection yet).
    pub(crate) fn open(url: &MailUrl, connections: u32) -> anyhow::Result<Mailer> {
        match url {
            MailUrl::Folder(folder) => {
                std::fs::create_dir_all(folder)
                    .map_err(|error| StartError::new(format!("MAIL_URL: {}: {error}", folder.display())))?;
                tracing::info!(folder = %folder.display(), "mails go to a folder");
                Ok(Mailer::Folder(folder.clone()))
            }
            MailUrl::Smtp { host, port, security, login } => {
                let tls = || TlsParameters::new(host.clone()).context("MAIL_URL: TLS");
                let tls = match security {
                    Security::Plain => Tls::None,
                    Security::StartTls => Tls::Required(tls()?),
                    Security::Tls => Tls::Wrapper(tls()?),
                };
                let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
                    .port(*port)
                    .tls(tls)
                    .timeout(Some(COMMAND))
                    .pool_config(PoolConfig::new().max_size(connections));
                if let Some((user, password)) = login {
                    builder = builder
                        .credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
                }
                tracing::info!(host, port, ?security, "mails go to an SMTP server");
                Ok(Mailer::Smtp(Box::new(builder.build())))
            }
        }
    }

    /// Hands a mail over; on success the server (or the disk) has it. `name` is the file's name in a folder: the same
    /// mail written again replaces itself.
    pub(crate) async fn send(&self, name: &str, mail: Message) -> Result<(), Failure> {
        match self {
            Mailer::Folder(folder) => write(folder, name, &mail.formatted())
                .await
                .map_err(|error| Failure::Everything(Cause::Away, format!("{error:#}"))),
            Mailer::Smtp(transport) => match tokio::time::timeout(WHOLE, transport.send(mail)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(match classify(&error) {
                    // A server that takes nobody's mail may say so in its greeting: then a bare connection fails too.
                    Failure::Refused(why) | Failure::NotNow(why)
                        if transport.test_connection().await.is_err() =>
                    {
                        Failure::Everything(Cause::Away, why)
                    }
                    failure => failure,
                }),
                Err(_) => {
                    let why = "the SMTP server took longer than a minute and a half".to_owned();
                    Err(Failure::Everything(Cause::Away, why))
                }
            },
        }
    }
}

/// Writes a file that is there whole or not at all, also after a power cut.
async fn write(folder: &Path, name: &str, mail: &[u8]) -> anyhow::Result<()> {
    let (part, whole) = (folder.join(format!(".{name}.part")), folder.join(format!("{name}.eml")));
    let mut file = tokio::fs::File::create(&part).await?;
    file.write_all(mail).await?;
    file.sync_all().await?;
    tokio::fs::rename(&part, &whole).await?;
    tokio::fs::File::open(folder).await?.sync_all().await?;
    Ok(())
}

/// What an error means. About everybody's mail are, besides a connection that fails, 421 (the server closes), and answers
/// about the login: 432, 454, 530, 534, 535, 538 (RFC 4954). Gmail tells its daily quota as 550 5.4.5 and too many mails in a
/// short time as 421 4.7.0 (its page "Gmail SMTP errors and codes"). Other answers concern this mail alone: 4xx for now, 5xx
/// for good; and so does an address beyond ASCII where the server has no SMTPUTF8: lettre then sends nothing.
fn classify(error: &SmtpError) -> Failure {
    let why = chain(error);
    if error.is_client() && why.contains("non-ascii") {
        return Failure::Refused(why);
    }
    let Some(code) = error.status().map(|code| code.to_string()) else {
        return Failure::Everything(if is_about_tls(error) { Cause::Tls } else { Cause::Away }, why);
    };
    match code.as_str() {
        "421" if why.contains("4.7.0") => Failure::Everything(Cause::Quota, why),
        "421" => Failure::Everything(Cause::Away, why),
        "432" | "454" | "530" | "534" | "535" | "538" => Failure::Everything(Cause::Login, why),
        _ if why.contains("5.4.5") => Failure::Everything(Cause::Quota, why),
        _ if error.is_transient() => Failure::NotNow(why),
        _ => Failure::Refused(why),
    }
}

/// Whether no secure connection came about: the server offers none, or what it shows is not to be trusted.
fn is_about_tls(error: &SmtpError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    error.is_tls() || error.to_string().contains("STARTTLS")
}

/// What an error says, and what is behind it where that says more.
fn chain(error: &SmtpError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(url: &str) -> Security {
        match MailUrl::parse(url).unwrap() {
            MailUrl::Smtp { security, .. } => security,
            MailUrl::Folder(_) => panic!("{url} is SMTP"),
        }
    }

    #[test]
    fn plain_connections_only_to_this_machine_or_when_allowed() {
        assert_eq!(security("smtp://ada:pw@mail.example.com"), Security::StartTls);
        assert_eq!(security("smtp://mail.example.com:25?tls=none"), Security::Plain);
        assert_eq!(security("smtp://127.0.0.1:1025"), Security::Plain);
        assert_eq!(security("smtp://localhost:1025?tls=required"), Security::StartTls);
        assert_eq!(security("smtps://ada:pw@mail.example.com"), Security::Tls);
    }

    #[test]
    fn logins_are_percent_decoded() {
        let MailUrl::Smtp { login: Some((user, password)), port, .. } =
            MailUrl::parse("smtp://ada%40example.com:p%3Aw+1@mail.example.com").unwrap()
        else {
            panic!("there is a login")
        };
        assert_eq!((user.as_str(), password.expose_secret(), port), ("ada@example.com", "p:w+1", 587));
    }

    #[test]
    fn wrong_addresses_are_refused_without_being_repeated() {
        for bad in [
            "",
            "file:",
            "http://x",
            "smtp://",
            "smtp://user@host",
            "smtps://h?tls=none",
            "smtp://h?tls=maybe",
        ] {
            assert!(MailUrl::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
