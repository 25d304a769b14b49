//! data_collector as its users meet it: real HTTP, against a real replay of recorded flights, on SQLite and on
//! PostgreSQL, with a flight clock that the test moves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod accounts;
mod alerts;
#[cfg(feature = "kafka")]
mod broker;
mod clocks;
mod counts;
mod credits;
mod expected;
mod failures;
mod flights;
mod held_back;
mod interests;
mod proxy;
mod replicas;
mod seed_routes;
mod start;
mod upgrade;
mod users;
mod windows;
mod world;
mod year;
