//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

// What a test says goes to whoever reads its failure.
#![allow(clippy::print_stderr)]

mod common;

/// The harness on its own, without walfs.
mod harness;
