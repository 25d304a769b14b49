//! The time-outs of the configuration file: each test fails when its key has no effect. What waits is ended long before
//! the default, with every other time-out that could end it at an hour. `stream_idle` is in `streams.rs`.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use support::frames::{H2, setting};
use support::streaming::Streaming;
use support::wire::{Wire, one_problem};
use support::{LONG, World, deaf_listener, problem, timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// A configuration in which only this time-out is short.
fn short(name: &str) -> String {
    timeouts(&[(name, "200ms")])
}

/// Asserts that not nearly as many seconds have gone by as the default is.
#[track_caller]
fn well_before(default: u64, since: Instant) {
    let took = since.elapsed();
    assert!(took < Duration::from_secs(default) * 4 / 5, "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshake() {
    let world = World::with_config(&short("handshake")).await;
    let since = Instant::now();
    let mut tcp = std::net::TcpStream::connect(world.addr).unwrap();
    tcp.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    well_before(10, since);
}

#[tokio::test(flavor = "multi_thread")]
async fn head() {
    let world = World::with_config(&short("head")).await;
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    wire.send("GET /nope HTTP/1.1\r\nHo");
    one_problem(&wire.rest(), 408, "request-timeout");
    well_before(15, since);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle() {
    let world = World::with_config(&short("idle")).await;
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    wire.send("GET /nope HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(wire.answer().status, 404);
    assert_eq!(wire.rest(), "");
    well_before(75, since);
    let mut connection = H2::new(&world, &[]);
    let since = Instant::now();
    connection.answers(1);
    connection.end();
    well_before(75, since);
}

#[tokio::test(flavor = "multi_thread")]
async fn body() {
    let world = World::with_config(&short("body")).await;
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    wire.send("POST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    one_problem(&wire.rest(), 408, "request-timeout");
    well_before(30, since);
}

#[tokio::test(flavor = "multi_thread")]
async fn write() {
    let upstream = Streaming::start().await;
    let world = World::with_config_and(&short("write"), &[upstream.flag()]).await;
    let authorization = format!("Bearer {}", world.token());
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    wire.send(format!(
        "GET /data_collector/endless HTTP/1.1\r\nHost: a\r\nAuthorization: {authorization}\r\n\r\n"
    ));
    upstream.is_hung_up().await;
    well_before(8, since);
    let mut connection = H2::new(&world, &setting(INITIAL_WINDOW_SIZE, 0));
    let since = Instant::now();
    connection.get(1, "/nope", &[]);
    connection.end();
    well_before(8, since);
}

#[tokio::test]
async fn connect() {
    let (deaf, _full) = deaf_listener().await;
    let flag = format!("--data-collector-url=http://{deaf}");
    let world = World::with_config_and("[timeouts]\nconnect = '3s'", &[flag]).await;
    let since = Instant::now();
    problem(world.get("/data_collector/status").await, 504, "gateway-timeout").await;
    // By default it is given up after one second.
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test]
async fn upstream_read() {
    let world = World::with_config(&short("upstream_read")).await;
    let since = Instant::now();
    // The service never answers.
    problem(world.get("/user_manager/slow").await, 504, "gateway-timeout").await;
    well_before(30, since);
}

#[tokio::test]
async fn upstream_write() {
    // The kernel takes connections and some bytes; nobody reads them.
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flag = format!("--data-collector-url=http://{}", service.local_addr().unwrap());
    let route =
        "[[routes]]\nprefix = '/data_collector/'\nupstream = 'data_collector'\nmax_body = 100000000\n";
    // Pingora waits for an answer once more before it says that the service takes nothing.
    let short = timeouts(&[("upstream_write", "200ms"), ("upstream_read", "200ms")]);
    let world = World::with_config_and(&(route.to_owned() + &short), &[flag]).await;
    let request = world.client().post(world.url("/data_collector/x")).bearer_auth(world.token());
    let since = Instant::now();
    let answer = request.body(vec![0; 32 << 20]).send().await.unwrap();
    problem(answer, 504, "gateway-timeout").await;
    well_before(15, since);
}

#[tokio::test]
async fn upstream_idle() {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flag = format!("--data-collector-url=http://{}", service.local_addr().unwrap());
    let world = World::with_config_and("[timeouts]\nupstream_idle = '200ms'", &[flag]).await;
    let serving = async {
        let (mut tcp, _) = service.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tcp.read_u8().await.unwrap());
        }
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        let since = Instant::now();
        let end = timeout(LONG, tcp.read(&mut [0])).await.unwrap();
        assert!(matches!(end, Ok(0)), "{end:?}");
        well_before(55, since);
    };
    let (answer, ()) = tokio::join!(world.get("/data_collector/x"), serving);
    assert_eq!(answer.status(), 200);
}
