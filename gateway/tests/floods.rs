//! HTTP/2 in ways that cost the server more than the client: each ends the connection.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::time::{Duration, Instant};

use support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, H2, HEADERS, Outcome, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, fields, frame, request, setting,
};
use support::streaming::Streaming;
use support::{World, timeouts};

/// Frames without use in 10 s.
const LIMIT: usize = 60;

const INITIAL_WINDOW_SIZE: u16 = 4;

async fn limited() -> World {
    World::with_config(&format!("[limits]\nh2_control_frames = {LIMIT}\n{}", timeouts(&[]))).await
}

/// Sends as much in one go and reads to the end of the connection.
async fn is_ended_by(world: &World, name: &str, frames: &[u8]) -> Option<u32> {
    let mut connection = H2::new(world, &[]);
    connection.answers(1);
    connection.wire.send(frames);
    let code = connection.end();
    println!("{name}: {code:?}");
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_without_use_is_told_to_calm_down() {
    let world = limited().await;
    for (name, one) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("SETTINGS with a value", frame(SETTINGS, 0, 0, &setting(INITIAL_WINDOW_SIZE, 70_000))),
        ("PING", frame(PING, 0, 0, &[0; 8])),
        ("PRIORITY", frame(PRIORITY, 0, 7, &[0, 0, 0, 5, 9])),
        ("RST_STREAM of what has ended", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ] {
        let code = is_ended_by(&world, name, &one.repeat(LIMIT + 10)).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_flood_is_a_flood() {
    let world = limited().await;
    let three =
        [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8]), frame(PRIORITY, 0, 7, &[0, 0, 0, 5, 9])];
    let code = is_ended_by(&world, "mixed", &three.concat().repeat(LIMIT / 3 + 5)).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_small_portions_is_a_flood() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    let ping = frame(PING, 0, 0, &[0; 8]);
    let flood = std::iter::repeat_n(ping, 100 * LIMIT);
    assert!(connection.wire.drip(flood, Duration::from_millis(2)).is_some(), "the flood goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_beside_a_request_in_flight_ends_the_connection() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    let authorization = format!("Bearer {}", world.token());
    connection.get(1, "/data_collector/slow", &[("authorization", &authorization)]);
    world.data_collector.has_slow_request().await;
    connection.wire.send(frame(PING, 0, 0, &[0; 8]).repeat(LIMIT + 10));
    assert_eq!(connection.end(), Some(ENHANCE_YOUR_CALM));
    // The next client is served.
    H2::new(&world, &[]).answers(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_data_frames_are_a_flood() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    connection.send(HEADERS, END_HEADERS, 1, &request("POST", "/user_manager/login", &[]));
    connection.wire.send(frame(DATA, 0, 1, &[]).repeat(LIMIT + 10));
    connection.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_block_without_end_ends_the_connection() {
    let world = World::with_config(&timeouts(&[])).await;
    for (name, crumb) in [("empty", vec![]), ("filled", fields(&[("x-filler", &"y".repeat(1000))]))] {
        let mut flood = frame(HEADERS, END_STREAM, 3, &request("GET", "/nope", &[]));
        flood.extend(frame(CONTINUATION, 0, 3, &crumb).repeat(2_000));
        is_ended_by(&world, name, &flood).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    let block =
        request("GET", "/user_manager/me", &[("authorization", &format!("Bearer {}", world.token()))]);
    let flood = (0..u32::try_from(LIMIT).unwrap() * 3).map(|n| {
        let stream = 2 * n + 1;
        [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &block),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    connection.wire.send(flood.collect::<Vec<_>>().concat());
    connection.end();
    H2::new(&world, &[]).answers(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_that_the_server_is_made_to_send_end_the_connection() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    let mut flood = Vec::new();
    for n in 0..500 {
        let stream = 2 * n + 1;
        // A window that grows by nothing is an error of its stream, which the server answers with a reset.
        flood.extend(frame(HEADERS, END_HEADERS, stream, &request("POST", "/user_manager/login", &[])));
        flood.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
    }
    connection.wire.send(flood);
    connection.end();
}

/// Asks for this with a window of so many bytes that never grows, until the connection is ended.
async fn stalls(path: &str, window: u32) {
    let upstream = Streaming::start().await;
    let world = World::with_config_and(&timeouts(&[("write", "1s")]), &[upstream.flag()]).await;
    let authorization = format!("Bearer {}", world.token());
    let mut connection = H2::new(&world, &setting(INITIAL_WINDOW_SIZE, window));
    let since = Instant::now();
    connection.get(1, path, &[("authorization", &authorization)]);
    connection.end();
    assert!(since.elapsed() >= Duration::from_secs(1));
    if path.ends_with("/endless") {
        upstream.is_hung_up().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_no_window_for_an_answer_of_the_gateway_is_cut() {
    stalls("/nope", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_no_window_for_an_answer_of_a_service_is_cut() {
    stalls("/data_collector/ordinary", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_no_window_of_its_connection_is_cut() {
    stalls("/data_collector/endless", 1 << 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_no_window_is_cut_although_it_pings() {
    let world = World::with_config(&timeouts(&[("write", "1s")])).await;
    let mut connection = H2::new(&world, &setting(INITIAL_WINDOW_SIZE, 0));
    connection.get(1, "/nope", &[]);
    let ping = frame(PING, 0, 0, &[0; 8]);
    let pings = std::iter::repeat_n(ping, 900);
    assert!(connection.wire.drip(pings, Duration::from_millis(20)).is_some(), "the stall goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_opens_in_time_is_no_stall() {
    let world = World::with_config(&timeouts(&[("write", "5s")])).await;
    let mut connection = H2::new(&world, &setting(INITIAL_WINDOW_SIZE, 0));
    connection.get(1, "/nope", &[]);
    connection.wire.stays_open(Duration::from_millis(300));
    connection.send(WINDOW_UPDATE, 0, 1, &100_000u32.to_be_bytes());
    match connection.outcome(1) {
        Outcome::Answered(body) => assert!(body.contains("not-found"), "{body}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_within_the_limits_is_served() {
    let world = limited().await;
    let mut connection = H2::new(&world, &[]);
    for n in 0..10 {
        connection.wire.send(frame(PING, 0, 0, &[0; 8]).repeat(2));
        connection.send(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
        connection.answers(2 * n + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_allowed_are_refused_and_the_connection_lives() {
    let world = World::with_config("[limits]\nh2_streams = 2\n").await;
    let mut connection = H2::new(&world, &[]);
    let authorization = format!("Bearer {}", world.token());
    for stream in [1, 3, 5] {
        connection.get(stream, "/data_collector/slow", &[("authorization", &authorization)]);
    }
    assert!(matches!(connection.outcome(5), Outcome::Reset(7)), "REFUSED_STREAM");
    world.data_collector.let_go();
    assert!(matches!(connection.outcome(1), Outcome::Answered(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_above_the_limit_is_refused() {
    let world = World::with_config("[limits]\nhead = 2048\n").await;
    let mut connection = H2::new(&world, &[]);
    let filler = "y".repeat(4_000);
    connection.get(1, "/nope", &[("x-filler", &filler)]);
    match connection.outcome(1) {
        Outcome::Answered(body) => assert!(!body.contains("not-found"), "it was taken: {body}"),
        Outcome::Reset(_) | Outcome::Gone => {}
    }
}
