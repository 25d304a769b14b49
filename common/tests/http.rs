//! What every service's HTTP side has from `common::http`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::{get, post};
use common::http::{Admin, Json, Problem, Query, admin, layers, ready_when, serve};
use common::telemetry::Metrics;
use common::trace::Trace;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

#[derive(Deserialize)]
struct Greeting {
    name: String,
}

#[derive(Deserialize)]
struct Paging {
    limit: u32,
}

fn routes(metrics: &mut Metrics) -> Router {
    let router = Router::new()
        .route("/greet", post(async |Json(greeting): Json<Greeting>| Json(json!({"hello": greeting.name}))))
        .route("/page", get(async |Query(paging): Query<Paging>| Json(json!({"limit": paging.limit}))))
        .route("/optional", post(async |body: Option<Json<Greeting>>| Json(json!({"given": body.is_some()}))))
        .route("/trace", get(async |trace: axum::Extension<Trace>| trace.request_id.clone()))
        .route("/panics", get(async || -> &'static str { panic!("the secret cause, on purpose") }))
        .route("/hangs", get(async || std::future::pending::<&'static str>().await));
    layers(router, metrics)
}

/// One request, answered without a network.
async fn ask(request: Request) -> Response {
    routes(&mut Metrics::new("test", "here")).oneshot(request).await.unwrap()
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Request {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body.into()).unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Checks that a response is a problem as documented, and gives its body.
async fn problem(response: Response, status: u16, slug: &str) -> Value {
    assert_eq!(response.status(), status, "{slug}");
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{slug}");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let length = response.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
    let body = text(response).await;
    assert!(length.is_none_or(|length| length == body.len().to_string()), "{slug}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["type"], format!("urn:vedetta:problem:{slug}"));
    assert_eq!((&body["status"], &body["request_id"]), (&json!(status), &json!(id)), "{slug}");
    for member in ["title", "detail"] {
        assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{slug}: {member}");
    }
    body
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[tokio::test]
async fn an_unknown_route_is_a_problem() {
    problem(ask(request(Method::GET, "/nowhere", &[], "")).await, 404, "not-found").await;
    problem(ask(request(Method::POST, "/greet/", JSON, "{}")).await, 404, "not-found").await;
}

#[tokio::test]
async fn a_wrong_method_is_told_which_are_right() {
    let response = ask(request(Method::DELETE, "/greet", &[], "")).await;
    assert_eq!(response.headers()["allow"], "POST");
    problem(response, 405, "method-not-allowed").await;
}

#[tokio::test]
async fn a_body_is_taken_or_refused_with_its_reason() {
    let greet =
        async |headers, body: &str| ask(request(Method::POST, "/greet", headers, body.to_owned())).await;
    assert_eq!(text(greet(JSON, r#"{"name": "Ada", "more": 1}"#).await).await, r#"{"hello":"Ada"}"#);
    problem(greet(JSON, r#"{"name": "#).await, 400, "bad-request").await;
    problem(greet(JSON, "").await, 400, "bad-request").await;
    let wrong = problem(greet(JSON, r#"{"name": 5}"#).await, 422, "invalid").await;
    assert!(wrong["detail"].as_str().unwrap().contains("name"), "{wrong}");
    problem(greet(JSON, "{}").await, 422, "invalid").await;
    problem(greet(&[], "{}").await, 415, "unsupported-media-type").await;
    problem(greet(&[("content-type", "text/plain")], "{}").await, 415, "unsupported-media-type").await;
}

#[tokio::test]
async fn a_body_above_a_mebibyte_is_refused() {
    let sized = |size: usize| format!(r#"{{"name": "{}"}}"#, "x".repeat(size - 12));
    let fits = ask(request(Method::POST, "/greet", JSON, sized(1 << 20))).await;
    assert_eq!(fits.status(), StatusCode::OK);
    let large = ask(request(Method::POST, "/greet", JSON, sized((1 << 20) + 1))).await;
    problem(large, 413, "too-large").await;
    // Without a length announced, too.
    let parts = vec![Ok::<_, std::io::Error>(sized(1 << 20)), Ok("x".into())];
    let stream = Body::from_stream(futures::stream::iter(parts));
    problem(ask(request(Method::POST, "/greet", JSON, stream)).await, 413, "too-large").await;
}

#[tokio::test]
async fn a_body_may_be_left_out_where_it_is_optional() {
    let optional =
        async |headers, body: &str| ask(request(Method::POST, "/optional", headers, body.to_owned())).await;
    assert_eq!(text(optional(&[], "").await).await, r#"{"given":false}"#);
    assert_eq!(text(optional(JSON, r#"{"name": "Ada"}"#).await).await, r#"{"given":true}"#);
    problem(optional(JSON, "{").await, 400, "bad-request").await;
}

#[tokio::test]
async fn a_query_that_cannot_be_read_is_a_problem() {
    assert_eq!(ask(request(Method::GET, "/page?limit=5", &[], "")).await.status(), StatusCode::OK);
    problem(ask(request(Method::GET, "/page?limit=many", &[], "")).await, 400, "bad-request").await;
    problem(ask(request(Method::GET, "/page", &[], "")).await, 400, "bad-request").await;
}

#[tokio::test]
async fn a_panic_tells_the_client_nothing() {
    let body = problem(ask(request(Method::GET, "/panics", &[], "")).await, 500, "internal").await;
    assert!(!body.to_string().contains("secret"), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_ends_is_given_up() {
    let response = ask(request(Method::GET, "/hangs", &[], "")).await;
    assert_eq!(response.headers()["retry-after"], "5");
    problem(response, 503, "unavailable").await;
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let id_of = async |given: &str| {
        let response = ask(request(Method::GET, "/trace", &[("x-request-id", given)], "")).await;
        let shown = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(text(response).await, shown, "the handler's is the client's");
        shown
    };
    assert_eq!(id_of("Ada_1.2-3").await, "Ada_1.2-3");
    let long = "x".repeat(65);
    for odd in ["", "two words", "semi;colon", "<script>", &long] {
        let id = id_of(odd).await;
        assert!(id != odd && common::trace::is_sane(&id), "{id}");
    }
    assert_ne!(id_of("").await, id_of("").await);
}

/// A router on a port of its own.
struct Served {
    address: SocketAddr,
    token: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    async fn start(router: Router) -> Served {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, token.clone()));
        Served { address, token, task }
    }
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_takes_nothing_more() {
    let (reached, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let router = Router::new().route("/quick", get(async || "quick")).route("/slow", {
        let (reached, gate) = (reached.clone(), gate.clone());
        get(async move || {
            reached.notify_one();
            gate.notified().await;
            "finished"
        })
    });
    let served = Served::start(router).await;
    let url = format!("http://{}", served.address);
    let client = common::http::client(Duration::from_secs(20)).unwrap();
    // One connection that is kept alive, one that has not sent a thing.
    assert_eq!(client.get(format!("{url}/quick")).send().await.unwrap().text().await.unwrap(), "quick");
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    let asking = tokio::spawn({
        let (client, url) = (client.clone(), format!("{url}/slow"));
        async move { client.get(url).send().await.unwrap().text().await.unwrap() }
    });
    reached.notified().await;
    served.token.cancel();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0, "closed without an answer");
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens");
    assert!(!served.task.is_finished());
    gate.notify_one();
    assert_eq!(asking.await.unwrap(), "finished");
    served.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_ends_its_connection_only() {
    let served = Served::start(Router::new().route("/", get(async || "here"))).await;
    let mut greedy = TcpStream::connect(served.address).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}", "x".repeat(128 << 10));
    let _ = greedy.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = greedy.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
    let client = common::http::client(Duration::from_secs(20)).unwrap();
    let answer = client.get(format!("http://{}", served.address)).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    served.token.cancel();
    drop(client);
    served.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_admin_port_tells_health_readiness_and_metrics() {
    let mut metrics = Metrics::new("test", "node-1");
    let router = routes(&mut metrics);
    for path in ["/greet", "/nowhere"] {
        router.clone().oneshot(request(Method::POST, path, JSON, r#"{"name": "Ada"}"#)).await.unwrap();
    }
    let (missing, asked) = watch::channel(Some("the database is away".to_owned()));
    let ready = ready_when(move || {
        let missing = asked.borrow().clone();
        std::future::ready(missing.map_or(Ok(()), Err))
    });
    let admin = admin(Admin { metrics: Arc::new(metrics), ready });
    let get = async |path| admin.clone().oneshot(request(Method::GET, path, &[], "")).await.unwrap();

    assert_eq!(get("/healthz").await.status(), StatusCode::OK);
    let unready = get("/readyz").await;
    assert_eq!(unready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(text(unready).await.contains("the database is away"));
    missing.send_replace(None);
    assert_eq!(get("/readyz").await.status(), StatusCode::OK);

    let response = get("/metrics").await;
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let metrics = text(response).await;
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let samples: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
    let labelled =
        |line: &&str| line.starts_with("vedetta_test_") && line.contains(r#"service="test",node="node-1""#);
    assert!(samples.iter().all(labelled), "{metrics}");
    for expected in [
        r#"vedetta_test_up{service="test",node="node-1"} 1"#,
        r#"_count{service="test",node="node-1",route="/greet",method="POST",status="2xx"} 1"#,
        r#"_count{service="test",node="node-1",route="none",method="POST",status="4xx"} 1"#,
    ] {
        assert!(samples.iter().any(|line| line.ends_with(expected)), "{expected} in {metrics}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_readiness_that_does_not_answer_is_none() {
    let ready = ready_when(std::future::pending);
    let admin = admin(Admin { metrics: Arc::new(Metrics::new("test", "here")), ready });
    let response = admin.oneshot(request(Method::GET, "/readyz", &[], "")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_database_that_is_busy_or_away_is_unavailable_and_what_is_not_expected_is_internal() {
    use anyhow::Context;
    let status = |error: anyhow::Error| Problem::failure(&error).status();
    assert_eq!(status(sqlx::Error::PoolTimedOut.into()), 503);
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(status(Err::<(), _>(sqlx::Error::Io(refused)).context("the account").unwrap_err()), 503);
    assert_eq!(status(sqlx::Error::RowNotFound.into()), 500);
    assert_eq!(status(anyhow::anyhow!("a bug")), 500);
}
