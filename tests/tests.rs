//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

// What a test says goes to whoever reads its failure.
#![allow(clippy::print_stderr)]

// Servers to talk to and ways to hurt them.
mod common;

// Death after every single call to the store.
mod crash;
// Objects cut, changed, exchanged and gone: an error, never wrong bytes.
mod damage;
// Objects, read by stock lz4 and zstd; docs/format.md, byte by byte.
mod format;
// A million segments: requests, not memory; and what an operation may ask of the store.
mod growth;
// The harness on its own, without walfs.
mod harness;
// Mounting and unmounting through the real kernel, with a file system that holds nothing.
mod mounting;
// The directory below FUSE, against a small reference: operations, kills, faults of the store.
mod reference;
// The S3 server of the tests keeps to S3, and its faults are those they are called.
mod s3_server;
// Every promise of a store, asked of every kind of store.
mod store;
// What a real PostgreSQL writes is what `walfs::pg` reads.
mod wal_files;
