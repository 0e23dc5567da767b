//! What an operation on the mounted directory can fail with, and the one table that turns it into an errno.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::archive::tree::TreeNameError;
use crate::archive::tree::version::SetNameError;
use crate::job::plain;
use crate::pg::WalName;
use crate::staging::tree::Error as Draft;
use crate::staging::tree::names::NameError;
use crate::store::ErrorKind;
use crate::{archive, staging};

/// Why an operation was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The archive's rules, or its store.
    #[error(transparent)]
    Archive(#[from] Arc<archive::Error>),
    /// There is no such name: the store said so, or no such name can exist.
    #[error("no such file")]
    NotFound,
    /// It is there already.
    #[error("it exists")]
    Exists,
    /// Committed files and the directories themselves are not changed through the mount.
    #[error("{what} is not changed through the mount")]
    Immutable {
        /// What was to be changed.
        what: String,
    },
    /// What is in a complete backup stays as it is (promise B7).
    #[error("{name} is not changed: backup {backup} is complete, and a complete backup stays as it is")]
    Committed {
        /// The file, or the name that was to be made.
        name: String,
        /// The backup.
        backup: String,
    },
    /// Not a name for this directory.
    #[error("{name} is no name for an archived file: {reason}")]
    BadName {
        /// The name.
        name: String,
        /// What names there are.
        reason: String,
    },
    /// Not a name of what has versions.
    #[error(transparent)]
    BadSetName(SetNameError),
    /// A temporary name, where a file is a version once it is closed.
    #[error(
        "{name} is refused: a file here is whole when it is closed, and gets no other name\n\
         HINT: write it under its own name: rsync --inplace --whole-file"
    )]
    TemporaryName {
        /// The name.
        name: String,
    },
    /// A version, or a name that has versions.
    #[error("{name} is not changed: versions stay as they are\nHINT: `walfs prune` removes old ones")]
    Version {
        /// The name.
        name: String,
    },
    /// A time that no version can have.
    #[error("the clock of this host says a time that no version can have\nHINT: set it")]
    Clock,
    /// A plain file was not stored.
    #[error(transparent)]
    Plain(#[from] plain::Error),
    /// A plain file that will never be whole.
    #[error(
        "{name} is not stored: a process that wrote it was killed, or failed, or went before it closed the file"
    )]
    Half {
        /// The file.
        name: String,
    },
    /// A file whose writer closes it, perhaps because it is being killed: nothing is stored.
    #[error(
        "{name} is not stored: {why}\n\
         HINT: write it from where the mount's walfs sees the process: the same machine and namespace of processes"
    )]
    Unseen {
        /// The file.
        name: String,
        /// What is not known.
        why: &'static str,
    },
    /// A file that its writer has compressed.
    #[error("{name} is refused: walfs compresses by itself\nHINT: run pg_receivewal without --compress")]
    Compressed {
        /// The name.
        name: String,
    },
    /// A directory where a file was meant, or the reverse.
    #[error("it is a directory")]
    IsDirectory,
    /// See [`Error::IsDirectory`].
    #[error("it is not a directory")]
    NotDirectory,
    /// A directory that is to be removed has something in it.
    #[error("it is not empty")]
    NotEmpty,
    /// No such open file.
    #[error("no such open file")]
    BadHandle,
    /// The file is not opened for this.
    #[error("{name}: {reason}")]
    Invalid {
        /// The file.
        name: String,
        /// What does not fit.
        reason: &'static str,
    },
    /// Something that is not kept here.
    #[error("it is not kept here")]
    Unsupported,
    /// Longer than any WAL file.
    #[error("{name} would be longer than the largest segment, 1 GiB")]
    TooLong {
        /// The file.
        name: String,
    },
    /// A backup that is being written.
    #[error(transparent)]
    Draft(#[from] staging::tree::Error),
    /// Not a name for a backup.
    #[error(transparent)]
    BadBackupName(#[from] TreeNameError),
    /// Not from one backup to another, nor out of one.
    #[error("it would leave its backup")]
    OtherTree,
    /// Nor from one archive to another.
    #[error("it would leave its archive")]
    OtherArchive,
    /// The kernel has a number of something that is found under another one now.
    #[error("it has to be looked up again")]
    Stale,
    /// The process that asked has been killed and will never see an answer.
    #[error("the asking process is being killed")]
    Interrupted,
    /// The process that closes a file did not show itself in time: it may be dying, and the file not be whole.
    #[error(
        "{name}: nothing is archived, for /proc has not shown in time whether the process that closes it is being killed.\n\
         HINT: bring it again; the machine may be short of memory or of processors."
    )]
    Hidden {
        /// The file.
        name: WalName,
    },
    /// The mount was made read-only, or is being taken down.
    #[error("the mount {0}")]
    ReadOnly(&'static str),
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        Self::Archive(Arc::new(error))
    }
}

impl Error {
    /// What is not changed through the mount.
    pub(super) fn immutable(what: impl AsRef<OsStr>) -> Self {
        Self::Immutable {
            what: what.as_ref().to_string_lossy().into_owned(),
        }
    }

    /// The kernel follows links by itself, and reads only what is one.
    pub(super) fn wrong_kind(name: &str) -> Self {
        Self::Invalid {
            name: name.into(),
            reason: "a link was taken for a file, or a file for a link",
        }
    }

    /// The errno a process gets. Never ENOSYS (the kernel would stop asking) and never ENOENT for anything but
    /// proven absence.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Archive(error) => archive_errno(error),
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::Immutable { .. } | Self::Committed { .. } => libc::EPERM,
            Self::BadName { .. } | Self::Invalid { .. } => libc::EINVAL,
            // The one word that a user of `pg_receivewal --compress` gets to see.
            Self::Compressed { .. } => libc::EOPNOTSUPP,
            Self::BadSetName(_) | Self::TemporaryName { .. } => libc::EINVAL,
            Self::Version { .. } => libc::EPERM,
            Self::Plain(error) => error.of_archive().map_or(libc::EIO, archive_errno),
            Self::Unseen { .. } | Self::Half { .. } | Self::Clock => libc::EIO,
            Self::IsDirectory => libc::EISDIR,
            Self::NotDirectory => libc::ENOTDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::BadHandle => libc::EBADF,
            Self::Unsupported => libc::EOPNOTSUPP,
            Self::TooLong { .. } => libc::EFBIG,
            Self::Draft(error) => draft_errno(error),
            Self::BadBackupName(_) => libc::EINVAL,
            Self::OtherTree | Self::OtherArchive => libc::EXDEV,
            Self::Stale => libc::ESTALE,
            Self::Interrupted => libc::EINTR,
            Self::Hidden { .. } => libc::EIO,
            Self::ReadOnly(_) => libc::EROFS,
        }
    }

    /// Is it worth a log line? What every `cp` and `stat` meets in passing is not.
    pub fn is_notable(&self) -> bool {
        matches!(
            self,
            Self::Archive(_)
                | Self::Hidden { .. }
                | Self::Committed { .. }
                | Self::BadName { .. }
                | Self::Compressed { .. }
                | Self::Invalid { .. }
                | Self::TooLong { .. }
                | Self::BadBackupName(_)
                | Self::BadSetName(_)
                | Self::TemporaryName { .. }
                | Self::Version { .. }
                | Self::Plain(_)
                | Self::Unseen { .. }
                | Self::Half { .. }
                | Self::Clock
                | Self::Draft(
                    Draft::Archive(_) | Draft::Refused { .. } | Draft::NotTaken(_) | Draft::TooLong
                )
        )
    }
}

fn draft_errno(error: &Draft) -> i32 {
    match error {
        Draft::Name(NameError::NotFound) => libc::ENOENT,
        Draft::Name(NameError::Exists) => libc::EEXIST,
        Draft::Name(NameError::NotDirectory) => libc::ENOTDIR,
        Draft::Name(NameError::IsDirectory) => libc::EISDIR,
        Draft::Name(NameError::NotEmpty) => libc::ENOTEMPTY,
        Draft::Name(NameError::TooLong) => libc::ENAMETOOLONG,
        Draft::Name(NameError::Invalid) | Draft::Invalid(_) => libc::EINVAL,
        Draft::Archive(error) => archive_errno(error),
        Draft::Complete => libc::EPERM,
        Draft::Removed => libc::ESTALE,
        Draft::TooLong => libc::EFBIG,
        Draft::NotTaken(_) => libc::EPERM,
        // Not EINVAL: mv would speak of a directory moved into itself.
        Draft::Refused { .. } => libc::EIO,
    }
}

fn archive_errno(error: &archive::Error) -> i32 {
    use archive::Error as E;
    match error {
        // "File exists" is what cp then says, which is the truth.
        E::Conflict { .. }
        | E::OtherPartial { .. }
        | E::Kept { .. }
        | E::TreeExists { .. }
        | E::TreeLacksWal { .. } => libc::EEXIST,
        E::Immutable { .. } => libc::EPERM,
        E::TooLong { .. } => libc::EFBIG,
        E::StagingFull { .. } => libc::ENOSPC,
        E::WrongCluster { .. }
        | E::WrongSegmentSize { .. }
        | E::Header { .. }
        | E::WrongTimeline { .. }
        | E::Incomplete { .. }
        | E::Gap { .. }
        | E::Text { .. }
        | E::Name(_) => libc::EINVAL,
        E::Store(error) if error.kind == ErrorKind::Denied => libc::EACCES,
        E::Store(error) if error.kind == ErrorKind::ReadOnly => libc::EROFS,
        E::Store(error) if error.kind == ErrorKind::Full => libc::ENOSPC,
        // Also an object that was there a moment ago and is gone: that is no proof of absence to restore by.
        E::Store(_)
        | E::Damaged { .. }
        | E::Misplaced { .. }
        | E::TreeDamaged { .. }
        | E::TreeRemoved { .. }
        | E::TreePruned { .. }
        | E::TreeNamePruned { .. }
        | E::TreeOtherWal { .. }
        | E::NotAnArchive { .. }
        | E::Inside { .. }
        | E::Format { .. }
        | E::Marker { .. }
        | E::Codec { .. }
        | E::Staging { .. } => libc::EIO,
    }
}
