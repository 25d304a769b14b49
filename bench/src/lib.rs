//! What the benchmarks of the services share.

pub mod database;
pub mod process;
pub mod sample;
pub mod table;
