//! Headers that tell a service who asked, and headers that tell a browser what it may do with an answer.

use http::HeaderName;

/// Whether only the gateway may set this header: what a client sends under this name is dropped.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
}

/// On every answer, unless the service set its own.
pub(crate) const SECURITY: [(&str, &str); 5] = [
    ("strict-transport-security", "max-age=31536000"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("content-security-policy", "frame-ancestors 'none'"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_speak_for_the_gateway() {
        for name in ["x-forwarded-for", "x-forwarded-user", "forwarded", "x-real-ip", "x-request-id"] {
            assert!(is_ours(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["traceparent", "authorization", "x-forwarded"] {
            assert!(!is_ours(&HeaderName::from_static(name)), "{name}");
        }
    }
}
