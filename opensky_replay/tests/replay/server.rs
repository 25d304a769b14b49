//! A replay on a port of its own, with a clock that a test moves.

use std::io::Write;
use std::net::SocketAddr;

use clap::Parser;
use common::clock::{Clock, DAY, Manual};
use opensky_replay::{App, Config};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Monday 2 April 2001, the first day of every tape here.
pub(crate) const MONDAY: i64 = 986_169_600;
/// Long after every tape, noon of a Wednesday.
pub(crate) const NOON: i64 = MONDAY + 9242 * DAY + DAY / 2;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// The options as the command line gives them.
pub(crate) fn config(flags: &[&str]) -> Result<Config, clap::Error> {
    let flags = ["opensky_replay", "--listen", "127.0.0.1:0"].iter().chain(flags);
    Cli::try_parse_from(flags).map(|cli| cli.config)
}

/// A running replay; it stops when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) time: Manual,
    pub(crate) running: JoinHandle<anyhow::Result<()>>,
    pub(crate) stop: DropGuard,
    http: reqwest::Client,
}

impl Server {
    /// With the embedded flights, at `NOON`.
    pub(crate) async fn embedded(flags: &[&str]) -> Server {
        let (clock, time) = Clock::manual(NOON);
        Server::start(flags, clock, time).await
    }

    /// With these flights, at `NOON`.
    pub(crate) async fn with(data: &NamedTempFile, flags: &[&str]) -> Server {
        let path = data.path().to_str().unwrap();
        Server::embedded(&[&["--data", path], flags].concat()).await
    }

    pub(crate) async fn start(flags: &[&str], clock: Clock, time: Manual) -> Server {
        let app = App::build(config(flags).unwrap(), clock).await.unwrap();
        let token = CancellationToken::new();
        let addr = app.addr();
        let running = tokio::spawn(app.run(token.clone()));
        let http = common::http::client(std::time::Duration::from_secs(60)).unwrap();
        Server { addr, time, running, stop: token.drop_guard(), http }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.addr))
    }

    /// The answer of a token endpoint.
    pub(crate) async fn grant(&self, path: &str, id: &str, secret: &str) -> Response {
        let form = [("grant_type", "client_credentials"), ("client_id", id), ("client_secret", secret)];
        self.request(Method::POST, path).form(&form).send().await.unwrap()
    }

    /// An access token of that client.
    pub(crate) async fn token(&self, id: &str) -> String {
        let response = self.grant("/token", id, "secret").await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    /// A client with a token.
    pub(crate) async fn client(&self, id: &str) -> Client<'_> {
        Client { server: self, token: self.token(id).await }
    }

    /// The JSON of an admin route.
    pub(crate) async fn admin(&self, path: &str) -> Value {
        self.request(Method::GET, path).send().await.unwrap().json().await.unwrap()
    }

    /// Changes the faults.
    pub(crate) async fn patch(&self, change: Value) -> Value {
        let response = self.request(Method::PATCH, "/admin/faults").json(&change).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }
}

/// A client of OpenSky.
pub(crate) struct Client<'a> {
    server: &'a Server,
    token: String,
}

impl Client<'_> {
    /// `side` is `arrival` or `departure`, `query` goes after the question mark.
    pub(crate) async fn ask(&self, side: &str, query: &str) -> Response {
        let path = format!("/api/flights/{side}?{query}");
        self.server.request(Method::GET, &path).bearer_auth(&self.token).send().await.unwrap()
    }

    pub(crate) async fn flights(&self, side: &str, airport: &str, begin: i64, end: i64) -> Response {
        self.ask(side, &format!("airport={airport}&begin={begin}&end={end}")).await
    }

    /// How many flights there are; 404 must be empty.
    pub(crate) async fn count(&self, side: &str, airport: &str, begin: i64, end: i64) -> usize {
        let response = self.flights(side, airport, begin, end).await;
        match response.status() {
            StatusCode::OK => response.json::<Vec<Value>>().await.unwrap().len(),
            StatusCode::NOT_FOUND => {
                assert_eq!(response.bytes().await.unwrap().len(), 0);
                0
            }
            other => panic!("{other}: {}", response.text().await.unwrap()),
        }
    }
}

/// What a header holds.
pub(crate) fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

/// A recording of one week: a flight from KJFK to KBOS on each day, from 10:00 to 11:00.
pub(crate) fn week() -> NamedTempFile {
    let line = |day: i64| {
        let first = MONDAY + day * DAY + 10 * 3600;
        format!(
            r#"{{"icao24":"f0000{day}","firstSeen":{first},"estDepartureAirport":"KJFK","lastSeen":{},"estArrivalAirport":"KBOS","callsign":"DAY{day}"}}"#,
            first + 3600
        )
    };
    recording(&(0..7).map(line).collect::<Vec<_>>().join("\n"))
}

/// A file with that text.
pub(crate) fn recording(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}
