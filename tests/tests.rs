//! The promises of walfs, each driven from outside: by `cp`, `psql`, `kill -9`, an S3 that answers 503.

// Mounting, unmounting and stale mounts, through the kernel. Needs root and /dev/fuse.
mod mounting;
