//! The replay over real HTTP, as a client of OpenSky meets it.

mod admin;
mod credits;
mod flights;
mod server;
mod start;
mod tokens;
