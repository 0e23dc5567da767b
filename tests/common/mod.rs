//! The worlds that the tests run in: throw-away servers, mounts, copy tools and directories, and ways to hurt them.

// The tests of one milestone need not use every handle of every world, and `pub` here means: for every test.
#![allow(dead_code, unreachable_pub)]

pub mod agent;
pub mod archiving;
pub mod authority;
pub mod basebackup;
pub mod below;
pub mod clock;
pub mod copiers;
pub mod garage;
pub mod made_up;
pub mod packed;
pub mod postgres;
pub mod recovery;
pub mod s3;
pub mod scripted;
pub mod sidecar;
pub mod tls;
pub mod user;
pub mod version;
pub mod versions;
pub mod wait;
pub mod wal;
pub mod walfs;
pub mod watch;
pub mod world;
