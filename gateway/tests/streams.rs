//! WebSockets, event streams and chunked bodies: they pass through as they come, as long as they may.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::time::{Duration, Instant};

use common::auth::Revocation;
use common::types::Account;
use support::frames::{DATA, END_HEADERS, H2, HEADERS, RST_STREAM, request};
use support::streaming::Streaming;
use support::wire::{self, Wire};
use support::{LONG, NOW, World, eventually, problem, timeouts};

/// Every limit that is for requests, too small for any stream.
const TIGHT: &str = r#"
[limits]
body_rate = 1000000
[timeouts]
body = "500ms"
upstream_read = "500ms"
upstream_write = "500ms"
idle = "500ms"
[upstreams.data_collector]
max_in_flight = 1
[[routes]]
prefix = "/data_collector/"
upstream = "data_collector"
max_body = 1000
"#;

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// As browsers ask for events.
const EVENTS: &str = "Accept: text/event-stream\r\n";

async fn world(upstream: &Streaming, toml: &str) -> World {
    World::with_config_and(toml, &[upstream.flag()]).await
}

/// Asks with a token and these headers on a connection of its own.
fn asks(world: &World, path: &str, token: &str, more: &str) -> Wire {
    let mut wire = Wire::http1(world);
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{more}\r\n"));
    wire
}

/// A connection that has been upgraded.
fn upgraded(world: &World, token: &str) -> Wire {
    let mut wire = asks(world, "/data_collector/live", token, WEBSOCKET);
    let head = wire.until("\r\n\r\n").to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    wire
}

#[track_caller]
fn echoes(wire: &mut Wire, text: &str) {
    wire.send(text);
    assert_eq!(wire.until(text), text);
}

/// An event stream that is listened to.
async fn listening(world: &World, upstream: &Streaming, token: &str) -> Wire {
    let mut wire = asks(world, "/data_collector/events", token, EVENTS);
    let head = wire.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    upstream.is_listened_to().await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_passes_bytes_both_ways_beyond_the_limits_of_requests() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, TIGHT).await;
    let mut wire = upgraded(&world, &world.token());
    echoes(&mut wire, "hello");
    assert!(wire.stays_open(Duration::from_secs(1)), "silence beyond the time-outs of requests");
    echoes(&mut wire, &"larger than any body may be ".repeat(2_000));
    assert!(wire.stays_open(Duration::from_secs(1)));
    echoes(&mut wire, "still there");
    drop(wire);
    upstream.is_hung_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_sent_along_with_the_upgrade_are_not_lost() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let mut wire = asks(&world, "/data_collector/live", &world.token(), &format!("{WEBSOCKET}\r\nearly"));
    let head = wire.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(wire.until("early").ends_with("early"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_passed_on_as_they_happen_on_both_protocols() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, TIGHT).await;
    for client in [world.client(), world.client_builder().http1_only().build().unwrap()] {
        let request = client.get(world.url("/data_collector/events")).bearer_auth(world.token());
        let request = request.header("accept", "text/event-stream");
        let mut answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        upstream.is_listened_to().await;
        for event in ["first", "second"] {
            // Quiet for longer than a service may take for an ordinary answer.
            tokio::time::sleep(Duration::from_secs(1)).await;
            upstream.say(event);
            let mut come = String::new();
            while !come.contains(&format!("data: {event}\n\n")) {
                come += &String::from_utf8_lossy(&answer.chunk().await.unwrap().expect("the stream goes on"));
            }
        }
        drop((answer, client));
        upstream.is_hung_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_over_http2_may_have_a_request_body_that_goes_on() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, TIGHT).await;
    let mut connection = H2::new(&world, &[]);
    let authorization = format!("Bearer {}", world.token());
    let headers = [("authorization", authorization.as_str()), ("accept", "text/event-stream")];
    connection.send(HEADERS, END_HEADERS, 1, &request("POST", "/data_collector/events", &headers));
    upstream.is_listened_to().await;
    // Longer than nothing may come of a body, and then more than a body may have.
    assert!(connection.wire.stays_open(Duration::from_secs(3)));
    for event in ["first", "second"] {
        connection.send(DATA, 0, 1, &[b'x'; 1000]);
        upstream.say(event);
        let mut come = String::new();
        while !come.contains(&format!("data: {event}\n\n")) {
            let frame = connection.next().expect("the connection goes on");
            assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
            if frame.kind == DATA {
                come += &String::from_utf8_lossy(&frame.payload);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_upgrade_itself_goes_on_to_the_service() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let more = WEBSOCKET.replace("Connection: Upgrade", "Connection: keep-alive, X-Hop, Upgrade\r\nX-Hop: 1");
    let mut wire = asks(&world, "/data_collector/live", &world.token(), &more);
    assert!(wire.until("\r\n\r\n").starts_with("HTTP/1.1 101"));
    let head = upstream.heads().remove(0);
    assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("x-hop"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_not_in_flight() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, TIGHT).await;
    let mut live = upgraded(&world, &world.token());
    let _events = listening(&world, &upstream, &world.token()).await;
    for _ in 0..3 {
        assert_eq!(world.get("/data_collector/ordinary").await.status(), 200);
    }
    echoes(&mut live, "there");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_have_a_bound_of_their_own() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "[limits]\nstreams = 2\n").await;
    let token = world.token();
    let first = upgraded(&world, &token);
    let _second = listening(&world, &upstream, &token).await;
    for (path, more) in [("/data_collector/live", WEBSOCKET), ("/data_collector/events", EVENTS)] {
        let answer = asks(&world, path, &token, more).answer();
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        wire::own(&answer, "unavailable");
    }
    assert_eq!(world.get("/data_collector/ordinary").await.status(), 200, "a request is no stream");
    drop(first);
    eventually(async || {
        let mut wire = asks(&world, "/data_collector/live", &token, WEBSOCKET);
        wire.until("\r\n\r\n").starts_with("HTTP/1.1 101")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_idle_for_too_long_is_closed() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, &timeouts(&[("stream_idle", "1s")])).await;
    for events in [false, true] {
        let since = Instant::now();
        let mut wire = match events {
            true => listening(&world, &upstream, &world.token()).await,
            false => upgraded(&world, &world.token()),
        };
        wire.rest();
        assert!(since.elapsed() >= Duration::from_secs(1));
        upstream.is_hung_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_lives_as_long_as_either_side_talks() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, &timeouts(&[("stream_idle", "2s")])).await;
    let mut live = upgraded(&world, &world.token());
    let mut events = listening(&world, &upstream, &world.token()).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        echoes(&mut live, "a");
        upstream.say("b");
        events.until("data: b\n\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, &timeouts(&[])).await;
    let token = world.token();
    let mut live = upgraded(&world, &token);
    let mut events = listening(&world, &upstream, &token).await;
    world.clock.set(NOW + 3600 + 30);
    live.rest();
    events.rest();
    for _ in 0..2 {
        upstream.is_hung_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_the_streams_of_its_account_only() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, &timeouts(&[])).await;
    let gone = Account::new_random();
    let of_gone = world.token_of(gone);
    let mut live = upgraded(&world, &of_gone);
    let mut events = listening(&world, &upstream, &of_gone).await;
    let mut of_another = upgraded(&world, &world.token());
    world.keys.publish(&[&world.signer], vec![Revocation { sub: gone, not_before: NOW + 1 }]);
    live.rest();
    events.rest();
    echoes(&mut of_another, "still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_do_not_hold_the_stop() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, &timeouts(&[])).await;
    let mut live = upgraded(&world, &world.token());
    let mut events = listening(&world, &upstream, &world.token()).await;
    world.stop.cancel();
    live.rest();
    events.rest();
    tokio::time::timeout(LONG, world.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_changes_nothing_about_what_is_refused() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let token = format!("Authorization: Bearer {}\r\n", world.token());
    for (why, target, more, status) in [
        ("no token", "/data_collector/live", "Host: a\r\n".to_owned(), 401),
        ("a bad token", "/data_collector/live", "Host: a\r\nAuthorization: Bearer a.b.c\r\n".into(), 401),
        ("two tokens", "/data_collector/live", format!("Host: a\r\n{token}{token}"), 401),
        ("no route", "/nope", format!("Host: a\r\n{token}"), 404),
        ("above the root", "/data_collector/../../x", format!("Host: a\r\n{token}"), 400),
        ("a bad escape", "/data_collector/%zz", format!("Host: a\r\n{token}"), 400),
        ("the bare name", "/data_collector", format!("Host: a\r\n{token}"), 301),
        ("no host", "/data_collector/live", token.clone(), 400),
        ("two hosts", "/data_collector/live", format!("Host: a\r\nHost: b\r\n{token}"), 400),
    ] {
        for upgrade in [
            "",
            WEBSOCKET,
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        ] {
            let mut wire = Wire::http1(&world);
            wire.send(format!("GET {target} HTTP/1.1\r\n{more}{upgrade}\r\n"));
            assert_eq!(wire.answer().status, status, "{why}, {upgrade:?}");
        }
    }
    // A request with a body cannot leave HTTP: where would it end?
    for length in ["Content-Length: 5", "Content-Length: 9999999", "Transfer-Encoding: chunked"] {
        let mut wire =
            asks(&world, "/data_collector/live", &world.token(), &format!("{WEBSOCKET}{length}\r\n"));
        assert_eq!(wire.answer().status, 400, "{length}");
    }
    assert_eq!(upstream.heads(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upgrade_opens_no_tunnel() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let secret = "GET /data_collector/secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // The service does not upgrade; what follows is a request like any other, even if it was sent along.
    for along in [true, false] {
        let mut wire = match along {
            true => {
                let followed = format!("{WEBSOCKET}\r\n{}", secret.trim_end_matches("\r\n\r\n"));
                asks(&world, "/data_collector/ordinary", &world.token(), &format!("{followed}\r\n"))
            }
            false => asks(&world, "/data_collector/ordinary", &world.token(), WEBSOCKET),
        };
        let answer = wire.answer();
        assert_eq!((answer.status, answer.body.as_str()), (200, "ordinary"));
        if !along {
            wire.send(secret);
        }
        wire::one_problem(&wire.rest(), 401, "unauthorized");
    }
    let heads = upstream.heads();
    assert!(heads.len() == 2 && !heads.iter().any(|head| head.contains("/secret")), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_is_never_spoken_nor_passed_on() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
    let answer = asks(&world, "/data_collector/ordinary", &world.token(), h2c).answer();
    assert_ne!(answer.status, 101, "{answer:?}");
    for head in upstream.heads() {
        assert!(!head.contains("\r\nupgrade:") && !head.contains("http2-settings"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_upgrades_without_being_asked_is_a_502() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    for client in [world.client_builder().http1_only().build().unwrap(), world.client()] {
        let request = client.get(world.url("/data_collector/unasked")).bearer_auth(world.token());
        problem(request.send().await.unwrap(), 502, "bad-gateway").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_pass_in_both_directions_while_the_request_goes_on() {
    let upstream = Streaming::start().await;
    let world = world(&upstream, "").await;
    let mut wire = Wire::http1(&world);
    wire.send(format!(
        "POST /data_collector/chunks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        world.token()
    ));
    for text in ["the first piece", "the second piece"] {
        wire.send(format!("{:x}\r\n{text}\r\n", text.len()));
        // It is back before the next is sent.
        wire.until(text);
    }
    wire.send("0\r\n\r\n");
    assert!(wire.rest().ends_with("0\r\n\r\n"));
}
