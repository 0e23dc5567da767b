//! The mount.

pub mod asker;
pub mod kernel;
