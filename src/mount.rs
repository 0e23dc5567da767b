//! The mount: a directory that the kernel shows, over an archive.
//!
//! ```text
//! kernel > fuse (protocol) > fs, directory, write, basebackups (operations) > staging, read > archive > store
//! ```
//!
//! [`fuse`] is the only file that knows FUSE; [`fs`] and its companions are the directory itself, which runs without
//! a kernel; [`serve`] puts it into a mount, which `linux::kernel` has made.

pub mod absence;
pub mod asker;
pub mod basebackups;
mod clocks;
mod creating;
pub mod directory;
pub mod error;
mod folders;
mod forks;
pub mod fs;
pub mod fuse;
pub mod handles;
pub mod listing;
pub mod node;
pub mod presence;
mod receiving;
pub mod recent;
mod renaming;
mod restoring;
pub mod serve;
pub mod settle;
pub mod status;
pub mod write;
pub mod writing;
