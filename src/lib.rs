//! walfs: a PostgreSQL archive mounted as a directory.

pub mod pg;
pub mod codec;
pub mod daemon;
pub mod mount;
pub mod store;
