//! Random request targets, the same to this gateway and to a real nginx: whatever nginx does with one, the gateway
//! does too, but for the deviations that docs/gateway.md lists.
//!
//! `NGINX_TARGETS` says how many targets (5,000), `NGINX_SEED` which ones.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "a test may")]

#[path = "support/answers.rs"]
mod answers;
mod support;
#[path = "support/targets.rs"]
mod targets;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use answers::{Answers, head};
use support::{World, raw};
use targets::{Request, Targets};
use tempfile::TempDir;

/// Requests that are on their way at once in one connection, and connections to each of the two.
const DEPTH: usize = 16;
const CONNECTIONS: usize = 4;

/// What became of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// This upstream got this path (decoded, since nginx sends some as they came) and this query.
    Sent { upstream: String, path: Vec<u8>, query: Option<Vec<u8>> },
    /// To this path and query.
    Redirect(Vec<u8>),
    /// Refused.
    Status(u16),
}

/// A deviation that docs/gateway.md lists under "Deviations from NGINX".
struct Deviation {
    kind: &'static str,
    /// Whether a request is of this kind.
    applies: fn(&Request) -> bool,
    /// What the gateway does with it instead.
    here: Outcome,
}

const REFUSED: Outcome = Outcome::Status(400);

/// All of them: anything else on which nginx disagrees is a bug.
const DEVIATIONS: &[Deviation] = &[
    Deviation {
        kind: "an absolute form that names another host than Host does",
        applies: |request| absolute(&request.target).is_some_and(|(host, _)| host != request.host.as_bytes()),
        here: REFUSED,
    },
    Deviation {
        kind: "a Host with a colon and no port",
        applies: |request| request.host.ends_with(':'),
        here: REFUSED,
    },
    Deviation {
        kind: "more than one space before or after the target",
        applies: |request| request.target.starts_with(b" ") || request.target.ends_with(b" "),
        here: REFUSED,
    },
];

fn expected_deviation(request: &Request, here: &Outcome) -> Option<&'static str> {
    let explains = |deviation: &&Deviation| (deviation.applies)(request) && deviation.here == *here;
    DEVIATIONS.iter().find(explains).map(|deviation| deviation.kind)
}

/// The authority of an absolute form, and what follows it.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let scheme = target.iter().position(|byte| *byte == b':')?;
    let rest = target[scheme..].strip_prefix(b"://")?;
    target[..scheme]
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
        .then(|| rest.split_at(rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_nginx_agrees_on_every_target() {
    let setting = |name: &str, default: u64| {
        std::env::var(name)
            .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    };
    let seed = setting("NGINX_SEED", 1);
    let count = usize::try_from(setting("NGINX_TARGETS", 5_000)).unwrap();
    let user_manager = recorder("user_manager");
    let data_collector = recorder("data_collector");
    let nginx = Nginx::start(user_manager, data_collector);
    let world = World::start_with(&[
        "--auth=off".into(),
        "--rate-limit=off".into(),
        "--rate-limit-login=off".into(),
        format!("--user-manager-url=http://{user_manager}"),
        format!("--data-collector-url=http://{data_collector}"),
    ])
    .await;
    world.becomes_ready().await;

    let requests: Arc<Vec<Request>> = Arc::new(Targets::seeded(seed).take(count).collect());
    let (addr, cert) = (world.addr, world.cert.clone());
    let began = Instant::now();
    let ours = everywhere(&requests, move || {
        let client = raw::client(&cert, &rustls::version::TLS13, &["http/1.1"]);
        move || raw::connect_as(&client, addr).unwrap()
    });
    let ours = ours.await;
    let took_ours = began.elapsed();
    let socket = nginx.socket.clone();
    let theirs = everywhere(&requests, move || {
        let socket = socket.clone();
        move || UnixStream::connect(&socket).unwrap()
    })
    .await;
    println!("{count} targets of seed {seed}: gateway {took_ours:?}, both {:?}", began.elapsed());

    let mut kinds = BTreeMap::<&str, usize>::new();
    let mut deviations = BTreeMap::<&str, usize>::new();
    let mut unexplained = Vec::new();
    for ((request, here), nginx) in requests.iter().zip(&ours).zip(&theirs) {
        *kinds.entry(nginx.kind()).or_default() += 1;
        if here != nginx {
            match expected_deviation(request, here) {
                Some(kind) => *deviations.entry(kind).or_default() += 1,
                None => unexplained.push((request, here, nginx)),
            }
        }
    }
    println!("nginx: {kinds:?}");
    for (kind, count) in &deviations {
        println!("{count} deviations: {kind}");
    }
    for (request, here, nginx) in unexplained.iter().take(40) {
        println!("{}\n    here  {here}\n    nginx {nginx}", request.target.escape_ascii());
    }
    assert_eq!(unexplained.len(), 0, "targets on which nginx disagrees");
    assert_eq!(kinds.len(), 4, "every outcome occurs");
    for deviation in DEVIATIONS {
        assert!(deviations.contains_key(deviation.kind), "no longer a deviation: {}", deviation.kind);
    }
}

impl Outcome {
    fn kind(&self) -> &'static str {
        match self {
            Outcome::Sent { .. } => "sent",
            Outcome::Redirect(_) => "redirected",
            Outcome::Status(400) => "400",
            Outcome::Status(404) => "404",
            Outcome::Status(other) => panic!("nginx answered {other}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Sent { upstream, path, query } => {
                write!(f, "{upstream} {}", path.escape_ascii())?;
                query.as_ref().map_or(Ok(()), |query| write!(f, "?{}", query.escape_ascii()))
            }
            Outcome::Redirect(location) => write!(f, "to {}", location.escape_ascii()),
            Outcome::Status(status) => write!(f, "{status}"),
        }
    }
}

/// The outcomes of all targets, asked over several connections at once.
async fn everywhere<L, C>(targets: &Arc<Vec<Request>>, connector: impl Fn() -> C) -> Vec<Outcome>
where
    L: Read + Write,
    C: FnMut() -> L + Send + 'static,
{
    let share = targets.len().div_ceil(CONNECTIONS).max(1);
    let asking: Vec<_> = (0..targets.len())
        .step_by(share)
        .map(|from| {
            let (targets, connect) = (targets.clone(), connector());
            let until = targets.len().min(from + share);
            tokio::task::spawn_blocking(move || ask(&targets[from..until], connect))
        })
        .collect();
    let mut outcomes = Vec::new();
    for asking in asking {
        outcomes.extend(asking.await.unwrap());
    }
    outcomes
}

/// Asks for each target, several requests at a time; what a connection that ends leaves unanswered is asked again.
fn ask<L: Read + Write>(targets: &[Request], mut connect: impl FnMut() -> L) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(targets.len());
    let mut depth = DEPTH;
    while outcomes.len() < targets.len() {
        let mut answers = Answers::of(connect());
        let before = outcomes.len();
        'connection: while outcomes.len() < targets.len() {
            let from = outcomes.len();
            let batch = &targets[from..targets.len().min(from + depth)];
            if answers.write(&batch.iter().flat_map(Request::head).collect::<Vec<u8>>()).is_err() {
                break;
            }
            for _ in batch {
                let Some(answer) = answers.next() else { break 'connection };
                outcomes.push(outcome(&answer));
                if answer.closes {
                    break 'connection;
                }
            }
            depth = DEPTH;
        }
        if outcomes.len() == before {
            let target = targets[before].target.escape_ascii();
            assert!(depth > 1, "no answer to {target}");
            // The answer may have been lost when the connection was closed over the requests behind it.
            depth = 1;
        }
    }
    outcomes
}

fn outcome(answer: &answers::Answer) -> Outcome {
    match answer.status {
        200 => {
            let mut words = answer.body.splitn(2, |byte| *byte == b' ');
            let upstream = String::from_utf8(words.next().unwrap().to_vec()).unwrap();
            let line = words.next().unwrap();
            let target = line.strip_prefix(b"GET ").unwrap();
            let target = target.strip_suffix(b" HTTP/1.1").unwrap();
            let mut parts = target.splitn(2, |byte| *byte == b'?');
            let path = decode(parts.next().unwrap());
            let query = parts.next().map(|query| {
                // The gateway encodes these three, and everything else is to stay byte for byte.
                let encode = |byte: &u8| match byte {
                    b'"' => b"%22".to_vec(),
                    b'<' => b"%3C".to_vec(),
                    b'>' => b"%3E".to_vec(),
                    byte => vec![*byte],
                };
                query.iter().flat_map(encode).collect()
            });
            Outcome::Sent { upstream, path, query }
        }
        301 => {
            let location = answer.header("location").unwrap();
            // nginx's is absolute.
            Outcome::Redirect(absolute(location).map_or(location, |(_, rest)| rest).to_vec())
        }
        status => Outcome::Status(status),
    }
}

/// Undoes the percent-encoding; what is left compares equal however it was encoded.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let escape = (path[at] == b'%').then(|| path.get(at + 1..at + 3)).flatten();
        let byte = escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(path[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    decoded
}

/// An upstream that answers with its name and the request line that it saw.
fn recorder(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            std::thread::spawn(move || record(name, connection));
        }
    });
    addr
}

fn record(name: &str, mut connection: TcpStream) {
    connection.set_nodelay(true).unwrap();
    let mut received = Vec::new();
    while let Ok(Some(head)) = head(&mut connection, &mut received) {
        let line = head.split(|byte| *byte == b'\r').next().unwrap();
        let length = name.len() + 1 + line.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name} ");
        if connection.write_all(&[head.as_bytes(), line].concat()).is_err() {
            return;
        }
    }
}

/// A running nginx with the assignment's two locations.
struct Nginx {
    socket: PathBuf,
    child: Child,
    _folder: TempDir,
}

impl Nginx {
    fn start(user_manager: SocketAddr, data_collector: SocketAddr) -> Nginx {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("socket");
        let conf = folder.path().join("nginx.conf");
        std::fs::write(&conf, configuration(folder.path(), &socket, user_manager, data_collector)).unwrap();
        let child = Command::new(program())
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&conf)
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let nginx = Nginx { socket, child, _folder: folder };
        let began = Instant::now();
        while UnixStream::connect(&nginx.socket).is_err() {
            assert!(began.elapsed() < support::LONG, "nginx does not start");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian keeps it where not everybody looks for programs.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join("nginx"))
        .find(|program| program.exists())
        .expect("nginx is not installed; leave this test out with --skip a_real_nginx")
}

/// The locations are the assignment's; what is around them keeps connections open, for speed.
fn configuration(
    folder: &Path,
    socket: &Path,
    user_manager: SocketAddr,
    data_collector: SocketAddr,
) -> String {
    let (folder, socket) = (folder.display(), socket.display());
    format!(
        "daemon off;
master_process off;
pid {folder}/pid;
events {{ worker_connections 512; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_http_version 1.1;
    proxy_set_header Connection \"\";
    upstream user_manager {{ server {user_manager}; keepalive 64; keepalive_requests 1000000; }}
    upstream data_collector {{ server {data_collector}; keepalive 64; keepalive_requests 1000000; }}
    server {{
        listen unix:{socket};
        location /user_manager/ {{ proxy_pass http://user_manager/; }}
        location /data_collector/ {{ proxy_pass http://data_collector/; }}
    }}
}}
"
    )
}
