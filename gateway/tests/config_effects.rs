//! Keys of the configuration file: each test fails when its key has no effect. Others are in `config.rs` (where a gateway
//! listens and what is behind it), `config_timeouts.rs`, and where what they bound is tested: `limits.rs`, `floods.rs`,
//! `streams.rs`, `upstreams.rs`.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::iter::repeat_n;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use reqwest::{Client, Method, Response};
use rustix::process::Signal;
use serde_json::Value;
use support::echo::Echo;
use support::process::{Process, Town};
use support::wire::{Wire, one_problem};
use support::{World, eventually, problem, refusing, timeouts};
use tokio::net::{TcpListener, TcpStream};

async fn ask(world: &World, method: Method, path: &str) -> Response {
    world.client().request(method, world.url(path)).send().await.unwrap()
}

async fn target(answer: Response) -> (String, String) {
    assert_eq!(answer.status(), 200);
    let seen: Value = answer.json().await.unwrap();
    (seen["service"].as_str().unwrap().to_owned(), seen["target"].as_str().unwrap().to_owned())
}

fn seen(service: &str, target: &str) -> (String, String) {
    (service.to_owned(), target.to_owned())
}

#[tokio::test]
async fn routes_of_the_file_replace_the_built_in_ones() {
    let world = World::with_config(
        "[[routes]]\nprefix = '/api/'\nupstream = 'user_manager'\n\
         [[routes]]\nprefix = '/api/flights/'\nupstream = 'data_collector'\n",
    )
    .await;
    assert_eq!(target(world.get("/api/me?x=1").await).await, seen("user_manager", "/me?x=1"));
    assert_eq!(target(world.get("/api/flights/now").await).await, seen("data_collector", "/now"));
    assert_eq!(target(world.get("/api/flightsx").await).await, seen("user_manager", "/flightsx"));
    let bare = world.get("/api").await;
    assert_eq!((bare.status().as_u16(), bare.headers()["location"].to_str().unwrap()), (301, "/api/"));
    problem(world.get("/user_manager/me").await, 404, "not-found").await;
}

#[tokio::test]
async fn another_upstream_has_routes_of_its_own() {
    let other = Echo::start("other").await;
    let world = World::with_config(&format!(
        "[upstreams.other]\naddresses = ['http://{}']\nadmin_port = 1\nhealth_interval = 'off'\n\
         [[routes]]\nprefix = '/other/'\nupstream = 'other'\n",
        other.addr
    ))
    .await;
    assert_eq!(target(world.get("/other/x").await).await, seen("other", "/x"));
}

#[tokio::test]
async fn only_what_the_file_calls_public_needs_no_token() {
    let world = World::with_config(
        "[[routes]]\nprefix = '/user_manager/'\nupstream = 'user_manager'\npublic = ['GET /news', 'POST /vote']\n",
    )
    .await;
    for (method, path, status) in [
        (Method::GET, "/user_manager/news", 200),
        (Method::HEAD, "/user_manager/news", 200),
        (Method::POST, "/user_manager/vote", 200),
        (Method::POST, "/user_manager/news", 401),
        (Method::POST, "/user_manager/login", 401),
    ] {
        assert_eq!(ask(&world, method.clone(), path).await.status(), status, "{method} {path}");
    }
}

#[tokio::test]
async fn each_route_has_its_own_largest_body() {
    let world = World::with_config(
        "[[routes]]\nprefix = '/small/'\nupstream = 'user_manager'\nmax_body = 10\n\
         [[routes]]\nprefix = '/large/'\nupstream = 'user_manager'\nmax_body = 2000000\n",
    )
    .await;
    let post = async |path: &str, length: usize| {
        let request = world.client().post(world.url(path)).bearer_auth(world.token());
        request.body("x".repeat(length)).send().await.unwrap()
    };
    assert_eq!(post("/small/x", 10).await.status(), 200);
    problem(post("/small/x", 11).await, 413, "too-large").await;
    assert_eq!(post("/large/x", 1_500_000).await.status(), 200);
}

#[tokio::test]
async fn an_encoded_slash_is_refused_when_the_file_says_so() {
    let world = World::with_config("encoded_slash = 'reject'").await;
    for path in ["/user_manager/a%2Fb", "/user_manager/a%2fb"] {
        problem(world.get(path).await, 400, "bad-request").await;
    }
    assert_eq!(
        target(world.get("/user_manager/a%20b?x=%2F").await).await,
        seen("user_manager", "/a%20b?x=%2F")
    );
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_its_clients() {
    let forwarded = async |world: &World| {
        let request = world.client().get(world.url("/user_manager/x")).bearer_auth(world.token());
        let answer = request.header("x-forwarded-for", "192.0.2.7").send().await.unwrap();
        let seen: Value = answer.json().await.unwrap();
        seen["headers"]["x-forwarded-for"].to_string().contains("192.0.2.7")
    };
    assert!(forwarded(&World::with_config("trusted_proxies = ['127.0.0.0/8']").await).await);
    assert!(!forwarded(&World::with_config("trusted_proxies = ['192.0.2.0/24']").await).await);
}

#[tokio::test]
async fn browsers_may_call_from_the_origins_of_the_file_only() {
    let world = World::with_config("cors_origins = ['https://app.example.com']").await;
    let preflight = async |origin: &str| {
        let request = world.client().request(Method::OPTIONS, world.url("/user_manager/me"));
        let request = request.header("origin", origin).header("access-control-request-method", "GET");
        request.send().await.unwrap().headers().get("access-control-allow-origin").cloned()
    };
    assert_eq!(preflight("https://app.example.com").await.unwrap(), "https://app.example.com");
    assert_eq!(preflight("https://evil.example.com").await, None);
}

#[tokio::test]
async fn a_head_may_be_as_large_as_the_file_says() {
    let world = World::with_config("[limits]\nhead = 2048").await;
    let with = async |length: usize| {
        let client: Client = world.client_builder().http1_only().build().unwrap();
        let request = client.get(world.url("/user_manager/x")).bearer_auth(world.token());
        request.header("x-long", "x".repeat(length)).send().await.unwrap()
    };
    assert_eq!(with(100).await.status(), 200);
    problem(with(3_000).await, 431, "head-too-large").await;
}

#[tokio::test]
async fn a_client_may_ask_as_often_as_the_file_says() {
    let world = World::with_config("[limits]\nrate = '0.01/s burst 3'").await;
    for _ in 0..3 {
        assert_eq!(world.get("/user_manager/x").await.status(), 200);
    }
    let refused = world.get("/user_manager/x").await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn operations_that_the_file_calls_costly_have_the_rate_of_logins() {
    let world = World::with_config(
        "[limits]\nrate_login = '0.01/s burst 1'\n\
         [[routes]]\nprefix = '/user_manager/'\nupstream = 'user_manager'\n\
         public = ['POST /costly', 'POST /login']\ncostly = ['POST /costly']\n",
    )
    .await;
    let post = async |path| ask(&world, Method::POST, path).await.status().as_u16();
    assert_eq!(post("/user_manager/costly").await, 200);
    assert_eq!(post("/user_manager/costly").await, 429);
    assert_eq!(post("/user_manager/login").await, 200);
    assert_eq!(post("/user_manager/login").await, 200);
}

#[tokio::test]
async fn a_client_has_as_many_connections_as_the_file_says() {
    let world = World::with_config("[limits]\nconnections_per_client = 1").await;
    let _first = TcpStream::connect(world.addr).await.unwrap();
    assert!(world.client().get(world.url("/nope")).send().await.is_err());
}

#[tokio::test]
async fn as_many_clients_are_remembered_as_the_file_says() {
    let config = "trusted_proxies = ['127.0.0.1/32']\n[limits]\nrate = '0.01/s burst 1'\nrate_clients = 1";
    let world = World::with_config(config).await;
    let client = world.client();
    let asks = async |peer: &str| {
        let request = client.get(world.url("/user_manager/x")).bearer_auth(world.token());
        request.header("x-forwarded-for", peer).send().await.unwrap().status()
    };
    assert_eq!(asks("192.0.2.1").await, 200);
    assert_eq!(asks("192.0.2.1").await, 429);
    assert_eq!(asks("192.0.2.2").await, 200);
    assert_eq!(asks("192.0.2.1").await, 200, "the second one has taken its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_slow_as_the_file_says() {
    let timeouts = timeouts(&[("body", "1s")]);
    let world = World::with_config(&format!("[limits]\nbody_rate = 1000000\n{timeouts}")).await;
    let mut wire = Wire::http1(&world);
    wire.send("POST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    // Many times as much as is asked for by default.
    let answer = wire.drip(repeat_n([b'x'; 200], 400), Duration::from_millis(15));
    one_problem(&answer.expect("the connection is ended"), 408, "request-timeout");
}

/// A process with this file, and a client of it.
async fn process(town: &Town, toml: &str) -> (Process, Client) {
    std::fs::write(town.folder.path().join("gateway.toml"), toml).unwrap();
    let cert = town.certificate("tls", &["localhost"], 9);
    let gateway = town.start(&cert, &["--config=gateway.toml"]).await;
    let client = town.client(gateway.addr(), &[&cert]).build().unwrap();
    (gateway, client)
}

#[tokio::test]
async fn there_are_as_many_workers_as_the_file_says() {
    let town = Town::new().await;
    // Another number than there is by default.
    let workers = available_parallelism().unwrap().get() + 1;
    let (gateway, _) = process(&town, &format!("workers = {workers}")).await;
    let expected: Vec<String> = (0..workers).map(|number| format!("worker-{number}")).collect();
    eventually(async || {
        let mut names: Vec<_> =
            gateway.threads().into_iter().filter(|name| name.starts_with("worker-")).collect();
        names.sort();
        names == expected
    })
    .await;
}

#[tokio::test]
async fn requests_are_logged_unless_the_file_says_otherwise() {
    let town = Town::new().await;
    for (told, lines) in [("access_log = true", 1), ("access_log = false", 0)] {
        let (mut gateway, client) = process(&town, told).await;
        let url = format!("https://localhost:{}/nope", gateway.addr().port());
        assert_eq!(client.get(url).send().await.unwrap().status(), 404);
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.ends().await.code(), Some(0));
        assert_eq!(gateway.lines("\"answered\"").len(), lines, "{told}");
    }
}

/// An admin port, and how often it was asked whether the service is ready.
async fn checked() -> (u16, Arc<AtomicUsize>) {
    let checks = Arc::new(AtomicUsize::new(0));
    let counted = checks.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let readyz = get(async move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let router = Router::new().route("/readyz", readyz);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (port, checks)
}

#[tokio::test]
async fn services_are_checked_as_often_as_the_file_says() {
    let ((often_port, often), (never_port, never)) = (checked().await, checked().await);
    let upstream = |name, port, interval| {
        format!(
            "[upstreams.{name}]\naddresses = ['http://127.0.0.1:1']\nadmin_port = {port}\n\
             health_interval = '{interval}'\n"
        )
    };
    let config = upstream("often", often_port, "20ms") + &upstream("never", never_port, "off");
    let _world = World::with_config(&config).await;
    // By default this would take minutes, and the other one would have been checked once meanwhile.
    eventually(async || often.load(Ordering::SeqCst) >= 200).await;
    assert_eq!(never.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_address_is_ejected_for_as_long_as_the_file_says() {
    let ((closed, _kept), other) = (refusing(), Echo::start("other").await);
    let world = World::with_config(&format!(
        "[limits]\nrate = 'off'\n\
         [upstreams.other]\naddresses = ['http://{closed}', 'http://{}']\nadmin_port = 1\n\
         health_interval = 'off'\neject_after = 1\neject_for = '20ms'\n\
         [[routes]]\nprefix = '/other/'\nupstream = 'other'\n",
        other.addr
    ))
    .await;
    let client = world.client();
    // Each retry was tried at the closed address first. By default so many ejections would take minutes.
    eventually(async || {
        let request = client.get(world.url("/other/x")).bearer_auth(world.token());
        assert_eq!(request.send().await.unwrap().status(), 200);
        world.upstream_metric("upstream_retries_total", "other").await >= 8
    })
    .await;
}
