//! What can go wrong with a version of files, in words for the one who stored it.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::job::{backup, version};

/// What can go wrong with a version of files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What any version may meet.
    #[error(transparent)]
    Version(#[from] version::Error),
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
        Self::Version(error.into())
    }
}

impl From<backup::Error> for Error {
    fn from(error: backup::Error) -> Self {
        match error {
            backup::Error::Read { path, source, .. } => Self::read(&path, source),
            other => Self::Version(other.into()),
        }
    }
}
