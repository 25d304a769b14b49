//! Every fault of the proxy, in front of a small echo server.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use faults::tcp::{Fault, Proxy};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// Only what never comes takes this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer that is not held back to arrive.
const SILENCE: Duration = Duration::from_millis(200);

/// Sends back what it gets, and tells the test.
struct Echo {
    addr: SocketAddr,
    heard: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Echo {
    async fn start() -> Echo {
        Echo::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn on(listener: TcpListener) -> Echo {
        let (tell, heard) = mpsc::unbounded_channel();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream, tell.clone()));
            }
        });
        Echo { addr, heard }
    }

    /// The next thing it is told; an empty one at a connection's end.
    async fn hears(&mut self) -> Vec<u8> {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap()
    }
}

async fn echo(mut stream: TcpStream, tell: mpsc::UnboundedSender<Vec<u8>>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(read) = stream.read(&mut chunk).await {
        tell.send(chunk[..read].to_vec()).ok();
        if read == 0 || stream.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

struct Client(TcpStream);

impl Client {
    async fn connect(proxy: &Proxy) -> Client {
        Client(TcpStream::connect(proxy.addr()).await.unwrap())
    }

    async fn says(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    async fn reads(&mut self, text: &str) {
        let mut read = vec![0; text.len()];
        tokio::time::timeout(PATIENCE, self.0.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), text);
    }

    async fn is_answered(&mut self, text: &str) {
        self.says(text).await;
        self.reads(text).await;
    }

    async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(SILENCE, self.0.read_u8()).await;
        assert!(heard.is_err(), "there is an answer: {heard:?}");
    }

    async fn is_reset(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("the connection ends");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn without_a_fault_everything_passes_both_ways() {
    let mut echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut client = Client::connect(&proxy).await;
    client.is_answered("one").await;
    client.is_answered("two").await;
    assert_eq!((echo.hears().await, echo.hears().await), (b"one".to_vec(), b"two".to_vec()));
    // The ends of both streams, too.
    client.0.shutdown().await.unwrap();
    assert_eq!(echo.hears().await, b"");
    assert_eq!(client.0.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn large_streams_arrive_whole() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let sent: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let (mut read, mut write) = Client::connect(&proxy).await.0.into_split();
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (read, ()) = tokio::join!(read.read_to_end(&mut back), writing);
    read.unwrap();
    assert!(back == sent);
}

#[tokio::test]
async fn the_target_need_not_be_up_yet() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(addr).await;
    Client::connect(&proxy).await.is_reset().await;
    let _echo = Echo::on(TcpListener::bind(addr).await.unwrap());
    Client::connect(&proxy).await.is_answered("hello").await;
}

#[tokio::test]
async fn refuse_resets_open_connections_and_takes_no_new_ones() {
    let echo = Echo::start().await;
    let proxy = Proxy::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), echo.addr).await;
    let mut open = Client::connect(&proxy).await;
    open.is_answered("hello").await;
    proxy.fault(Fault::Refuse).await;
    open.is_reset().await;
    for _ in 0..3 {
        let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(proxy.connections(), 1);
    proxy.fault(Fault::Refuse).await;
    proxy.fault(Fault::None).await;
    Client::connect(&proxy).await.is_answered("again").await;
}

#[tokio::test]
async fn a_refused_port_goes_to_nobody_else() {
    let proxy = Proxy::start("127.0.0.1:9".parse().unwrap()).await;
    proxy.fault(Fault::Refuse).await;
    // As the system does when somebody asks for any free port.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert_eq!(other.bind(&proxy.addr().into()).unwrap_err().kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn reset_accepts_and_resets() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut open = Client::connect(&proxy).await;
    open.is_answered("hello").await;
    proxy.fault(Fault::Reset).await;
    open.is_reset().await;
    Client::connect(&proxy).await.is_reset().await;
    assert_eq!(proxy.connections(), 2);
    proxy.fault(Fault::None).await;
    Client::connect(&proxy).await.is_answered("again").await;
}

#[tokio::test]
async fn swallowed_bytes_go_nowhere() {
    let mut echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut open = Client::connect(&proxy).await;
    open.is_answered("before").await;
    proxy.fault(Fault::Swallow).await;
    let mut new = Client::connect(&proxy).await;
    for client in [&mut open, &mut new] {
        client.says("lost").await;
        client.hears_nothing().await;
    }
    proxy.fault(Fault::None).await;
    open.is_answered("after").await;
    new.is_answered("later").await;
    for heard in ["before", "after", "later"] {
        assert_eq!(echo.hears().await, heard.as_bytes());
    }
}

#[tokio::test]
async fn swallow_needs_no_target() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(addr).await;
    proxy.fault(Fault::Swallow).await;
    let mut client = Client::connect(&proxy).await;
    client.says("lost").await;
    client.hears_nothing().await;
}

#[tokio::test]
async fn delay_waits_in_both_directions() {
    const DELAY: Duration = Duration::from_millis(100);
    let mut echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut client = Client::connect(&proxy).await;
    client.is_answered("fast").await;
    echo.hears().await;
    proxy.fault(Fault::Delay(DELAY)).await;
    let begin = Instant::now();
    client.says("slow").await;
    echo.hears().await;
    assert!(begin.elapsed() >= DELAY, "{:?}", begin.elapsed());
    client.reads("slow").await;
    assert!(begin.elapsed() >= 2 * DELAY, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_delay_ends_with_its_fault() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    proxy.fault(Fault::Delay(2 * PATIENCE)).await;
    let mut client = Client::connect(&proxy).await;
    client.says("held back").await;
    client.hears_nothing().await;
    proxy.fault(Fault::None).await;
    client.reads("held back").await;
}

#[tokio::test]
async fn cut_lets_that_many_bytes_through() {
    let mut echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut open = Client::connect(&proxy).await;
    open.is_answered("not counted").await;
    proxy.fault(Fault::Cut(7)).await;
    open.is_answered("1234").await;
    open.says("56789").await;
    open.reads("567").await;
    open.is_reset().await;
    let mut new = Client::connect(&proxy).await;
    new.is_answered("1234567").await;
    new.is_reset().await;
    proxy.fault(Fault::Cut(0)).await;
    let mut unanswered = Client::connect(&proxy).await;
    unanswered.says("request").await;
    unanswered.is_reset().await;
    while echo.hears().await != b"request" {}
}

#[tokio::test]
async fn mute_keeps_the_answers_back() {
    let mut echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let mut open = Client::connect(&proxy).await;
    open.is_answered("before").await;
    echo.hears().await;
    proxy.fault(Fault::Mute).await;
    let mut new = Client::connect(&proxy).await;
    for client in [&mut open, &mut new] {
        client.says("heard").await;
        assert_eq!(echo.hears().await, b"heard");
        client.hears_nothing().await;
    }
    proxy.fault(Fault::None).await;
    open.is_answered("after").await;
}

#[tokio::test]
async fn mute_keeps_the_end_back_too() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(target.local_addr().unwrap()).await;
    proxy.fault(Fault::Mute).await;
    let mut client = Client::connect(&proxy).await;
    drop(target.accept().await.unwrap());
    client.hears_nothing().await;
    proxy.fault(Fault::None).await;
    assert_eq!(tokio::time::timeout(PATIENCE, client.0.read(&mut [0])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn cut_now_resets_what_is_open_and_nothing_else() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let (mut one, mut other) = (Client::connect(&proxy).await, Client::connect(&proxy).await);
    one.is_answered("one").await;
    other.is_answered("other").await;
    proxy.cut();
    one.is_reset().await;
    other.is_reset().await;
    Client::connect(&proxy).await.is_answered("again").await;
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test]
async fn a_dropped_proxy_is_gone() {
    let echo = Echo::start().await;
    let proxy = Proxy::start(echo.addr).await;
    let addr = proxy.addr();
    let mut open = Client::connect(&proxy).await;
    open.is_answered("hello").await;
    drop(proxy);
    open.is_reset().await;
    let refused = async { while TcpStream::connect(addr).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("nobody listens");
}
