//! Which request reaches which service, and in what form.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use serde_json::Value;
use support::{World, problem};

async fn seen(answer: reqwest::Response) -> Value {
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test]
async fn each_prefix_reaches_its_service_without_the_prefix() {
    let world = World::start().await;
    for (path, service, target) in [
        ("/user_manager/me", "user_manager", "/me"),
        (
            "/data_collector/airports/KJFK/flights?from=1&to=2",
            "data_collector",
            "/airports/KJFK/flights?from=1&to=2",
        ),
        ("/data_collector/", "data_collector", "/"),
    ] {
        let seen = seen(world.get(path).await).await;
        assert_eq!((&seen["service"], &seen["target"]), (&service.into(), &target.into()), "{path}");
    }
}

#[tokio::test]
async fn a_path_reaches_the_service_in_normal_form() {
    let world = World::start().await;
    let token = world.token();
    for (target, service, sent) in [
        ("/user_manager//a/./b/../c?x=%41&y=/../", "user_manager", "/a/c?x=%41&y=/../"),
        ("/user_manager/%2e%2e/data_collector/x", "data_collector", "/x"),
        ("/user_manager%2Fa%20b", "user_manager", "/a%20b"),
        ("/user_manager/caf%c3%a9/%7E", "user_manager", "/caf%C3%A9/~"),
        ("https://localhost/user_manager/a%252Fb", "user_manager", "/a%252Fb"),
    ] {
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        let answer = world.raw(head).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target}: {answer}");
        assert!(answer.contains(&format!("\"service\":\"{service}\"")), "{target}: {answer}");
        assert!(answer.contains(&format!("\"target\":\"{sent}\"")), "{target}: {answer}");
    }
}

#[tokio::test]
async fn targets_that_cannot_be_brought_into_normal_form_are_refused() {
    let world = World::start().await;
    for target in ["/user_manager/../../x", "/user_manager/a%zz", "/user_manager/a%00", "*"] {
        let answer =
            world.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
        assert!(answer.contains("urn:vedetta:problem:bad-request"), "{target}: {answer}");
    }
}

#[tokio::test]
async fn the_bare_name_of_a_service_redirects() {
    let world = World::start().await;
    let client = world.client();
    let got = client.get(world.url("/user_manager?x=1")).send().await.unwrap();
    assert_eq!(
        (got.status().as_u16(), &got.headers()["location"]),
        (301, &"/user_manager/?x=1".parse().unwrap())
    );
    let posted = client.post(world.url("/data_collector")).body("{}").send().await.unwrap();
    assert_eq!(
        (posted.status().as_u16(), &posted.headers()["location"]),
        (308, &"/data_collector/".parse().unwrap())
    );
    assert!(posted.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn an_unknown_path_is_a_404_problem() {
    let world = World::start().await;
    for path in ["/", "/nope", "/USER_MANAGER/a", "/user_managers/a"] {
        problem(world.get(path).await, 404, "not-found").await;
    }
    let head = world.client().head(world.url("/nope")).send().await.unwrap();
    assert_eq!(head.status(), 404);
    assert_ne!(head.headers()["content-length"], "0");
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test]
async fn a_service_learns_who_asked_from_the_gateway_only() {
    let world = World::start().await;
    let answer = world
        .client()
        .get(world.url("/user_manager/me"))
        .bearer_auth(world.token())
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-user", "root")
        .header("x-forwarded-proto", "http")
        .header("x-real-ip", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("traceparent", "00-11111111111111111111111111111111-2222222222222222-01")
        .send()
        .await
        .unwrap();
    let seen = seen(answer).await;
    let header = |name: &str| seen["headers"][name].clone();
    assert_eq!(header("x-forwarded-for"), serde_json::json!(["127.0.0.1"]));
    assert_eq!(header("x-real-ip"), serde_json::json!(["127.0.0.1"]));
    assert_eq!(header("x-forwarded-proto"), serde_json::json!(["https"]));
    assert_eq!(header("x-forwarded-host"), serde_json::json!([format!("localhost:{}", world.addr.port())]));
    assert_eq!((header("x-forwarded-user"), header("forwarded")), (Value::Null, Value::Null));
    assert!(header("traceparent")[0].as_str().unwrap().starts_with("00-1111"));
    assert!(header("authorization")[0].as_str().unwrap().starts_with("Bearer "), "the token is passed on");
}

#[tokio::test]
async fn one_request_id_goes_upstream_and_back() {
    let world = World::start().await;
    let ask = async |id: &str| {
        let request = world.client().get(world.url("/user_manager/me")).bearer_auth(world.token());
        let answer = request.header("x-request-id", id).send().await.unwrap();
        let back = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        let upstream = seen(answer).await["headers"]["x-request-id"].clone();
        assert_eq!(upstream, serde_json::json!([back]));
        back
    };
    assert_eq!(ask("my-request.1_A").await, "my-request.1_A");
    for insane in ["", "a b", "a\"b", &"x".repeat(65)] {
        let made = ask(insane).await;
        assert!(made.len() == 36 && made != insane, "{made}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_no_server() {
    let world = World::start().await;
    for path in ["/user_manager/me", "/nope", "/user_manager"] {
        let answer = world.get(path).await;
        let headers = answer.headers();
        assert!(headers["strict-transport-security"].to_str().unwrap().starts_with("max-age="), "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert_eq!(headers["x-frame-options"], "DENY");
        assert!(!headers.contains_key("server"), "{path}");
        assert!(headers.contains_key("x-request-id"), "{path}");
    }
}
