//! user_manager as its clients meet it: real HTTP, on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod classroom;
mod confirmation;
mod deletion;
mod keys;
mod login;
mod once;
mod password;
mod registration;
mod rpc;
mod service;
mod start;
mod upgrade;
