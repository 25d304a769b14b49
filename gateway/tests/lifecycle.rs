//! Stopping: what was accepted is answered, nothing else is waited for.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use reqwest::StatusCode;
use support::echo::LARGE;
use support::frames::{H2, INITIAL_WINDOW_SIZE, Outcome, WINDOW_UPDATE, setting};
use support::{LONG, World, eventually, raw, timeouts};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test]
async fn a_request_in_flight_is_answered_and_nothing_new_is_accepted() {
    for http1 in [true, false] {
        let world = World::start().await;
        let builder = world.client_builder();
        let client = if http1 { builder.http1_only() } else { builder }.build().unwrap();
        let request = client.get(world.url("/data_collector/slow")).bearer_auth(world.token());
        let asking = tokio::spawn(request.send());
        world.data_collector.has_slow_request().await;

        world.stop.cancel();
        eventually(async || TcpStream::connect(world.addr).await.is_err()).await;
        assert_eq!(world.admin("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(world.admin("/healthz").await.0, StatusCode::OK);
        assert!(!world.running.is_finished());

        world.data_collector.let_go();
        let answer = asking.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        if http1 {
            assert_eq!(answer.headers()["connection"], "close");
        }
        assert!(answer.text().await.unwrap().contains("/slow"));
        timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_slow_client_has_not_taken_yet_arrives_whole_over_http2() {
    let world = World::with_config(&timeouts(&[])).await;
    let authorization = format!("Bearer {}", world.token());
    // The client allows all of it at once.
    let mut connection = H2::new(&world, &setting(INITIAL_WINDOW_SIZE, 1 << 20));
    connection.send(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
    connection.get(1, "/data_collector/large", &[("authorization", &authorization)]);
    // The service and Pingora are done with it, and the client has read nothing.
    eventually(async || {
        let (_, metrics) = world.admin("/metrics").await;
        let mut lines = metrics.lines();
        lines.any(|line| {
            line.contains("requests_total{") && line.contains("data_collector") && line.ends_with(" 1")
        })
    })
    .await;
    world.stop.cancel();
    // Longer than a client may take to go when there is nothing more for it.
    tokio::time::sleep(Duration::from_secs(3)).await;
    match connection.outcome(1) {
        Outcome::Answered(body) => assert_eq!(body.len(), LARGE),
        other => panic!("{other:?}"),
    }
    timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_port_answers_what_had_begun_before_the_stop() {
    let world = World::with_config("redirect_listen = \"127.0.0.1:0\"\n").await;
    let connect = || std::net::TcpStream::connect(world.redirect.unwrap()).unwrap();
    let rest = |mut tcp: std::net::TcpStream| {
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).unwrap();
        answer
    };
    let mut begun = connect();
    begun.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
    // That half has arrived when somebody who came later is answered.
    let mut later = connect();
    later.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(rest(later).starts_with("HTTP/1.1 301"));
    let _silent = connect();
    world.stop.cancel();
    eventually(async || TcpStream::connect(world.addr).await.is_err()).await;
    // Longer than is waited for those who say nothing.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!world.running.is_finished());
    begun.write_all(b"st: a\r\n\r\n").unwrap();
    assert!(rest(begun).starts_with("HTTP/1.1 301"));
    timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn idle_connections_do_not_hold_the_stop() {
    let world = World::start().await;
    let http1 = world.client_builder().http1_only().build().unwrap();
    let http2 = world.client();
    for client in [&http1, &http2] {
        let answer = client.get(world.url("/nope")).send().await.unwrap();
        assert!(answer.text().await.unwrap().contains("not-found"));
    }
    world.stop.cancel();
    timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_accepted_before_the_stop_gets_its_first_answer() {
    let world = World::start().await;
    let (addr, cert) = (world.addr, world.cert.clone());
    let connect = move || raw::connect(addr, &cert, &rustls::version::TLS13, &["http/1.1"]).unwrap();
    let mut tls = tokio::task::spawn_blocking(connect).await.unwrap();
    let stop = world.stop.clone();
    let answer = tokio::task::spawn_blocking(move || {
        // In one go: from the stop on there is little time for a first request.
        stop.cancel();
        tls.write_all(b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut first = [0; 12];
        tls.read_exact(&mut first).unwrap();
        String::from_utf8_lossy(&first).into_owned()
    })
    .await
    .unwrap();
    assert_eq!(answer, "HTTP/1.1 404");
    timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_request_whose_head_had_begun_before_the_stop_is_answered() {
    let world = World::start().await;
    let (addr, cert) = (world.addr, world.cert.clone());
    let begin = move || {
        let mut tls = raw::connect(addr, &cert, &rustls::version::TLS13, &["http/1.1"]).unwrap();
        tls.write_all(b"GET /nope HTTP/1.1\r\nHo").unwrap();
        tls
    };
    let mut tls = tokio::task::spawn_blocking(begin).await.unwrap();
    // The half of it has arrived when a second client, that came later, is answered.
    assert_eq!(world.client().get(world.url("/nope")).send().await.unwrap().status(), 404);
    world.stop.cancel();
    eventually(async || TcpStream::connect(world.addr).await.is_err()).await;
    // Longer than a connection may take that says nothing at all.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let answer = tokio::task::spawn_blocking(move || {
        tls.write_all(b"st: a\r\n\r\n").unwrap();
        raw::read_to_close(&mut tls)
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_in_its_handshake_does_not_hold_the_stop() {
    let world = World::start().await;
    let _silent = TcpStream::connect(world.addr).await.unwrap();
    let (addr, cert) = (world.addr, world.cert.clone());
    let connect = move || raw::connect(addr, &cert, &rustls::version::TLS13, &["h2"]).unwrap();
    let _without_preface = tokio::task::spawn_blocking(connect).await.unwrap();
    world.stop.cancel();
    // Less than a handshake may take.
    timeout(Duration::from_secs(8), world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let world = World::start_with(&["--max-connections=1".into()]).await;
    world.becomes_ready().await;
    let (addr, cert) = (world.addr, world.cert.clone());
    let connect = move || raw::connect(addr, &cert, &rustls::version::TLS13, &["http/1.1"]).unwrap();
    let first = tokio::task::spawn_blocking(connect.clone()).await.unwrap();
    let second = tokio::task::spawn_blocking(connect);
    for _ in 0..20 {
        world.admin("/healthz").await;
        assert!(!second.is_finished());
    }
    drop(first);
    timeout(LONG, second).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_gateway_cuts_its_connections() {
    let world = World::start().await;
    let request = world.client().get(world.url("/data_collector/slow")).bearer_auth(world.token());
    let asking = tokio::spawn(request.send());
    world.data_collector.has_slow_request().await;
    world.running.abort();
    assert!(timeout(LONG, asking).await.unwrap().unwrap().is_err());
}

#[tokio::test]
async fn two_gateways_live_in_one_process() {
    let (first, second) = (World::start().await, World::start().await);
    first.stop.cancel();
    timeout(LONG, first.running).await.unwrap().unwrap().unwrap();
    assert_eq!(second.get("/user_manager/me").await.status(), 200);
}
