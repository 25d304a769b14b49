//! HTTP/1.1 that two readers could read in two ways: the gateway refuses it, or passes on what can be read in one way
//! only. Nothing that a client hides in a request becomes a request of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    unreachable_pub,
    dead_code,
    reason = "a test may, and uses a part of what it shares"
)]

#[path = "support/answers.rs"]
mod answers;
#[path = "support/attacks.rs"]
mod attacks;
#[path = "support/recorder.rs"]
mod recorder;
mod support;

use std::fmt::Write as _;

use attacks::{Cut, Either, Expected, Judged, Passed, Refused, SMUGGLED, attack, exchange, post, run};
use recorder::{Seen, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_length_is_read_in_one_way() {
    let mut attacks = vec![
        attack(
            "TE, CL",
            post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "0\r\n\r\n"),
            Refused,
        ),
        attack(
            "CL, TE",
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
            Refused,
        ),
        attack(
            "CL, TE, smuggled",
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", &format!("0\r\n\r\n{SMUGGLED}")),
            Refused,
        ),
        attack("CL twice, the same", post("Content-Length: 5\r\nContent-Length: 5\r\n\r\n", "hello"), Either),
        attack("CL twice, 5 and 0", post("Content-Length: 5\r\nContent-Length: 0\r\n\r\n", "hello"), Refused),
        attack(
            "CL twice, 0 and 52",
            post(&format!("Content-Length: 0\r\nContent-Length: {}\r\n\r\n", SMUGGLED.len()), SMUGGLED),
            Refused,
        ),
    ];
    for value in [
        "1, 1",
        "5,5",
        "5, 0",
        "+5",
        "-5",
        "-0",
        "0x5",
        "5a",
        "5.0",
        "5e0",
        "5;a",
        "\"5\"",
        "5 5",
        "\u{665}",
        "5_0",
        "",
        "99999999999999999999",
        "18446744073709551621",
        "9223372036854775813",
        "5\u{b}",
        "5\0",
        "5\r",
        "5\u{85}",
    ] {
        let request = post(&format!("Content-Length: {value}\r\n\r\n"), "hello");
        attacks.push(attack(format!("CL {value:?}"), request, Refused));
    }
    for value in ["5", " 5", "5 ", "\t5\t", "05", "0000000005"] {
        let request = post(&format!("Content-Length:{value}\r\n\r\n"), "hello");
        attacks.push(attack(format!("CL {value:?}"), request, Passed("hello")));
    }
    for value in [
        "chunked, identity",
        "identity",
        "identity, chunked",
        "chunked, chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "gzip, chunked",
        "chunked, gzip",
        "\"chunked\"",
        "'chunked'",
        "chunked,",
        ",chunked",
        "",
        "chun ked",
        "chunked\u{b}",
        "\u{b}chunked",
        "chunked\0",
        "chunked\r",
        "\rchunked",
        "c\u{212a}unked",
        "chunk\u{212a}d",
        "deflate",
        "\u{a0}chunked",
    ] {
        let request = post(&format!("Transfer-Encoding: {value}\r\n\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        attacks.push(attack(format!("TE {value:?}"), request, Refused));
    }
    for value in ["chunked", "  chunked", "\tchunked", "chunked\t ", "Chunked", "CHUNKED"] {
        let request = post(&format!("Transfer-Encoding:{value}\r\n\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        attacks.push(attack(format!("TE {value:?}"), request, Passed("hello")));
    }
    for (first, second) in [
        ("chunked", "chunked"),
        ("chunked", "identity"),
        ("identity", "chunked"),
        ("chunked", "x"),
        ("x", "chunked"),
        ("", "chunked"),
    ] {
        let headers = format!("Transfer-Encoding: {first}\r\nTransfer-Encoding: {second}\r\n\r\n");
        attacks.push(attack(format!("TE twice: {first}, {second}"), post(&headers, "0\r\n\r\n"), Refused));
    }
    for headers in [
        "Content-Length : 5\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length\t: 5\r\n",
        "Content-Length\0: 5\r\n",
        " Content-Length: 5\r\n",
        "X: a\r\n Content-Length: 5\r\n",
        "Content-Length:\r\n 5\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\n , identity\r\n",
        "X: a\r\n\tb\r\n",
        "X: a\rTransfer-Encoding: chunked\r\n",
        "X: a\rContent-Length: 5\r\n",
        "\rContent-Length: 5\r\n",
        "Content-Length: 5\r\r\n",
        "X\r: a\r\n",
    ] {
        attacks.push(attack(
            format!("header {headers:?}"),
            post(&format!("{headers}\r\n"), "hello"),
            Refused,
        ));
    }
    let old = "POST /user_manager/a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    attacks.push(attack("TE in HTTP/1.0", old, Refused));
    run(attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_read_in_one_way() {
    let mut attacks = Vec::new();
    for header in [
        "no colon",
        ": no name",
        "X Y: a",
        "X(: a",
        "X\tY: a",
        "X[]: a",
        "X{: a",
        "X\"Y: a",
        "X/Y: a",
        "X\0: a",
        "X@Y: a",
        "X,: a",
        "\u{e9}: a",
        "X: a\0b",
        "X: a\u{1}b",
        "X: a\u{7f}b",
        "X: a\u{b}b",
        "X: a\u{1b}[31m",
        "X: a\rb",
        "Host: a",
        "Host: b",
        "host: a",
        "HOST: b",
    ] {
        let request = format!("GET /user_manager/a HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        attacks.push(attack(format!("header {header:?}"), request, Refused));
    }
    for line in [
        " GET /user_manager/a HTTP/1.1",
        "\0GET /user_manager/a HTTP/1.1",
        "GET /user_manager/a HTTP/1.2",
        "GET /user_manager/a HTTP/2.0",
        "GET /user_manager/a HTTP/0.9",
        "GET /user_manager/a HTTP/1.10",
        "GET /user_manager/a HTTP/1",
        "GET /user_manager/a http/1.1",
        "GET /user_manager/a HTTP/1.1x",
        "GET /user_manager/a HTTP/ 1.1",
        "GET /user_manager/a XHTTP/1.1",
        "GET /user_manager/a",
        "GET /user_manager/a b HTTP/1.1",
        "GET /user_manager/a\tHTTP/1.1",
        "GET\t/user_manager/a HTTP/1.1",
        "GET /user_manager/a\rb HTTP/1.1",
        "GET /user_manager/a\0 HTTP/1.1",
        "G(T /user_manager/a HTTP/1.1",
        "G\u{e9}T /user_manager/a HTTP/1.1",
        " /user_manager/a HTTP/1.1",
        "/user_manager/a HTTP/1.1",
        "GET HTTP/1.1",
        "GET  HTTP/1.1",
        "GET",
        "GET //a\\b HTTP/1.1\r",
        "PRI * HTTP/2.0\r\n\r\nSM",
    ] {
        attacks.push(attack(format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n"), Refused));
    }
    for line in [
        "GET user_manager/a HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http:/user_manager/a HTTP/1.1",
        "GET http://a@b/user_manager/a HTTP/1.1",
        "GET http://b/user_manager/a HTTP/1.1",
        "GET http:///user_manager/a HTTP/1.1",
    ] {
        attacks.push(attack(format!("line {line:?}"), format!("{line}\r\nHost: a\r\n\r\n"), Judged));
    }
    for host in [
        "", "a@b", "a:b", "a:999999", "a/b", "a b", "a,b", "a, a", "a\\b", "a?b", "a#b", "[::1", "a:1:2",
        "a\tb", "<a>",
    ] {
        let request = format!("GET /user_manager/a HTTP/1.1\r\nHost: {host}\r\n\r\n");
        attacks.push(attack(format!("host {host:?}"), request, Refused));
    }
    for bytes in [
        "\r\nGET /user_manager/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\n\r\n\r\nGET /user_manager/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "\n\nGET /user_manager/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\nHost: a\n\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\n\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\n\r\n",
        "GET  /user_manager/a  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /user_manager/a HTTP/1.1 \r\nHost: a\r\n\r\n",
        "get /user_manager/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
        "GET http://a/user_manager/a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nConnection: Host\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Request-Id\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        "GET /user_manager/a HTTP/1.1\r\nHost: a\r\nX: a%0d%0aY: b\r\n\r\n",
    ] {
        attacks.push(attack(format!("{bytes:?}"), bytes, Either));
    }
    attacks.push(attack("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Either));
    run(attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_read_in_one_way() {
    let mut attacks = Vec::new();
    let mut cases: Vec<(String, Expected)> = [
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "\x005\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello\rX0\r\n\r\n",
        "5\rXhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n-0\r\n\r\n",
        "5\r\nhello\r\n0x0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\rb\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\0\r\n\r\n",
        "5\r\nhello\r\n0\rX\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
    ]
    .map(|body| (body.to_owned(), Cut))
    .into();
    // Refused, or read as what they can only mean.
    cases.extend(
        [
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\t\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r\n0\n\r\n",
            "5\r\nhello\r\n0\r\n\n",
            "5\r\nhello\r\n0\n\n",
            "5;a=b\r\nhello\r\n0\r\n\r\n",
            "5;\r\nhello\r\n0\r\n\r\n",
            "5 ; a = \"b;c\"\r\nhello\r\n0;a\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "0000000000000000000000000005\r\nhello\r\n000\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: a\r\n\r\n",
            "5\r\nhello\r\n0\r\nContent-Length: 50\r\n\r\n",
            "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: a\n\r\n",
        ]
        .map(|body| (body.to_owned(), Either)),
    );
    cases.push((format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000)), Either));
    cases.push((format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "a".repeat(40_000)), Either));
    // The reading in which the chunk's size line ends at the line feed finds a request of its own in the body.
    let hidden = format!("2;\nxx\r\n{:x}\r\n0\r\n\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len() + 5);
    attacks.push(attack("TERM.EXT", post("Transfer-Encoding: chunked\r\n\r\n", &hidden), Either));
    let hidden = format!("0;\n{SMUGGLED}\r\n\r\n");
    attacks.push(attack("0;LF", post("Transfer-Encoding: chunked\r\n\r\n", &hidden), Cut));
    for (body, expected) in cases {
        let mut name = String::new();
        write!(name, "{:?}", body.chars().take(60).collect::<String>()).unwrap();
        attacks.push(attack(name, post("Transfer-Encoding: chunked\r\n\r\n", &body), expected));
    }
    run(attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_a_body_stays_in_the_body() {
    let length = SMUGGLED.len();
    let mut attacks = Vec::new();
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let head = format!("{method} /user_manager/a HTTP/1.1\r\nHost: a\r\n");
        let with_length = format!("{head}Content-Length: {length}\r\n\r\n{SMUGGLED}");
        attacks.push(attack(format!("{method} with a length"), with_length, Passed(SMUGGLED)));
        let chunked =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n");
        attacks.push(attack(format!("{method} in chunks"), chunked, Passed(SMUGGLED)));
    }
    for header in [
        "Expect: 100-continue",
        "Expect: 100-Continue",
        "Connection: close",
        "Connection: Content-Length",
        "Connection: keep-alive, Transfer-Encoding",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: h2c\r\nConnection: Upgrade",
        "Connection: Upgrade",
        "Expect: 200-ok",
        "Expect: 100-continue, x",
        "Expect: ",
        "TE: trailers",
        "Trailer: Content-Length",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "Max-Forwards: 0",
    ] {
        let request = post(&format!("{header}\r\nContent-Length: {length}\r\n\r\n"), SMUGGLED);
        attacks.push(attack(header, request, Either));
    }
    run(attacks).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_takes_its_body_along() {
    let (world, recorder) = world().await;
    for (name, request) in [
        (
            "unknown",
            format!("POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
        ),
        (
            "in chunks",
            format!(
                "POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n",
                SMUGGLED.len()
            ),
        ),
        (
            "expecting",
            format!(
                "POST /nope HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            ),
        ),
        (
            "redirect",
            format!(
                "POST /user_manager HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                SMUGGLED.len()
            ),
        ),
        (
            "bad chunks",
            format!("POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{SMUGGLED}"),
        ),
    ] {
        let answers = exchange(&world, request.into_bytes()).await;
        let Seen { requests, faults } = recorder.take();
        assert!((300..500).contains(&answers[0].status), "{name}: {answers:?}");
        assert!(requests.iter().all(|request| request.target == "/marker"), "{name}: {requests:?}");
        assert_eq!((answers.len(), faults), (1 + requests.len(), vec![]), "{name}");
    }
}
