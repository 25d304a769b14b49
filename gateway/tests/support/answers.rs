//! Heads and answers of HTTP/1.1, read by hand from a connection that carries several.

use std::io::{self, ErrorKind, Read, Write};

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// Whether the head says that the connection ends.
    pub closes: bool,
}

impl Answer {
    /// The value of a header, whose name is given in lower case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        header(&self.head, name)
    }
}

/// The answers that come on a connection, in their order.
pub struct Answers<L> {
    link: L,
    received: Vec<u8>,
}

impl<L: Read + Write> Answers<L> {
    pub fn of(link: L) -> Answers<L> {
        Answers { link, received: Vec::new() }
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.link.write_all(bytes)?;
        self.link.flush()
    }

    /// The next answer; none when the connection ends instead.
    pub fn next(&mut self) -> Option<Answer> {
        let head = head(&mut self.link, &mut self.received).ok()??;
        let status: u16 = std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()?;
        let closes = header(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let length = match status {
            100..200 => 0,
            _ => {
                let length = header(&head, "content-length").expect("an answer with a length");
                std::str::from_utf8(length).unwrap().parse().unwrap()
            }
        };
        while self.received.len() < length {
            read(&mut self.link, &mut self.received).ok().filter(|read| *read > 0)?;
        }
        let rest = self.received.split_off(length);
        let body = std::mem::replace(&mut self.received, rest);
        Some(Answer { status, head, body, closes })
    }
}

/// Takes the next head, with its empty line, from what was received and what still comes; none at the end.
pub fn head(link: &mut impl Read, received: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(end + 4);
            return Ok(Some(std::mem::replace(received, rest)));
        }
        if read(link, received)? == 0 {
            return Ok(None);
        }
    }
}

/// The value of a header of a head, whose name is given in lower case.
pub fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
    })
}

/// An end without TLS's goodbye is an end, too.
fn read(link: &mut impl Read, received: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16 * 1024];
    let read = match link.read(&mut buffer) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
        read => read?,
    };
    received.extend_from_slice(&buffer[..read]);
    Ok(read)
}
