//! Tokens, bodies, heads and protocols: what is let through and what is not.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use common::auth::Signer;
use common::types::Account;
use reqwest::{Method, StatusCode, Version};
use serde_json::Value;
use support::{NOW, World, problem, raw, refusing};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn public_routes_need_no_token_and_all_others_do() {
    let world = World::start().await;
    let client = world.client();
    for (method, path) in [
        (Method::POST, "/user_manager/register"),
        (Method::POST, "/user_manager/login"),
        (Method::GET, "/user_manager/confirm?token=x"),
        (Method::GET, "/data_collector/unsubscribe?token=x"),
        (Method::POST, "/data_collector/unsubscribe?token=x"),
        (Method::GET, "/user_manager/openapi.json"),
        (Method::GET, "/data_collector/openapi.json"),
    ] {
        let answer = client.request(method, world.url(path)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    for (method, path) in [
        (Method::GET, "/user_manager/me"),
        (Method::GET, "/user_manager/register"),
        (Method::POST, "/data_collector/collect"),
        (Method::DELETE, "/data_collector/unsubscribe"),
        (Method::POST, "/user_manager/login/../me"),
    ] {
        let answer = client.request(method, world.url(path)).body("{}").send().await.unwrap();
        assert_eq!(answer.headers()["www-authenticate"], "Bearer", "{path}");
        problem(answer, 401, "unauthorized").await;
    }
}

#[tokio::test]
async fn an_upgrade_needs_a_token_like_everything_else() {
    let world = World::start().await;
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let head = format!("GET /data_collector/live HTTP/1.0\r\nHost: a\r\n{upgrade}");
    let answer = world.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 401") || answer.starts_with("HTTP/1.0 401"), "{answer}");
}

#[tokio::test]
async fn a_token_that_is_not_ours_or_no_longer_valid_is_refused() {
    let world = World::start().await;
    let stranger = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
    let forged = stranger.token(Account::new_random(), &"ada@example.com".parse().unwrap(), NOW).unwrap();
    let ask = async |token: &str| {
        world.client().get(world.url("/user_manager/me")).bearer_auth(token).send().await.unwrap()
    };
    for token in [forged.as_str(), "x", "a.b.c"] {
        let answer = ask(token).await;
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        problem(answer, 401, "unauthorized").await;
    }
    let token = world.token();
    assert_eq!(ask(&token).await.status(), 200);
    world.clock.set(NOW + 7200);
    problem(ask(&token).await, 401, "unauthorized").await;
}

#[tokio::test]
async fn without_keys_the_gateway_is_not_ready_and_refuses_what_needs_a_token() {
    let (closed, _kept) = refusing();
    let world = World::start_with(&[format!("--user-manager-admin-port={}", closed.port())]).await;
    assert_eq!(world.admin("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.admin("/healthz").await.0, StatusCode::OK);
    let answer = world.get("/user_manager/me").await;
    assert!(answer.headers().contains_key("retry-after"));
    problem(answer, 503, "unavailable").await;
    let public = world.client().post(world.url("/user_manager/login")).send().await.unwrap();
    assert_eq!(public.status(), 200);
}

#[tokio::test]
async fn the_classroom_mode_asks_for_no_token() {
    let (closed, _kept) = refusing();
    let no_feed = format!("--user-manager-admin-port={}", closed.port());
    let world = World::start_with(&["--auth=off".into(), no_feed]).await;
    world.becomes_ready().await;
    let answer = world.client().get(world.url("/data_collector/interests")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn http_2_and_http_1_are_both_spoken() {
    let world = World::start().await;
    for (client, version) in [
        (world.client(), Version::HTTP_2),
        (world.client_builder().http1_only().build().unwrap(), Version::HTTP_11),
    ] {
        let request = client.put(world.url("/data_collector/interests/KJFK")).bearer_auth(world.token());
        let answer = request.body("{\"high_value\":200}").send().await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
        let seen: Value = answer.json().await.unwrap();
        assert_eq!((&seen["method"], &seen["body"]), (&"PUT".into(), &18.into()));
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_both_spoken() {
    let world = World::start().await;
    let (addr, cert) = (world.addr, world.cert.clone());
    tokio::task::spawn_blocking(move || {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let tls = raw::connect(addr, &cert, version, &["h2", "http/1.1"]).unwrap();
            assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(tls.conn.protocol_version(), Some(version.version));
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_body_may_have_one_mebibyte() {
    let world = World::start().await;
    for client in [world.client(), world.client_builder().http1_only().build().unwrap()] {
        let post = async |size: usize| {
            let request = client.post(world.url("/user_manager/login")).body(vec![b'x'; size]);
            request.send().await.unwrap()
        };
        let whole = post(MIB).await;
        assert_eq!(whole.status(), 200);
        assert_eq!(whole.json::<Value>().await.unwrap()["body"], MIB);
        problem(post(MIB + 1).await, 413, "too-large").await;
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_counted_as_it_streams() {
    let world = World::start().await;
    let head = "POST /user_manager/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
    for _ in 0..17 {
        request.extend_from_slice(b"10000\r\n");
        request.extend_from_slice(&[b'x'; 0x10000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = world.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("urn:vedetta:problem:too-large"), "{answer}");
}

#[tokio::test]
async fn heads_that_could_be_read_in_two_ways_are_refused() {
    let world = World::start().await;
    let both = "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for (why, request) in [
        ("both lengths", format!("POST /user_manager/login HTTP/1.1\r\n{both}")),
        ("no host", "GET /user_manager/me HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
    ] {
        let answer = world.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{why}: {answer}");
        assert!(answer.contains("urn:vedetta:problem:bad-request"), "{why}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{why}: the rest is not read as a request");
    }
    let twice = world.raw("GET /user_manager/me HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    assert!(twice.starts_with("HTTP/1.1 400"), "{twice}");
}

#[tokio::test]
async fn a_tunnel_or_an_enormous_head_is_refused_with_our_own_answer() {
    let world = World::start().await;
    let tunnel = world.raw("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n").await;
    assert!(tunnel.starts_with("HTTP/1.1 405") && tunnel.contains("urn:vedetta:problem:"), "{tunnel}");
    let filler = "y".repeat(40 * 1024);
    let large = format!("GET /nope HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\nConnection: close\r\n\r\n");
    let large = world.raw(large).await;
    assert!(large.starts_with("HTTP/1.1 431") && large.contains("urn:vedetta:problem:"), "{large}");
}

#[tokio::test]
async fn a_refused_post_leaves_the_connection_usable() {
    let world = World::start().await;
    let refused = "POST /data_collector/collect HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
    let last = "GET /nope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answers = world.raw(format!("{refused}{last}")).await;
    assert!(answers.starts_with("HTTP/1.1 401"), "{answers}");
    assert!(answers.contains("HTTP/1.1 404"), "the second request was answered too: {answers}");
}

#[tokio::test]
async fn a_refused_client_that_waits_to_send_its_body_is_not_waited_for() {
    let world = World::start().await;
    let head = "POST /data_collector/collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let answer = world.raw(head).await;
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("Connection: close"), "{answer}");
}

#[tokio::test]
async fn a_handshake_that_fails_is_counted() {
    let world = World::start().await;
    let plain = reqwest::Client::new().get(format!("http://{}/", world.addr)).send().await;
    assert!(plain.is_err());
    support::eventually(async || {
        let (_, text) = world.admin("/metrics").await;
        text.lines()
            .any(|line| line.starts_with("vedetta_gateway_tls_handshake_failures") && line.ends_with(" 1"))
    })
    .await;
}

#[tokio::test]
async fn requests_are_counted_by_route_method_and_status() {
    let world = World::start_with(&["--node=edge-1".into()]).await;
    world.becomes_ready().await;
    world.get("/user_manager/me").await;
    world.get("/nope").await;
    world.client().request(Method::from_bytes(b"BREW").unwrap(), world.url("/nope")).send().await.unwrap();
    support::eventually(async || {
        let (_, text) = world.admin("/metrics").await;
        let counted = |labels: &str| {
            text.lines().any(|line| {
                line.starts_with("vedetta_gateway_requests_total{")
                    && line.contains(labels)
                    && line.ends_with(" 1")
            })
        };
        counted("route=\"user_manager\",method=\"GET\",status=\"2xx\"")
            && counted("route=\"none\",method=\"GET\",status=\"4xx\"")
            && counted("route=\"none\",method=\"other\",status=\"4xx\"")
            && text.contains("vedetta_gateway_certificate_expiry_timestamp_seconds{")
            && text.contains("node=\"edge-1\"")
    })
    .await;
}
