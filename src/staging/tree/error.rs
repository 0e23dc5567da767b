//! Why something was not done with a tree that is being written.

use std::sync::Arc;

use crate::archive;
use crate::archive::tree::TreeName;

use super::names::NameError;
use super::sending::Failure;

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A matter of names.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The archive, or its store: or what has failed the tree before.
    #[error(transparent)]
    Archive(#[from] Failure),
    /// The tree is complete, and does not change any more (promise B7).
    #[error("the backup is complete and is not changed any more")]
    Complete,
    /// The tree has been removed.
    #[error("the backup was removed")]
    Removed,
    /// Not a thing to do with this.
    #[error("{0}")]
    Invalid(&'static str),
    /// Longer than a file of a backup can be, or with too long a hole.
    #[error("a file of a backup has at most 3 TiB, and no hole of more than 64 GiB")]
    TooLong,
    /// A backup in a folder of what would be one: it would never be complete (promise B9).
    #[error(
        "{path} is not taken: a backup's own directory is basebackups/NAME, none deeper, and {name} is no backup itself\n\
         HINT: put it into basebackups/{hint}"
    )]
    TooDeep {
        /// The tree.
        name: TreeName,
        /// The file that a backup's own directory has, from `basebackups/`.
        path: String,
        /// A name for that backup.
        hint: String,
    },
    /// It cannot be completed as a base backup.
    #[error("{name} is not completed: {reason}")]
    NoBackup {
        /// The tree.
        name: TreeName,
        /// What is missing, or does not fit.
        reason: String,
    },
    /// A file has arrived otherwise than its backup's manifest says.
    #[error(
        "{name} is not completed: its backup_manifest has {algorithm} {expected} for {path}, and what is stored has \
         {found}{}.\nHINT: bring the file again from where the backup was taken and fsync the backup's directory; if \
         it is the same there, take a new backup", and_others(*.others)
    )]
    WrongContent {
        /// The tree.
        name: TreeName,
        /// The file, as the manifest names it.
        path: String,
        /// How its checksum is made.
        algorithm: &'static str,
        /// The manifest's checksum.
        expected: String,
        /// The checksum of what is stored.
        found: String,
        /// How many other files are wrong.
        others: usize,
    },
}

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => "; so it is with another file".into(),
        _ => format!("; so it is with {others} other files"),
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        Self::Archive(Arc::new(error))
    }
}
