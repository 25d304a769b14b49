//! How a mail leaves: by SMTP, or into a folder.

mod connections;
mod url;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use common::service::StartError;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Address, Message};
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;

use self::connections::{Connections, Server};
use crate::gate::Cause;

pub(crate) use self::url::{MailUrl, Security};

/// How long a mail may take. With a connection before it, and another one after it, shorter than the lease on it.
const WHOLE: Duration = Duration::from_secs(120);

/// Why a mail did not leave.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing leaves now. Everything waits.
    Everything(Cause, String),
    /// The connection broke with this mail; the server takes others'.
    Broken(String),
    /// The server does not take this mail for now.
    NotNow(String),
    /// The server will never take this mail.
    Refused(String),
}

/// Sends mails.
pub(crate) enum Mailer {
    /// Into a folder, one file a mail.
    Folder(PathBuf),
    /// To an SMTP server.
    Smtp(Box<Smtp>),
}

pub(crate) struct Smtp {
    connections: Connections,
    sender: Address,
}

impl Mailer {
    /// Makes the folder. To a server there is no connection yet.
    pub(crate) fn open(url: &MailUrl, sender: &Address) -> anyhow::Result<Mailer> {
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
                let login = login.as_ref().map(|(user, password)| {
                    Credentials::new(user.clone(), password.expose_secret().to_owned())
                });
                tracing::info!(host, port, ?security, "mails go to an SMTP server");
                let connections = Connections::to(Server { host: host.clone(), port: *port, tls, login });
                Ok(Mailer::Smtp(Box::new(Smtp { connections, sender: sender.clone() })))
            }
        }
    }

    /// Hands a mail over; on success the server (or the disk) has it. `name` is the file's name in a folder: the same
    /// mail written again replaces itself.
    pub(crate) async fn send(&self, name: &str, mail: &Message) -> Result<(), Failure> {
        match self {
            Mailer::Folder(folder) => write(folder, name, &mail.formatted())
                .await
                .map_err(|error| Failure::Everything(Cause::Away, format!("{error:#}"))),
            Mailer::Smtp(smtp) => match smtp.connections.send(mail, WHOLE).await {
                Ok(()) => Ok(()),
                Err(trouble) => Err(verdict::of(&trouble, &smtp.connections.server, &smtp.sender).await),
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
