//! The client against a server that answers as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response as Reply};
use common::testing::eventually;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};

use super::*;
use crate::circuit_breaker::{Settings, State};
use crate::config::OpenSkyArgs;

const WINDOW: Window = Window { begin: 986_256_000, end: 986_342_400 };

/// How often each was asked for.
#[derive(Default)]
struct Asked {
    tokens: AtomicUsize,
    flights: AtomicUsize,
}

/// A server whose tokens live for `lifetime` seconds and whose flights are what `flights` answers to the headers of a
/// call and its number, from 0.
async fn serve(
    lifetime: u64,
    flights: impl Fn(&HeaderMap, usize) -> Reply + Send + Sync + 'static,
) -> (String, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let (counts, flights) = (asked.clone(), Arc::new(flights));
    let router = Router::new().fallback(move |request: Request| {
        let (counts, flights) = (counts.clone(), flights.clone());
        async move {
            if request.uri().path() == "/token" {
                let number = counts.tokens.fetch_add(1, Ordering::SeqCst);
                let token = format!("token-{number}");
                return axum::Json(json!({"access_token": token, "expires_in": lifetime})).into_response();
            }
            flights(request.headers(), counts.flights.fetch_add(1, Ordering::SeqCst))
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, asked)
}

/// A client of it that waits 30 s for an answer, with a breaker that opens after three failures and tries again at once.
fn client(url: &str) -> Arc<OpenSky> {
    client_with(url, Duration::from_secs(30))
}

fn client_with(url: &str, timeout: Duration) -> Arc<OpenSky> {
    let args = OpenSkyArgs {
        opensky_api_url: format!("{url}/api/"),
        opensky_token_url: format!("{url}/token"),
        opensky_client_id: None,
        opensky_client_secret: None,
        opensky_client_secret_file: None,
        opensky_daily_credits: 4000,
        opensky_timeout: timeout,
    };
    let credentials = Credentials { id: "id".into(), secret: "secret".into() };
    let settings = Settings { failure_threshold: 3, success_threshold: 1, timeout: Duration::ZERO };
    let counted = vec![Fault::Connect, Fault::Timeout, Fault::Server, Fault::Decode];
    Arc::new(OpenSky::new(&args, credentials, CircuitBreaker::new(settings), counted).unwrap())
}

async fn arrivals(client: &OpenSky) -> Called {
    client.flights("KJFK".parse().unwrap(), Direction::Arrivals, WINDOW).await
}

fn flight() -> Value {
    json!({
        "icao24": "f00001", "firstSeen": WINDOW.begin + 10, "lastSeen": WINDOW.begin + 7200,
        "estDepartureAirport": "KBOS", "estArrivalAirport": "KJFK", "callsign": "TEST1   "
    })
}

fn answer(body: &Value) -> Reply {
    axum::Json(body).into_response()
}

/// What the client says of a 200 with this body to a call for arrivals.
async fn complaint(body: impl Into<String>) -> String {
    complaint_of(Direction::Arrivals, body).await
}

async fn complaint_of(direction: Direction, body: impl Into<String>) -> String {
    let body = body.into();
    let (url, _) = serve(1800, move |_, _| body.clone().into_response()).await;
    let called = client(&url).flights("KJFK".parse().unwrap(), direction, WINDOW).await;
    assert!(called.charged, "OpenSky gave an answer and charges it");
    match called.flights.unwrap_err() {
        Error::Fault(Fault::Decode, why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_hundred_callers_wait_for_one_token() {
    let (url, asked) = serve(1800, |_, _| answer(&json!([flight()]))).await;
    let client = client(&url);
    let calls = join_all((0..100).map(|_| arrivals(&client))).await;
    assert!(calls.iter().all(|called| called.flights.as_ref().unwrap().len() == 1));
    assert_eq!(asked.tokens.load(Ordering::SeqCst), 1);
    assert_eq!(asked.flights.load(Ordering::SeqCst), 100);
}

#[tokio::test]
async fn a_hundred_refused_callers_fetch_one_new_token() {
    let (url, asked) = serve(1800, |headers, _| match headers["authorization"].to_str().unwrap() {
        "Bearer token-0" => StatusCode::UNAUTHORIZED.into_response(),
        _ => answer(&json!([])),
    })
    .await;
    let client = client(&url);
    let calls = join_all((0..100).map(|_| arrivals(&client))).await;
    assert!(calls.iter().all(|called| called.flights.is_ok()));
    assert_eq!(asked.tokens.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    // It lives for 31 s and is used for one: nobody waits here for its end.
    let (url, asked) = serve(31, |_, _| answer(&json!([]))).await;
    let client = client(&url);
    eventually("a second token", async || {
        assert!(arrivals(&client).await.flights.is_ok());
        (asked.tokens.load(Ordering::SeqCst) == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_token_that_is_never_taken_is_asked_for_once_more_and_no_further() {
    let (url, asked) = serve(1800, |_, _| StatusCode::UNAUTHORIZED.into_response()).await;
    let called = arrivals(&client(&url)).await;
    assert!(matches!(called.flights, Err(Error::Fault(Fault::Server, _))), "{called:?}");
    assert!(!called.charged);
    assert_eq!((asked.tokens.load(Ordering::SeqCst), asked.flights.load(Ordering::SeqCst)), (2, 2));
}

#[tokio::test]
async fn every_status_is_an_answer_a_pause_or_a_fault() {
    let (url, _) = serve(1800, |_, number| {
        let status = [404, 500, 502, 503, 400, 403, 302, 204][number];
        let headers = [("x-rate-limit-remaining", "17"), ("location", "http://127.0.0.1:9/")];
        (StatusCode::from_u16(status).unwrap(), headers).into_response()
    })
    .await;
    let client = client(&url);
    let none = arrivals(&client).await;
    assert_eq!((none.flights.unwrap(), none.charged, none.credits), (Vec::new(), true, Some(17)));
    for status in [500, 502, 503, 400, 403, 302, 204] {
        let called = arrivals(&client).await;
        let Err(Error::Fault(Fault::Server, why)) = called.flights else { panic!("{status}") };
        assert!(why.contains(&status.to_string()), "{why}");
        assert_eq!((called.charged, called.credits), (false, Some(17)));
    }
}

#[tokio::test]
async fn a_429_pauses_as_long_as_it_says_within_reason_and_is_no_failure() {
    let told = [Some("7"), None, Some("soon"), Some("-5"), Some("0"), Some("99999999999")];
    let pauses = [7, 60, 60, 60, 1, 86_400];
    let (url, _) = serve(1800, move |_, number| {
        let mut reply = StatusCode::TOO_MANY_REQUESTS.into_response();
        if let Some(seconds) = told[number] {
            reply.headers_mut().insert("x-rate-limit-retry-after-seconds", seconds.parse().unwrap());
        }
        reply
    })
    .await;
    let client = client(&url);
    for pause in pauses {
        let called = arrivals(&client).await;
        let Err(Error::RateLimited(wait)) = called.flights else { panic!("{called:?}") };
        assert_eq!((wait.as_secs(), called.charged), (pause, false));
    }
    assert_eq!(client.breaker.state(), State::Closed { failures: 0 });
}

#[tokio::test]
async fn a_429_is_an_answer_to_the_breaker() {
    let statuses = [503, 503, 429, 503, 503, 503, 429];
    let (url, _) =
        serve(1800, move |_, number| StatusCode::from_u16(statuses[number]).unwrap().into_response()).await;
    let client = client(&url);
    for state in [1, 2, 0, 1, 2].map(|failures| State::Closed { failures }) {
        arrivals(&client).await;
        assert_eq!(client.breaker.state(), state);
    }
    arrivals(&client).await;
    assert!(matches!(client.breaker.state(), State::Open { .. }));
    // The trial.
    arrivals(&client).await;
    assert_eq!(client.breaker.state(), State::Closed { failures: 0 });
}

#[tokio::test]
async fn what_is_wrong_with_an_answer_is_named_by_its_field() {
    let begin = WINDOW.begin;
    for (field, wrong, named) in [
        ("firstSeen", json!("yesterday"), "[1].firstSeen"),
        ("firstSeen", json!(null), "[1].firstSeen"),
        ("firstSeen", json!(1.5), "[1].firstSeen"),
        ("lastSeen", json!(begin), "[1].lastSeen is before firstSeen"),
        ("lastSeen", json!(begin * 1000), "[1].lastSeen is not of the window"),
        ("icao24", json!(7), "[1].icao24"),
        ("icao24", json!("F00001"), "[1].icao24 is not six hexadecimal digits"),
        ("icao24", json!("f0000\u{0}"), "[1].icao24"),
        ("estDepartureAirport", json!({}), "[1].estDepartureAirport"),
        ("estArrivalAirport", json!("K\nJFK"), "[1].estArrivalAirport is no code"),
        ("callsign", json!("A".repeat(17)), "[1].callsign is no callsign"),
    ] {
        let mut odd = flight();
        odd[field] = wrong;
        let why = complaint(json!([flight(), odd]).to_string()).await;
        assert!(why.contains(named), "{why}");
    }
    // A day beyond the window is an answer to something else.
    for (first_seen, last_seen, direction) in [
        (begin - 86_401, begin + 10, Direction::Departures),
        (begin - 86_500, begin - 86_401, Direction::Arrivals),
        (WINDOW.end - 10, WINDOW.end + 86_400, Direction::Arrivals),
        (WINDOW.end + 86_400, WINDOW.end + 86_401, Direction::Departures),
    ] {
        let mut flight = flight();
        flight["firstSeen"] = json!(first_seen);
        flight["lastSeen"] = json!(last_seen);
        let field = if direction == Direction::Arrivals { "lastSeen" } else { "firstSeen" };
        let why = complaint_of(direction, json!([flight]).to_string()).await;
        assert!(why.contains(&format!("[0].{field} is not of the window")), "{why}");
    }
    let mut lacking = flight();
    lacking.as_object_mut().unwrap().remove("lastSeen");
    assert!(complaint(json!([lacking]).to_string()).await.contains("[0]: missing field `lastSeen`"));
    let whole = json!([flight(), flight()]).to_string();
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        complaint(&whole[..cut]).await;
    }
    for other in ["", "null", "{}", "<html>", "[] []"] {
        complaint(other).await;
    }
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let (url, _) = serve(1800, |_, _| {
        let blanks = futures::stream::repeat(vec![b' '; 1 << 20]);
        Body::from_stream(blanks.map(Ok::<_, std::io::Error>)).into_response()
    })
    .await;
    let Err(Error::Fault(Fault::Decode, why)) = arrivals(&client(&url)).await.flights else { panic!() };
    assert!(why.contains("larger than"), "{why}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_answer_and_is_charged() {
    let (url, _) = serve(1800, |_, _| {
        // More than the server holds back before it sends anything.
        let broken = [Ok(" ".repeat(2 << 20)), Err(std::io::Error::other("cut"))];
        Body::from_stream(futures::stream::iter(broken)).into_response()
    })
    .await;
    let called = arrivals(&client(&url)).await;
    let Err(Error::Fault(Fault::Decode, why)) = called.flights else { panic!("{called:?}") };
    assert!(why.contains("broke off") && called.charged, "{why}");
}

#[tokio::test]
async fn the_servers_clock_is_read_from_its_answer() {
    let (url, _) =
        serve(1800, |_, _| ([("date", "Tue, 03 Apr 2001 00:00:07 GMT")], "[]").into_response()).await;
    assert_eq!(arrivals(&client(&url)).await.date, Some(986_256_007));
}

/// A breaker that has opened, and lets one trial through from now on.
async fn opened(client: &OpenSky) {
    for _ in 0..3 {
        arrivals(client).await;
    }
    assert!(matches!(client.breaker.state(), State::Open { .. }));
}

#[tokio::test]
async fn of_a_hundred_callers_one_makes_the_trial() {
    let (url, asked) = serve(1800, |_, number| match number {
        0..3 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        _ => answer(&json!([])),
    })
    .await;
    let client = client(&url);
    opened(&client).await;
    let calls = join_all((0..100).map(|_| arrivals(&client))).await;
    let refused = calls.iter().filter(|called| matches!(called.flights, Err(Error::Refused(_)))).count();
    assert_eq!((refused, asked.flights.load(Ordering::SeqCst)), (99, 4));
    assert_eq!(client.breaker.state(), State::Closed { failures: 0 });
}

/// Answers the first three calls with 503, the fourth never, later ones well.
async fn hanging() -> (String, Arc<Asked>) {
    serve(1800, |_, number| match number {
        0..3 => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        3 => Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()).into_response(),
        _ => answer(&json!([])),
    })
    .await
}

#[tokio::test]
async fn a_trial_that_is_cancelled_leaves_its_place_to_the_next() {
    let (url, asked) = hanging().await;
    let client = client(&url);
    opened(&client).await;
    let trial = tokio::spawn({
        let client = client.clone();
        async move { arrivals(&client).await }
    });
    eventually("the trial", async || (asked.flights.load(Ordering::SeqCst) == 4).then_some(())).await;
    assert!(matches!(arrivals(&client).await.flights, Err(Error::Refused(_))));
    trial.abort();
    assert!(trial.await.unwrap_err().is_cancelled());
    assert!(arrivals(&client).await.flights.is_ok());
    assert_eq!(client.breaker.state(), State::Closed { failures: 0 });
}

#[tokio::test]
async fn a_trial_that_hangs_ends_with_its_time_and_the_next_one_follows() {
    let (url, _) = hanging().await;
    let client = client_with(&url, Duration::from_millis(300));
    opened(&client).await;
    let Err(Error::Fault(Fault::Timeout, why)) = arrivals(&client).await.flights else { panic!() };
    assert!(why.contains("in time"), "{why}");
    assert!(matches!(client.breaker.state(), State::Open { .. }));
    assert!(arrivals(&client).await.flights.is_ok());
    assert_eq!(client.breaker.state(), State::Closed { failures: 0 });
}
