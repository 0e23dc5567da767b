//! Work of its own, begun from the command line or by a schedule: taking backups, bringing them back.
//!
//! A job knows the archive, the server and the directions of bytes; never the mount, the terminal or the command line.
//! Who wants to see how far it is hands it a [`progress::Progress`].

pub mod finish;
pub mod progress;
pub mod restore;
