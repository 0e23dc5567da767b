//! `wal/`: every archived file under PostgreSQL's name for it, and what is being written there.
//!
//! ```text
//! room > lookup, listing > archived (what the store says, and to whom it is told) > read, archive
//! room > write (open files), renaming > settle, receiving > writing (the versions) > staging
//! ```
//!
//! `Wal` is the room; what it does is in its folder. Other rooms see of it what is `archived`.

use std::sync::Arc;

use super::common::Common;

mod absence;
pub(super) mod archived;
mod clocks;
mod folders;
mod forks;
mod holes;
pub mod listing;
mod lookup;
mod presence;
mod receivers;
mod receiving;
mod recent;
mod renaming;
mod room;
mod settle;
mod write;
mod writing;

use archived::Archived;
use folders::Folders;
use forks::Forks;
use writing::Writings;

/// `wal/`
#[derive(Debug)]
pub(super) struct Wal {
    common: Arc<Common>,
    archived: Arc<Archived>,
    writings: Writings,
    folders: Folders,
    forks: Arc<Forks>,
}

impl Wal {
    pub(super) fn new(common: Arc<Common>, archived: Arc<Archived>) -> Self {
        Self {
            common,
            archived,
            writings: Writings::default(),
            folders: Folders::default(),
            forks: Arc::default(),
        }
    }

    /// Is this the number of a file that is being written?
    pub(super) fn is_writing(&self, ino: u64) -> bool {
        self.writings.get(ino).is_some()
    }

    /// Files being written now.
    pub(super) fn open_writes(&self) -> usize {
        self.writings.open_files()
    }
}
