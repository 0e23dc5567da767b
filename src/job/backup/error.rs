//! What can go wrong with a backup, in words for the one who took it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::archive::tree::TreeError;
use crate::archive::turns::Turn;
use crate::pg::control::ControlError;
use crate::pg::history::HistoryError;
use crate::pg::label::LabelError;
use crate::pg::tablespace_map::TablespaceMapError;
use crate::pg::{SegmentName, SystemId};
use crate::{archive, server};

/// What can go wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server, or the way to it.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The archive is another cluster's (promise W5).
    #[error(
        "the server has system identifier {offered}, but the archive {place} is that of {archived}.\n\
         HINT: a database made by initdb or pg_upgrade has a new identifier; give it a new prefix."
    )]
    WrongCluster {
        /// The archive.
        place: String,
        /// Its cluster.
        archived: SystemId,
        /// The server's.
        offered: SystemId,
    },
    /// The files to be read are not the server's.
    #[error(
        "the server says that its data directory is {data_directory}, and that is not to be read here: {reason}.\n\
         HINT: run walfs on the server's own machine; pg_basebackup -D MOUNT/basebackups/NAME works from elsewhere."
    )]
    NotHere {
        /// Where the server says that it is.
        data_directory: PathBuf,
        /// Why it is not.
        reason: String,
    },
    /// A server whose WAL nobody takes.
    #[error(
        "the server does not archive (archive_mode is off), and nobody receives its WAL, so the backup could never be \
         complete.\n\
         HINT: `walfs postgres-config` prints what postgresql.conf needs; or start pg_receivewal into the mount first."
    )]
    NotArchiving,
    /// Another host has taken the turn of the schedule meanwhile.
    #[error(
        "another host has taken the turn {0}, because nothing was heard of this one; nothing of the backup is kept"
    )]
    NotOurTurn(Turn),
    /// A file that cannot be read.
    #[error("cannot read {}: {source}{hint}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// A line with the next step, or nothing.
        hint: String,
    },
    /// A link to what the server needs and nobody finds.
    #[error(
        "{} is a link to what cannot be read: {source}.\n\
         HINT: PostgreSQL needs it, so there is no backup without: is its disk mounted, and may walfs read it?",
        path.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no room for another thread.
    #[error(
        "cannot start a thread to read files: {0}.\nHINT: `ulimit -u` limits the user's threads; use fewer --jobs"
    )]
    Thread(io::Error),
    /// A control file that stays unreadable.
    #[error("{}: {source}", path.display())]
    Control {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: ControlError,
    },
    /// A timeline history that cannot be read.
    #[error("{}: {source}", path.display())]
    History {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        source: HistoryError,
    },
    /// A backup label that cannot be read.
    #[error("PostgreSQL gave a backup label that is none: {0}")]
    Label(#[from] LabelError),
    /// A tablespace map that cannot be read.
    #[error("PostgreSQL gave a tablespace map that is none: {0}")]
    TablespaceMap(#[from] TablespaceMapError),
    /// A label that PostgreSQL would not take.
    #[error("the label has {found}; expected one line of at most 1024 bytes")]
    BadLabel {
        /// What is wrong with it.
        found: &'static str,
    },
    /// What was copied is no tree: a bug, but better said than stored.
    #[error("what was copied does not fit together: {0}")]
    Tree(#[from] TreeError),
    /// The archived WAL is another server's.
    #[error(
        "{segment} in {place} has other content than {segment} in this server's pg_wal: another server archives there, and \
         this backup would not recover.\n\
         HINT: pg_stat_archiver shows since when this server's WAL is refused; give it an archive of its own \
         (`walfs mount --create` with another prefix)."
    )]
    OtherWal {
        /// The segment.
        segment: SegmentName,
        /// The archive.
        place: String,
    },
    /// Somebody wants it to end.
    #[error("stopped by {0}; the backup is given up")]
    Interrupted(&'static str),
    /// The same while it was being completed.
    #[error(
        "stopped by {0} while the backup was being completed, and the store has not answered.\n\
         HINT: `walfs backup-list` shows whether it is complete."
    )]
    InterruptedLast(&'static str),
    /// Another thread has failed, and says why.
    #[error("the copy was stopped")]
    Stopped,
}

impl Error {
    /// A file that cannot be read, and what may help.
    pub(super) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            hint: hint(path, &source),
            path: path.to_owned(),
            source,
        }
    }
}

/// What may help depends on who we are: the owner of the files around it can only look at this one.
fn hint(path: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return String::new();
    }
    // SAFETY: a system call without arguments.
    let own = unsafe { libc::geteuid() };
    let owner = path
        .ancestors()
        .skip(1)
        .find_map(|above| fs::metadata(above).ok());
    match owner.map(|metadata| metadata.uid()) {
        Some(owner) if owner == own || own == 0 => format!(
            "\nHINT: `ls -ld {}` shows whose it is; PostgreSQL may not need it, but a backup has every file of the data \
             directory: give it to the server's user, or take it away.",
            path.display()
        ),
        _ => "\nHINT: run walfs as the user that PostgreSQL runs as, usually postgres: sudo -u postgres walfs backup ..."
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_depends_on_who_asks() {
        let root = tempfile::tempdir().unwrap();
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        // Our own directory: to be its owner does not help.
        let own = hint(&root.path().join("base/5/1"), &denied());
        assert!(own.contains("ls -ld") && !own.contains("run walfs as"), "{own}");
        // SAFETY: a system call without arguments.
        if unsafe { libc::geteuid() } != 0 {
            let others = hint(Path::new("/etc/x"), &denied());
            assert!(others.contains("run walfs as"), "{others}");
        }
        assert_eq!(hint(root.path(), &io::ErrorKind::NotFound.into()), "");
    }
}
