//! user_manager as its clients meet it: real HTTP, on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod deletion;
mod keys;
mod login;
mod password;
mod registration;
mod service;
mod start;
