//! What can go wrong with a version of files, in words for the one who stored it.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::archive::tree::{TreeError, TreeName};
use crate::{archive, job::backup};

/// What can go wrong with a version of files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Archive(archive::Error),
    /// Another run was quicker by less than a second.
    #[error(
        "another run has just stored version {0}; nothing of this one is kept.\nHINT: run it again, if that is not enough."
    )]
    Raced(TreeName),
    /// Something cannot be read.
    #[error("cannot read {}: {source}{hint}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What may help.
        hint: &'static str,
    },
    /// The one is in the other.
    #[error(
        "{} and the archive {} are one in the other: the archive would store itself.\n\
         HINT: name a directory that has nothing to do with the archive.",
        directory.display(),
        place.display()
    )]
    Inside {
        /// The archive.
        place: PathBuf,
        /// What is to be stored.
        directory: PathBuf,
    },
    /// The threads that copy.
    #[error(transparent)]
    Copy(backup::Error),
    /// What was copied is no tree: a bug, but better said than stored.
    #[error("what was copied does not fit together: {0}")]
    Tree(#[from] TreeError),
    /// A time that no version can have.
    #[error("{0} is no time that a version can have.\nHINT: set the clock of this host.")]
    Clock(Timestamp),
    /// Somebody wants it to end.
    #[error("stopped by {0}; nothing of the version is kept")]
    Interrupted(&'static str),
    /// The same while it was being completed.
    #[error(
        "stopped by {0} while the version was being completed, and the store has not answered.\n\
         HINT: `walfs files-list` shows whether it is complete."
    )]
    InterruptedLast(&'static str),
}

impl Error {
    /// Something that cannot be read, and what may help.
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "\nHINT: run walfs as a user who may read everything below that directory, such as root."
            }
            _ => "",
        };
        Self::Read {
            path: path.to_owned(),
            source,
            hint,
        }
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        match error {
            archive::Error::TreeExists { name, .. } => Self::Raced(name),
            other => Self::Archive(other),
        }
    }
}

impl From<backup::Error> for Error {
    fn from(error: backup::Error) -> Self {
        match error {
            backup::Error::Archive(error) => error.into(),
            backup::Error::Read { path, source, .. } => Self::read(&path, source),
            other => Self::Copy(other),
        }
    }
}
