//! A port whose listener comes and goes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long a port is waited for that somebody else has taken.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves one connection, until the token says that it is cut.
type Serve = Arc<dyn Fn(TcpStream, CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// Accepts connections while it is open. Dropped, it cuts them.
pub(crate) struct Port {
    addr: SocketAddr,
    serve: Serve,
    state: Mutex<State>,
}

enum State {
    Open {
        /// Of the listener and of every connection.
        tasks: TaskTracker,
        stop: DropGuard,
    },
    /// A socket that does not listen keeps the port, so that nobody else gets it meanwhile.
    Closed(Option<TcpSocket>),
}

impl Port {
    /// It is open.
    pub(crate) fn new<F>(
        listener: TcpListener,
        serve: impl Fn(TcpStream, CancellationToken) -> F + Send + Sync + 'static,
    ) -> Port
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().unwrap();
        let serve: Serve = Arc::new(move |stream, cut| serve(stream, cut).boxed());
        let state = Mutex::new(open(listener, serve.clone()));
        Port { addr, serve, state }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Nobody listens any more, and every connection is cut; both is done when it returns.
    pub(crate) async fn close(&self) {
        let old = std::mem::replace(&mut *self.state.lock().unwrap(), State::Closed(None));
        let held = match old {
            State::Open { tasks, stop } => {
                drop(stop);
                tasks.close();
                tasks.wait().await;
                hold(self.addr)
            }
            State::Closed(held) => held,
        };
        *self.state.lock().unwrap() = State::Closed(held);
    }

    /// Listens on the same port again.
    pub(crate) async fn open(&self) {
        let held = match &mut *self.state.lock().unwrap() {
            State::Open { .. } => return,
            State::Closed(held) => held.take(),
        };
        let listener =
            tokio::time::timeout(PATIENCE, listen(self.addr, held)).await.expect("the port is free");
        *self.state.lock().unwrap() = open(listener, self.serve.clone());
    }
}

fn open(listener: TcpListener, serve: Serve) -> State {
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let accepting = accept(listener, serve, token.clone(), tasks.clone());
    tasks.spawn(token.clone().run_until_cancelled_owned(accepting));
    State::Open { tasks, stop: token.drop_guard() }
}

async fn accept(listener: TcpListener, serve: Serve, token: CancellationToken, tasks: TaskTracker) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it small answers wait for each other.
                stream.set_nodelay(true).ok();
                tasks.spawn(serve(stream, token.child_token()));
            }
            // Too many open files, most likely: connections have to end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn hold(addr: SocketAddr) -> Option<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.ok()?;
    socket.set_reuseaddr(true).ok()?;
    socket.bind(addr).ok()?;
    Some(socket)
}

/// Not every system lets somebody listen on a port that is held: there it is given up first.
async fn listen(addr: SocketAddr, mut held: Option<TcpSocket>) -> TcpListener {
    loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => return listener,
            Err(_) if held.take().is_some() => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
