//! Where the body of an HTTP/1 request ends (RFC 9112, sections 6 and 7). Only bytes that belong to the request in hand
//! are handed over, so that what follows it can never be taken for a part of it, nor a part of it for a next request.

use crate::policy::head::field;
use crate::problem::Refusal;

/// The longest chunk-size line, extensions included, and the longest line of trailers.
const MAX_LINE: usize = 256;
/// All trailers together.
const MAX_TRAILERS: usize = 4096;

/// How much of a body is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
}

/// A place in a chunked body.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunked {
    state: State,
    /// The line in hand, without what ends it.
    line: Vec<u8>,
    trailers: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    DataEndLf,
    Trailers,
    Done,
}

impl Framing {
    /// A body of this many bytes.
    pub(crate) fn length(bytes: u64) -> Framing {
        Framing::Length(bytes)
    }

    /// A chunked body, at its beginning.
    pub(crate) fn chunked() -> Framing {
        Framing::Chunked(Chunked::default())
    }

    /// Whether nothing more is to come.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Framing::Length(left) => *left == 0,
            Framing::Chunked(chunked) => chunked.state == State::Done,
        }
    }

    /// How many of the next `bytes` belong to the body.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        match self {
            Framing::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Framing::Chunked(chunked) => chunked.take(bytes),
        }
    }
}

impl Chunked {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            at += match self.state {
                State::Data(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                    taken
                }
                State::DataEnd => self.expect(bytes[at], b'\r', State::DataEndLf)?,
                State::DataEndLf => self.expect(bytes[at], b'\n', State::Size)?,
                State::Size | State::Trailers => self.take_of_line(&bytes[at..])?,
                State::Done => 0,
            };
        }
        Ok(at)
    }

    fn expect(&mut self, byte: u8, expected: u8, next: State) -> Result<usize, Refusal> {
        if byte != expected {
            return Err(Refusal::Malformed);
        }
        self.state = next;
        Ok(1)
    }

    /// Takes up to the end of a line, and acts on the line when it is complete.
    fn take_of_line(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if self.line.len() + taken > MAX_LINE {
            return Err(Refusal::Malformed);
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r\n").ok_or(Refusal::Malformed)?;
            self.state =
                if self.state == State::Size { after_size(line)? } else { self.after_trailer(line)? };
        }
        Ok(taken)
    }

    fn after_trailer(&mut self, line: &[u8]) -> Result<State, Refusal> {
        if line.is_empty() {
            return Ok(State::Done);
        }
        self.trailers += line.len();
        if self.trailers > MAX_TRAILERS || field(line).is_err() {
            return Err(Refusal::Malformed);
        }
        Ok(State::Trailers)
    }
}

/// What follows a line with a chunk's size: hexadecimal digits, nothing before them, and at most an extension after.
fn after_size(line: &[u8]) -> Result<State, Refusal> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let plain = extension.iter().all(|byte| (0x20..0x7F).contains(byte) || *byte == b'\t');
    // Fifteen digits fit 64 bits and are far beyond any limit.
    if !(1..=15).contains(&digits) || !plain || !matches!(extension.first(), None | Some(b';')) {
        return Err(Refusal::Malformed);
    }
    let size =
        size.iter().fold(0, |sum, digit| sum * 16 + u64::from(char::from(*digit).to_digit(16).unwrap_or(0)));
    Ok(if size == 0 { State::Trailers } else { State::Data(size) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes a body in pieces of `step` bytes; gives how long it was, if its end came.
    fn body(bytes: &[u8], step: usize) -> Result<Option<usize>, Refusal> {
        let mut framing = Framing::chunked();
        let mut at = 0;
        while at < bytes.len() && !framing.is_done() {
            let piece = &bytes[at..bytes.len().min(at + step)];
            let taken = framing.take(piece)?;
            assert!(taken == piece.len() || framing.is_done());
            at += taken;
        }
        Ok(framing.is_done().then_some(at))
    }

    #[test]
    fn a_length_takes_just_so_many_bytes() {
        let mut framing = Framing::length(5);
        assert_eq!((framing.take(b"abc"), framing.is_done()), (Ok(3), false));
        assert_eq!((framing.take(b"deGET"), framing.is_done()), (Ok(2), true));
        assert_eq!(framing.take(b"GET"), Ok(0));
    }

    #[test]
    fn chunks_end_at_their_empty_one_however_they_arrive() {
        let one: &[u8] = b"5;a=b\r\nabcde\r\nA\r\n0123456789\r\n0\r\nX: 1\r\n\r\n";
        for step in 1..=one.len() + 3 {
            assert_eq!(body(&[one, b"GET"].concat(), step), Ok(Some(one.len())), "{step}");
        }
        assert_eq!(body(b"5\r\nabc", 4), Ok(None));
    }

    #[test]
    fn tricks_with_chunks_are_refused() {
        for bytes in [
            "0x5\r\nabcde\r\n",
            " 5\r\nabcde\r\n",
            "5 \r\nabcde\r\n",
            "+5\r\nabcde\r\n",
            "-5\r\nabcde\r\n",
            "\r\n",
            "g\r\n",
            "5\nabcde\r\n",
            "5\r\nabcdef\r\n",
            "5\r\nabcde\n",
            "5\r\nabcde\rx",
            "5;a\rb\r\nabcde\r\n",
            "5,5\r\nabcde\r\n",
            "1111111111111111\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\n X: 1\r\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(body(bytes.as_bytes(), 3), Err(Refusal::Malformed), "{bytes:?}");
        }
        assert_eq!(body(&[b"5;", &[b'a'; MAX_LINE][..]].concat(), 7), Err(Refusal::Malformed));
        let trailers = format!("0\r\n{}", "X: 0123456789\r\n".repeat(MAX_TRAILERS));
        assert_eq!(body(trailers.as_bytes(), 100), Err(Refusal::Malformed));
    }

    proptest! {
        #[test]
        fn the_pieces_in_which_a_body_arrives_do_not_matter(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), Just(b'a')], 0..40),
            step in 1usize..6,
        ) {
            prop_assert_eq!(body(&bytes, step), body(&bytes, 64));
        }
    }
}
