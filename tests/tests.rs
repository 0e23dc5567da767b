//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

// Servers to talk to and ways to hurt them.
mod common;

// The S3 server of the tests keeps to S3, and its faults are those they are called.
mod s3_server;

// Every promise of a store, asked of every kind of store.
mod store;
