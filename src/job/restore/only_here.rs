//! A file of the WAL that would be lost, as the operator is told of it.

use std::path::PathBuf;

use crate::pg::WalName;

/// A file of the WAL that only this directory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unarchived {
    /// Its name.
    pub name: WalName,
    /// The file.
    pub path: PathBuf,
    /// Does it wait for the archiver?
    pub is_ready: bool,
    /// ... and is it what the archive may get: a segment that is whole, or another file?
    pub is_whole: bool,
    /// Has the archive something else of that name?
    pub differs: bool,
}
