//! What walfs does on its own account, without a mount: taking backups, finishing them, listing them, bringing them
//! back.
//!
//! Each job is a library call, and prints nothing. It knows the archive, the server and the directions of bytes; never
//! the mount, the terminal or the command line; [`finish`] alone works in a mounted directory. Who wants to see how far it is hands it a [`progress::Progress`].

pub mod amount;
pub mod backup;
pub mod broken;
pub mod check;
pub mod copy;
pub mod discard;
pub mod dump;
pub mod files;
pub mod finish;
mod in_order;
pub mod line;
pub mod listing;
mod look;
pub mod pinned;
pub mod plain;
pub mod progress;
mod proof;
pub mod prune;
pub mod restore;
pub mod runs;
pub mod status;
pub mod sweep;
mod time_stop;
pub mod trial;
pub mod unsynced;
pub mod verify;
pub mod version;
pub mod wal_file;
pub mod wal_find;
pub mod wal_ranges;
