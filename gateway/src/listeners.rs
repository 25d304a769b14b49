//! The listening sockets: bound here, or inherited from the gateway that ran before.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use common::service::{self, StartError};
use tokio::net::TcpListener;

use crate::settings::Settings;

/// What a socket is for. A socket that is handed over keeps its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// HTTPS.
    Https,
    /// The admin port.
    Admin,
    /// The plain port that redirects.
    Redirect,
}

impl Role {
    /// All of them.
    pub(crate) const ALL: [Role; 3] = [Role::Https, Role::Admin, Role::Redirect];

    /// The option with the address, and what it says.
    fn option(self, settings: &Settings) -> (&'static str, Option<&str>) {
        match self {
            Role::Https => ("--listen", Some(&settings.listen)),
            Role::Admin => ("--admin-listen", Some(&settings.admin_listen)),
            Role::Redirect => ("--redirect-listen", settings.redirect_listen.as_deref()),
        }
    }
}

/// One listener for each role.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// HTTPS.
    pub(crate) https: TcpListener,
    /// The admin port.
    pub(crate) admin: TcpListener,
    /// The plain port, when there is to be one.
    pub(crate) redirect: Option<TcpListener>,
}

/// Sockets on their way from one process to the next.
pub(crate) type Sockets = Vec<(Role, OwnedFd)>;

impl Listeners {
    /// Binds all.
    pub(crate) async fn bind(settings: &Settings) -> Result<Listeners, StartError> {
        Listeners::inherit(Sockets::new(), settings).await
    }

    /// Takes the sockets by their role, whatever their addresses; binds what is missing and closes what is not wanted.
    pub(crate) async fn inherit(mut sockets: Sockets, settings: &Settings) -> Result<Listeners, StartError> {
        let mut take = async |role: Role| {
            let place = sockets.iter().position(|(its, _)| *its == role);
            let inherited = place.map(|place| sockets.swap_remove(place).1);
            listener(role, inherited, settings).await
        };
        let (https, admin, redirect) =
            (take(Role::Https).await?, take(Role::Admin).await?, take(Role::Redirect).await?);
        match (https, admin) {
            (Some(https), Some(admin)) => Ok(Listeners { https, admin, redirect }),
            _ => Err(StartError::new("--listen and --admin-listen are needed")),
        }
    }

    /// The same sockets once more, to be handed over. A socket takes connections as long as any copy is open.
    pub(crate) fn sockets(&self) -> io::Result<Sockets> {
        let all = [
            (Role::Https, Some(&self.https)),
            (Role::Admin, Some(&self.admin)),
            (Role::Redirect, self.redirect.as_ref()),
        ];
        all.into_iter()
            .filter_map(|(role, listener)| Some((role, listener?)))
            .map(|(role, listener)| Ok((role, listener.as_fd().try_clone_to_owned()?)))
            .collect()
    }
}

/// None when the settings want no such listener.
async fn listener(
    role: Role,
    inherited: Option<OwnedFd>,
    settings: &Settings,
) -> Result<Option<TcpListener>, StartError> {
    let (option, Some(wanted)) = role.option(settings) else { return Ok(None) };
    let Some(socket) = inherited else { return service::bind(option, wanted).await.map(Some) };
    let adopt = || {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let refused = |error: io::Error| StartError::new(format!("{option}: the socket taken over: {error}"));
    let listener = adopt().map_err(refused)?;
    let addr = listener.local_addr().map_err(refused)?;
    if !names(wanted, addr).await {
        tracing::warn!(option, wanted, kept = %addr, "the socket taken over has another address, which it keeps");
    }
    Ok(Some(listener))
}

/// Whether `wanted` (`host:port`; port 0 is any) may have become `addr`.
async fn names(wanted: &str, addr: SocketAddr) -> bool {
    let found = tokio::net::lookup_host(wanted).await;
    found.is_ok_and(|mut found| {
        found.any(|found| found.ip() == addr.ip() && (found.port() == addr.port() || found.port() == 0))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    fn settings(redirect: Option<&str>) -> Settings {
        Settings {
            listen: "127.0.0.1:0".to_owned(),
            admin_listen: "127.0.0.1:0".to_owned(),
            redirect_listen: redirect.map(str::to_owned),
            ..Settings::default()
        }
    }

    #[tokio::test]
    async fn a_connection_that_waits_is_inherited_with_the_socket() {
        let old = Listeners::bind(&settings(None)).await.unwrap();
        let addr = old.https.local_addr().unwrap();
        let waiting = TcpStream::connect(addr).await.unwrap();
        let sockets = old.sockets().unwrap();
        drop(old);
        let new = Listeners::inherit(sockets, &settings(None)).await.unwrap();
        assert_eq!(new.https.local_addr().unwrap(), addr);
        let (_, peer) = new.https.accept().await.unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
    }

    #[tokio::test]
    async fn a_role_is_taken_bound_or_closed_as_the_settings_want() {
        let without = Listeners::bind(&settings(None)).await.unwrap();
        let with =
            Listeners::inherit(without.sockets().unwrap(), &settings(Some("127.0.0.1:0"))).await.unwrap();
        assert_eq!(with.admin.local_addr().unwrap(), without.admin.local_addr().unwrap());
        let addr = with.redirect.as_ref().unwrap().local_addr().unwrap();
        let sockets = with.sockets().unwrap();
        drop(with);
        let again = Listeners::inherit(sockets, &settings(None)).await.unwrap();
        assert!(again.redirect.is_none());
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[tokio::test]
    async fn an_address_is_known_by_its_name_too() {
        let addr = "127.0.0.1:8443".parse().unwrap();
        for (wanted, same) in [
            ("127.0.0.1:8443", true),
            ("localhost:8443", true),
            ("127.0.0.1:0", true),
            ("127.0.0.1:8444", false),
            ("0.0.0.0:8443", false),
        ] {
            assert_eq!(names(wanted, addr).await, same, "{wanted}");
        }
    }
}
