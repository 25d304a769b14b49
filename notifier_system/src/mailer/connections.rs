//! Connections to the mail server, kept between mails.
//!
//! lettre has a pool of its own, but connects without TCP_NODELAY and writes a mail in two parts: the second then waits until
//! the server's system has acknowledged the first, which takes up to 40 ms (docs/adr/0018-connections.md).

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Tls};
use lettre::transport::smtp::extension::ClientId;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

/// How long a connection may take, with TLS and login.
const CONNECT: Duration = Duration::from_secs(20);
/// How long one address of the server may take, if there are others.
const ADDRESS: Duration = Duration::from_secs(5);
/// How long a kept connection may take to show that it stands.
const NOOP: Duration = Duration::from_secs(5);
/// A connection that was idle for longer is asked whether it still stands.
const FRESH: Duration = Duration::from_secs(1);
/// And one that was idle for this long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// Where mails go, and how.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Tls,
    pub(super) login: Option<Credentials>,
}

/// Why a mail did not get through.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// No connection came about, or none that is secured and logged in.
    #[error("no connection: {0}")]
    Connect(#[from] std::io::Error),
    /// The same, as lettre says it.
    #[error("no connection: {0}")]
    Login(SmtpError),
    /// The connection stood, and this came of the mail.
    #[error(transparent)]
    Mail(SmtpError),
    /// No connection in time.
    #[error("no connection within {} s", .0.as_secs())]
    SlowToConnect(Duration),
    /// The mail took too long.
    #[error("the server took longer than {} s", .0.as_secs())]
    Slow(Duration),
}

impl Server {
    /// A connection that is secured and logged in as was asked for.
    pub(super) async fn connect(&self) -> Result<AsyncSmtpConnection, Trouble> {
        let connecting = tokio::time::timeout(CONNECT, self.connect_at_leisure());
        connecting.await.unwrap_or(Err(Trouble::SlowToConnect(CONNECT)))
    }

    /// A socket to the first of the server's addresses that answers.
    async fn opened(&self) -> std::io::Result<TcpStream> {
        let mut failed = std::io::Error::other("the server has no address");
        for address in lookup_host((self.host.as_str(), self.port)).await? {
            match tokio::time::timeout(ADDRESS, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }

    async fn connect_at_leisure(&self) -> Result<AsyncSmtpConnection, Trouble> {
        let (hello, server) = (ClientId::default(), (self.host.as_str(), self.port));
        let mut connection = match &self.tls {
            // Only lettre itself can secure a connection before the greeting, so here a mail waits as described above.
            Tls::Wrapper(tls) => {
                AsyncSmtpConnection::connect_tokio1(server, Some(ADDRESS), &hello, Some(tls.clone()), None)
                    .await
            }
            _ => {
                let stream = self.opened().await?;
                stream.set_nodelay(true)?;
                AsyncSmtpConnection::connect_with_transport(Box::new(stream), &hello).await
            }
        }
        .map_err(Trouble::Login)?;
        if let Tls::Required(tls) = &self.tls {
            connection.starttls(tls.clone(), &hello).await.map_err(Trouble::Login)?;
        }
        if let Some(login) = &self.login {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&mechanisms, login).await.map_err(Trouble::Login)?;
        }
        Ok(connection)
    }
}

/// Connections that are kept. How many there are at once is the caller's.
pub(super) struct Connections {
    pub(super) server: Server,
    idle: Mutex<Vec<(AsyncSmtpConnection, Instant)>>,
}

impl Connections {
    pub(super) fn to(server: Server) -> Connections {
        Connections { server, idle: Mutex::default() }
    }

    /// Hands a mail over, within `time` from when there is a connection. Whatever goes wrong ends it.
    pub(super) async fn send(&self, mail: &Message, time: Duration) -> Result<(), Trouble> {
        let mut connection = self.take().await?;
        let text = mail.formatted();
        let sending = tokio::time::timeout(time, connection.send(mail.envelope(), &text));
        sending.await.map_err(|_| Trouble::Slow(time))?.map_err(Trouble::Mail)?;
        self.idle().push((connection, Instant::now()));
        Ok(())
    }

    /// A kept connection that still stands, or a new one.
    async fn take(&self) -> Result<AsyncSmtpConnection, Trouble> {
        loop {
            let Some((mut connection, since)) = self.idle().pop() else { return self.server.connect().await };
            let idle = since.elapsed();
            if idle < FRESH {
                return Ok(connection);
            }
            let stands = tokio::time::timeout(NOOP, connection.test_connected());
            if idle < IDLE && stands.await.unwrap_or(false) {
                return Ok(connection);
            }
            // The others have been idle for longer.
            self.idle().clear();
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(AsyncSmtpConnection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
