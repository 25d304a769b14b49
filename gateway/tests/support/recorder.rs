//! An upstream that reads what it gets as strictly as can be, and forgets no byte: what a gateway passes on must leave
//! nobody behind it room for another reading.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::support::World;

/// A request that arrived whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// What arrived since it was last asked for.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: Vec<Received>,
    /// Bytes that are no request, or that followed one before it was answered.
    pub faults: Vec<String>,
}

pub struct Recorder {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Recorder {
    pub fn start() -> Recorder {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let recorder = Recorder { addr, seen: seen.clone() };
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (connection, seen) = (connection.unwrap(), seen.clone());
                std::thread::spawn(move || record(connection, &seen));
            }
        });
        recorder
    }

    /// Takes what arrived.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *lock(&self.seen))
    }
}

/// A gateway without tokens and rates, and the recorder behind it.
pub async fn world() -> (World, Recorder) {
    let recorder = Recorder::start();
    let world = World::start_with(&[
        "--auth=off".into(),
        "--rate-limit=off".into(),
        "--rate-limit-login=off".into(),
        format!("--user-manager-url=http://{}", recorder.addr),
    ])
    .await;
    world.becomes_ready().await;
    (world, recorder)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap()
}

/// Answers 200 to each request. An end in the middle of one is no fault: whoever wrote it gave it up.
fn record(mut connection: TcpStream, seen: &Mutex<Seen>) {
    let mut received = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match parse(&received) {
            Ok(None) => match connection.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(read) => received.extend_from_slice(&buffer[..read]),
            },
            Ok(Some((request, length))) => {
                received.drain(..length);
                let mut seen = lock(seen);
                if !received.is_empty() {
                    seen.faults.push(format!("behind {}: {}", request.target, received.escape_ascii()));
                }
                seen.requests.push(request);
                drop(seen);
                if connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
            Err(fault) => {
                lock(seen).faults.push(format!("{fault}: {}", received.escape_ascii()));
                return;
            }
        }
    }
}

/// The first request and its length; none if more must come.
fn parse(bytes: &[u8]) -> Result<Option<(Received, usize)>, &'static str> {
    let Some(end) = find(bytes, b"\r\n\r\n") else {
        let bare = bytes.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r');
        return if bare { Err("a bare line feed") } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "a head that is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let line: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err("not a request line") };
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("not a method");
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("not a path");
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header without a colon")?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err("not a header's name");
        }
        if value.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7F) {
            return Err("a control character in a header");
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    let values = |name: &str| -> Vec<&str> {
        headers.iter().filter(|(found, _)| found == name).map(|(_, value)| &**value).collect()
    };
    if values("host").len() != 1 {
        return Err("not exactly one host");
    }
    let rest = &bytes[end + 4..];
    let body = match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => Some((Vec::new(), 0)),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length: usize = length.parse().map_err(|_| "a length that is too large")?;
            rest.get(..length).map(|body| (body.to_vec(), length))
        }
        ([], ["chunked"]) => dechunk(rest)?,
        _ => return Err("an ambiguous length"),
    };
    let Some((body, length)) = body else { return Ok(None) };
    let request = Received { method: method.to_owned(), target: target.to_owned(), headers, body };
    Ok(Some((request, end + 4 + length)))
}

/// A chunked body without extensions or trailers, and its length; none if more must come.
fn dechunk(mut bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    let whole = bytes.len();
    let mut body = Vec::new();
    loop {
        let Some(end) = find(bytes, b"\r\n") else { return Ok(None) };
        let digits = std::str::from_utf8(&bytes[..end]).ok();
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size =
            digits.and_then(|digits| usize::from_str_radix(digits, 16).ok()).ok_or("not a chunk's size")?;
        bytes = &bytes[end + 2..];
        let Some(chunk) = bytes.get(..size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("not the end of a chunk");
        }
        body.extend_from_slice(&chunk[..size]);
        bytes = &bytes[size + 2..];
        if size == 0 {
            return Ok(Some((body, whole - bytes.len())));
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
