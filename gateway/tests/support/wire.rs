//! One TLS connection under the test's own hands: bytes when and how it likes, and what comes back, however the
//! connection ends. Blocking, so tests that use it run on several threads.

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::raw::{self, Tls};
use super::{LONG, World};

pub struct Wire {
    tls: Tls,
    /// What has come and was not asked for yet.
    unread: Vec<u8>,
}

/// One answer of HTTP/1.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

/// What waiting for bytes came to.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    Some,
    Silence,
    End,
}

impl Wire {
    /// A connection that has just shaken hands and speaks this protocol (`http/1.1`, `h2`).
    pub fn new(world: &World, protocol: &str) -> Wire {
        let tls = raw::connect(world.addr, &world.cert, &rustls::version::TLS13, &[protocol]);
        Wire { tls: tls.unwrap(), unread: Vec::new() }
    }

    pub fn http1(world: &World) -> Wire {
        Wire::new(world, "http/1.1")
    }

    /// As [`Wire::http1`], from this address of the machine. Fails if the gateway does not shake hands.
    pub async fn from(world: &World, source: IpAddr) -> std::io::Result<Wire> {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let tcp = socket.connect(world.addr).await?.into_std()?;
        tcp.set_nonblocking(false)?;
        let tls = raw::handshake(&raw::client(&world.cert, &rustls::version::TLS13, &["http/1.1"]), tcp)?;
        Ok(Wire { tls, unread: Vec::new() })
    }

    /// Sends bytes; a connection that has ended is no failure, because reading tells why.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.tls.write_all(bytes.as_ref()).and_then(|()| self.tls.flush());
    }

    /// The next answer, read to its end; its length is announced.
    pub fn answer(&mut self) -> Answer {
        let head = self.until("\r\n\r\n");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer { status: status.expect("a status line"), head, body: String::new() };
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.unread.len() < length {
            assert_ne!(self.receive(LONG), Received::End, "cut in the body of {answer:?}");
        }
        answer.body = text(self.unread.drain(..length).as_slice());
        answer
    }

    /// What comes up to this text, which is waited for.
    pub fn until(&mut self, awaited: &str) -> String {
        loop {
            let found = self.unread.windows(awaited.len()).position(|window| window == awaited.as_bytes());
            if let Some(place) = found {
                return text(self.unread.drain(..place + awaited.len()).as_slice());
            }
            match self.receive(LONG) {
                Received::Some => {}
                other => panic!("{other:?} instead of {awaited:?}; so far {:?}", text(&self.unread)),
            }
        }
    }

    /// Exactly this many bytes, or none if the connection ends before.
    pub fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            match self.receive(LONG) {
                Received::Some => {}
                Received::Silence => panic!("the connection is open and silent"),
                Received::End => return None,
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    /// What comes until the connection ends, which is waited for.
    pub fn rest(&mut self) -> String {
        loop {
            match self.receive(LONG) {
                Received::Some => {}
                Received::Silence => panic!("still open; so far {:?}", text(&self.unread)),
                Received::End => return text(&std::mem::take(&mut self.unread)),
            }
        }
    }

    /// Sends one piece after the other with a pause behind each, until they or the connection end.
    /// Gives what came meanwhile if the connection ended, which is the whole answer then.
    pub fn drip<T: AsRef<[u8]>>(
        &mut self,
        pieces: impl IntoIterator<Item = T>,
        pause: Duration,
    ) -> Option<String> {
        for piece in pieces {
            self.send(piece);
            if !self.stays_open(pause) {
                return Some(text(&std::mem::take(&mut self.unread)));
            }
        }
        None
    }

    /// Waits and tells whether the connection is open after that. What comes meanwhile is kept.
    pub fn stays_open(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.receive(left) == Received::End {
                return false;
            }
        }
        true
    }

    /// Reads without ever writing: a failed write of before must not hide what has come.
    fn receive(&mut self, patience: Duration) -> Received {
        self.tls.sock.set_read_timeout(Some(patience)).unwrap();
        match self.tls.conn.read_tls(&mut self.tls.sock) {
            Ok(0) => Received::End,
            Ok(_) => {
                let ready = self.tls.conn.process_new_packets().unwrap().plaintext_bytes_to_read();
                let before = self.unread.len();
                self.unread.resize(before + ready, 0);
                self.tls.conn.reader().read_exact(&mut self.unread[before..]).unwrap();
                Received::Some
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Received::Silence,
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                    Received::End
                }
                _ => panic!("{error}; so far {:?}", text(&self.unread)),
            },
        }
    }
}

impl Answer {
    /// The value of a header; its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts that this text is one answer of the gateway's own, complete, after which nothing came.
pub fn one_problem(answers: &str, status: u16, slug: &str) {
    let (head, body) = answers.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answers:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answers}");
    let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
    own(&answer, slug);
    assert_eq!(
        answer.header("connection").map(str::to_ascii_lowercase).as_deref(),
        Some("close"),
        "{answers}"
    );
}

/// Asserts that an answer is a problem of this kind with everything that is on answers of the gateway's own.
pub fn own(answer: &Answer, slug: &str) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{answer:?}");
    for name in ["strict-transport-security", "x-content-type-options", "referrer-policy", "x-frame-options"]
    {
        assert!(answer.header(name).is_some(), "no {name}: {answer:?}");
    }
    assert_eq!(answer.header("server"), None, "{answer:?}");
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["type"], format!("urn:vedetta:problem:{slug}"), "{answer:?}");
    assert_eq!(body["status"], answer.status, "{answer:?}");
    assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"), "{answer:?}");
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{answer:?}");
}
