//! Attacks over HTTP/1.1: each is sent with an honest request behind it, and judged by what was answered and by what
//! reached the service.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::answers::{Answer, Answers};
use crate::recorder::{Seen, world};
use crate::support::{World, raw};

/// Follows every attack on its connection, in the same write: whoever misreads the attack misreads this, too.
const MARKER: &str = "GET /user_manager/marker HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// What attackers want to be seen as a request.
pub const SMUGGLED: &str = "GET /user_manager/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// What has to become of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// 400 and the end of the connection; the service sees nothing.
    Refused,
    /// A refusal of a request whose end is clear: the marker may be answered.
    Judged,
    /// As refused, but a request may have been begun at the service, and not finished.
    Cut,
    /// One request with this body, and then the marker.
    Passed(&'static str),
    /// One of these two, and nothing between them.
    Either,
}
pub use Expected::{Cut, Either, Judged, Passed, Refused};

pub type Attack = (String, Vec<u8>, Expected);

/// A POST with these header lines and this body.
pub fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /user_manager/a HTTP/1.1\r\nHost: a\r\n{headers}{body}").into_bytes()
}

pub fn attack(name: impl Into<String>, bytes: impl Into<Vec<u8>>, expected: Expected) -> Attack {
    (name.into(), bytes.into(), expected)
}

/// Sends bytes and the marker in one write, and returns all answers.
pub async fn exchange(world: &World, request: Vec<u8>) -> Vec<Answer> {
    let client = raw::client(&world.cert, &rustls::version::TLS13, &["http/1.1"]);
    let addr = world.addr;
    tokio::task::spawn_blocking(move || ask(&client, addr, &request)).await.unwrap()
}

fn ask(client: &Arc<ClientConfig>, addr: SocketAddr, request: &[u8]) -> Vec<Answer> {
    let mut answers = Answers::of(raw::connect_as(client, addr).unwrap());
    answers.write(&[request, MARKER.as_bytes()].concat()).unwrap();
    std::iter::from_fn(|| answers.next()).filter(|answer| answer.status >= 200).collect()
}

pub async fn run(attacks: Vec<Attack>) {
    let (world, recorder) = world().await;
    let mut wrong = String::new();
    let count = attacks.len();
    for (name, request, expected) in attacks {
        let answers = exchange(&world, request).await;
        let seen = recorder.take();
        if let Err(why) = judge(expected, &answers, &seen) {
            let answers: Vec<String> = answers.iter().map(|answer| answer.status.to_string()).collect();
            let targets: Vec<String> = seen
                .requests
                .iter()
                .map(|got| format!("{} {} {}", got.method, got.target, got.body.escape_ascii()))
                .collect();
            writeln!(
                wrong,
                "{name}: {why}; expected {expected:?}, answers {answers:?}, upstream {targets:?} {:?}",
                seen.faults
            )
            .unwrap();
        }
    }
    assert!(wrong.is_empty(), "of {count} attacks:\n{wrong}");
    // What came late is seen now at the latest.
    world.stop.cancel();
    world.running.await.unwrap().unwrap();
    let seen = recorder.take();
    assert!(seen.requests.is_empty() && seen.faults.is_empty(), "{seen:?}");
}

fn judge(expected: Expected, answers: &[Answer], seen: &Seen) -> Result<(), &'static str> {
    if !seen.faults.is_empty() {
        return Err("what reached the service is ambiguous");
    }
    let passed = || match &seen.requests[..] {
        [first, marker] if marker.target == "/marker" && marker.body.is_empty() => {
            if let Passed(body) = expected
                && first.body != body.as_bytes()
            {
                return Err("another body");
            }
            if first.target != "/a" { Err("another target") } else { all_good(answers) }
        }
        // The first one closed the connection.
        [first] if first.target == "/a" && expected == Either && answers.len() == 1 => all_good(answers),
        _ => Err("not exactly the attack and the marker"),
    };
    let refused = || match answers {
        _ if !seen.requests.is_empty() => Err("it was passed on"),
        [answer] => is_refusal(answer),
        [] => Err("no answer"),
        _ => Err("the connection went on"),
    };
    let judged = || match (answers, &seen.requests[..]) {
        ([answer, marker], [request]) if request.target == "/marker" && marker.status == 200 => {
            is_refusal(answer)
        }
        _ => refused(),
    };
    match expected {
        Judged => judged(),
        Refused | Cut => refused(),
        Passed(_) => passed(),
        Either => refused().or_else(|_| passed()),
    }
}

fn all_good(answers: &[Answer]) -> Result<(), &'static str> {
    if answers.iter().all(|answer| answer.status == 200) { Ok(()) } else { Err("not 200") }
}

/// A problem document, as the gateway makes all its answers.
fn is_refusal(answer: &Answer) -> Result<(), &'static str> {
    if !(400..500).contains(&answer.status) {
        Err("not a refusal")
    } else if answer.header("content-type") != Some(b"application/problem+json".as_slice()) {
        Err("not a problem document")
    } else {
        Ok(())
    }
}
