//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

// Objects, read by stock lz4 and zstd; docs/format.md, byte by byte.
mod format;
