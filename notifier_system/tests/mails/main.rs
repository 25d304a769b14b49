//! notifier_system as the bus and a mail server meet it, on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod dead;
mod folder;
mod limits;
mod parking;
mod security;
mod service;
mod smtp;
mod start;
