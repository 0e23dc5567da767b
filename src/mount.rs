//! The mount: a directory that the kernel shows, over an archive.
//!
//! ```text
//! kernel > fuse (protocol) > fs (handles) > one (inodes) > room: own, wal, basebackups > staging, read > archive > store
//!                                         > fleet > one for each archive
//! ```
//!
//! [`fuse`] is the only file that knows FUSE. [`fs`] finds the room of an inode, and the object of an open file, and hands
//! the operation on; it runs without a kernel. A directory of the mount is a room (`room`), with a state and open files of
//! its own; rooms know neither [`fs`] nor the kernel's numbers of open files. What all of them use is `common`. [`serve`]
//! puts it into a mount, which `linux::kernel` has made.

pub mod asker;
mod basebackups;
mod common;
pub mod directory;
pub mod error;
pub mod fleet;
pub mod fs;
pub mod fuse;
mod handles;
pub mod node;
mod one;
mod own;
mod room;
mod section;
pub mod serve;
mod versions;
pub mod wal;
