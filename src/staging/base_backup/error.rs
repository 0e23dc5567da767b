//! Why a tree is no complete base backup.

use crate::archive;
use crate::staging::tree;
use crate::staging::tree::names::NameError;

/// Why not.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Error {
    /// It cannot be looked at.
    #[error(transparent)]
    Tree(#[from] tree::Error),
    /// What is missing, or does not fit.
    #[error("{0}")]
    NoBackup(String),
    /// A file has arrived otherwise than its backup's manifest says.
    #[error(
        "its backup_manifest has {algorithm} {expected} for {path}, and what is stored has {found}{}.\n\
         HINT: bring the file again from where the backup was taken and fsync the backup's directory; if it is the same \
         there, take a new backup", and_others(*.others)
    )]
    WrongContent {
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

impl Error {
    pub(super) fn no_backup(reason: impl ToString) -> Self {
        Self::NoBackup(reason.to_string())
    }
}

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => "; so it is with another file".into(),
        _ => format!("; so it is with {others} other files"),
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Self::Tree(error.into())
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        Self::Tree(error.into())
    }
}
