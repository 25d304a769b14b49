//! No request target brings `normalize` down, and what it lets through is normal for whoever reads it next.
#![no_main]
#![allow(dead_code, reason = "the gateway's module as it is, of which a part is used here")]

use libfuzzer_sys::fuzz_target;
use normalize::{encode, normalize};
use settings::EncodedSlash;

/// The gateway's own file: it needs nothing else of that crate but the choice below.
#[path = "../../src/normalize.rs"]
mod normalize;

mod settings {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum EncodedSlash {
        Decode,
        Reject,
    }
}

fuzz_target!(|target: &[u8]| {
    let strict = normalize(target, EncodedSlash::Reject);
    let Ok(normal) = normalize(target, EncodedSlash::Decode) else {
        assert!(strict.is_err(), "refusing slashes lets nothing else through");
        return;
    };
    if let Ok(strict) = strict {
        assert_eq!(strict, normal);
    }

    let path = &*normal.path;
    assert_eq!(path.first(), Some(&b'/'));
    assert!(!path.contains(&0));
    let mut segments = path[1..].split(|byte| *byte == b'/').rev();
    let last = segments.next();
    assert!(last != Some(b".") && last != Some(b".."));
    assert!(segments.all(|segment| !segment.is_empty() && segment != b"." && segment != b".."));
    assert!(normal.query.is_none_or(|query| !query.is_empty() && !query.contains(&b'#')));

    let sent = encode(path);
    assert!(sent.is_ascii());
    assert!(!sent.bytes().any(|byte| byte <= 0x20 || matches!(byte, 0x7F | b'?' | b'#' | b'\\')));
    let again = normalize(sent.as_bytes(), EncodedSlash::Reject);
    assert_eq!(again.map(|again| again.path), Ok(normal.path.clone()));
});
