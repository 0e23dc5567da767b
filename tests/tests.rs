//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

/// Every promise of a store, asked of every kind of store.
mod store;
