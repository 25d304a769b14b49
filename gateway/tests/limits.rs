//! Who may ask how often and from where, and what a service learns of it.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::IpAddr;

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use support::wire::Wire;
use support::{World, eventually, problem};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Addresses of this machine, so clients are told apart.
const OTHER: [u8; 4] = [127, 0, 0, 2];

/// A client with another address than everybody else's.
fn elsewhere(world: &World) -> Client {
    world.client_builder().local_address(IpAddr::from(OTHER)).build().unwrap()
}

async fn get(world: &World, client: &Client, path: &str) -> Response {
    client.get(world.url(path)).bearer_auth(world.token()).send().await.unwrap()
}

async fn login(world: &World, client: &Client) -> Response {
    client.post(world.url("/user_manager/login")).body("{}").send().await.unwrap()
}

/// Asserts that this is the refusal of a client that has asked too often, and that it is told when to come back: of a
/// rate of one in a hundred seconds after at most that.
async fn too_often(answer: Response) {
    let seconds: u32 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=100).contains(&seconds), "{seconds}");
    let left = answer.headers()["ratelimit"].to_str().unwrap().to_owned();
    assert!(left.contains(";r=0") && left.contains(&format!(";t={seconds}")), "{left}");
    assert!(answer.headers().contains_key("ratelimit-policy"));
    problem(answer, 429, "too-many-requests").await;
}

#[tokio::test]
async fn a_client_has_its_burst_exactly_and_no_one_elses() {
    let world = World::with_config("[limits]\nrate = \"0.01/s burst 5\"\n").await;
    let (client, http1) = (world.client(), world.client_builder().http1_only().build().unwrap());
    for asked in 0..5 {
        let client = if asked % 2 == 0 { &client } else { &http1 };
        assert_eq!(get(&world, client, "/user_manager/me").await.status(), 200, "{asked}");
    }
    for client in [&client, &http1] {
        too_often(get(&world, client, "/user_manager/me").await).await;
    }
    assert_eq!(world.user_manager.served(), 5);
    assert_eq!(get(&world, &elsewhere(&world), "/user_manager/me").await.status(), 200);
}

#[tokio::test]
async fn a_rate_is_earned_back() {
    let world = World::with_config("[limits]\nrate = \"2/s burst 1\"\n").await;
    let client = world.client();
    for _ in 0..3 {
        eventually(async || get(&world, &client, "/user_manager/me").await.status() == 200).await;
    }
}

#[tokio::test]
async fn what_is_refused_for_its_token_counts_too() {
    let world = World::with_config("[limits]\nrate = \"0.01/s burst 3\"\n").await;
    let client = world.client();
    for _ in 0..3 {
        let answer = client.get(world.url("/user_manager/me")).bearer_auth("a.b.c").send().await.unwrap();
        problem(answer, 401, "unauthorized").await;
    }
    too_often(get(&world, &client, "/user_manager/me").await).await;
}

#[tokio::test]
async fn login_and_registration_have_a_rate_of_their_own() {
    let world = World::with_config("[limits]\nrate_login = \"0.01/s burst 2\"\n").await;
    let client = world.client();
    for _ in 0..2 {
        assert_eq!(login(&world, &client).await.status(), 200);
    }
    too_often(login(&world, &client).await).await;
    // In another spelling it is the same login.
    let spelled = client.post(world.url("/user_manager//%6Cogin")).body("{}").send().await.unwrap();
    too_often(spelled).await;
    let register = client.post(world.url("/user_manager/register")).body("{}").send().await.unwrap();
    too_often(register).await;
    assert_eq!(world.user_manager.served(), 2);
    assert_eq!(get(&world, &client, "/user_manager/me").await.status(), 200, "everything else goes on");
    assert_eq!(login(&world, &elsewhere(&world)).await.status(), 200);
}

#[tokio::test]
async fn rates_may_be_off() {
    let world = World::with_config("[limits]\nrate = \"off\"\nrate_login = \"off\"\n").await;
    let client = world.client();
    for _ in 0..250 {
        assert_eq!(login(&world, &client).await.status(), 200);
    }
}

#[tokio::test]
async fn a_rate_cannot_be_evaded_by_a_header() {
    let world = World::with_config("[limits]\nrate = \"0.01/s burst 2\"\n").await;
    let client = world.client();
    for n in 0..4 {
        let request = client.get(world.url("/user_manager/me")).bearer_auth(world.token());
        let answer = request.header("x-forwarded-for", format!("192.0.2.{n}")).send().await.unwrap();
        assert_eq!(answer.status(), if n < 2 { 200 } else { 429 });
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_rates_are_of_those_it_speaks_for() {
    let config = "trusted_proxies = [\"127.0.0.1/32\"]\n[limits]\nrate = \"0.01/s burst 1\"\n";
    let world = World::with_config(config).await;
    let client = world.client();
    let asks = async |peer: &str| {
        let request = client.get(world.url("/user_manager/me")).bearer_auth(world.token());
        request.header("x-forwarded-for", peer).send().await.unwrap().status()
    };
    assert_eq!(asks("192.0.2.1").await, 200);
    assert_eq!(asks("192.0.2.1").await, 429);
    assert_eq!(asks("192.0.2.2").await, 200);
    assert_eq!(asks("192.0.2.9, 192.0.2.2").await, 429, "the last one is whom the proxy saw");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_client_beyond_its_share_are_closed() {
    let world = World::with_config("[limits]\nconnections_per_client = 2\n").await;
    let first = Wire::http1(&world);
    let _second = Wire::http1(&world);
    let mine = IpAddr::from([127, 0, 0, 1]);
    assert!(Wire::from(&world, mine).await.is_err(), "the third one is not served");
    let mut other = Wire::from(&world, OTHER.into()).await.unwrap();
    other.send("GET /nope HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(other.answer().status, 404);
    drop(first);
    eventually(async || Wire::from(&world, mine).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_connections_may_be_off() {
    let world = World::with_config("[limits]\nconnections_per_client = \"off\"\n").await;
    let _many: Vec<Wire> = (0..300).map(|_| Wire::http1(&world)).collect();
}

fn seen(body: &Value, name: &str) -> Value {
    body["headers"][name].clone()
}

#[tokio::test]
async fn a_stranger_cannot_speak_for_somebody_else() {
    let world = World::with_config("trusted_proxies = [\"192.0.2.0/24\"]\n").await;
    for client in [world.client(), world.client_builder().http1_only().build().unwrap()] {
        let mut request = client.get(world.url("/user_manager/me")).bearer_auth(world.token());
        for (name, value) in [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "other.example.com"),
            ("x-forwarded-port", "80"),
            ("x-forwarded-user", "root"),
            ("x-real-ip", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7"),
        ] {
            request = request.header(name, value);
        }
        let body: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(seen(&body, "x-forwarded-for"), json!(["127.0.0.1"]));
        assert_eq!(seen(&body, "x-real-ip"), json!(["127.0.0.1"]));
        assert_eq!(seen(&body, "x-forwarded-proto"), json!(["https"]));
        assert_eq!(seen(&body, "x-forwarded-host"), json!([format!("localhost:{}", world.addr.port())]));
        for name in ["x-forwarded-port", "x-forwarded-user", "forwarded"] {
            assert_eq!(seen(&body, name), Value::Null, "{name}");
        }
    }
}

#[tokio::test]
async fn a_trusted_proxy_may_speak_for_its_clients() {
    let world = World::with_config("trusted_proxies = [\"127.0.0.0/8\"]\n").await;
    let client = world.client();
    let request = client.get(world.url("/user_manager/me")).bearer_auth(world.token());
    let request =
        request.header("x-forwarded-for", "203.0.113.9, 192.0.2.7").header("x-real-ip", "203.0.113.9");
    let body: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(seen(&body, "x-real-ip"), json!(["192.0.2.7"]), "whom the proxy saw, not whom that one named");
    let chain = seen(&body, "x-forwarded-for").to_string();
    assert!(chain.contains("192.0.2.7"), "{chain}");
}

#[tokio::test]
async fn pages_of_configured_origins_may_ask_and_others_may_not() {
    let world = World::with_config("cors_origins = [\"https://app.example.com\"]\n").await;
    let client = world.client();
    let asks = async |method: Method, origin: &str| {
        let request = client.request(method, world.url("/user_manager/me")).header("origin", origin);
        let request = request.header("access-control-request-method", "PUT");
        request.header("access-control-request-headers", "authorization").send().await.unwrap()
    };
    let allowed = asks(Method::OPTIONS, "https://app.example.com").await;
    assert_eq!(allowed.status(), 204);
    let header = |name: &str| allowed.headers()[name].to_str().unwrap().to_ascii_lowercase();
    assert_eq!(header("access-control-allow-origin"), "https://app.example.com");
    assert!(header("access-control-allow-methods").contains("put"));
    assert!(header("access-control-allow-headers").contains("authorization"));
    assert!(header("vary").contains("origin"));
    assert!(allowed.headers().contains_key("x-request-id"));

    for origin in ["https://evil.example.com", "https://app.example.com.evil.example.com", "null"] {
        let refused = asks(Method::OPTIONS, origin).await;
        assert!(!refused.headers().contains_key("access-control-allow-origin"), "{origin}");
        assert_eq!(refused.status(), 403, "{origin}");
    }
    assert_eq!(world.user_manager.served(), 0, "a preflight is answered at the edge");

    // The real request: its refusal too can be read by the page.
    let refused = client.get(world.url("/user_manager/me")).header("origin", "https://app.example.com");
    let refused = refused.send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example.com");
    let granted = client.get(world.url("/user_manager/me")).bearer_auth(world.token());
    let granted = granted.header("origin", "https://app.example.com").send().await.unwrap();
    assert_eq!(granted.headers()["access-control-allow-origin"], "https://app.example.com");
    assert!(granted.headers()["vary"].to_str().unwrap().to_ascii_lowercase().contains("origin"));
}

#[tokio::test]
async fn without_configured_origins_a_preflight_is_a_request_like_any_other() {
    let world = World::start().await;
    let request = world.client().request(Method::OPTIONS, world.url("/user_manager/me"));
    let request = request.header("origin", "https://app.example.com");
    let answer = request.header("access-control-request-method", "GET").send().await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    problem(answer, 401, "unauthorized").await;
}

#[tokio::test]
async fn the_plain_port_only_sends_to_https() {
    let world = World::with_config("redirect_listen = \"127.0.0.1:0\"\n").await;
    let plain = world.redirect.unwrap();
    let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let target = "/user_manager/me?x=1";
    for (method, status) in [
        (Method::GET, 301),
        (Method::HEAD, 301),
        (Method::POST, 308),
        (Method::PUT, 308),
        (Method::DELETE, 308),
    ] {
        let request = client.request(method.clone(), format!("http://{plain}{target}"));
        let answer = request.bearer_auth(world.token()).send().await.unwrap();
        assert_eq!(answer.status(), status, "{method}");
        let location = format!("https://127.0.0.1:{}{target}", world.addr.port());
        assert_eq!(answer.headers()["location"], location, "{method}");
    }
    assert_eq!(world.user_manager.served(), 0);
}

#[tokio::test]
async fn the_plain_port_keeps_every_byte_of_a_target_and_names_its_problems() {
    let world = World::with_config("redirect_listen = \"127.0.0.1:0\"\n").await;
    let plain = world.redirect.unwrap();
    let ask = |request: &'static [u8]| async move {
        let mut tcp = tokio::net::TcpStream::connect(plain).await.unwrap();
        tcp.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        tcp.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = ask(b"GET /caf\xc3\xa9?\xff HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let location = format!("location: https://a:{}/caf", world.addr.port());
    let location = [location.as_bytes(), b"\xc3\xa9?\xff\r\n"].concat();
    assert!(answer.windows(location.len()).any(|line| line == location), "{}", answer.escape_ascii());
    let answer = ask(b"GET / HTTP/1.1\r\n\r\n").await;
    support::wire::one_problem(&String::from_utf8(answer).unwrap(), 400, "bad-request");
}

#[tokio::test]
async fn the_plain_port_does_not_let_itself_be_led_astray() {
    let world = World::with_config("redirect_listen = \"127.0.0.1:0\"\n").await;
    let plain = world.redirect.unwrap();
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a@evil.example.com\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
        ("GET http://evil.example.com/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        ("CONNECT evil.example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n", "4"),
        ("GET //evil.example.com/ HTTP/1.1\r\nHost: a\r\n\r\n", "301"),
    ] {
        let answer = tokio::task::spawn_blocking(move || {
            use std::io::{Read, Write};
            let mut tcp = std::net::TcpStream::connect(plain).unwrap();
            tcp.set_read_timeout(Some(support::LONG)).unwrap();
            tcp.write_all(request.as_bytes()).unwrap();
            tcp.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            tcp.read_to_string(&mut answer).unwrap();
            answer
        })
        .await
        .unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer}");
        let elsewhere = answer.to_ascii_lowercase().contains("location: https://evil");
        assert!(!elsewhere, "{request:?}: {answer}");
    }
}
