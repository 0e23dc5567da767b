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
    /// A file or link that its judge does not take there.
    #[error("{0}")]
    NotTaken(String),
    /// It is not what it is to be, as its judge finds, or not yet.
    #[error("{name} is not completed: {reason}")]
    Refused {
        /// The tree.
        name: TreeName,
        /// What is missing, or does not fit.
        reason: String,
    },
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        Self::Archive(Arc::new(error))
    }
}
