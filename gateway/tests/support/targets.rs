//! Request targets at random, of the kinds that proxies disagree about.

/// What targets are made of, by how often: a byte of `class` stands for one at random.
const PARTS: &[&[u8]] = &[
    b"/",
    b"/",
    b"/",
    b"/",
    b"//",
    b".",
    b".",
    b"..",
    b"/.",
    b"/..",
    b"/./",
    b"/../",
    b"a",
    b"b",
    b"Z",
    b"9",
    b"-",
    b"_",
    b"~",
    b"%2F",
    b"%2f",
    b"%2e",
    b"%2E",
    b"%2e%2E",
    b"%5C",
    b"%5c",
    b"%41",
    b"%7e",
    b"%25",
    b"%252F",
    b"%3F",
    b"%3f",
    b"%23",
    b"%20",
    b"%0a",
    b"%0D",
    b"%7F",
    b"%C3%A9",
    b"%c3",
    b"%ff",
    b"?",
    b"?",
    b"#",
    b";",
    b":",
    b"@",
    b"\\",
    b"&",
    b"=",
    b"+",
    b"*",
    b"!",
    b"$",
    b"'",
    b"(",
    b")",
    b",",
    b"[",
    b"]",
    b"{",
    b"|",
    b"}",
    b"^",
    b"\"",
    b"user_manager",
    b"user_manager/",
    b"data_collector",
    b"data_collector/",
    b"://",
];
/// What makes nginx refuse a target, or other parsers than its own.
const NASTY: &[&[u8]] = &[
    b" ",
    b"\t",
    b"\r",
    b"\0",
    b"\x01",
    b"\x1f",
    b"\x7f",
    b"%",
    b"%%",
    b"%2",
    b"%zz",
    b"%g0",
    b"%0",
    b"%00",
    b"<",
    b">",
    b"`",
    b"\x80",
    b"\xff",
    b"\xc3",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"/../../..",
];
const BEGINNINGS: &[&[u8]] = &[
    b"/user_manager/",
    b"/user_manager/",
    b"/user_manager/",
    b"/user_manager/",
    b"/data_collector/",
    b"/data_collector/",
    b"/data_collector/",
    b"/user_manager",
    b"/data_collector",
    b"/",
    b"//",
    b"/./",
    b"/x/../",
    b"/%75ser_manager/",
    b"/user_manager%2F",
    b"/data%5Fcollector",
    b"/User_manager/",
    b"/user_manager?",
    b"/data_collector#",
    b"",
];
const ABSOLUTE: &[&[u8]] = &[
    b"http://localhost",
    b"https://localhost:8443",
    b"HTTP://LOCALHOST",
    b"http://127.0.0.1:1",
    b"http://[::1]:80",
    b"ftp://a.b",
    b"x+y-z.1://a",
    b"http://",
    b"http:/",
    b"http:",
    b"1http://a",
    b"http://a_b",
    b"http://a:",
    b"http://user@a",
    b"http://a..b",
    b"http://a:b",
    b"http://[::1",
    b"http://a.",
    b"http://%61",
    b"http://a\\b",
];

/// What is asked for.
pub struct Request {
    pub target: Vec<u8>,
    pub host: String,
}

impl Request {
    /// The whole head.
    pub fn head(&self) -> Vec<u8> {
        [b"GET ", self.target.as_slice(), b" HTTP/1.1\r\nHost: ", self.host.as_bytes(), b"\r\n\r\n"].concat()
    }
}

/// An endless row of requests. No target has a line feed: it would end the request line, and is no part of a target.
pub struct Targets {
    state: u64,
}

impl Targets {
    /// The same row for the same seed.
    pub fn seeded(seed: u64) -> Targets {
        Targets { state: seed }
    }

    /// SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn one_of(&mut self, parts: &'static [&'static [u8]]) -> &'static [u8] {
        parts[self.below(parts.len())]
    }

    fn escape(&mut self) -> Vec<u8> {
        let byte = self.below(256);
        match self.below(3) {
            0 => format!("%{byte:02x}"),
            1 => format!("%{byte:02X}"),
            _ => format!("%{:X}{:x}", byte >> 4, byte & 15),
        }
        .into_bytes()
    }
}

impl Iterator for Targets {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let mut target = Vec::new();
        let mut host = "localhost".to_owned();
        // One in twelve in absolute form, one in five with what is likely refused, one in a hundred long.
        if self.below(12) == 0 {
            let base = self.one_of(ABSOLUTE);
            target.extend_from_slice(base);
            // Mostly the two agree about the host.
            if self.below(8) != 0
                && let Some((_, authority)) = std::str::from_utf8(base).unwrap().split_once("://")
            {
                authority.clone_into(&mut host);
            }
        }
        target.extend_from_slice(self.one_of(BEGINNINGS));
        let nasty = self.below(5) == 0;
        let parts = if self.below(100) == 0 { self.below(800) } else { self.below(14) };
        for _ in 0..parts {
            match self.below(16) {
                0 if nasty => {
                    let byte = [self.below(256) as u8];
                    target.extend_from_slice(if byte[0] == b'\n' { b"\r" } else { &byte });
                }
                1..4 if nasty => target.extend_from_slice(self.one_of(NASTY)),
                4..6 => target.extend_from_slice(&self.escape()),
                _ => target.extend_from_slice(self.one_of(PARTS)),
            }
        }
        Some(Request { target, host })
    }
}
