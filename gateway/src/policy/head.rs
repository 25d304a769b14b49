//! The head of an HTTP/1 request, read strictly. Whatever two programs could read differently is refused here, before
//! anything else looks at it: what passes has one meaning only (RFC 9112, sections 2 to 6).

use http::header;

use crate::policy::framing::Framing;
use crate::problem::Refusal;

/// The largest number of header lines.
const MAX_LINES: usize = 100;

/// Looks for the end of a head in bytes that arrive bit by bit; no byte is looked at twice.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    at: usize,
    lines: usize,
}

impl Scanner {
    /// Whether no line has ended yet.
    pub(crate) fn is_at_start(&self) -> bool {
        self.lines == 0
    }

    /// The length of the head at the beginning of `bytes`, once its end has come. `bytes` grows between calls.
    pub(crate) fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(found) =
            bytes.get(self.at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            let end = self.at + found + 1;
            // A line that ends in LF alone would keep us waiting for an end that others see already.
            if !bytes[..end].ends_with(b"\r\n") {
                return Err(Refusal::Head("a line does not end in CR LF"));
            }
            self.at = end;
            self.lines += 1;
            if bytes[..end].ends_with(b"\r\n\r\n") {
                return Ok(Some(end));
            }
        }
        self.at = bytes.len();
        Ok(None)
    }
}

/// What of a head the gateway needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// The method, a token.
    pub(crate) method: &'a [u8],
    /// The request target as it came; may be anything without a space.
    pub(crate) target: &'a [u8],
    /// What follows the target: ` HTTP/1.1`, and the header lines.
    pub(crate) rest: &'a [u8],
    /// How the end of the body is found.
    pub(crate) body: Framing,
    /// The value of Host.
    pub(crate) host: &'a [u8],
    /// The client's own request id, unchecked.
    pub(crate) request_id: Option<&'a [u8]>,
}

/// Reads a head, from the request line to the empty line.
pub(crate) fn parse(head: &[u8]) -> Result<Head<'_>, Refusal> {
    let head = head.strip_suffix(b"\r\n").ok_or(Refusal::Head("it does not end in an empty line"))?;
    let (request_line, lines) = split_line(head).ok_or(Refusal::Head("there is no request line"))?;
    let (method, after) =
        split_at(request_line, b' ').ok_or(Refusal::Head("the request line has no target"))?;
    let (target, version) = split_at(after, b' ').ok_or(Refusal::Head("the request line has no version"))?;
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::Head("the method is not a word"));
    }
    let old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ => return Err(Refusal::Head("the version is neither HTTP/1.1 nor HTTP/1.0")),
    };
    if target.is_empty() || target.iter().any(|byte| *byte < 0x20 || *byte == 0x7F) {
        return Err(Refusal::Head("the request target has a control character"));
    }

    let mut fields = Fields::default();
    let mut rest = lines;
    let mut count = 0;
    while let Some((line, next)) = split_line(rest) {
        count += 1;
        if count > MAX_LINES {
            return Err(Refusal::HeadTooLarge);
        }
        let (name, value) = field(line)?;
        fields.note(name, value)?;
        rest = next;
    }
    if !rest.is_empty() {
        return Err(Refusal::Head("it does not end in an empty line"));
    }
    let body = fields.framing(old)?;
    let host = fields.host.ok_or(Refusal::Host)?;
    let rest = &head[method.len() + 1 + target.len()..];
    Ok(Head { method, target, rest, body, host, request_id: fields.request_id })
}

/// The fields that decide.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    encoding: Option<&'a [u8]>,
    upgrade: bool,
    request_id: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn note(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Refusal> {
        let once = |place: &mut Option<&'a [u8]>, refusal| match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(refusal),
        };
        let is = |other: &header::HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        match name.len() {
            4 if is(&header::HOST) => {
                if !is_authority(value) {
                    return Err(Refusal::Host);
                }
                once(&mut self.host, Refusal::Host)
            }
            7 if is(&header::UPGRADE) => {
                self.upgrade = true;
                Ok(())
            }
            12 if name.eq_ignore_ascii_case(b"x-request-id") => {
                self.request_id.get_or_insert(value);
                Ok(())
            }
            14 if is(&header::CONTENT_LENGTH) => once(&mut self.length, Refusal::Length),
            17 if is(&header::TRANSFER_ENCODING) => once(&mut self.encoding, Refusal::Length),
            _ => Ok(()),
        }
    }

    fn framing(&self, old: bool) -> Result<Framing, Refusal> {
        match (self.length, self.encoding) {
            (Some(_), Some(_)) => Err(Refusal::Length),
            (None, Some(encoding)) => {
                let chunked = encoding.eq_ignore_ascii_case(b"chunked");
                // HTTP/1.0 knows no chunks, and a body would end a request that asks to leave HTTP.
                if chunked && !old && !self.upgrade { Ok(Framing::chunked()) } else { Err(Refusal::Length) }
            }
            (Some(length), None) => {
                let digits =
                    !length.is_empty() && length.len() <= 18 && length.iter().all(u8::is_ascii_digit);
                let length = digits.then_some(length).ok_or(Refusal::Length)?;
                let length = length.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
                if length > 0 && self.upgrade { Err(Refusal::Length) } else { Ok(Framing::length(length)) }
            }
            (None, None) => Ok(Framing::length(0)),
        }
    }
}

/// Name and value of a header line (without its CR LF), or of a trailer.
pub(crate) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::Head("a header line is folded"));
    }
    let (name, value) = split_at(line, b':').ok_or(Refusal::Head("a header line has no colon"))?;
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::Head("a header name is not a word"));
    }
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7F) {
        return Err(Refusal::Head("a header value has a control character"));
    }
    Ok((name, value.trim_ascii()))
}

/// A host with or without a port: no user, no path, no list.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => (&value[..colon], Some(&value[colon + 1..])),
        _ => (value, None),
    };
    let inner = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let host = match inner {
        Some(literal) => {
            literal.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
                && !literal.is_empty()
        }
        None => {
            !host.is_empty()
                && host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    };
    host && port.is_none_or(|port| port.len() <= 5 && !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A line without its CR LF, and what follows it. A CR within the line is left in and refused as a control character.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes[..end].strip_suffix(b"\r")?, &bytes[end + 1..]))
}

fn split_at(bytes: &[u8], mark: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == mark)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\nX-Request-Id: r1\r\n\r\n";

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_arrives() {
        let mut scanner = Scanner::default();
        for end in 0..PLAIN.len() {
            assert_eq!(scanner.find_end(&PLAIN[..end]), Ok(None));
        }
        let more = [PLAIN, b"GET"].concat();
        assert_eq!(scanner.find_end(&more), Ok(Some(PLAIN.len())));
        assert!(Scanner::default().find_end(b"GET / HTTP/1.1\n").is_err());
    }

    #[test]
    fn a_plain_head_is_taken_apart() {
        let head = parse(PLAIN).unwrap();
        assert_eq!((head.method, head.target, head.host), (&b"GET"[..], &b"/a"[..], &b"a"[..]));
        assert_eq!(head.rest, b" HTTP/1.1\r\nHost: a\r\nX-Request-Id: r1\r\n");
        assert_eq!((head.request_id, head.body), (Some(&b"r1"[..]), Framing::length(0)));
    }

    #[test]
    fn a_body_has_one_length() {
        let framing = |lines: &str| {
            parse(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").as_bytes()).map(|head| head.body)
        };
        assert_eq!(framing("content-LENGTH: 12\r\n"), Ok(Framing::length(12)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::chunked()));
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 9999999999999999999\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nUpgrade: websocket\r\n",
            "Content-Length: 1\r\nUpgrade: websocket\r\n",
        ] {
            assert_eq!(framing(lines), Err(Refusal::Length), "{lines}");
        }
        assert_eq!(
            parse(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Err(Refusal::Length)
        );
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET /\r\nHost: a\r\n\r\n",
            "G\tT / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
        for host in ["a", "a:1", "[::1]", "[::1]:8443", "127.0.0.1:1", "user_manager"] {
            assert!(parse(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).is_ok(), "{host}");
        }
    }
}
