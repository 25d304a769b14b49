//! A TCP proxy that misbehaves as it is told.

use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::port::Port;

/// The most bytes that are passed on at once.
const CHUNK: usize = 64 * 1024;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: bytes and ends of streams are passed on in both directions. When the target is not to be had, the client
    /// is reset.
    None,
    /// Connections are refused: nobody listens.
    Refuse,
    /// Accepted, then reset (RST, SO_LINGER 0).
    Reset,
    /// What the client sends is read and goes nowhere; it gets no answer. The target need not be up.
    Swallow,
    /// Each chunk (what comes in one read, at most 64 KiB) waits this long, in both directions.
    Delay(Duration),
    /// Cut (reset) after this many bytes of answer, counted from when the fault began or the connection, if that is
    /// later. With 0 the request arrives and nothing of its answer.
    Cut(usize),
    /// The client's bytes arrive, the answers do not.
    Mute,
}

impl Fault {
    fn mutes(&self) -> bool {
        matches!(self, Fault::Swallow | Fault::Mute)
    }
}

struct Shared {
    target: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Cuts the connections that are open now; later ones get a new one.
    cut: Mutex<CancellationToken>,
    connections: AtomicUsize,
}

/// Stops, and resets its connections, when it is dropped.
pub struct Proxy {
    port: Port,
    shared: Arc<Shared>,
}

impl Proxy {
    /// On a free port of 127.0.0.1. The target need not be up yet.
    pub async fn start(target: SocketAddr) -> Proxy {
        Proxy::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), target).await
    }

    /// Behind that listener.
    pub async fn on(listener: TcpListener, target: SocketAddr) -> Proxy {
        let shared = Arc::new(Shared {
            target,
            fault: watch::Sender::new(Fault::None),
            cut: Mutex::default(),
            connections: AtomicUsize::default(),
        });
        let port = Port::new(listener, {
            let shared = shared.clone();
            move |client, stop| serve(client, shared.clone(), stop)
        });
        Proxy { port, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// From now on, for new connections and for those that are open (an open one is reset for Refuse and Reset).
    pub async fn fault(&self, fault: Fault) {
        self.shared.fault.send_replace(fault);
        match fault {
            Fault::Refuse => self.port.close().await,
            Fault::Reset => {
                self.cut();
                self.port.open().await;
            }
            _ => self.port.open().await,
        }
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        std::mem::take(&mut *self.shared.cut.lock().unwrap()).cancel();
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>, stop: CancellationToken) {
    shared.connections.fetch_add(1, Ordering::SeqCst);
    // Before the fault is looked at: a connection that misses a reset sees the fault that asked for it.
    let cut = shared.cut.lock().unwrap().clone();
    let faults = shared.fault.subscribe();
    let mut target = None;
    let passed = tokio::select! {
        biased;
        () = stop.cancelled() => Err(ErrorKind::ConnectionReset.into()),
        () = cut.cancelled() => Err(ErrorKind::ConnectionReset.into()),
        passed = pass(&mut client, &mut target, &shared, faults) => passed,
    };
    if passed.is_err() {
        // What is dropped with this is reset. It fails only for a connection that is gone.
        client.set_zero_linger().ok();
        target.map(|target: TcpStream| target.set_zero_linger().ok());
    }
}

/// One connection. An error means that it is to be reset.
async fn pass(
    client: &mut TcpStream,
    target: &mut Option<TcpStream>,
    shared: &Shared,
    mut faults: watch::Receiver<Fault>,
) -> Result<()> {
    if *faults.borrow() == Fault::Reset {
        return Err(ErrorKind::ConnectionReset.into());
    }
    swallow(client, &mut faults).await?;
    let target = target.insert(TcpStream::connect(shared.target).await?);
    target.set_nodelay(true)?;
    let ((from_client, mut to_client), (from_target, to_target)) = (client.split(), target.split());
    let client_done = CancellationToken::new();
    let requests = async {
        requests(from_client, to_target, faults.clone()).await?;
        client_done.cancel();
        Ok(())
    };
    let answers = async {
        answers(from_target, &mut to_client, faults.clone()).await?;
        // The answer's end is part of it. A client that has gone waits for nothing.
        let mut faults = faults.clone();
        tokio::select! {
            _ = faults.wait_for(|fault| !fault.mutes()) => {}
            () = client_done.cancelled() => {}
        }
        to_client.shutdown().await
    };
    tokio::try_join!(requests, answers).map(drop)
}

/// As long as nothing is to arrive, no target is needed either.
async fn swallow(client: &mut TcpStream, faults: &mut watch::Receiver<Fault>) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    while *faults.borrow_and_update() == Fault::Swallow {
        tokio::select! {
            _ = faults.changed() => {}
            read = client.read(&mut chunk) => if read? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            },
        }
    }
    Ok(())
}

/// Until the client has nothing more to say.
async fn requests(
    mut client: ReadHalf<'_>,
    mut target: WriteHalf<'_>,
    mut faults: watch::Receiver<Fault>,
) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = client.read(&mut chunk).await?;
        match (met(&mut faults).await, read) {
            // Nothing is swallowed any more, and nothing is to be answered.
            (Fault::Swallow, 0) => return Err(ErrorKind::UnexpectedEof.into()),
            (Fault::Swallow, _) => {}
            (_, 0) => return target.shutdown().await,
            (_, read) => target.write_all(&chunk[..read]).await?,
        }
    }
}

/// Until the target has nothing more to say.
async fn answers(
    mut target: ReadHalf<'_>,
    client: &mut WriteHalf<'_>,
    mut faults: watch::Receiver<Fault>,
) -> Result<()> {
    let (mut chunk, mut passed) = (vec![0; CHUNK], 0);
    loop {
        let read = match target.read(&mut chunk).await {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            // Who gets no answers does not learn either that the target has gone.
            Err(_) if faults.borrow().mutes() => return Ok(()),
            Err(error) => return Err(error),
        };
        if faults.has_changed().unwrap_or_default() {
            passed = 0;
        }
        match met(&mut faults).await {
            Fault::Swallow | Fault::Mute => {}
            Fault::Cut(limit) => {
                let left = read.min(limit.saturating_sub(passed));
                client.write_all(&chunk[..left]).await?;
                passed += left;
                if passed >= limit {
                    return Err(ErrorKind::ConnectionReset.into());
                }
            }
            _ => client.write_all(&chunk[..read]).await?,
        }
    }
}

/// What a chunk meets, after its delay. A fault that is told meanwhile counts at once.
async fn met(faults: &mut watch::Receiver<Fault>) -> Fault {
    loop {
        let fault = *faults.borrow_and_update();
        let Fault::Delay(time) = fault else { return fault };
        if tokio::time::timeout(time, faults.changed()).await.is_err() {
            return fault;
        }
    }
}
