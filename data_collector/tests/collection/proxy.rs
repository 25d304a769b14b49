//! Stands between data_collector and the replay, and spoils the answers that the test names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

/// What a call gets instead of the replay's answer: for `arrival` or `departure`, an airport, and a window's begin.
type Spoils = Arc<dyn Fn(&str, &str, i64) -> Option<(StatusCode, &'static str)> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Proxy {
    replay: String,
    http: reqwest::Client,
    spoils: Arc<Mutex<Spoils>>,
}

impl Proxy {
    /// In front of the replay at that address; nothing fails. Gives its own address too.
    pub(crate) async fn start(replay: &str) -> (Proxy, String) {
        let http = common::http::client(Duration::from_secs(30)).unwrap();
        let proxy =
            Proxy { replay: replay.to_owned(), http, spoils: Arc::new(Mutex::new(Arc::new(|_, _, _| None))) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(forward).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (proxy, url)
    }

    /// From now on the calls fail for which `fails` is true: for `arrival` or `departure`, an airport, a window's begin.
    pub(crate) fn fail(&self, fails: impl Fn(&str, &str, i64) -> bool + Send + Sync + 'static) {
        self.spoil((StatusCode::BAD_GATEWAY, "as asked for"), fails);
    }

    /// From now on the answers that `garbled` names are no JSON.
    pub(crate) fn garble(&self, garbled: impl Fn(&str, &str, i64) -> bool + Send + Sync + 'static) {
        self.spoil((StatusCode::OK, "[{"), garbled);
    }

    fn spoil(
        &self,
        answer: (StatusCode, &'static str),
        is_spoilt: impl Fn(&str, &str, i64) -> bool + Send + Sync + 'static,
    ) {
        *self.spoils.lock().unwrap() =
            Arc::new(move |side, airport, begin| is_spoilt(side, airport, begin).then_some(answer));
    }
}

async fn forward(
    State(proxy): State<Proxy>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let spoils = proxy.spoils.lock().unwrap().clone();
    let side = request.uri().path().rsplit('/').next().unwrap();
    if let Some(answer) = spoils(side, &query["airport"], query["begin"].parse().unwrap()) {
        return answer.into_response();
    }
    let url = format!("{}{}", proxy.replay, request.uri());
    let answer = proxy
        .http
        .get(url)
        .header("authorization", &request.headers()["authorization"])
        .send()
        .await
        .unwrap();
    let headers = answer.headers().clone();
    let mut response = (answer.status(), answer.bytes().await.unwrap()).into_response();
    for name in ["x-rate-limit-remaining", "x-rate-limit-retry-after-seconds", "date"] {
        response
            .headers_mut()
            .extend(headers.get(name).map(|value| (HeaderName::from_static(name), value.clone())));
    }
    response
}
