//! Fault tools for tests: an SMTP server that keeps what it takes and misbehaves as it is told, and a TCP proxy that does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "only tests use this")]

mod port;
pub mod smtp;
pub mod tcp;
