//! What the benchmarks of the services share.

pub mod database;
pub mod table;
