//! walfs: a PostgreSQL archive, mounted as a directory.
//!
//! ```text
//!  write  kernel > mount > staging > parts, codec > archive > store > S3 or directory
//!  ahead  pg_wal > ahead > codec > archive > store > S3 or directory
//!  read   kernel < mount < read < cache, codec < archive < store < S3 or directory
//!  jobs   cli > job > server, parts (in) or read (out) > codec, archive > store
//!  start  cli > config, assemble > all of these
//!  ground memory, linux, metrics
//! ```
//!
//! What walfs promises to its users is in `docs/promises.md`; comments call a line of it "promise W4".
//!
//! Calls go down, results come up. Invariants, each stated as something that never happens:
//!
//! - [`pg`] and [`codec`] do no I/O: each rule is tested with byte arrays.
//! - Only [`archive`] spells the keys of objects, and only a prune, by an order that is stored first,
//!   deletes an archived one. Else only what a backup that was never finished has left goes, and what `verify` remembers.
//! - Only `mount::fuse` knows FUSE, `store::s3` the AWS SDK, [`server`] the protocol of PostgreSQL, `cli` the command line
//!   and walfs's settings in the environment, [`linux`] mounts and control groups.
//! - Only [`memory`] divides the memory: no room has a pool or a bound of its own that grows with what it is given to do.
//! - Only [`assemble`] puts rooms together, and only as a checked [`config`] says.
//! - [`mount`] and [`job`] do not know each other; they meet in the archive.
//! - An archived object is never rewritten, and success is never reported before the store has confirmed.
//! - `staging::tree` does not know what a tree is to be: its judge does, whom the one who begins it hands in.
//! - [`staging`] and [`read`] do not know each other: no lock is shared between the two directions.
//! - Nothing absent is remembered as absent.
//! - Outside the archive nothing is written or deleted through a link: `beneath` is the only way.
//! - Nothing but `cli` prints.

pub mod agent;
pub mod ahead;
pub mod archive;
pub mod assemble;
mod beneath;
pub mod cache;
pub mod cli;
pub mod codec;
pub mod config;
pub mod http;
pub mod job;
pub mod linux;
mod long_write;
pub mod memory;
pub mod metrics;
pub mod mount;
pub mod overview;
pub mod parts;
pub mod pg;
mod printable;
pub mod read;
pub mod schedule;
pub mod server;
pub mod staging;
pub mod store;
