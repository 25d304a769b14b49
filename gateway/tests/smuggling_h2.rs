//! HTTP/2 that would be another request, or two, once it is written as HTTP/1.1: it is refused, or passed on as exactly
//! one request.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    dead_code,
    reason = "a test may, and uses a part of what it shares"
)]

#[path = "support/recorder.rs"]
mod recorder;
mod support;

use recorder::{Seen, world};
use support::World;
use support::frames::{self, DATA, END_HEADERS, END_STREAM, H2, HEADERS, Outcome, frame};

const HIDDEN: &str = "GET /user_manager/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
type Fields = Vec<(String, String)>;

/// One request.
struct Attack {
    fields: Fields,
    body: &'static str,
    trailers: Fields,
    /// Whether it may be passed on, as one clean request.
    harmless: bool,
}

/// A request with these pseudo-headers replaced (`ABSENT` leaves one out) and these headers on top.
fn request(replaced: &[(&str, &str)], more: &[(&str, &str)]) -> Attack {
    let mut fields = Fields::new();
    for (name, value) in
        [(":method", "POST"), (":scheme", "https"), (":authority", "a"), (":path", "/user_manager/a")]
    {
        let value = replaced.iter().find(|(found, _)| *found == name).map_or(value, |(_, value)| value);
        if value != ABSENT {
            fields.push((name.into(), value.into()));
        }
    }
    fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Attack { fields, body: "", trailers: Fields::new(), harmless: false }
}

/// As a pseudo-header's value: leave it out.
const ABSENT: &str = "<absent>";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_over_http2_becomes_one_request_or_none() {
    let mut attacks = Vec::new();
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("content-length", "1"),
        ("content-length", "99"),
        ("content-length", "+48"),
        ("content-length", "48, 48"),
        ("content-length", "-1"),
        ("content-length", ""),
        ("content-length", "0x30"),
        ("content-length", "99999999999999999999"),
    ] {
        attacks.push(Attack { body: HIDDEN, ..request(&[], &[(name, value)]) });
    }
    let lengths = [("content-length", "48"), ("content-length", "0")];
    attacks.push(Attack { body: HIDDEN, ..request(&[], &lengths) });
    let coded = [("transfer-encoding", "chunked"), ("content-length", "48")];
    attacks.push(Attack { body: HIDDEN, ..request(&[], &coded) });
    for (name, value) in [
        ("connection", "close"),
        ("connection", "upgrade"),
        ("keep-alive", "1"),
        ("proxy-connection", "close"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("x", "a\r\nTransfer-Encoding: chunked"),
        ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a"),
        ("x", "a\nb: c"),
        ("x", "a\rb: c"),
        ("x", "a\0b"),
        ("X", "a"),
        ("Content-Length", "5"),
        ("x: y\r\nz", "a"),
        ("x y", "a"),
        ("x:", "a"),
        ("", "a"),
        ("x\r\n", "a"),
        ("x\0", "a"),
        ("\u{e9}", "a"),
        ("host", "b"),
        ("host", "a, b"),
        ("host", "a\r\nx: y"),
        (":path", "/b"),
        (":method", "GET"),
        (":authority", "b"),
        (":foo", "a"),
        (":status", "200"),
        (":", "a"),
        (":protocol", "websocket"),
    ] {
        attacks.push(request(&[], &[(name, value)]));
    }
    for (name, value) in [
        (":path", "/user_manager/a b"),
        (":path", "/user_manager/a HTTP/1.1\r\nX: y"),
        (":path", "/user_manager/a\r\n"),
        (":path", "/user_manager/a\0"),
        (":path", "/user_manager/a\tb"),
        (":path", ""),
        (":path", "user_manager/a"),
        (":path", "*"),
        (":path", "http://b/user_manager/a"),
        (":path", ABSENT),
        (":method", "GET /user_manager/smuggled HTTP/1.1\r\nX: y"),
        (":method", "GET\r\n"),
        (":method", "GE T"),
        (":method", ""),
        (":method", "G(T"),
        (":method", ABSENT),
        (":method", "CONNECT"),
        (":scheme", "https\r\nx: y"),
        (":scheme", ABSENT),
        (":authority", "a@b"),
        (":authority", "a b"),
        (":authority", "a\r\nx: y"),
        (":authority", "a/b"),
        (":authority", "a,b"),
        (":authority", "a:b"),
        (":authority", "a?b"),
        (":authority", "a#b"),
        (":authority", ABSENT),
        (":authority", "a\0"),
    ] {
        attacks.push(request(&[(name, value)], &[]));
    }
    let harmless = |attack| Attack { harmless: true, ..attack };
    attacks.extend([
        harmless(request(&[], &[])),
        harmless(Attack { body: HIDDEN, ..request(&[], &[]) }),
        harmless(Attack { body: HIDDEN, ..request(&[], &[("content-length", "48")]) }),
        harmless(Attack { body: HIDDEN, ..request(&[(":method", "GET")], &[]) }),
        harmless(Attack { body: HIDDEN, ..request(&[(":method", "HEAD")], &[("content-length", "48")]) }),
        harmless(request(&[(":authority", ABSENT)], &[("host", "a")])),
        harmless(request(&[], &[("host", "a")])),
        harmless(request(&[], &[("expect", "100-continue")])),
        harmless(request(&[], &[("te", "trailers")])),
        harmless(request(&[], &[("cookie", "a=1"), ("cookie", "b=2")])),
        harmless(request(&[], &[("content_length", "5"), ("transfer_encoding", "chunked")])),
        harmless(request(&[], &[("x", " a ")])),
        harmless(request(&[], &[("http2-settings", "AAMAAABkAAQAAP__")])),
        harmless(request(&[(":method", "get")], &[])),
        harmless(request(&[(":scheme", "http")], &[])),
        harmless(request(&[(":scheme", "")], &[])),
        harmless(request(&[(":path", "/user_manager/a#/../b")], &[])),
    ]);
    for trailer in [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        (":path", "/b"),
        ("host", "b"),
        ("x", "a\r\nb: c"),
        ("x", "a"),
    ] {
        let trailers = vec![(trailer.0.to_owned(), trailer.1.to_owned())];
        attacks.push(harmless(Attack { body: HIDDEN, trailers, ..request(&[], &[]) }));
    }
    run(attacks).await;
}

/// The head is complete before its lie comes out, so it may have been passed on by then, as what it said.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_behind_a_length_of_0_is_no_request() {
    let (world, recorder) = world().await;
    let attack = Attack { body: HIDDEN, ..request(&[], &[("content-length", "0")]) };
    let outcome = ask(&world, &attack);
    world.stop.cancel();
    world.running.await.unwrap().unwrap();
    let Seen { requests, faults } = recorder.take();
    assert!(faults.is_empty(), "{outcome:?} {faults:?}");
    let honest = |request: &recorder::Received| request.target == "/a" && request.body.is_empty();
    assert!(requests.len() <= 1 && requests.iter().all(honest), "{outcome:?} {requests:?}");
}

async fn run(attacks: Vec<Attack>) {
    let (world, recorder) = world().await;
    let mut wrong = Vec::new();
    let count = attacks.len();
    for attack in attacks {
        let (name, body, harmless) =
            (format!("{:?} {:?}", attack.fields, attack.trailers), attack.body, attack.harmless);
        let outcome = ask(&world, &attack);
        let seen = recorder.take();
        let right = match (&outcome, &seen) {
            (_, Seen { faults, .. }) if !faults.is_empty() => false,
            // What pingora refuses by itself has an empty body, as has an answer to HEAD.
            (Outcome::Answered(answer), Seen { requests, .. })
                if answer.is_empty() && requests.is_empty() =>
            {
                true
            }
            (Outcome::Answered(answer), Seen { requests, .. }) if answer == "ok" || answer.is_empty() => {
                harmless
                    && matches!(&requests[..], [one] if one.target == "/a" && one.body == body.as_bytes())
            }
            (Outcome::Answered(answer), Seen { requests, .. }) => {
                requests.is_empty() && answer.contains("\"status\":4")
            }
            (Outcome::Reset(_) | Outcome::Gone, Seen { requests, .. }) => requests.is_empty(),
        };
        if !right {
            wrong.push(format!("{name}: {outcome:?}, upstream {seen:?}\n"));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} attacks:\n{}", wrong.len(), wrong.concat());
    world.stop.cancel();
    world.running.await.unwrap().unwrap();
    let seen = recorder.take();
    assert!(seen.requests.is_empty() && seen.faults.is_empty(), "{seen:?}");
}

/// Sends a request as the first stream of a connection of its own.
fn ask(world: &World, attack: &Attack) -> Outcome {
    let mut connection = H2::new(world, &[]);
    let (body, trailers) = (!attack.body.is_empty(), !attack.trailers.is_empty());
    let last = |more| if more { 0 } else { END_STREAM };
    let mut bytes = frame(HEADERS, END_HEADERS | last(body || trailers), 1, &block(&attack.fields));
    if body {
        bytes.extend(frame(DATA, last(trailers), 1, attack.body.as_bytes()));
    }
    if trailers {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&attack.trailers)));
    }
    connection.wire.send(bytes);
    connection.outcome(1)
}

fn block(fields: &Fields) -> Vec<u8> {
    let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    frames::fields(&fields)
}
