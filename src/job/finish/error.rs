//! Why a backup was not finished.

use std::io;
use std::path::{Path, PathBuf};

use crate::pg::control::ControlError;
use crate::pg::label::LabelError;
use crate::pg::landmark::Mismatch;
use crate::pg::{Lsn, SegmentName, WalName};

/// Why a backup was not finished. It stays as it is, and can be finished later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no directory of a backup in a mount of walfs.
    #[error(
        "{} is not a backup in a mount of walfs.\n\
         HINT: name the directory itself, /mnt/walfs/basebackups/monday for example, while walfs is mounted there.",
        .path.display()
    )]
    NotInMount {
        /// What was named.
        path: PathBuf,
    },
    /// `LATEST`, which is complete by what it is.
    #[error("{} is a link to a backup that is complete.\nHINT: name the backup that is to be finished.", .path.display())]
    Latest {
        /// What was named.
        path: PathBuf,
    },
    /// It has a manifest that the mount does not accept.
    #[error(
        "{} is not complete: the mount refused its backup_manifest: {source}\n\
         HINT: the log of walfs mount has the reason, and `walfs backup-list` says which file is not what the manifest \
         says: bring it again, then finish again. If the manifest is that of an older backup, of which the copied \
         server was made, remove it here first.",
        .path.display()
    )]
    Refused {
        /// The backup.
        path: PathBuf,
        /// What the mount answered.
        source: io::Error,
    },
    /// It has a manifest that was not accepted.
    #[error(
        "{} is whole: what wrote it knows which files the backup has, and its rename was refused.\n\
         HINT: the log of walfs mount has the reason. If this command wrote it, remove it and try again; if \
         pg_basebackup did, take a new backup.", .path.display()
    )]
    OtherManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// A page of it is younger than its WAL.
    #[error(
        "block {block} of {file} was changed at {lsn}, behind the end of this backup at {end}: the files were copied after \
         that, or are of several moments.\n\
         HINT: copy all of them again, between pg_backup_start and pg_backup_stop, or while the server is stopped."
    )]
    Later {
        /// The file, from the data directory.
        file: String,
        /// The block of the relation.
        block: u32,
        /// Its last change.
        lsn: Lsn,
        /// Where the backup's WAL ends.
        end: Lsn,
    },
    /// A part of every data directory is not there.
    #[error(
        "{} is not a whole data directory: it has no {missing}.\n\
         HINT: copy all of it, between pg_backup_start and pg_backup_stop, or after the server has stopped.",
        .path.display()
    )]
    NotWhole {
        /// The backup.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// Its server ran, and nobody has told where the backup begins.
    #[error(
        "{} has no backup_label, and {because}.\n\
         HINT: write into it what pg_backup_stop returned as labelfile (and spcmapfile into tablespace_map); without \
         pg_backup_start, copy the directory again while the server is stopped.", .path.display()
    )]
    NoLabel {
        /// The backup.
        path: PathBuf,
        /// How it shows that its server ran.
        because: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {what} {}: {source}{hint}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The backup label is none.
    #[error(
        "{} cannot be used: {source}\n\
         HINT: it must be, byte for byte, what pg_backup_stop returned as labelfile.", .path.display()
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LabelError,
    },
    /// The control file is none.
    #[error("{} cannot be used: {source}{}", .path.display(), torn_hint(source))]
    Control {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ControlError,
    },
    /// A tablespace's files are not in the backup.
    #[error(
        "{} is a link: the files of this tablespace are not in the backup.\n\
         HINT: put them where the link is: rm {0}, mkdir {0}, then cp -a the tablespace's directory/. into it.",
        .path.display()
    )]
    Tablespace {
        /// The link.
        path: PathBuf,
    },
    /// What the server reads through links is not in the backup (promise B10).
    #[error(
        "{} is a link to {}{}: what it leads to is not in the backup.\n\
         HINT: put it where the link is: rm the link, then cp -a what it leads to into its place.",
        .path.display(), .to.display(), and_more(*.others)
    )]
    Outside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
        /// How many other such links there are.
        others: usize,
    },
    /// Nobody has said where the backup ended.
    #[error(
        "{name} is not in the archive: where the backup ended is not known.\n\
         HINT: pg_backup_stop makes PostgreSQL archive it; see pg_stat_archiver. A backup of a standby has none: give \
         --stop-lsn, the lsn that pg_backup_stop returned."
    )]
    NoEnd {
        /// The `.backup` file.
        name: WalName,
    },
    /// The `.backup` file is another backup's, or none.
    #[error("{name} does not tell where this backup ended: {reason}.")]
    End {
        /// The `.backup` file.
        name: WalName,
        /// What is wrong with it.
        reason: String,
    },
    /// WAL that it needs would go with its `pg_wal`.
    #[error(
        "{segment} is not in the archive, and the backup needs it: what its pg_wal has may be half-written, and is not \
         removed as long as there is nothing better.\n\
         HINT: let PostgreSQL archive it (see pg_stat_archiver), then finish again."
    )]
    NotArchived {
        /// The segment.
        segment: SegmentName,
    },
    /// Another server has archived under a name of the copy's WAL.
    #[error(
        "another server's WAL is archived as {name}: what pg_wal of this copy has under that name is something else, and \
         may be nowhere else. Nothing was changed.\n\
         HINT: {}",
        own_archive()
    )]
    OtherWal {
        /// The file.
        name: WalName,
    },
    /// Another server has archived under the names of the WAL that the backup needs.
    #[error(
        "another server's WAL is archived as {segment}: {found}. Nothing was changed.\n\
         HINT: {}",
        own_archive()
    )]
    OtherRecord {
        /// The segment.
        segment: SegmentName,
        /// What it has instead of a record of the backup's.
        found: Mismatch,
    },
    /// The backup did not end where it is said to.
    #[error(
        "this backup did not end at {stop}: {found}. Nothing was changed.\n\
         HINT: --stop-lsn is the lsn that pg_backup_stop returned, unchanged. If it is that, another server archives its WAL \
         here."
    )]
    OtherEnd {
        /// What was said.
        stop: Lsn,
        /// What is there.
        found: Mismatch,
    },
    /// The last checkpoint of a stopped server is nowhere.
    #[error(
        "{segment} is neither in the archive nor whole in the backup's pg_wal: it has the last checkpoint, without which no \
         server starts.\nHINT: copy it from the stopped server's pg_wal to pg_wal of the backup, then finish again."
    )]
    NoCheckpoint {
        /// The segment.
        segment: SegmentName,
    },
}

fn own_archive() -> &'static str {
    "two servers with one system identifier, a server and its copy, archive here: give each an archive of its own, and \
     copy this one into that. pg_stat_archiver shows which of them is refused."
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => ", as is another file".into(),
        _ => format!(", as are {others} other files"),
    }
}

/// An error at a file.
pub(super) fn at(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io {
        what,
        path: path.to_owned(),
        source,
        hint: "",
    }
}

/// What has a format of its own tells what to do about it.
fn torn_hint(error: &ControlError) -> &'static str {
    match error {
        ControlError::Checksum { .. } | ControlError::Length { .. } | ControlError::Field { .. } => {
            "\nHINT: it may have been copied while it was written; copy it again, and finish again."
        }
        ControlError::TooOld { .. }
        | ControlError::Format { .. }
        | ControlError::ByteOrder
        | ControlError::Layout => "",
    }
}
