//! HTTP as every service speaks it: problems instead of bare errors, bounds on everything, one request id.

mod admin;
mod client;
mod extract;
mod layers;
mod openapi;
mod problem;
mod serve;

pub use admin::{Admin, Readiness, admin, ready_when};
pub use client::client;
pub use extract::{Json, Path, Query};
pub use layers::layers;
pub use openapi::openapi;
pub use problem::Problem;
pub use serve::{connections, serve};
