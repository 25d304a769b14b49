//! HTTP/2 frames that cost the receiver and bring it nothing: floods of SETTINGS, PING, PRIORITY, RST_STREAM,
//! CONTINUATION, WINDOW_UPDATE, empty DATA and unknown frames (RFC 9113, section 10.5). Counted on the wire, because
//! the HTTP/2 library answers most of them silently.

use std::time::{Duration, Instant};

/// The client's connection preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// How long what was counted is remembered.
const WINDOW: Duration = Duration::from_secs(10);
/// So many bytes of answers pay for one frame: who downloads has to acknowledge.
const BYTES_PER_FRAME: u64 = 1024;

/// Counts the frames of one connection.
#[derive(Debug)]
pub(crate) struct Flood {
    limit: u64,
    count: u64,
    sent: u64,
    since: Instant,
    /// Bytes to pass over: the preface, or what is left of a frame's payload.
    skip: usize,
    header: [u8; HEADER],
    filled: usize,
    /// A header block has begun and not ended.
    in_block: bool,
}

impl Flood {
    /// At most `limit` frames without use in 10 s, beside those that answers paid for.
    pub(crate) fn new(limit: u32, now: Instant) -> Flood {
        Flood {
            limit: limit.into(),
            count: 0,
            sent: 0,
            since: now,
            skip: PREFACE,
            header: [0; HEADER],
            filled: 0,
            in_block: false,
        }
    }

    /// So many bytes were sent to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Looks at bytes that came from the client, in their order. Whether there were too many frames.
    pub(crate) fn received(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        if now.saturating_duration_since(self.since) > WINDOW {
            (self.since, self.count, self.sent) = (now, 0, 0);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER {
                self.filled = 0;
                self.frame();
            }
        }
        self.count > self.limit + self.sent / BYTES_PER_FRAME
    }

    /// Whether the client is in the middle of a header block, or of a frame of any kind but DATA: it should go on at once.
    pub(crate) fn is_amid_head(&self) -> bool {
        self.in_block || self.filled > 0 || (self.skip > 0 && self.header[3] != DATA)
    }

    fn frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.skip = length;
        match kind {
            HEADERS | CONTINUATION => self.in_block = flags & END_HEADERS == 0,
            _ => {}
        }
        let useful = match kind {
            DATA => length > 0 || flags & END_STREAM != 0,
            // Each is a request, and those have bounds of their own.
            HEADERS => true,
            _ => false,
        };
        self.count += u64::from(!useful);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, flags, 0, 0, 0, 1];
        frame.resize(HEADER + payload, b'x');
        frame
    }

    fn flood(kind: u8, flags: u8, payload: usize, count: usize, step: usize) -> bool {
        let now = Instant::now();
        let mut flood = Flood::new(10, now);
        let bytes = [vec![b'P'; PREFACE], frame(kind, flags, payload).repeat(count)].concat();
        bytes.chunks(step).map(|piece| flood.received(piece, now)).last().unwrap()
    }

    #[test]
    fn frames_without_use_are_counted_however_they_arrive() {
        for step in [1, 5, 9, 24, 1000] {
            for kind in [2, 3, 4, 6, 8, 9, 77] {
                assert!(!flood(kind, 0, 8, 10, step), "{kind} {step}");
                assert!(flood(kind, 0, 8, 11, step), "{kind} {step}");
            }
            assert!(flood(0, 0, 0, 11, step), "empty data");
            assert!(!flood(0, 1, 0, 11, step), "the end of a body");
            assert!(!flood(0, 0, 8, 1000, step), "data");
            assert!(!flood(1, 5, 8, 1000, step), "requests");
        }
    }

    #[test]
    fn a_head_that_has_not_ended_is_known() {
        let now = Instant::now();
        let mut flood = Flood::new(10, now);
        let mut after = |bytes: &[u8]| {
            flood.received(bytes, now);
            flood.is_amid_head()
        };
        assert!(!after(&[b'P'; PREFACE]));
        let request = frame(HEADERS, 0, 4);
        assert!(after(&request[..3]), "of a frame's header");
        assert!(after(&request[3..11]), "of its payload");
        assert!(after(&request[11..]), "its block goes on");
        assert!(!after(&frame(CONTINUATION, END_HEADERS, 4)));
        assert!(!after(&frame(DATA, 0, 4)[..11]), "a body has a time-out of its own");
    }

    #[test]
    fn answers_pay_for_frames_and_time_forgives() {
        let now = Instant::now();
        let mut flood = Flood::new(10, now);
        flood.received(&[b'P'; PREFACE], now);
        flood.sent(5 * 1024);
        assert!(!flood.received(&frame(8, 0, 4).repeat(15), now));
        assert!(flood.received(&frame(8, 0, 4), now));
        let later = now + WINDOW + Duration::from_millis(1);
        assert!(!flood.received(&frame(8, 0, 4).repeat(10), later));
    }
}
