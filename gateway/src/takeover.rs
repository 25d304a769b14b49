//! One gateway gives its listening sockets to the next, over a Unix socket.
//!
//! The next one (`serve --upgrade`) checks its configuration, then waits at the Unix socket. On SIGQUIT the running
//! one connects, sends its sockets, and serves on. The next one prepares until it could answer any request, says so
//! with one byte ([`READY`]) and begins to accept; upon the byte the running one stops accepting and drains. Both hold
//! the same sockets, so a connection that nobody has accepted yet waits in the kernel for whoever does next.

mod wire;

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use common::http::Readiness;
use common::service::StartError;
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::wire::{receive, send};
use crate::listeners::Sockets;

/// How long the next gateway waits for the running one.
const WAIT: Duration = Duration::from_secs(60);
/// How long it may then prepare. Less than the running one's patience, so that it is not taken for failed when it is
/// not.
const PREPARE: Duration = Duration::from_secs(30);
/// How long the running gateway waits to hear that the next one is ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long anything takes that needs no waiting.
const PROMPT: Duration = Duration::from_secs(5);
/// Between two looks at whether the next gateway is ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// From the next one: I begin to accept.
const READY: u8 = b'!';
/// From the running one: I wait no longer, and go on.
const OVER: u8 = b'x';

/// Options of `gateway serve` for the change from one process to the next.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Takes the listening sockets over from the running gateway, once that one gets SIGQUIT
    #[arg(long)]
    pub upgrade: bool,

    /// The Unix socket where the next gateway waits for the running one
    /// [default: vedetta-gateway.sock in XDG_RUNTIME_DIR, or vedetta-gateway-UID.sock in the folder for temporary files]
    #[arg(long, env = "UPGRADE_SOCKET", value_name = "PATH")]
    pub upgrade_socket: Option<PathBuf>,
}

impl Options {
    /// Where the two meet.
    pub(crate) fn path(&self) -> PathBuf {
        let runtime_folder = || std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        self.upgrade_socket.clone().unwrap_or_else(|| match runtime_folder() {
            Some(folder) => Path::new(&folder).join("vedetta-gateway.sock"),
            None => std::env::temp_dir().join(format!("vedetta-gateway-{}.sock", geteuid().as_raw())),
        })
    }
}

/// The running gateway's side: gives its sockets away when it is told to.
#[derive(Debug)]
pub(crate) struct Giver {
    quits: Signal,
    path: PathBuf,
}

impl Giver {
    /// From here on SIGQUIT no longer ends the process.
    pub(crate) fn new(path: PathBuf) -> Result<Giver, StartError> {
        let refused = |error| StartError::new(format!("SIGQUIT cannot be received: {error}"));
        Ok(Giver { quits: signal(SignalKind::quit()).map_err(refused)?, path })
    }

    /// Gives these sockets away on SIGQUIT; then cancels both tokens: the gateway is to stop, and its admin port at
    /// once, since the next one has it. An attempt that fails is one line in the log. Ends when `token` is cancelled;
    /// connections are refused from then on only, for a socket is open as long as any copy of it.
    pub(crate) async fn give_until_cancelled(
        mut self,
        sockets: Sockets,
        token: CancellationToken,
        admin: CancellationToken,
    ) {
        let giving = async {
            while self.quits.recv().await.is_some() {
                match give(&self.path, &sockets).await {
                    Ok(()) => {
                        tracing::info!("another gateway has taken over; stopping");
                        admin.cancel();
                        return token.cancel();
                    }
                    Err(error) => {
                        let socket = self.path.display();
                        tracing::warn!(%socket, %error, "SIGQUIT: nobody takes over; serving on");
                    }
                }
            }
        };
        token.run_until_cancelled(giving).await;
    }
}

async fn give(path: &Path, sockets: &Sockets) -> io::Result<()> {
    let mut stream = timeout(PROMPT, UnixStream::connect(path)).await??;
    if !is_ours(&stream)? {
        return Err(io::Error::other("the process at the socket belongs to another user"));
    }
    timeout(PROMPT, send(&stream, sockets)).await??;
    match timeout(PATIENCE, stream.read_u8()).await {
        Ok(Ok(READY)) => Ok(()),
        Ok(Ok(_) | Err(_)) => Err(io::Error::other("the new gateway ended before it was ready")),
        Err(_) => {
            let _ = stream.write_u8(OVER).await;
            Err(io::Error::other("the new gateway did not become ready in time"))
        }
    }
}

/// Whether the process at the other end runs as the same user. Whoever else could write to the folder of the socket
/// might offer one of his own.
fn is_ours(stream: &UnixStream) -> io::Result<bool> {
    Ok(stream.peer_cred()?.uid() == geteuid().as_raw())
}

/// The next gateway's side, while it waits. The Unix socket goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Taker {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Taker {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Taker {
    /// Opens the Unix socket, for this user only; one that was left behind is replaced.
    pub(crate) async fn new(path: PathBuf) -> Result<Taker, StartError> {
        let refused = |why: &dyn std::fmt::Display| {
            StartError::new(format!("--upgrade-socket: {}: {why}", path.display()))
        };
        if std::fs::symlink_metadata(&path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(refused(&"there is a file that is not a socket"));
        }
        if UnixStream::connect(&path).await.is_ok() {
            return Err(refused(&"another process waits there already"));
        }
        // It gets its name only when it listens and has its mode: who finds it can use it, and nobody else ever could.
        let mut unnamed = path.clone().into_os_string();
        unnamed.push(format!(".{}", std::process::id()));
        let listen = || {
            let _ = std::fs::remove_file(&unnamed);
            let listener = UnixListener::bind(&unnamed)?;
            std::fs::set_permissions(&unnamed, std::fs::Permissions::from_mode(0o600))?;
            std::fs::rename(&unnamed, &path)?;
            Ok(listener)
        };
        let listener = listen().map_err(|error: io::Error| {
            let _ = std::fs::remove_file(&unnamed);
            refused(&error)
        })?;
        Ok(Taker { listener, path })
    }

    /// Waits until the running gateway has sent its sockets.
    pub(crate) async fn take(self) -> Result<(Sockets, Predecessor), StartError> {
        let socket = self.path.display();
        tracing::info!(%socket, "waiting for the running gateway, which hands over on SIGQUIT");
        let until = Instant::now() + WAIT;
        loop {
            let Ok(accepted) = timeout_at(until, self.listener.accept()).await else {
                let waited = WAIT.as_secs();
                let why = format!(
                    "--upgrade: no gateway has handed over within {waited} s; send SIGQUIT to the running one"
                );
                return Err(StartError::new(why));
            };
            match self.receive(accepted.map(|(stream, _)| stream)).await {
                Ok((sockets, stream)) => {
                    tracing::info!(
                        sockets = sockets.len(),
                        "the running gateway has sent its sockets; preparing"
                    );
                    return Ok((sockets, Predecessor { stream, prepared_by: Instant::now() + PREPARE }));
                }
                // Somebody else at the door is no reason to go.
                Err(error) => tracing::warn!(%error, "nothing was handed over"),
            }
        }
    }

    async fn receive(&self, accepted: io::Result<UnixStream>) -> io::Result<(Sockets, UnixStream)> {
        let stream = accepted?;
        if !is_ours(&stream)? {
            return Err(io::Error::other("the process at the socket belongs to another user"));
        }
        let sockets = timeout(PROMPT, receive(&stream)).await??;
        Ok((sockets, stream))
    }
}

/// The running gateway, for as long as it waits for the next one to be ready.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
    prepared_by: Instant,
}

impl Predecessor {
    /// Waits until `ready`, and tells the running gateway, which then stops. The caller begins to accept when this
    /// has returned.
    pub(crate) async fn relieve(mut self, ready: &Readiness) -> Result<(), StartError> {
        let refused = |why: &str| StartError::new(format!("--upgrade: {why}; the running gateway goes on"));
        let mut missing = String::new();
        let prepared = async {
            while let Err(what) = ready().await {
                missing = what;
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            prepared = timeout_at(self.prepared_by, prepared) => {
                if prepared.is_err() {
                    return Err(refused(&format!("not ready within {} s: {missing}", PREPARE.as_secs())));
                }
            }
            answer = self.stream.read_u8() => return match answer {
                Ok(_) => Err(refused("the running gateway waited no longer")),
                // It was stopped. Whoever is late is better than nobody.
                Err(_) => Ok(()),
            },
        }
        // An error says that it has gone just now: then there is nobody to tell.
        let _ = self.stream.write_u8(READY).await;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    use common::http::ready_when;
    use tempfile::TempDir;

    use super::*;
    use crate::listeners::Role;

    /// Two sockets with their roles, and a connection that waits at the first.
    fn sockets() -> (Sockets, std::net::TcpStream) {
        let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
        let https = listener();
        let waiting = std::net::TcpStream::connect(https.local_addr().unwrap()).unwrap();
        (vec![(Role::Https, OwnedFd::from(https)), (Role::Admin, OwnedFd::from(listener()))], waiting)
    }

    fn ready(answer: Result<(), &'static str>) -> Readiness {
        ready_when(move || async move { answer.map_err(str::to_owned) })
    }

    #[tokio::test]
    async fn sockets_change_hands_with_what_waits_at_them() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let taker = Taker::new(path.clone()).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let giving = tokio::spawn(async move {
            let (sockets, waiting) = sockets();
            give(&path, &sockets).await.unwrap();
            waiting
        });
        // Somebody else at the door.
        drop(UnixStream::connect(&taker.path).await.unwrap());
        let (taken, predecessor) = taker.take().await.unwrap();
        assert!(!giving.is_finished());
        predecessor.relieve(&ready(Ok(()))).await.unwrap();
        let waiting = giving.await.unwrap();
        let [(Role::Https, https), (Role::Admin, _)] = <[_; 2]>::try_from(taken).unwrap() else {
            panic!("other roles")
        };
        let (_, peer) = TcpListener::from(https).accept().unwrap();
        assert_eq!(peer, waiting.local_addr().unwrap());
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
    }

    #[tokio::test]
    async fn who_fails_to_prepare_takes_nothing_over() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        let (sockets, _waiting) = sockets();
        assert!(give(&path, &sockets).await.is_err(), "there is nobody");
        let taker = Taker::new(path.clone()).await.unwrap();
        let taking = async { drop(taker.take().await.unwrap()) };
        let (given, ()) = tokio::join!(give(&path, &sockets), taking);
        assert!(given.unwrap_err().to_string().contains("ended before it was ready"));
    }

    #[tokio::test]
    async fn who_is_not_ready_says_what_was_missing() {
        let (_old, new) = UnixStream::pair().unwrap();
        let predecessor = Predecessor { stream: new, prepared_by: Instant::now() };
        let refusal = predecessor.relieve(&ready(Err("the keys"))).await.unwrap_err().to_string();
        assert!(refusal.contains("--upgrade") && refusal.contains("the keys"), "{refusal}");
    }

    #[tokio::test]
    async fn who_is_late_goes_unless_nobody_else_serves() {
        let late = |stream| Predecessor { stream, prepared_by: Instant::now() + WAIT };
        let (mut old, new) = UnixStream::pair().unwrap();
        old.write_u8(OVER).await.unwrap();
        let refusal = late(new).relieve(&ready(Err("the keys"))).await.unwrap_err();
        assert!(refusal.to_string().contains("waited no longer"), "{refusal}");
        let (old, new) = UnixStream::pair().unwrap();
        drop(old);
        late(new).relieve(&ready(Err("the keys"))).await.unwrap();
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_uses_is_replaced() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let first = Taker::new(path.clone()).await.unwrap();
        let refusal = Taker::new(path.clone()).await.unwrap_err().to_string();
        assert!(refusal.contains("another process"), "{refusal}");
        drop(first);
        std::fs::write(&path, "precious").unwrap();
        let refusal = Taker::new(path.clone()).await.unwrap_err().to_string();
        assert!(refusal.contains("not a socket"), "{refusal}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let nowhere = folder.path().join("nowhere/socket");
        assert!(Taker::new(nowhere).await.unwrap_err().to_string().contains("--upgrade-socket"));
    }
}
