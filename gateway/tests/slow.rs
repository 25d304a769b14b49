//! Slow clients: each is cut at a deadline of the whole thing that it is slow at, not of its next byte.
//! A byte every few milliseconds against a deadline of some hundred is what one every 3 s is against 15 s.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

mod support;

use std::iter::{repeat, repeat_n};
use std::time::{Duration, Instant};

use support::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, H2, HEADERS, Outcome, PING, request};
use support::streaming::Streaming;
use support::wire::{self, Wire, one_problem};
use support::{World, raw, timeouts};

const PAUSE: Duration = Duration::from_millis(15);
/// The deadline under test.
const DEADLINE: Duration = Duration::from_secs(1);

/// A world in which only this one time-out is short.
async fn with_short(timeout: &str) -> World {
    World::with_config(&timeouts(&[(timeout, "1s")])).await
}

/// A world in which bodies have to come at this rate from their second second on.
async fn with_body_rate(rate: u64) -> World {
    let timeouts = timeouts(&[("body", "1s")]);
    World::with_config(&format!("[limits]\nbody_rate = {rate}\n{timeouts}")).await
}

/// A request that is answered by the gateway itself.
const ASKED: &str = "GET /nope HTTP/1.1\r\nHost: a\r\n\r\n";
/// The beginning of one that never ends.
const BEGUN: &str = "GET /nope HTTP/1.1\r\nHost: a\r\nX-Slow: ";
/// A request that needs no token and has a body of 10 bytes.
const LOGIN: &str = "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";

/// Drips bytes until the gateway ends the connection, which is not before the deadline.
fn drips_to_its_deadline(wire: &mut Wire, since: Instant, bytes: impl IntoIterator<Item = u8>) -> String {
    let answer = wire.drip(bytes.into_iter().map(|byte| [byte]), PAUSE).expect("the connection is ended");
    assert!(since.elapsed() >= DEADLINE, "cut after {:?}: {answer}", since.elapsed());
    answer
}

fn forever(begun: &str) -> impl Iterator<Item = u8> {
    begun.bytes().chain(repeat(b'x')).take(20_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_head_that_drips_is_cut_at_its_deadline() {
    let world = with_short("head").await;
    for begun in [BEGUN, ""] {
        let mut wire = Wire::http1(&world);
        let answer = drips_to_its_deadline(&mut wire, Instant::now(), forever(begun));
        one_problem(&answer, 408, "request-timeout");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_later_head_that_drips_is_cut_at_its_deadline_too() {
    let world = with_short("head").await;
    let mut wire = Wire::http1(&world);
    for _ in 0..3 {
        wire.send(ASKED);
        assert_eq!(wire.answer().status, 404);
    }
    let answer = drips_to_its_deadline(&mut wire, Instant::now(), forever(BEGUN));
    one_problem(&answer, 408, "request-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_was_begun_behind_another_request_has_a_deadline_too() {
    let world = with_short("head").await;
    let mut wire = Wire::http1(&world);
    wire.send(format!("{ASKED}GET /no"));
    assert_eq!(wire.answer().status, 404);
    one_problem(&wire.rest(), 408, "request-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_asks_is_cut_without_a_word() {
    let world = with_short("head").await;
    for protocol in ["http/1.1", "h2"] {
        let since = Instant::now();
        let mut wire = Wire::new(&world, protocol);
        let said = wire.rest();
        assert!(!said.contains("HTTP/1.1"), "{said}");
        assert!(since.elapsed() >= DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_lines_before_a_request_do_not_put_its_deadline_off() {
    let world = with_short("head").await;
    let mut wire = Wire::http1(&world);
    let lines = repeat(*b"\r\n").flatten().take(20_000);
    drips_to_its_deadline(&mut wire, Instant::now(), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_drips_is_cut() {
    use std::io::{Read, Write};
    let world = with_short("handshake").await;
    let since = Instant::now();
    let mut tcp = std::net::TcpStream::connect(world.addr).unwrap();
    tcp.set_read_timeout(Some(PAUSE)).unwrap();
    // The head of a TLS record that would have 16 KiB.
    let record = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc].into_iter().chain(repeat(0)).take(10_000);
    for byte in record {
        // An error is the end; so is a read of nothing.
        let sent = tcp.write_all(&[byte]);
        if sent.is_err() || matches!(tcp.read(&mut [0]), Ok(0)) {
            assert!(since.elapsed() >= DEADLINE);
            return;
        }
    }
    panic!("the handshake goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_without_a_word() {
    let world = with_short("idle").await;
    let mut wire = Wire::http1(&world);
    wire.send(ASKED);
    let since = Instant::now();
    assert_eq!(wire.answer().status, 404);
    assert_eq!(wire.rest(), "");
    assert!(since.elapsed() >= DEADLINE);
    let mut second = H2::new(&world, &[]);
    let since = Instant::now();
    second.answers(1);
    second.end();
    assert!(since.elapsed() >= DEADLINE);
}

#[tokio::test(flavor = "multi_thread")]
async fn being_idle_is_allowed_for_longer_than_a_head() {
    let world = with_short("head").await;
    let mut wire = Wire::http1(&world);
    for _ in 0..2 {
        wire.send(ASKED);
        assert_eq!(wire.answer().status, 404);
        assert!(wire.stays_open(2 * DEADLINE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_not_idleness() {
    let world = with_short("idle").await;
    let mut wire = Wire::http1(&world);
    let token = world.token();
    wire.send(format!(
        "GET /data_collector/slow HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
    ));
    world.data_collector.has_slow_request().await;
    assert!(wire.stays_open(2 * DEADLINE));
    world.data_collector.let_go();
    assert_eq!(wire.answer().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_body_is_a_408() {
    let world = with_short("body").await;
    let chunked = LOGIN.replace("Content-Length: 10", "Transfer-Encoding: chunked");
    for begun in [format!("{LOGIN}abc"), format!("{chunked}a\r\nabc"), format!("{chunked}3\r\nabc\r\n")] {
        let since = Instant::now();
        let mut wire = Wire::http1(&world);
        wire.send(&begun);
        one_problem(&wire.rest(), 408, "request-timeout");
        assert!(since.elapsed() >= DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_by_its_rate() {
    let world = with_body_rate(1000).await;
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    wire.send(LOGIN.replace("10", "100000"));
    let answer = drips_to_its_deadline(&mut wire, since, repeat_n(b'x', 20_000));
    one_problem(&answer, 408, "request-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_cannot_fill_its_rate_with_framing() {
    // Each byte comes with 5 of framing and an extension: 4,000 bytes a second, of which 66 are body.
    let world = with_body_rate(1000).await;
    let mut wire = Wire::http1(&world);
    wire.send(LOGIN.replace("Content-Length: 10", "Transfer-Encoding: chunked"));
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(60));
    let answer = wire.drip(repeat_n(chunk, 20_000), PAUSE).expect("the connection is ended");
    one_problem(&answer, 408, "request-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_take_long_when_it_keeps_its_rate() {
    let world = with_body_rate(1).await;
    let mut wire = Wire::http1(&world);
    wire.send(LOGIN.replace("10", "60"));
    assert_eq!(wire.drip(repeat_n(b"x", 60), Duration::from_millis(30)), None);
    let answer = wire.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\"body\":60"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_whose_body_drips_does_not_hold_its_connection() {
    let world = World::start().await;
    let mut wire = Wire::http1(&world);
    wire.send("POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let answer = wire.drip(repeat_n(b"x", 20_000), PAUSE).expect("the connection is ended");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let upstream = Streaming::start().await;
    let world = World::with_config_and(&timeouts(&[("write", "1s")]), &[upstream.flag()]).await;
    let mut wire = Wire::http1(&world);
    let since = Instant::now();
    let token = world.token();
    wire.send(format!(
        "GET /data_collector/endless HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
    ));
    upstream.is_hung_up().await;
    assert!(since.elapsed() >= DEADLINE);
    assert!(wire.rest().starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_its_answer_slowly_is_not_cut() {
    let upstream = Streaming::start().await;
    let world = World::with_config_and(&timeouts(&[("write", "2s")]), &[upstream.flag()]).await;
    let mut wire = Wire::http1(&world);
    let token = world.token();
    wire.send(format!(
        "GET /data_collector/endless HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"
    ));
    // A mebibyte after each pause, which is more than buffers on the way hold back.
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(200));
        assert!(wire.bytes(1 << 20).is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_header_block_that_drips_ends_the_connection() {
    let world = World::with_config(&timeouts(&[("head", "1s"), ("idle", "1s")])).await;
    let mut connection = H2::new(&world, &[]);
    connection.send(HEADERS, 0, 1, &request("GET", "/nope", &[]));
    let crumb = support::frames::frame(CONTINUATION, 0, 1, &[]);
    assert!(connection.wire.drip(repeat_n(crumb, 20_000), PAUSE).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_frame_that_drips_ends_the_connection() {
    let world = World::with_config(&timeouts(&[("head", "1s"), ("idle", "1s")])).await;
    let mut connection = H2::new(&world, &[]);
    connection.answers(1);
    let block = request("GET", "/nope", &[("x-slow", &"x".repeat(10_000))]);
    let frame = support::frames::frame(HEADERS, END_HEADERS, 3, &block);
    assert!(connection.wire.drip(frame.chunks(1), PAUSE).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_stalled_body_ends_its_stream_and_no_other() {
    let world = with_short("body").await;
    let mut connection = H2::new(&world, &[]);
    let block = request("POST", "/user_manager/login", &[("content-length", "10")]);
    connection.send(HEADERS, END_HEADERS, 1, &block);
    match connection.outcome(1) {
        Outcome::Answered(body) => assert!(body.contains("urn:vedetta:problem:request-timeout"), "{body}"),
        other => panic!("{other:?}"),
    }
    connection.answers(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_quiet_connection_takes_nothing_from_the_time_of_its_next_body() {
    let world = with_short("body").await;
    let mut connection = H2::new(&world, &[]);
    connection.answers(1);
    assert!(connection.wire.stays_open(2 * DEADLINE));
    // Of unknown length, it goes to the service as it comes.
    let block = request("POST", "/user_manager/login", &[]);
    connection.send(HEADERS, END_HEADERS, 3, &block);
    // The gateway has seen the head, and waits for the body.
    connection.send(PING, 0, 0, &[0; 8]);
    while connection.next().expect("the connection ended").kind != PING {}
    connection.send(DATA, END_STREAM, 3, b"0123456789");
    match connection.outcome(3) {
        Outcome::Answered(body) => assert!(body.contains("\"body\":10"), "{body}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_body_that_drips_ends_its_stream() {
    let world = with_body_rate(1000).await;
    let mut connection = H2::new(&world, &[]);
    let block = request("POST", "/user_manager/login", &[("content-length", "100000")]);
    connection.send(HEADERS, END_HEADERS, 1, &block);
    let byte = support::frames::frame(support::frames::DATA, 0, 1, b"x");
    // Far slower than the rate for three times as long as is waited for.
    connection.wire.drip(repeat_n(byte, 200), PAUSE);
    match connection.outcome(1) {
        Outcome::Answered(body) => assert!(body.contains("urn:vedetta:problem:request-timeout"), "{body}"),
        Outcome::Reset(_) => {}
        Outcome::Gone => panic!("the whole connection ended"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_keep_others_waiting() {
    let world = World::with_config("workers = 1\n").await;
    let slow: Vec<Wire> = (0..50)
        .map(|_| {
            let mut wire = Wire::http1(&world);
            wire.send(BEGUN);
            wire
        })
        .collect();
    let (addr, cert) = (world.addr, world.cert.clone());
    let answer = tokio::task::spawn_blocking(move || {
        raw::exchange(addr, &cert, ASKED.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes())
    });
    let answer = answer.await.unwrap();
    wire::one_problem(&answer, 404, "not-found");
    drop(slow);
}
