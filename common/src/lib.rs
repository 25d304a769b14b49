//! What Vedetta's services share. It names no service: the services meet in [`messages`], over HTTP and over
//! the bus.

pub mod auth;
pub mod bus;
pub mod clock;
pub mod db;
pub mod http;
pub mod messages;
pub mod outbox;
pub mod retry;
pub mod rpc;
pub mod service;
pub mod signed;
pub mod telemetry;
pub mod testing;
pub mod tls;
pub mod trace;
pub mod types;
