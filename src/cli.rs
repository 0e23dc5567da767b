//! The command line.

pub mod postgres_config;
