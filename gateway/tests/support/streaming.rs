//! A service that does what echo cannot, byte by byte: it upgrades, tells events, streams, and never ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, broadcast};

use super::LONG;

const UPGRADED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
const ORDINARY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nordinary";

/// By path: `/live` upgrades when asked and then echoes, `/unasked` upgrades without being asked, `/events` is an event
/// stream of what the test says, `/chunks` echoes its chunked body as it comes, `/endless` has an endless body,
/// everything else is answered shortly.
pub struct Streaming {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    heads: Mutex<Vec<String>>,
    said: broadcast::Sender<String>,
    listening: Semaphore,
    ended: Semaphore,
}

impl Streaming {
    pub async fn start() -> Streaming {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            heads: Mutex::default(),
            said: broadcast::Sender::new(64),
            listening: Semaphore::new(0),
            ended: Semaphore::new(0),
        });
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(serve(tcp, serving.clone()));
            }
        });
        Streaming { addr, shared }
    }

    /// The flag that puts it in the place of data_collector.
    pub fn flag(&self) -> String {
        format!("--data-collector-url=http://{}", self.addr)
    }

    /// The heads of all requests so far, in lower case.
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }

    /// Tells an event to everybody who listens.
    pub fn say(&self, event: &str) {
        let _ = self.shared.said.send(format!("data: {event}\n\n"));
    }

    /// Waits until one more event stream listens.
    pub async fn is_listened_to(&self) {
        tokio::time::timeout(LONG, self.shared.listening.acquire()).await.unwrap().unwrap().forget();
    }

    /// Waits until one more stream (`/live`, `/events`, `/endless`) has been ended by the gateway.
    pub async fn is_hung_up(&self) {
        tokio::time::timeout(LONG, self.shared.ended.acquire()).await.unwrap().unwrap().forget();
    }
}

async fn serve(mut tcp: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    shared.heads.lock().unwrap().push(head.clone());
    let path = head.split(' ').nth(1).unwrap_or_default();
    let is_stream = matches!(path, "/live" | "/events" | "/endless");
    let result = match path {
        "/live" if head.contains("\r\nupgrade: websocket\r\n") => echo(&mut tcp).await,
        "/unasked" => tcp.write_all(UPGRADED.as_bytes()).await,
        "/events" => events(&mut tcp, &shared).await,
        "/chunks" => chunks(&mut tcp).await,
        "/endless" => endless(&mut tcp).await,
        _ => tcp.write_all(ORDINARY.as_bytes()).await,
    };
    if is_stream {
        shared.ended.add_permits(1);
    }
    result
}

async fn echo(tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.write_all(UPGRADED.as_bytes()).await?;
    let (mut reader, mut writer) = tcp.split();
    tokio::io::copy(&mut reader, &mut writer).await.map(|_| ())
}

async fn events(tcp: &mut TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut said = shared.said.subscribe();
    tcp.write_all(EVENTS.as_bytes()).await?;
    shared.listening.add_permits(1);
    let mut body = [0; 4096];
    loop {
        tokio::select! {
            event = said.recv() => tcp.write_all(&chunk(event.unwrap_or_default().as_bytes())).await?,
            read = tcp.read(&mut body) => if read? == 0 { return Ok(()) },
        }
    }
}

/// The raw body, framing and all, comes back in chunks.
async fn chunks(tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.write_all(CHUNKED.as_bytes()).await?;
    let (mut body, mut piece) = (Vec::new(), [0; 4096]);
    while !body.ends_with(b"0\r\n\r\n") {
        let count = tcp.read(&mut piece).await?;
        if count == 0 {
            return Ok(());
        }
        body.extend(&piece[..count]);
        tcp.write_all(&chunk(&piece[..count])).await?;
    }
    tcp.write_all(b"0\r\n\r\n").await
}

async fn endless(tcp: &mut TcpStream) -> std::io::Result<()> {
    tcp.write_all(CHUNKED.as_bytes()).await?;
    let piece = chunk(&[b'x'; 16 * 1024]);
    loop {
        tcp.write_all(&piece).await?;
    }
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}
