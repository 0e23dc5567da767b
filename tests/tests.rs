//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

/// What a real PostgreSQL writes is what `walfs::pg` reads.
mod wal_files;
// Objects, read by stock lz4 and zstd; docs/format.md, byte by byte.
mod format;
// Servers to talk to and ways to hurt them.
mod common;

// The S3 server of the tests keeps to S3, and its faults are those they are called.
mod s3_server;
// What a test says goes to whoever reads its failure.
#![allow(clippy::print_stderr)]

mod common;

/// The harness on its own, without walfs.
mod harness;
