//! Why a backup is not restored.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::branch::Branch;
use super::only_here::Unarchived;
use crate::archive::tree::ended::Ended;
use crate::archive::{self, tree::TreeName};
use crate::pg::landmark::Mismatch;
use crate::pg::{Lsn, SegmentName, SystemId, Timeline, WalName};
use crate::read::part::PartError;

mod words;

use words::{choices, hint, listed, named, pushes, quoted, times, way};

/// What keeps a backup from being restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive: not to be reached, or damaged.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// There is no such backup.
    #[error(
        "{place} has no complete backup named {name}.\nHINT: `walfs backup-list` shows those that there are, and \
         unfinished ones."
    )]
    NoBackup {
        /// What was asked for.
        name: String,
        /// The archive.
        place: String,
    },
    /// None of them is complete and ends before the target.
    #[error(
        "{place} has no complete backup that ends before {target}.\nHINT: `walfs backup-list` shows when each ended; \
         the oldest is the earliest point that can be restored."
    )]
    NoneBefore {
        /// The archive.
        place: String,
        /// The target, in words.
        target: String,
    },
    /// Several backups may lie before the target.
    #[error(
        "which backup ends before {target} is not known, so LATEST is none.\n\
         HINT: name the newest that ended before it: {}.", times(.backups)
    )]
    Undecided {
        /// The target, in words.
        target: String,
        /// Those that there are, with when each ended, newest first.
        backups: Vec<(TreeName, Ended)>,
    },
    /// One from which no server can start.
    #[error(
        "backup {backup} is an incremental one of pg_basebackup: it has only what has changed since the backup that began at \
         {from}.\nHINT: pg_combinebackup makes a data directory of both: pg_combinebackup MOUNT/basebackups/EARLIER \
         MOUNT/basebackups/{backup} -o DIRECTORY. walfs backup needs no such step."
    )]
    Incremental {
        /// Its name.
        backup: TreeName,
        /// Where the one before began.
        from: Lsn,
    },
    /// WAL without which the backup is not consistent.
    #[error(
        "backup {backup} cannot be restored: {missing} of the WAL that makes it consistent is not in {place}.\n\
         HINT: if the server still has it in pg_wal, archive it (its archiver may be behind); otherwise take another \
         backup."
    )]
    MissingWal {
        /// The backup.
        backup: TreeName,
        /// The segments, by name.
        missing: String,
        /// The archive.
        place: String,
    },
    /// The archive has another server's WAL under the names of the backup's.
    #[error(
        "backup {backup} cannot be restored: {segment} in {place} is another server's WAL: {found}.\n\
         HINT: choose another backup (`walfs backup-list`), or take a new one; two servers with one system identifier, a \
         server and its copy, archive there: give each an archive of its own."
    )]
    OtherWal {
        /// The backup.
        backup: TreeName,
        /// The archive.
        place: String,
        /// The segment.
        segment: SegmentName,
        /// What it has instead of the backup's record.
        found: Mismatch,
    },
    /// A target that lies before the end of the backup.
    #[error(
        "backup {backup} cannot be recovered to {target}: it is consistent only from {stop} on.\n\
         HINT: choose an older backup, or LATEST, which then means the newest that ends before the target."
    )]
    TargetTooEarly {
        /// The backup.
        backup: TreeName,
        /// The target, in words.
        target: String,
        /// Where or when the backup ends.
        stop: String,
    },
    /// The WAL does not reach the target.
    #[error(
        "the WAL in {place} does not reach {target}: from the backup on it is whole up to {reached}, and {reason}.\n\
         HINT: {remedy}, choose a newer backup or a target before {reached}; or add --up-to-gap, and what is behind the gap is \
         lost."
    )]
    WalEndsEarly {
        /// The archive.
        place: String,
        /// The target, in words.
        target: String,
        /// The end of the unbroken WAL.
        reached: Lsn,
        /// What is missing.
        reason: String,
        /// What may bring it.
        remedy: &'static str,
    },
    /// The WAL between the backup and the target is not kept any more.
    #[error(
        "{place} keeps of the WAL behind backup {backup} only what makes it consistent: `walfs prune` has removed {gap}, and \
         recovery from it does not reach {target}.\n\
         HINT: --immediate brings the backup as it was at its end; `walfs backup-list` shows newer ones."
    )]
    WalPruned {
        /// The backup.
        backup: TreeName,
        /// The archive.
        place: String,
        /// The target, in words.
        target: String,
        /// The first segment that was removed.
        gap: SegmentName,
    },
    /// Nothing in the archived WAL is where recovery would stop.
    #[error(
        "the WAL in {place} does not reach {target}: {reason}; {reached}. The server would end with \"recovery ended before \
         configured recovery target was reached\".\nHINT: {hint}."
    )]
    NotReached {
        /// The archive.
        place: String,
        /// The target, in words.
        target: String,
        /// What it lacks.
        reason: &'static str,
        /// What it has: the last commit, and where it ends.
        reached: String,
        /// What to do.
        hint: String,
    },
    /// No history of the timeline that was asked for.
    #[error(
        "{place} does not know timeline {timeline}: {number:08X}.history is not archived.\n\
         HINT: `walfs wal-list | grep history` shows those that it knows.",
        number = .timeline.0
    )]
    NoTimeline {
        /// The archive.
        place: String,
        /// The timeline.
        timeline: Timeline,
    },
    /// The timeline does not go through the backup.
    #[error(
        "backup {backup} ends at {stop} on timeline {own}, and timeline {timeline} does not go through there: \
         {reason}.\nHINT: choose another backup, or another --target-timeline."
    )]
    OtherBranch {
        /// The backup.
        backup: TreeName,
        /// Where it ends.
        stop: Lsn,
        /// On which timeline.
        own: Timeline,
        /// The timeline that recovery should follow.
        timeline: Timeline,
        /// What the history says.
        reason: String,
    },
    /// No backup from which the timeline can be reached.
    #[error(
        "{place} has no complete backup that lies on the way to {}.\nHINT: `walfs backup-list` shows those that there \
         are; name another --target-timeline.", way(*.timeline)
    )]
    NoneOnTimeline {
        /// The archive.
        place: String,
        /// The timeline; `None`: whichever.
        timeline: Option<Timeline>,
    },
    /// Several timelines have WAL of their own, and nobody has said which one is meant.
    #[error(
        "in {place} {} timelines have WAL that the others do not have, and only you know which one leads to {target}:{}\n\
         HINT: name it: {}. What only the others have will not be in the restored server.",
        .branches.len(), listed(.branches), choices(.branches)
    )]
    Branches {
        /// The archive.
        place: String,
        /// The target, in words.
        target: String,
        /// The ends that recovery can come to, at least two.
        branches: Vec<Branch>,
    },
    /// A timeline has WAL, and nothing says where it began.
    #[error(
        "{place} has {first} and perhaps more of timeline {timeline}, but not {number:08X}.history, which says where it \
         began: nobody can follow it, and recovery would end before it.\n\
         HINT: look for the file in pg_wal of the servers that are on that timeline or on a later one, and archive it \
         (`walfs wal-push`); or leave that timeline out: --target-timeline {followed}. A backup of its own needs no \
         history: --target-timeline {timeline}",
        number = .timeline.0
    )]
    LostHistory {
        /// The archive.
        place: String,
        /// The timeline.
        timeline: Timeline,
        /// Its first archived segment.
        first: SegmentName,
        /// The timeline that would be followed.
        followed: Timeline,
    },
    /// A history is there and cannot be read.
    #[error(
        "{reason}\nA server that recovers along timeline {followed} asks for this history, and stops.\n\
         HINT: bring {key} back from a copy of the store; or remove it there, and archive the file anew (`walfs wal-push`): \
         pg_wal of the servers that are on timeline {timeline} or on a later one has it. Without the object timeline {followed} \
         can be recovered: --target-timeline {followed}"
    )]
    DamagedHistory {
        /// The object, and what is wrong with it.
        reason: String,
        /// The object.
        key: String,
        /// Whose history it is.
        timeline: Timeline,
        /// The timeline that recovery would follow.
        followed: Timeline,
    },
    /// There is something in the directory.
    #[error(
        "{directory:?} is not empty.\nHINT: restore to an empty directory; or, if this is what is left of the same \
         cluster, add --delta, which keeps what is right in it and replaces the rest."
    )]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
    },
    /// It is not known whose files these are.
    #[error(
        "{directory:?} is not a data directory that --delta could take for one of this cluster: {reason}.\n\
         HINT: restore to an empty directory."
    )]
    NotACluster {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Another cluster's files.
    #[error(
        "{directory:?} belongs to the cluster with system identifier {found}, but the backup is of {expected}.\n\
         HINT: restore to an empty directory."
    )]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: SystemId,
        /// The backup's.
        expected: SystemId,
    },
    /// What lies behind links out of the directory was not named.
    #[error(
        "{directory:?} has links to directories with files outside of it, which --delta would replace and remove. If it is \
         a copy, they are its original's.\n\
         HINT: if no other data directory uses them, add {words}; otherwise restore to an empty directory."
    )]
    BehindLinks {
        /// The directory.
        directory: PathBuf,
        /// The options that name them.
        words: String,
    },
    /// The path leads elsewhere than when it was looked at.
    #[error(
        "{directory:?} was replaced while the backup was restored to it: something else has that name by now. Nothing was \
         written there; the directory that walfs works in is {now:?}, and it is not complete.\n\
         HINT: find out who renamed it, put it back and run the same command again: it goes on where it was."
    )]
    Replaced {
        /// The path.
        directory: PathBuf,
        /// Where the directory is that it led to.
        now: PathBuf,
    },
    /// Another cluster's data directory, whether its server runs or not.
    #[error(
        "{directory:?} lies in {cluster:?}, which is the data directory of another cluster: it has PG_VERSION and \
         global/pg_control.\n\
         HINT: restore to a directory outside of it; --waldir and --tablespace-mapping name other places for the WAL and for \
         tablespaces."
    )]
    InCluster {
        /// What was to be restored to.
        directory: PathBuf,
        /// The data directory.
        cluster: PathBuf,
    },
    /// Another server has it as its own.
    #[error(
        "{directory:?} is used by the PostgreSQL server that runs in {server:?}, process {pid}.\n\
         HINT: --waldir and --tablespace-mapping name other directories."
    )]
    Used {
        /// The directory.
        directory: PathBuf,
        /// The server's data directory.
        server: PathBuf,
        /// Its process.
        pid: u32,
    },
    /// A server runs on it.
    #[error(
        "a PostgreSQL server runs in {directory:?}: its postmaster.pid names process {pid}, which is alive.\n\
         HINT: stop it with `pg_ctl stop`; if that process is no server, remove postmaster.pid."
    )]
    ServerRuns {
        /// The directory.
        directory: PathBuf,
        /// The postmaster.
        pid: u32,
    },
    /// Perhaps a server runs on it.
    #[error(
        "it is not known whether a PostgreSQL server runs in {directory:?}: its postmaster.pid names the socket {socket:?}, \
         where somebody listens, but no connection was accepted within {seconds} seconds.\n\
         HINT: stop the server with `pg_ctl stop`; if that is no server, remove postmaster.pid."
    )]
    ServerSilent {
        /// The directory.
        directory: PathBuf,
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Another restore is at it.
    #[error(
        "another `walfs restore` works in {directory:?}.\nHINT: let it end, or restore to another directory; \
         `fuser {}` names its process.", .directory.display()
    )]
    Busy {
        /// The directory.
        directory: PathBuf,
    },
    /// What would be written lies in the archive, or the reverse.
    #[error(
        "{directory:?} and the archive {archive:?} lie in one another: to restore would damage the archive.\n\
         HINT: restore to a directory outside of it."
    )]
    InArchive {
        /// The data directory, or a tablespace's.
        directory: PathBuf,
        /// The archive's directory.
        archive: PathBuf,
    },
    /// The disk is too small.
    #[error(
        "there is not enough room in {directory:?}: {needed_bytes} bytes are needed, {free_bytes} are free.\n\
         HINT: make room, or put tablespaces elsewhere with --tablespace-mapping."
    )]
    NoRoom {
        /// A directory in that file system.
        directory: PathBuf,
        /// Bytes that will be written and are not there yet.
        needed_bytes: u64,
        /// Bytes that this user may still write.
        free_bytes: u64,
    },
    /// Something about a tablespace.
    #[error("tablespace {oid}: {reason}.\nHINT: --tablespace-mapping {oid}=NEWDIR puts it elsewhere.")]
    Tablespace {
        /// Its object identifier.
        oid: u32,
        /// What is wrong.
        reason: String,
    },
    /// A mapping that fits no tablespace.
    #[error("the backup has no tablespace {old:?}, which --tablespace-mapping names.\nHINT: it has {known}.")]
    NoTablespace {
        /// What was given.
        old: String,
        /// Those that there are.
        known: String,
    },
    /// A file of the backup is not what it must be.
    #[error("backup {backup} cannot be restored: {file}: {reason}.\nHINT: choose another backup.")]
    Content {
        /// The backup.
        backup: TreeName,
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// WAL that would be lost.
    #[error(
        "{directory:?} has WAL that is not in {place}, and the newest commits may be only there: {}.\n\
         HINT: {}--keep-wal leaves it there, for a recovery to the end; --set-aside-wal moves it to a directory beside.",
        named(.wal), pushes(.wal, .place)
    )]
    UnarchivedWal {
        /// The directory of the WAL.
        directory: PathBuf,
        /// The archive.
        place: String,
        /// The files.
        wal: Vec<Unarchived>,
    },
    /// WAL that was to stay, and of which there is another version.
    #[error(
        "{path:?} cannot stay: what the archive or the backup has of that name is different, and recovery would take \
         that.\nHINT: --set-aside-wal moves it to a directory beside."
    )]
    KeptWalDiffers {
        /// The file.
        path: PathBuf,
    },
    /// WAL that was to stay, and that recovery does not replay.
    #[error(
        "{path:?} cannot stay: {reason}, and the server removes in time what it does not replay.\n\
         HINT: --set-aside-wal moves it to a directory beside. If it is to be replayed, archive it first, with all that lies \
         before it; WAL of another timeline with the .history of that, and choose it by --target-timeline."
    )]
    KeptWalUnread {
        /// The file.
        path: PathBuf,
        /// Why recovery does not come there.
        reason: String,
    },
    /// WAL that was to stay, and that the server that takes over would not archive.
    #[error(
        "{path:?} is not archived: {source}\n\
         It was to be archived first, because the server that takes over removes it once it is replayed. Nothing has been \
         changed in the data directory.\n\
         HINT: `walfs wal-push` archives it once the reason is gone; so does the same restore, run again"
    )]
    KeptWalNotArchived {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Arc<archive::Error>,
    },
    /// WAL that is not looked at, because it lies behind a link.
    #[error(
        "{path:?} is a link to {to:?}, and no link is followed: whether {place} has the WAL in it is not known, and the newest \
         commits may be only there.\nHINT: put the file itself there: mv -T {} {}", quoted(.to), quoted(.path)
    )]
    WalIsLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
        /// The archive.
        place: String,
    },
    /// A link without an end.
    #[error(
        "{path:?} is a link to {to:?}, which is not there.\nHINT: make that directory (`mkdir -m 0700 {}`), or remove \
         the link.", .to.display()
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        to: PathBuf,
    },
    /// The directory for the WAL cannot be used.
    #[error("the WAL cannot be put into {directory:?}: {reason}.\nHINT: --waldir names another directory.")]
    Waldir {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A directory that this user may not make or write.
    #[error(
        "{directory:?} cannot be {wish}: user {user} may not write in {above:?}.\n\
         HINT: as root, `install -d -o {user} -m 0700 {}` makes it.", .directory.display()
    )]
    NotWritable {
        /// The directory.
        directory: PathBuf,
        /// What was to be done with it.
        wish: &'static str,
        /// The nearest directory that is there.
        above: PathBuf,
        /// The number of who asks.
        user: u32,
    },
    /// What the system said.
    #[error("cannot {operation} {path:?}: {source}{}", hint(.source, .path))]
    System {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an error that names the file.
    pub(super) fn at<'a>(
        operation: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::System {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

impl Error {
    /// An archived file that cannot be read. The reader's errors are shared; what they say is all that is needed.
    pub(super) fn unreadable(error: &archive::Error, name: WalName) -> Self {
        Self::System {
            operation: "bring",
            path: PathBuf::from(name.to_string()),
            source: io::Error::other(error.to_string()),
        }
    }
}

impl From<PartError> for Error {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Archive(error) => Self::Archive(error),
            PartError::Taker(source) => match source.downcast::<Self>() {
                Ok(error) => error,
                Err(source) => Self::System {
                    operation: "write to",
                    path: PathBuf::new(),
                    source,
                },
            },
        }
    }
}

/// A file's error on its way through a place that knows only [`io::Error`].
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
