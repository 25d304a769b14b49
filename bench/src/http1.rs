//! One HTTP/1.1 connection.

use std::io::ErrorKind;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::tally::{Answer, Failure};
use crate::target::{Stream, Target};

/// Read at once of a long body; a connection that only ever has short answers never holds so much.
const LONG: usize = 64 * 1024;
const SHORT: usize = 4 * 1024;
const MAX_HEADERS: usize = 100;

/// An open connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    used: bool,
}

/// What the head says about the body.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    body: Body,
    keeps: bool,
    retry_after: bool,
    /// Of the head itself.
    length: usize,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = target.open().await?;
        Ok(Self { stream, buffer: BytesMut::new(), used: false })
    }

    /// Sends the target's request and reads the answer.
    pub(crate) async fn exchange(&mut self, target: &Target) -> Result<Answer, Failure> {
        tokio::time::timeout(target.timeout, self.ask(target)).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Closes as TLS wants it, and waits until the other side has closed too, which servers do with less ceremony.
    pub(crate) async fn close(mut self, target: &Target) -> Result<(), Failure> {
        let closed = async {
            self.stream.shutdown().await?;
            self.stream.read_to_end(&mut Vec::new()).await
        };
        match tokio::time::timeout(target.timeout, closed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Ok(Err(_)) => Err(Failure::Reset),
            Err(_) => Err(Failure::Timeout),
        }
    }

    async fn ask(&mut self, target: &Target) -> Result<Answer, Failure> {
        let reused = std::mem::replace(&mut self.used, true);
        let gone = if reused { Failure::Closed } else { Failure::Reset };
        let sent = async {
            self.stream.write_all(&target.wire()).await?;
            self.stream.flush().await
        };
        // A refusal may arrive, and the connection be closed, before the whole body is sent: the answer counts.
        let sent = sent.await;
        if self.fill(SHORT).await.is_err() || sent.is_err() && self.buffer.is_empty() {
            return Err(gone);
        }
        let is_head = target.head.method() == http::Method::HEAD;
        let head = loop {
            match parse(&self.buffer, is_head)? {
                Some(head) if head.status < 200 => self.buffer.advance(head.length),
                Some(head) => break head,
                None => self.fill(SHORT).await?,
            }
        };
        self.buffer.advance(head.length);
        let bytes = match head.body {
            Body::Length(length) => self.skip(length).await?,
            Body::Chunked => self.skip_chunks().await?,
            Body::UntilClose => self.skip_all().await?,
        };
        // Bytes behind the answer would be taken for the next one.
        let keeps = head.keeps && sent.is_ok() && self.buffer.is_empty();
        Ok(Answer { status: head.status, bytes, retry_after: head.retry_after, keeps })
    }

    /// Reads once; the end of the stream is a failure.
    async fn fill(&mut self, at_least: usize) -> Result<(), Failure> {
        self.buffer.reserve(at_least);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(Failure::Reset),
        }
    }

    async fn skip(&mut self, length: u64) -> Result<u64, Failure> {
        let mut left = length;
        loop {
            let here = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.buffer.advance(here);
            left -= here as u64;
            if left == 0 {
                return Ok(length);
            }
            self.fill(if left > SHORT as u64 { LONG } else { SHORT }).await?;
        }
    }

    async fn skip_chunks(&mut self) -> Result<u64, Failure> {
        let mut bytes = 0;
        loop {
            let (line, length) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) => self.fill(SHORT).await?,
                    Err(_) => return Err(Failure::Protocol),
                }
            };
            self.buffer.advance(line);
            if length == 0 {
                return self.skip_trailers().await.map(|()| bytes);
            }
            bytes += length;
            self.skip(length + 2).await?;
        }
    }

    /// To the empty line behind the last chunk.
    async fn skip_trailers(&mut self) -> Result<(), Failure> {
        loop {
            match self.buffer.windows(2).position(|two| two == b"\r\n") {
                Some(0) => {
                    self.buffer.advance(2);
                    return Ok(());
                }
                Some(end) => self.buffer.advance(end + 2),
                None => self.fill(SHORT).await?,
            }
        }
    }

    async fn skip_all(&mut self) -> Result<u64, Failure> {
        let mut bytes = self.buffer.len() as u64;
        self.buffer.clear();
        loop {
            self.buffer.reserve(LONG);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(bytes),
                Ok(read) => bytes += read as u64,
                Err(_) => return Err(Failure::Reset),
            }
            self.buffer.clear();
        }
    }
}

/// `None`: there is more to come.
fn parse(buffer: &[u8], to_head: bool) -> Result<Option<Head>, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Failure::Protocol),
    };
    let status = response.code.ok_or(Failure::Protocol)?;
    let mut keeps = response.version == Some(1);
    let mut body = Body::UntilClose;
    let mut retry_after = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
            body = Body::Length(length.ok_or(Failure::Protocol)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::Chunked;
        } else if header.name.eq_ignore_ascii_case("connection") {
            keeps = !header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            retry_after = true;
        }
    }
    if to_head || status < 200 || status == 204 || status == 304 {
        body = Body::Length(0);
    }
    Ok(Some(Head { status, body, keeps: keeps && body != Body::UntilClose, retry_after, length }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(bytes: &'static [u8]) -> Connection {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        Connection { stream: Box::new(stream), buffer: BytesMut::new(), used: false }
    }

    #[tokio::test]
    async fn a_chunked_body_ends_behind_its_trailers() {
        let mut connection =
            connection(b"3\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nx: y\r\n\r\nHTTP/1.1 200");
        assert_eq!(connection.skip_chunks().await, Ok(19));
        assert_eq!(&connection.buffer[..], b"HTTP/1.1 200");
    }

    #[test]
    fn the_head_tells_how_the_body_ends() {
        let body =
            |head: &str, to_head| parse(head.as_bytes(), to_head).unwrap().map(|it| (it.body, it.keeps));
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
        assert_eq!(body(length, false), Some((Body::Length(7), true)));
        assert_eq!(body(length, true), Some((Body::Length(0), true)));
        let close = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n";
        assert_eq!(body(close, false), Some((Body::Length(7), false)));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(body(chunked, false), Some((Body::Chunked, true)));
        assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n", false), Some((Body::UntilClose, false)));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n", false), Some((Body::Length(0), true)));
        assert_eq!(body("HTTP/1.1 200 OK\r\n", false), None);
    }
}
