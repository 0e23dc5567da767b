//! walfs: a PostgreSQL archive mounted as a directory.

pub mod codec;
pub mod store;
