//! `upstream`: a service of known speed behind the gateway. It takes `--delay` for a request and works on at most
//! `--concurrency` of them at once, so its capacity is the one divided by the other; further ones queue.
//! `/bytes/N` answers N bytes, everything else a short text; `/requests` on the admin port tells how many there were.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// What `/bytes/N` answers at most. One copy serves all.
static LARGEST: [u8; 4 << 20] = [b'x'; 4 << 20];

#[derive(Parser)]
#[command(about = "A service of known speed behind the gateway")]
struct Options {
    /// Where requests are answered
    #[arg(long)]
    listen: SocketAddr,

    /// Where /readyz, /keys and /requests are answered
    #[arg(long)]
    admin_listen: SocketAddr,

    /// What one request takes
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    delay: Duration,

    /// Requests that are worked on at once
    #[arg(long, default_value_t = 10_000)]
    concurrency: usize,
}

/// How requests are served, and how many were.
struct Service {
    delay: Duration,
    places: Semaphore,
    requests: AtomicUsize,
}

#[derive(Clone, Copy)]
enum Port {
    Public,
    Admin,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let service = Arc::new(Service {
        delay: options.delay,
        places: Semaphore::new(options.concurrency),
        requests: AtomicUsize::new(0),
    });
    let public = TcpListener::bind(options.listen).await?;
    let admin = TcpListener::bind(options.admin_listen).await?;
    tokio::try_join!(serve(public, Port::Public, service.clone()), serve(admin, Port::Admin, service))?;
    Ok(())
}

async fn serve(listener: TcpListener, port: Port, service: Arc<Service>) -> std::io::Result<()> {
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        tokio::spawn(connection(tcp, port, service.clone()));
    }
}

/// Serves one connection until its client ends it.
async fn connection(tcp: TcpStream, port: Port, service: Arc<Service>) {
    let answer = service_fn(async |request| {
        Ok::<_, Infallible>(match port {
            Port::Public => service.answer(request).await,
            Port::Admin => service.tell(&request),
        })
    });
    // An error is a client that went away.
    let _ = pin!(http1::Builder::new().serve_connection(TokioIo::new(tcp), answer)).await;
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let size = request.uri().path().strip_prefix("/bytes/").map(str::parse::<usize>);
        if drain(request.into_body()).await.is_err() {
            return reply(StatusCode::BAD_REQUEST, Bytes::new());
        }
        // The semaphore is never closed.
        let _place = self.places.acquire().await;
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        self.requests.fetch_add(1, Relaxed);
        match size {
            None => reply(StatusCode::OK, Bytes::from_static(b"hello\n")),
            Some(size) => match size.ok().and_then(|size| LARGEST.get(..size)) {
                Some(bytes) => reply(StatusCode::OK, Bytes::from_static(bytes)),
                None => reply(StatusCode::NOT_FOUND, Bytes::new()),
            },
        }
    }

    fn tell(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/readyz" => reply(StatusCode::OK, Bytes::from_static(b"ready\n")),
            // user_manager's, before anybody has a token.
            "/keys" => reply(StatusCode::OK, Bytes::from_static(br#"{"keys":[],"revoked":[]}"#)),
            "/requests" => reply(StatusCode::OK, format!("{}\n", self.requests.load(Relaxed)).into()),
            _ => reply(StatusCode::NOT_FOUND, Bytes::new()),
        }
    }
}

async fn drain(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

fn reply(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}
