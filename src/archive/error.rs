//! What an archive refuses or cannot do.

use std::io::{self, ErrorKind};

use super::tree::TreeName;
use super::{FORMAT_VERSION, MARKER};
use crate::codec::{ContentHash, Damage};
use crate::pg::{HeaderError, NameError, SegmentName, SegmentSize, SystemId, Timeline, WalName};
use crate::store;

/// What went wrong, in words for the person who reads the log, and in kinds for the code that must answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store did not do it; its kind says whether it may help to wait.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Other content is archived under this name (promise W4).
    #[error(
        "{name} is already archived in {place} with different content: \
         archived hash {archived}, this file's {offered}. The archived file stays as it is.\n\
         HINT: two servers archiving into one prefix, or a server restored without a new timeline, do this; \
         give each cluster its own prefix."
    )]
    Conflict {
        /// The file's name.
        name: WalName,
        /// The archive.
        place: String,
        /// Hash of what is archived.
        archived: ContentHash,
        /// Hash of what was brought.
        offered: ContentHash,
    },
    /// What is received is not what is archived as the beginning of its segment (promise W4).
    #[error(
        "{name} is archived in {place} with other bytes from {offset} on than are received. The archived file stays as it is.\n\
         HINT: of two servers, a primary and the standby that was promoted meanwhile, the promoted one has archived it; \
         the other one's commits are not kept here. Give each an archive of its own, or stop the one that has lost."
    )]
    OtherPartial {
        /// The file's name.
        name: WalName,
        /// The archive.
        place: String,
        /// Where the bytes begin that differ, or some before them.
        offset: u64,
    },
    /// A segment of another cluster (promise W5).
    #[error(
        "{name} belongs to the cluster with system identifier {offered}, but the archive {place} holds \
         the WAL of system identifier {archived}.\n\
         HINT: a database made by initdb or pg_upgrade has a new identifier; archive it to a new prefix."
    )]
    WrongCluster {
        /// The file's name.
        name: WalName,
        /// The archive.
        place: String,
        /// The archive's cluster.
        archived: SystemId,
        /// The segment's cluster.
        offered: SystemId,
    },
    /// The cluster's segments used to have another size.
    #[error(
        "{name} states a segment size of {offered}, but the archive {place} holds segments of {archived}.\n\
         HINT: after pg_resetwal --wal-segsize, archive to a new prefix."
    )]
    WrongSegmentSize {
        /// The file's name.
        name: WalName,
        /// The archive.
        place: String,
        /// The archive's segment size.
        archived: SegmentSize,
        /// The segment's own.
        offered: SegmentSize,
    },
    /// The first page is not that of the segment the name promises (promise W3).
    #[error(
        "{name} is refused: {reason}\nHINT: compare it with `pg_waldump`; only whole, untouched segments are archived."
    )]
    Header {
        /// The file's name.
        name: WalName,
        /// What is wrong with the first page.
        reason: HeaderError,
    },
    /// A segment that begins on another timeline, although that timeline did not end inside it.
    #[error(
        "{name} is refused: its first page is of timeline {page}, and according to {name_history} timeline \
         {page} did not end in this segment."
    )]
    WrongTimeline {
        /// The file's name.
        name: WalName,
        /// Timeline of its first page.
        page: Timeline,
        /// The history file consulted.
        name_history: WalName,
    },
    /// Not all of the file has arrived.
    #[error("{name} is not archived: {found_bytes} of {expected_bytes} bytes were written{detail}.")]
    Incomplete {
        /// The file's name.
        name: WalName,
        /// How long it must be.
        expected_bytes: u64,
        /// How long it is.
        found_bytes: u64,
        /// More, when there is more to say.
        detail: &'static str,
    },
    /// It is as long as it must be, but not every byte of it has come (promise W3).
    #[error(
        "{name} is not archived: its bytes from {begins} to {ends} were never written, and nothing shows that they \
         are zeros.\n\
         HINT: a sparse copy needs a source that walfs can see, with zeros there; `cp --sparse=never` writes every byte."
    )]
    Gap {
        /// The file's name.
        name: WalName,
        /// The first byte that is missing, counted from 0.
        begins: u64,
        /// The first one behind it that is not.
        ends: u64,
    },
    /// More bytes than a file of this name has.
    #[error("{name} is refused: it may have {limit_bytes} bytes and more were written.")]
    TooLong {
        /// The file's name.
        name: WalName,
        /// The longest it may be.
        limit_bytes: u64,
    },
    /// It is archived and stays as it is (promise W4).
    #[error("{name} is archived and cannot be changed.")]
    Immutable {
        /// The file's name.
        name: WalName,
    },
    /// A segment is received whose beginning has been received before, and was other (promise W4).
    #[error(
        "{name} is refused: {kept_bytes} bytes of it are kept in {place}, and what is written now differs from them. \
         What is kept stays as it is.\n\
         HINT: two servers received into one prefix, or one that lost what it had sent, do this; if the kept bytes are \
         the wrong ones, move the objects receiving/{}.* away.",
        name.segment().map(|segment| segment.to_string()).unwrap_or_default()
    )]
    Kept {
        /// The file's name.
        name: WalName,
        /// The archive.
        place: String,
        /// So many bytes from its beginning on.
        kept_bytes: u64,
    },
    /// A `.history` or `.backup` file that PostgreSQL would not have written.
    #[error("{name} is refused: {reason}")]
    Text {
        /// The file's name.
        name: WalName,
        /// What is wrong.
        reason: String,
    },
    /// The name is not one PostgreSQL gives to WAL.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Stored bytes are not what was stored (promise R3).
    #[error(
        "{key} in {place} is damaged: {damage}.\n\
         HINT: the object was changed or cut after it was stored; bring it back from a copy of the store."
    )]
    Damaged {
        /// The object.
        key: String,
        /// The archive.
        place: String,
        /// What does not fit.
        damage: Box<Damage>,
    },
    /// A whole object, but of another name (promise R3).
    #[error(
        "{key} in {place} holds another file's content: {reason}.\n\
         HINT: objects were exchanged or renamed; bring this one back from a copy of the store."
    )]
    Misplaced {
        /// The object.
        key: String,
        /// The archive.
        place: String,
        /// How its content shows it.
        reason: String,
    },
    /// The prefix holds no archive.
    #[error(
        "{place} is not a walfs archive: it has no {MARKER}.\nHINT: {}--create makes a new archive there",
        near(nearby)
    )]
    NotAnArchive {
        /// The prefix.
        place: String,
        /// Archives beside it, or in it.
        nearby: Vec<String>,
    },
    /// A new archive would lie in another one.
    #[error(
        "no archive is made in {place}: it lies in the archive {around}.\n\
         HINT: choose a place beside that; if that one was made by mistake, delete it first."
    )]
    Inside {
        /// The prefix.
        place: String,
        /// The archive around it.
        around: String,
    },
    /// Written by a walfs that knows more.
    #[error(
        "{place} has format version {found}; this walfs reads version {FORMAT_VERSION}.\nHINT: use a newer walfs."
    )]
    Format {
        /// The prefix.
        place: String,
        /// Its version.
        found: u32,
    },
    /// A marker object that cannot be read.
    #[error("{key} in {place} cannot be read: {reason}")]
    Marker {
        /// The object.
        key: &'static str,
        /// The archive.
        place: String,
        /// Why.
        reason: String,
    },
    /// The archive was made with one codec and another is asked for.
    #[error(
        "the archive {place} is compressed with {archived}, not {asked}.\n\
         HINT: leave --compression away, choose another level of {archived}, or start a new prefix."
    )]
    Codec {
        /// The archive.
        place: String,
        /// Its codec.
        archived: String,
        /// The codec asked for.
        asked: String,
    },
    /// A backup of that name is complete (promise B7).
    #[error(
        "{place} already holds a backup named {name}, and a complete backup is never changed.\n\
         HINT: choose another name; `walfs backup-list` shows those that are taken."
    )]
    TreeExists {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
    },
    /// All of that backup is stored but WAL that it needs (promise B2).
    #[error(
        "{place} already holds a backup named {name}; it is complete as soon as its WAL is archived, of which {} missing.\n\
         HINT: let PostgreSQL archive (see pg_stat_archiver), or choose another name for a new backup.", lacking(.missing)
    )]
    TreeLacksWal {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// The segments.
        missing: Vec<SegmentName>,
    },
    /// WAL that was missing when the backup was stored came from another server (promise B2).
    #[error(
        "backup {name} in {place} cannot be restored: {} of the WAL that makes it consistent is another server's, which \
         archived there after this backup.\n\
         HINT: take a new backup; give each server an archive of its own.",
        first_of(.others)
    )]
    TreeOtherWal {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// The segments, never none.
        others: Vec<SegmentName>,
    },
    /// Something of a backup went while the rest was still being stored.
    #[error(
        "backup {name} in {place} is not complete: {missing}. It was removed while the backup was being made.\n\
         HINT: make it again under another name; it was removed by hand, or by a walfs that took it for left behind by a \
         killed one."
    )]
    TreeRemoved {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// What is gone.
        missing: String,
    },
    /// An earlier backup of that name is being removed.
    #[error(
        "backup {name} was not completed in {place}: `walfs prune` is removing an earlier one of that name.\n\
         HINT: take it again under another name, or when the prune is done."
    )]
    TreeNamePruned {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
    },
    /// WAL that a backup needs is not kept.
    #[error(
        "backup {name} was not completed in {place}: `walfs prune` has removed {segment}, which it needs, or is about to.\n\
         HINT: take it again."
    )]
    TreePruned {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// A segment from its start to its stop.
        segment: SegmentName,
    },
    /// Something of a backup is not what was stored.
    #[error(
        "backup {name} in {place} is damaged: {what}: {reason}.\n\
         HINT: an object was changed, cut or removed after it was stored; bring it back from a copy of the store."
    )]
    TreeDamaged {
        /// The backup.
        name: TreeName,
        /// The archive.
        place: String,
        /// Which file or object of it.
        what: String,
        /// What does not fit.
        reason: String,
    },
    /// Local staging failed.
    #[error("staging of {name} failed: {reason}")]
    Staging {
        /// The file's name.
        name: String,
        /// What the system said.
        reason: String,
    },
    /// There is no room for what is being written.
    #[error(
        "staging of {name} failed: {reason}\n\
         HINT: make room in the staging directory, or name another one by --staging-dir"
    )]
    StagingFull {
        /// The file's name.
        name: String,
        /// What the system said.
        reason: String,
    },
}

/// The beginning of a hint for whoever mistyped a place.
fn near(archives: &[String]) -> String {
    match archives {
        [] => "check bucket, prefix or path; ".into(),
        archives => format!("archives near by: {}; ", archives.join(", ")),
    }
}

fn first_of(segments: &[SegmentName]) -> String {
    match segments {
        [] => "nothing".into(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

fn lacking(missing: &[SegmentName]) -> String {
    match missing {
        [one] => format!("{one} is"),
        [first, .., last] => format!("{} segments between {first} and {last} are", missing.len()),
        [] => "nothing is".into(),
    }
}

impl Error {
    /// Local I/O of staging failed.
    pub fn staging(name: impl ToString, error: &io::Error) -> Self {
        let (name, reason) = (name.to_string(), error.to_string());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::StagingFull { name, reason },
            _ => Self::Staging { name, reason },
        }
    }
}
