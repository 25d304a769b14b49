//! HTTP/1 by hand: what is answered when heads are odd, many, or incomplete.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::Write;

use support::wire::{Wire, one_problem, own};
use support::{World, raw};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_breaks_the_rules_is_a_400_of_our_own() {
    let world = World::start().await;
    for head in [
        "HELLO\r\n\r\n",
        "GET\r\n\r\n",
        "GET /nope\r\n\r\n",
        "GET /nope HTTP/9.9\r\nHost: a\r\n\r\n",
        "GET /nope HTTP/1.1 x\r\nHost: a\r\n\r\n",
        "G@T /nope HTTP/1.1\r\nHost: a\r\n\r\n",
        " GET /nope HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nX-A : x\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nX-A: b\r\n folded\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nX-A: b\rc\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
        "POST /nope HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST /nope HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /nope HTTP/1.1\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n",
    ] {
        // What follows is never read as a request.
        let answers = world.raw(format!("{head}GET /nope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let answers = answers.await;
        // Shown if the next line fails.
        println!("{head:?}");
        one_problem(&answers, 400, "bad-request");
    }
    assert_eq!(world.user_manager.served() + world.data_collector.served(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_break_their_framing_reach_nobody_as_a_second_request() {
    let world = World::start().await;
    let smuggled = "GET /user_manager/confirm HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in [
        "x\r\n",
        "-1\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "fffffffffffffffff\r\nabc\r\n",
        "3;\0\r\nabc\r\n0\r\n\r\n",
        "0\r\nbad trailer\r\n\r\n",
    ] {
        let head = "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answers = world.raw(format!("{head}{body}{smuggled}")).await;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{body:?}: {answers}");
        assert!(answers.starts_with("HTTP/1.1 400"), "{body:?}: {answers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_broken_body_reaches_a_client_that_sends_on() {
    let world = World::start().await;
    for (target, expect) in
        [("/user_manager/login", ""), ("/user_manager/login", "Expect: 100-continue\r\n"), ("/nope", "")]
    {
        let begun =
            format!("POST {target} HTTP/1.1\r\nHost: a\r\n{expect}Transfer-Encoding: chunked\r\n\r\n");
        let (addr, cert) = (world.addr, world.cert.clone());
        let answers = tokio::task::spawn_blocking(move || {
            let mut tls = raw::connect(addr, &cert, &rustls::version::TLS13, &["http/1.1"]).unwrap();
            tls.write_all(begun.as_bytes()).unwrap();
            // Long since no size of a chunk.
            for _ in 0..64 {
                tls.write_all(&[b'x'; 16 * 1024]).unwrap();
            }
            // Neither did the connection break nor does it now.
            raw::read_to_close(&mut tls)
        });
        let answers = answers.await.unwrap();
        let answer = answers.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
        match target {
            "/nope" => assert!(answer.starts_with("HTTP/1.1 404"), "{answer}"),
            _ => one_problem(answer, 400, "bad-request"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_connection_names_are_for_the_gateway_alone() {
    let world = World::start().await;
    let login = "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nX-Hop: 1\r\nX-Other: 2\r\n";
    for (connection, passes) in
        [("", true), ("Connection: X-Hop\r\n", false), ("Connection: close, x-hop\r\n", false)]
    {
        let mut wire = Wire::http1(&world);
        wire.send(format!("{login}{connection}Content-Length: 0\r\n\r\n"));
        let answer = wire.answer();
        let seen: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(seen["headers"].get("x-hop").is_some(), passes, "{connection:?}: {seen}");
        assert_eq!(seen["headers"]["x-other"], serde_json::json!(["2"]), "{connection:?}: {seen}");
        assert_eq!(seen["headers"].get("connection"), None, "{connection:?}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_while_it_comes() {
    let world = World::with_config("[limits]\nhead = 1024\n").await;
    for begun in [
        format!("GET /nope HTTP/1.1\r\nHost: a\r\nX-Filler: {}", "y".repeat(1100)),
        format!("GET /{}", "y".repeat(1100)),
        "y".repeat(1100),
        format!("GET /nope HTTP/1.1\r\nHost: a\r\n{}", "X-A: b\r\n".repeat(150)),
    ] {
        // There is no end, and none is waited for.
        let mut wire = Wire::http1(&world);
        wire.send(&begun);
        one_problem(&wire.rest(), 431, "head-too-large");
    }
    // The limit is of one head, not of all on a connection.
    let filler = "y".repeat(900);
    let mut wire = Wire::http1(&world);
    for _ in 0..3 {
        wire.send(format!("GET /nope HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\n\r\n"));
        assert_eq!(wire.answer().status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let world = World::start().await;
    let token = world.token();
    let mut wire = Wire::http1(&world);
    let mut all = String::new();
    for n in 0..10 {
        all += &match n % 3 {
            0 => {
                format!("GET /user_manager/{n} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n")
            }
            1 => format!("GET /nope HTTP/1.1\r\nHost: a\r\nX-Request-Id: n{n}\r\n\r\n"),
            _ => format!(
                "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nX-Request-Id: n{n}\r\n\
                 Transfer-Encoding: chunked\r\n\r\n{n}\r\n{}\r\n0\r\n\r\n",
                "x".repeat(n)
            ),
        };
    }
    wire.send(all);
    for n in 0..10 {
        let answer = wire.answer();
        match n % 3 {
            0 => assert!(answer.body.contains(&format!("\"target\":\"/{n}\"")), "{n}: {answer:?}"),
            1 => {
                assert_eq!(answer.header("x-request-id"), Some(format!("n{n}").as_str()), "{answer:?}");
                own(&answer, "not-found");
            }
            _ => assert!(answer.body.contains(&format!("\"body\":{n},")), "{n}: {answer:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_may_come_in_any_pieces() {
    let world = World::start().await;
    let mut wire = Wire::http1(&world);
    for _ in 0..2 {
        let request = "\r\nPOST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        wire.drip(request.as_bytes().chunks(1), std::time::Duration::from_millis(1));
        let answer = wire.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body.contains("\"body\":4"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_request_gets_the_head_alone_of_every_refusal() {
    let world = World::start().await;
    let mut wire = Wire::http1(&world);
    let token = format!("Authorization: Bearer {}\r\n", world.token());
    for (target, more, status) in [
        ("/nope", "", 404),
        ("/user_manager/me", "", 401),
        ("/user_manager/%zz", "", 400),
        ("/user_manager/me", token.as_str(), 200),
        ("/data_collector", "", 301),
    ] {
        wire.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n"));
        let head = wire.until("\r\n\r\n");
        // If there were a body the next status line would not come next.
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{target}: {head}");
        assert!(head.to_ascii_lowercase().contains("x-request-id: "), "{target}: {head}");
    }
    for target in ["*", "/a b", "/user_manager/../../x"] {
        let mut wire = Wire::http1(&world);
        wire.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        let rest = wire.rest();
        assert!(rest.starts_with("HTTP/1.1 400") && rest.ends_with("\r\n\r\n"), "{target}: {rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_gets_it_before_it_sends_its_body() {
    let world = World::start().await;
    let mut wire = Wire::http1(&world);
    wire.send(
        "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    let interim = wire.until("\r\n\r\n");
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    wire.send("body");
    let answer = wire.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.contains("\"body\":4"), "{answer:?}");
    // One that does not wait for it is served as well.
    wire.send(
        "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
    );
    wire.until("\"body\":4");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_slash_may_be_refused() {
    let world = World::with_config("encoded_slash = \"reject\"\n").await;
    let token = world.token();
    for target in ["/user_manager/a%2Fb", "/user_manager%2fa", "/user_manager/a%2f..%2fb"] {
        let answer = world.get(target).await;
        support::problem(answer, 400, "bad-request").await;
    }
    for target in ["/user_manager/a%20b", "/user_manager/a?x=%2F", "/user_manager/a%252Fb"] {
        let request = world.client().get(world.url(target)).bearer_auth(&token);
        assert_eq!(request.send().await.unwrap().status(), 200, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_could_not_be_read_are_counted_as_answers() {
    let world = World::start().await;
    world.raw("HELLO\r\n\r\n").await;
    support::eventually(async || {
        let (_, text) = world.admin("/metrics").await;
        text.lines().any(|line| {
            line.starts_with("vedetta_gateway_requests_total{")
                && line.contains("route=\"none\"")
                && line.contains("status=\"4xx\"")
                && line.ends_with(" 1")
        })
    })
    .await;
}
