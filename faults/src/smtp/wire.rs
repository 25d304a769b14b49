//! Lines to and from a client, plain or over TLS.

use std::io::{Error, ErrorKind, Result};

use futures::FutureExt;
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// No line is longer, in bytes; who sends one is cut.
const LINE: usize = 64 * 1024;
/// No mail is longer, in bytes.
const MAIL: usize = 16 * 1024 * 1024;

type Socket = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// One connection. Unless [`Wire::farewell`] ends it, it is reset.
pub(super) struct Wire {
    socket: BufReader<Socket>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Result<Wire> {
        stream.set_zero_linger()?;
        Ok(Wire { socket: BufReader::new(Either::Left(stream)) })
    }

    /// TLS from here on. What the client sent too early is lost.
    pub(super) async fn secure(self, acceptor: &TlsAcceptor) -> Result<Wire> {
        let socket = match self.socket.into_inner() {
            Either::Left(stream) => Either::Right(Box::new(acceptor.accept(stream).await?)),
            secure => secure,
        };
        Ok(Wire { socket: BufReader::new(socket) })
    }

    /// A command, without its line end; none when the client has closed the connection.
    pub(super) async fn line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        if !self.read(&mut line).await? {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
    }

    /// A mail up to its single dot; none when it is too long.
    pub(super) async fn text(&mut self) -> Result<Option<Vec<u8>>> {
        let (mut text, mut too_long) = (Vec::new(), false);
        loop {
            let start = text.len();
            if !self.read(&mut text).await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if &text[start..] == b".\r\n" {
                text.truncate(start);
                return Ok((!too_long).then_some(text));
            }
            if text[start] == b'.' {
                text.remove(start);
            }
            if text.len() > MAIL {
                too_long = true;
                text.clear();
            }
        }
    }

    /// Appends a line with its end; false at the connection's end.
    async fn read(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        let read = (&mut self.socket).take(LINE as u64).read_until(b'\n', line).await?;
        match line.last() {
            _ if read == 0 => Ok(false),
            Some(b'\n') => Ok(true),
            _ if read == LINE => Err(Error::new(ErrorKind::InvalidData, "the line is too long")),
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// One or more lines, in one write; the last line end is added.
    pub(super) async fn write(&mut self, lines: &str) -> Result<()> {
        self.socket.write_all(format!("{lines}\r\n").as_bytes()).await?;
        self.socket.flush().await
    }

    /// Writes at once or not at all. False when it fails, or the client is known to be gone.
    pub(super) fn write_now(&mut self, line: &str) -> bool {
        let is_gone = match unconstrained(self.socket.fill_buf()).now_or_never() {
            Some(Ok(waiting)) => waiting.is_empty(),
            Some(Err(_)) => true,
            None => false,
        };
        !is_gone && unconstrained(self.write(line)).now_or_never().is_some_and(|written| written.is_ok())
    }

    /// Ends the connection so that everything that was written arrives.
    pub(super) async fn farewell(mut self) -> Result<()> {
        let stream = match self.socket.get_ref() {
            Either::Left(stream) => stream,
            Either::Right(secure) => secure.get_ref().0,
        };
        SockRef::from(stream).set_linger(None)?;
        self.socket.shutdown().await
    }
}
