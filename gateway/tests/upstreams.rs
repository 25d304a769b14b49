//! What a client is told when a service is not there.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::SocketAddr;

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use support::{LONG, World, deaf_listener, echo::Echo, eventually, problem, refusing};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

async fn with_data_collector_at(url: &str) -> World {
    let world = World::start_with(&[format!("--data-collector-url={url}")]).await;
    world.becomes_ready().await;
    world
}

/// A gateway with data_collector at these addresses and these lines in its configuration.
async fn with(lines: &str, addresses: &[SocketAddr]) -> World {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("[upstreams.data_collector]\n{lines}\n")).unwrap();
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let flags = [
        format!("--config={}", file.path().display()),
        format!("--data-collector-url={}", urls.join(",")),
        "--rate-limit=off".to_owned(),
    ];
    let world = World::start_with(&flags).await;
    world.becomes_ready().await;
    world
}

/// Sends a request to data_collector while the test goes on.
fn ask(world: &World, method: Method, path: &str) -> JoinHandle<reqwest::Result<Response>> {
    let request = world.client().request(method, world.url(&format!("/data_collector{path}")));
    tokio::spawn(request.bearer_auth(world.token()).body("a body").send())
}

async fn answer(asked: JoinHandle<reqwest::Result<Response>>) -> Response {
    timeout(LONG, asked).await.unwrap().unwrap().unwrap()
}

/// Which service answered, and how long the body was that it got.
async fn echoed(answer: Response) -> (String, u64) {
    assert_eq!(answer.status(), 200);
    let seen: Value = answer.json().await.unwrap();
    (seen["service"].as_str().unwrap().to_owned(), seen["body"].as_u64().unwrap())
}

async fn ejections(world: &World) -> u64 {
    world.upstream_metric("upstream_ejections_total", "data_collector").await
}

async fn retries(world: &World) -> u64 {
    world.upstream_metric("upstream_retries_total", "data_collector").await
}

async fn healthy(world: &World) -> u64 {
    world.upstream_metric("upstream_healthy", "data_collector").await
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_dies_under_load_and_comes_back_and_no_get_fails() {
    let (first, mut second) = (Echo::start("first").await, Echo::start("second").await);
    let world = with("health_interval = \"off\"\neject_for = \"100ms\"", &[first.addr, second.addr]).await;
    let enough = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (client, url, token) = (world.client(), world.url("/data_collector/status"), world.token());
        let enough = enough.clone();
        clients.spawn(async move {
            let mut failures = Vec::new();
            while !enough.is_cancelled() {
                let answer = client.get(&url).bearer_auth(&token).send().await.unwrap();
                if answer.status() != 200 {
                    failures.push(answer.status());
                }
                answer.bytes().await.unwrap();
            }
            failures
        });
    }
    // A fifth of these may be repeated.
    eventually(async || second.served() > 100).await;
    second.stop().await;
    eventually(async || ejections(&world).await > 0).await;
    assert_eq!(healthy(&world).await, 1);
    assert!(retries(&world).await > 0);
    let (before, alone) = (second.served(), first.served());
    eventually(async || first.served() > alone + 100).await;
    second.restart();
    eventually(async || healthy(&world).await == 2 && second.served() > before + 100).await;
    enough.cancel();
    let failures: Vec<StatusCode> = clients.join_all().await.concat();
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test]
async fn a_request_that_finds_no_connection_goes_elsewhere_whatever_its_method() {
    let ((closed, _kept), other) = (refusing(), Echo::start("other").await);
    let world = with("health_interval = \"off\"\neject_after = 1000", &[closed, other.addr]).await;
    for method in [Method::POST, Method::GET, Method::PATCH] {
        assert_eq!(echoed(answer(ask(&world, method, "/status")).await).await, ("other".to_owned(), 6));
    }
    assert!(retries(&world).await > 0);
    assert_eq!(ejections(&world).await, 0);
    assert_eq!(healthy(&world).await, 2);
}

#[tokio::test]
async fn without_a_budget_nothing_is_sent_again() {
    let ((closed, _kept), other) = (refusing(), Echo::start("other").await);
    let world = with("health_interval = \"off\"\nretry_budget = 0.0", &[closed, other.addr]).await;
    problem(answer(ask(&world, Method::GET, "/status")).await, 502, "bad-gateway").await;
    assert_eq!(retries(&world).await, 0);
}

#[tokio::test]
async fn an_ejected_address_is_left_alone() {
    let (mut first, second) = (Echo::start("first").await, Echo::start("second").await);
    let lines = "health_interval = \"off\"\neject_after = 1\neject_for = \"1h\"";
    let world = with(lines, &[first.addr, second.addr]).await;
    first.stop().await;
    eventually(async || {
        assert_eq!(world.get("/data_collector/status").await.status(), 200);
        ejections(&world).await == 1
    })
    .await;
    first.restart();
    for _ in 0..10 {
        assert_eq!(echoed(world.get("/data_collector/status").await).await.0, "second");
    }
    assert_eq!((first.served(), retries(&world).await), (0, 1));
}

#[tokio::test]
async fn a_get_that_was_cut_off_is_answered_by_the_other() {
    let (mut first, second) = (Echo::start("first").await, Echo::start("second").await);
    let world = with("health_interval = \"off\"", &[first.addr, second.addr]).await;
    let asked = ask(&world, Method::GET, "/slow");
    first.has_slow_request().await;
    first.stop().await;
    second.has_slow_request().await;
    second.let_go();
    assert_eq!(echoed(answer(asked).await).await, ("second".to_owned(), 6));
}

#[tokio::test]
async fn the_body_of_a_repeated_request_is_counted_once() {
    let (mut first, second) = (Echo::start("first").await, Echo::start("second").await);
    let lines = "health_interval = \"off\"\n\
        [[routes]]\nprefix = \"/data_collector/\"\nupstream = \"data_collector\"\nmax_body = 10";
    let world = with(lines, &[first.addr, second.addr]).await;
    let asked = ask(&world, Method::PUT, "/slow");
    first.has_slow_request().await;
    first.stop().await;
    second.has_slow_request().await;
    second.let_go();
    assert_eq!(echoed(answer(asked).await).await, ("second".to_owned(), 6));
}

#[tokio::test]
async fn a_post_that_was_cut_off_is_not_repeated() {
    let (mut first, second) = (Echo::start("first").await, Echo::start("second").await);
    let world = with("health_interval = \"off\"", &[first.addr, second.addr]).await;
    let asked = ask(&world, Method::POST, "/slow");
    first.has_slow_request().await;
    first.stop().await;
    problem(answer(asked).await, 502, "bad-gateway").await;
    assert_eq!((second.served(), retries(&world).await), (0, 0));
}

#[tokio::test]
async fn an_address_that_swallows_packets_is_passed_over_and_ejected() {
    let ((deaf, _full), other) = (deaf_listener().await, Echo::start("other").await);
    let world = with("health_interval = \"off\"\neject_after = 1", &[deaf, other.addr]).await;
    assert_eq!(echoed(answer(ask(&world, Method::POST, "/status")).await).await.0, "other");
    assert_eq!((ejections(&world).await, retries(&world).await), (1, 1));
}

#[tokio::test]
async fn refused_is_a_502_until_checks_say_that_all_are_down_and_a_good_check_ends_that() {
    let mut service = Echo::start("service").await;
    let world = with("health_interval = \"20ms\"", &[service.addr]).await;
    service.stop().await;
    // However often, as the last address is never ejected, and its checks are good.
    for _ in 0..10 {
        problem(world.get("/data_collector/status").await, 502, "bad-gateway").await;
    }
    assert_eq!((healthy(&world).await, ejections(&world).await), (1, 0));
    world.admin_port.set_ready(false);
    eventually(async || healthy(&world).await == 0).await;
    let answer = world.get("/data_collector/status").await;
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 503, "unavailable").await;
    service.restart();
    world.admin_port.set_ready(true);
    eventually(async || world.get("/data_collector/status").await.status() == 200).await;
    assert_eq!(service.served(), 1);
}

#[tokio::test]
async fn beyond_the_bound_requests_are_refused_at_once_and_the_others_are_answered() {
    let service = Echo::start("service").await;
    let world = with("max_in_flight = 2", &[service.addr]).await;
    let admitted = [ask(&world, Method::GET, "/slow"), ask(&world, Method::POST, "/slow")];
    service.has_slow_request().await;
    service.has_slow_request().await;
    for _ in 0..5 {
        let answer = world.get("/data_collector/status").await;
        assert_eq!(answer.headers()["retry-after"], "1");
        problem(answer, 503, "unavailable").await;
    }
    // The bound is one service's.
    assert_eq!(world.get("/user_manager/me").await.status(), 200);
    for asked in admitted {
        service.let_go();
        service.let_go();
        assert_eq!(echoed(answer(asked).await).await.1, 6);
    }
    eventually(async || world.get("/data_collector/status").await.status() == 200).await;
    assert_eq!(service.served(), 3);
}

#[tokio::test]
async fn a_stream_gives_its_place_back_when_it_begins() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = with("max_in_flight = 1", &[listener.local_addr().unwrap()]).await;
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n";
            stream.write_all(head).await.unwrap();
            open.push(stream);
        }
    });
    let mut open = Vec::new();
    for _ in 0..3 {
        let answer = world.get("/data_collector/events").await;
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
}
