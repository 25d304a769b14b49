//! Everything that can be set, resolved: what [`Config`](crate::Config) (flags and environment) leaves open, the file
//! of `--config` says, and what both leave open has the default that stands here.

pub(crate) mod file;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use common::auth::Auth;
use http::{HeaderValue, Method};
use ipnet::IpNet;

use crate::policy::rate::Rate;
use crate::upstream::Endpoint;

/// A complete configuration. Its parts have passed every check that needs no network and no file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Where HTTPS is served, `host:port`.
    pub(crate) listen: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, `host:port`.
    pub(crate) admin_listen: String,
    /// A plain port that only redirects to HTTPS, `host:port`.
    pub(crate) redirect_listen: Option<String>,
    /// This process's name in metrics.
    pub(crate) node: String,
    /// Threads that serve clients.
    pub(crate) workers: NonZeroUsize,
    /// Whether tokens are asked for.
    pub(crate) auth: Auth,
    /// What becomes of `%2F` in a path.
    pub(crate) encoded_slash: EncodedSlash,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Origins that browsers may call from.
    pub(crate) cors_origins: Vec<HeaderValue>,
    /// Whether a line is written for each request.
    pub(crate) access_log: bool,
    /// Chosen by the name that the client asks for; the first is for everybody else.
    pub(crate) certificates: Vec<CertificateFiles>,
    /// Bounds.
    pub(crate) limits: Limits,
    /// Deadlines.
    pub(crate) timeouts: Timeouts,
    /// The services behind the gateway.
    pub(crate) upstreams: Vec<UpstreamSettings>,
    /// Which paths lead to which service.
    pub(crate) routes: Vec<RouteSettings>,
    /// Where the keys of tokens come from: an upstream's place in `upstreams`.
    pub(crate) keys: usize,
}

/// What becomes of an encoded slash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EncodedSlash {
    /// It separates segments, as in nginx.
    #[default]
    Decode,
    /// The request is refused: 400.
    Reject,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    /// The chain, leaf first.
    pub(crate) cert: PathBuf,
    /// The private key.
    pub(crate) key: PathBuf,
}

/// Bounds on what clients may use.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Client connections at once; further ones wait in the kernel's backlog.
    pub(crate) connections: u32,
    /// Connections of one client at once; further ones are closed. None: no bound.
    pub(crate) connections_per_client: Option<u32>,
    /// Bytes of a request head.
    pub(crate) head: usize,
    /// Requests of one client.
    pub(crate) rate: Option<Rate>,
    /// Requests of one client to routes that cost much: login and registration.
    pub(crate) rate_login: Option<Rate>,
    /// Clients whose rates are remembered at once.
    pub(crate) rate_clients: usize,
    /// HTTP/2 streams at once in one connection.
    pub(crate) h2_streams: u32,
    /// HTTP/2 frames without use (SETTINGS, PING, PRIORITY, RST_STREAM, CONTINUATION, WINDOW_UPDATE, empty DATA) that a
    /// connection may send in 10 s.
    pub(crate) h2_control_frames: u32,
    /// Upgraded connections and event streams at once.
    pub(crate) streams: usize,
    /// The slowest body that is waited for, bytes a second, after the first `timeouts.body`.
    pub(crate) body_rate: u64,
}

/// Deadlines, each of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// The TLS handshake.
    pub(crate) handshake: Duration,
    /// The whole head of a request, from its first byte; of the first one, from the end of the handshake.
    pub(crate) head: Duration,
    /// A connection without a request.
    pub(crate) idle: Duration,
    /// Between two reads of a request body.
    pub(crate) body: Duration,
    /// A client that takes nothing of its answer.
    pub(crate) write: Duration,
    /// Streams (101, `text/event-stream`): without a byte in either direction.
    pub(crate) stream_idle: Duration,
    /// A connection to a service.
    pub(crate) connect: Duration,
    /// Between two reads from a service.
    pub(crate) upstream_read: Duration,
    /// A write to a service. Pingora then still waits for an answer, up to `upstream_read`.
    pub(crate) upstream_write: Duration,
    /// An unused connection to a service. The services keep theirs for 75 s.
    pub(crate) upstream_idle: Duration,
}

/// One service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UpstreamSettings {
    /// Its name in logs and metrics.
    pub(crate) name: String,
    /// Where it is; several are taken in turn.
    pub(crate) addresses: Vec<Endpoint>,
    /// The port on the same hosts that answers `/readyz`.
    pub(crate) admin_port: u16,
    /// Requests in flight at once; further ones are answered 503 at once.
    pub(crate) max_in_flight: usize,
    /// How often `/readyz` is asked. None: never, and only failing requests tell.
    pub(crate) health_interval: Option<Duration>,
    /// Consecutive failures after which an address is ejected.
    pub(crate) eject_after: u32,
    /// How long an ejected address is left alone before it is tried again.
    pub(crate) eject_for: Duration,
    /// Retries, as a share of requests: 0.2 is one for five.
    pub(crate) retry_budget: f64,
}

/// Which paths belong to a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteSettings {
    /// The first segments of the path: `/user_manager/`. The service sees the rest.
    pub(crate) prefix: String,
    /// The service: its place in [`Settings::upstreams`].
    pub(crate) upstream: usize,
    /// Bytes of a request body.
    pub(crate) max_body: u64,
    /// What needs no token.
    pub(crate) public: Vec<Operation>,
    /// What has the rate of logins.
    pub(crate) costly: Vec<Operation>,
}

/// A method and a path as the service sees it: `POST /login`. GET stands for HEAD, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    /// The method.
    pub(crate) method: Method,
    /// The path.
    pub(crate) path: String,
}

impl Operation {
    /// Whether a request is this operation. `path` is in normal form, as the service gets it.
    pub(crate) fn is(&self, method: &Method, path: &str) -> bool {
        (self.method == *method || (self.method == Method::GET && *method == Method::HEAD))
            && self.path == path
    }
}

impl std::str::FromStr for Operation {
    type Err = String;

    fn from_str(text: &str) -> Result<Operation, String> {
        let refusal = || format!("{text:?} is not of the form \"GET /path\"");
        let (method, path) = text.split_once(' ').ok_or_else(refusal)?;
        let method = method.parse().map_err(|_| refusal())?;
        let plain = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
        if plain { Ok(Operation { method, path: path.to_owned() }) } else { Err(refusal()) }
    }
}

impl Default for Settings {
    /// The assignment's gateway.
    fn default() -> Settings {
        let operations = |list: &[(Method, &str)]| {
            list.iter()
                .map(|(method, path)| Operation { method: method.clone(), path: (*path).to_owned() })
                .collect()
        };
        Settings {
            listen: "0.0.0.0:8443".to_owned(),
            admin_listen: "0.0.0.0:9900".to_owned(),
            redirect_listen: None,
            node: "gateway".to_owned(),
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            auth: Auth::Required,
            encoded_slash: EncodedSlash::Decode,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            access_log: true,
            certificates: vec![CertificateFiles { cert: "cert.pem".into(), key: "key.pem".into() }],
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            upstreams: vec![
                UpstreamSettings::new("user_manager", vec![Endpoint::new("user_manager", 5001)], 9901),
                UpstreamSettings::new("data_collector", vec![Endpoint::new("data_collector", 5002)], 9902),
            ],
            routes: vec![
                RouteSettings {
                    public: operations(&[
                        (Method::POST, "/register"),
                        (Method::POST, "/login"),
                        (Method::GET, "/confirm"),
                        (Method::GET, "/openapi.json"),
                    ]),
                    costly: operations(&[
                        (Method::POST, "/register"),
                        (Method::POST, "/login"),
                        (Method::POST, "/password"),
                    ]),
                    ..RouteSettings::new("/user_manager/", 0)
                },
                RouteSettings {
                    public: operations(&[
                        (Method::GET, "/openapi.json"),
                        (Method::GET, "/unsubscribe"),
                        (Method::POST, "/unsubscribe"),
                    ]),
                    ..RouteSettings::new("/data_collector/", 1)
                },
            ],
            keys: 0,
        }
    }
}

impl UpstreamSettings {
    /// A service with the usual bounds.
    pub(crate) fn new(name: &str, addresses: Vec<Endpoint>, admin_port: u16) -> UpstreamSettings {
        UpstreamSettings {
            name: name.to_owned(),
            addresses,
            admin_port,
            max_in_flight: 512,
            health_interval: Some(Duration::from_secs(2)),
            eject_after: 3,
            eject_for: Duration::from_secs(5),
            retry_budget: 0.2,
        }
    }
}

impl RouteSettings {
    /// A route to the service at this place that lets nobody in without a token.
    pub(crate) fn new(prefix: &str, upstream: usize) -> RouteSettings {
        RouteSettings {
            prefix: prefix.to_owned(),
            upstream,
            max_body: 1 << 20,
            public: Vec::new(),
            costly: Vec::new(),
        }
    }

    /// Whether a request needs no token.
    pub(crate) fn is_public(&self, method: &Method, path: &str) -> bool {
        self.public.iter().any(|operation| operation.is(method, path))
    }

    /// Whether a request has the rate of logins.
    pub(crate) fn is_costly(&self, method: &Method, path: &str) -> bool {
        self.costly.iter().any(|operation| operation.is(method, path))
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            connections_per_client: Some(256),
            head: 32 * 1024,
            rate: Some(Rate::new(50.0, 200)),
            rate_login: Some(Rate::new(1.0, 20)),
            rate_clients: 65_536,
            h2_streams: 100,
            h2_control_frames: 1_000,
            streams: 1_000,
            body_rate: 500,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(15),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            write: Duration::from_secs(8),
            stream_idle: Duration::from_secs(300),
            connect: Duration::from_secs(1),
            upstream_read: Duration::from_secs(30),
            upstream_write: Duration::from_secs(15),
            upstream_idle: Duration::from_secs(55),
        }
    }
}
