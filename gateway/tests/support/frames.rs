//! HTTP/2 by hand: frames in any order and number.

use super::World;
use super::wire::Wire;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 0x1;
pub const END_HEADERS: u8 = 0x4;

/// A setting: what may be sent on a stream before more is allowed.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// The error code of a connection that asks for too much.
pub const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug)]
pub enum Outcome {
    /// With this body; HPACK is not decoded, so a problem's body tells the status.
    Answered(String),
    /// With this error code.
    Reset(u32),
    /// With its connection.
    Gone,
}

/// A frame as it is sent.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A block of header fields, each a literal without an index.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of 7 bits.
fn integer(block: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(127) else { return block.push(u8::try_from(value).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The fields of a request.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut all =
        vec![(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    all.extend(more);
    fields(&all)
}

/// A setting as a SETTINGS frame carries it.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

pub struct H2 {
    pub wire: Wire,
}

impl H2 {
    /// A connection whose preface has been sent, with these settings.
    pub fn new(world: &World, settings: &[u8]) -> H2 {
        let mut wire = Wire::new(world, "h2");
        wire.send([PREFACE, &frame(SETTINGS, 0, 0, settings)].concat());
        H2 { wire }
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.wire.send(frame(kind, flags, stream, payload));
    }

    /// A GET without a body.
    pub fn get(&mut self, stream: u32, path: &str, more: &[(&str, &str)]) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", path, more));
    }

    /// The next frame; none when the connection has ended.
    pub fn next(&mut self) -> Option<Frame> {
        let head = self.wire.bytes(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.wire.bytes(length.try_into().unwrap())?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads until this stream ends.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        let mut body = Vec::new();
        while let Some(frame) = self.next() {
            if frame.stream != stream {
                continue;
            }
            match frame.kind {
                RST_STREAM => return Outcome::Reset(code(&frame.payload)),
                DATA => body.extend(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return Outcome::Answered(String::from_utf8_lossy(&body).into_owned());
            }
        }
        Outcome::Gone
    }

    /// Asserts that a request is answered: the connection is alive.
    pub fn answers(&mut self, stream: u32) {
        self.get(stream, "/nope", &[]);
        match self.outcome(stream) {
            Outcome::Answered(body) => assert!(body.contains("urn:vedetta:problem:not-found"), "{body}"),
            other => panic!("stream {stream}: {other:?}"),
        }
    }

    /// Reads until the connection ends. Gives the error code of its last GOAWAY, if there was one.
    pub fn end(&mut self) -> Option<u32> {
        let mut last = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                last = Some(code(&frame.payload[4..]));
            }
        }
        last
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}
