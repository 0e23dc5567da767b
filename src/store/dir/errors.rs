//! What an errno means for an archive in a directory.

use std::io;
use std::path::Path;

use super::{Error, ErrorKind, Root};

/// One row an errno. What is not named is taken for a hiccup: waiting is safer than a false statement.
pub(super) fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(libc::ENOENT) => ErrorKind::NotFound,
        Some(libc::EEXIST) => ErrorKind::AlreadyExists,
        Some(libc::EACCES | libc::EPERM) => ErrorKind::Denied,
        Some(libc::EROFS) => ErrorKind::ReadOnly,
        Some(libc::ENOSPC | libc::EDQUOT) => ErrorKind::Full,
        Some(libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG) => ErrorKind::Permanent,
        Some(libc::EINVAL | libc::EFBIG | libc::EMLINK | libc::EXDEV) => ErrorKind::Permanent,
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => ErrorKind::Permanent,
        // Not the system's word but ours: a link in the way.
        None => ErrorKind::Permanent,
        _ => ErrorKind::Transient,
    }
}

/// An error of opening the directory itself.
pub(super) fn open_failed(path: &Path, error: &io::Error) -> Error {
    let kind = match kind_of(error) {
        ErrorKind::NotFound | ErrorKind::AlreadyExists => ErrorKind::Permanent,
        kind => kind,
    };
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT) => {
            "\nHINT: check the path; --create makes a new archive, in a directory that is there"
        }
        Some(libc::ENOTDIR) => "\nHINT: a local archive is a directory, and so is everything above it",
        _ => hint(error),
    };
    Error::new(kind, "open", path.display().to_string(), format!("{error}{hint}"))
}

/// What somebody has to do, where that is known.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "\nHINT: the user that runs walfs (`walfs mount --user`, or whoever started it) must be able to enter, \
             read and write the archive and all that is in it: chown it to that user"
        }
        Some(libc::EROFS) => {
            "\nHINT: the archive's file system is mounted read-only, perhaps after an error of its disk"
        }
        Some(libc::ENOSPC | libc::EDQUOT) => {
            "\nHINT: make room where the archive is, or raise its user's quota"
        }
        _ => "",
    }
}

fn with_hint(kind: ErrorKind, operation: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::new(
        kind,
        operation,
        path.display().to_string(),
        format!("{error}{}", hint(error)),
    )
}

impl Root {
    /// An error of reading. "Not found" is believed only while the directory is the one that was opened; a component
    /// of the path being a file is an honest "not found" as well. What lies there and is no object is damage of this one.
    pub(super) fn read_error(&self, operation: &'static str, path: &Path, error: &io::Error) -> Error {
        let kind = match error.raw_os_error() {
            Some(libc::ENOTDIR) => ErrorKind::NotFound,
            None => ErrorKind::Damaged,
            _ => kind_of(error),
        };
        if matches!(kind, ErrorKind::NotFound | ErrorKind::Damaged)
            && let Err(gone) = self
                .check(operation)
                .and_then(|()| self.check_folder(operation, path))
        {
            return gone;
        }
        with_hint(kind, operation, path, error)
    }

    /// An error of giving the final name: only here does "it exists" mean the object.
    pub(super) fn publish_error(&self, path: &Path, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::AlreadyExists => match self.check("put") {
                Ok(()) => Error::new(
                    ErrorKind::AlreadyExists,
                    "put",
                    path.display().to_string(),
                    error.to_string(),
                ),
                Err(gone) => gone,
            },
            _ => self.write_error("put", path, error),
        }
    }

    /// An error of writing. That a file is missing, or a temporary one exists, is nobody's answer.
    pub(super) fn write_error(&self, operation: &'static str, path: &Path, error: &io::Error) -> Error {
        if let Err(gone) = self.check(operation) {
            return gone;
        }
        let kind = match kind_of(error) {
            ErrorKind::NotFound | ErrorKind::AlreadyExists => ErrorKind::Transient,
            kind => kind,
        };
        with_hint(kind, operation, path, error)
    }
}
