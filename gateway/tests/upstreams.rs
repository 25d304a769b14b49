//! What a client is told when a service is not there.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{World, echo::Echo, eventually, problem, refusing};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

async fn with_data_collector_at(url: &str) -> World {
    let world = World::start_with(&[format!("--data-collector-url={url}")]).await;
    world.becomes_ready().await;
    world
}

#[tokio::test]
async fn a_refused_connection_is_a_502() {
    let (closed, _kept) = refusing();
    let world = with_data_collector_at(&format!("http://{closed}")).await;
    problem(world.get("/data_collector/status").await, 502, "bad-gateway").await;
    assert_eq!(world.get("/user_manager/me").await.status(), 200);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_a_503_and_no_start_error() {
    let world = with_data_collector_at("http://no-such-host.invalid:5002").await;
    let answer = world.get("/data_collector/status").await;
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 503, "unavailable").await;
}

#[tokio::test]
async fn a_service_that_hangs_up_is_a_502_that_tells_nothing_internal() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = with_data_collector_at(&format!("http://{}", listener.local_addr().unwrap())).await;
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let body = problem(world.get("/data_collector/status").await, 502, "bad-gateway").await;
    assert!(!body.to_string().contains("127.0.0.1"), "{body}");
}

#[tokio::test]
async fn an_address_that_swallows_packets_is_a_504() {
    let (addr, _full) = deaf_listener().await;
    let world = with_data_collector_at(&format!("http://{addr}")).await;
    problem(world.get("/data_collector/status").await, 504, "gateway-timeout").await;
}

#[tokio::test]
async fn several_addresses_are_asked_in_turn() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let world = with_data_collector_at(&format!("http://{},http://{}", first.addr, second.addr)).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = world.get("/data_collector/status").await;
        seen.push(answer.json::<serde_json::Value>().await.unwrap()["service"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["first", "second", "first", "second"]);
}

#[tokio::test]
async fn a_name_is_resolved_in_the_background() {
    let echo = Echo::start("by name").await;
    let world = with_data_collector_at(&format!("http://localhost:{}", echo.addr.port())).await;
    eventually(async || world.get("/data_collector/status").await.status() == 200).await;
}

/// A listener whose queue is full: further connection attempts get no answer at all.
async fn deaf_listener() -> (SocketAddr, (TcpListener, Vec<TcpStream>)) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // One attempt may time out because the machine is slow.
    let mut unanswered = 0;
    while unanswered < 2 {
        match timeout(Duration::from_secs(2), TcpStream::connect(addr)).await {
            Ok(stream) => {
                queued.push(stream.unwrap());
                unanswered = 0;
            }
            Err(_) => unanswered += 1,
        }
    }
    (addr, (listener, queued))
}
