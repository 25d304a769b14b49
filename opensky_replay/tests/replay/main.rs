//! The replay over real HTTP, as a client of OpenSky meets it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod admin;
mod credits;
mod flights;
mod server;
mod start;
mod tokens;
