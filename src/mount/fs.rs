//! The mounted directory without FUSE: every operation the kernel may ask for, testable by the thousand.
//!
//! What shapes it:
//!
//! - **Who asks matters, but only as a hint.** An [`Asker`] tells whether the process is dying (its close is no
//!   statement), or evidently copies *to* the name it looks up (then the store need not be asked; everybody else's
//!   lookup waits for as long as the store is away, because PostgreSQL takes an error for the end of the WAL).
//! - **Nothing waits for anything else.** An operation locks at most the one file it is about; lookups and listings
//!   lock nothing (promise S4). The kernel does: a lookup holds its directory. So no lookup waits for long, see
//!   [`Fs::lookup`].
//! - **A wait never outlives its process.** While a request waits, its process is looked at; once it is being killed
//!   the request is answered EINTR, which it will not see, so that it can go (a FUSE request cannot be interrupted).

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::archive::wal::WalMeta;
use crate::metrics::Metrics;
use crate::pg::WalName;
use crate::read::Reader;
use crate::staging::Staging;
use crate::staging::tree::Change;
use crate::store::Patience;

use super::absence::Absences;
use super::asker::Asker;
use super::basebackups::Basebackups;
use super::clocks::Clocks;
use super::error::Error;
use super::folders::Folders;
use super::forks::Forks;
use super::handles::{Handle, Handles};
use super::node::{Attributes, Inodes, Kept, Kind, Node, OwnFile};
use super::presence::Presence;
use super::recent::Recent;
use super::status;
use super::writing::Writings;

/// How the mounted directory behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Total time of any wait for the store on behalf of a writer (promise W7).
    pub deadline: Duration,
    /// How long completing a backup may take, even while it gets on; `None`: for as long as it takes.
    pub longest: Option<Duration>,
    /// Total time of a wait on behalf of a reader; `None`: for as long as it takes (promise R1).
    pub read_deadline: Option<Duration>,
    /// Refuse all writing.
    pub read_only: bool,
    /// Where it is mounted, to recognise who writes into it; empty when it is not known.
    pub mountpoint: std::path::PathBuf,
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// To read it.
    Read,
    /// To write, and perhaps read, as it is.
    Write,
    /// To write it anew.
    Replace,
}

/// The mounted directory.
#[derive(Debug)]
pub struct Fs {
    pub(super) archive: Arc<Archive>,
    pub(super) reader: Reader,
    pub(super) staging: Staging,
    pub(super) metrics: Arc<Metrics>,
    pub(super) options: Options,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) writings: Writings,
    pub(super) folders: Folders,
    pub(super) absences: Absences,
    pub(super) presence: Presence,
    pub(super) recent: Recent,
    pub(super) clocks: Clocks,
    pub(super) forks: Arc<Forks>,
    pub(super) ahead: Option<Arc<Ahead>>,
    pub(super) basebackups: Basebackups,
    pub(super) mounted_at: Timestamp,
    pub(super) closing: AtomicBool,
}

/// Result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Fs {
    /// A directory over an open archive.
    pub fn new(
        archive: Arc<Archive>,
        reader: Reader,
        staging: Staging,
        metrics: Arc<Metrics>,
        options: Options,
    ) -> Self {
        let basebackups = Basebackups::new(archive.memory().manifest_bytes);
        Self {
            archive,
            reader,
            staging,
            metrics,
            options,
            inodes: Inodes::default(),
            handles: Handles::default(),
            writings: Writings::default(),
            folders: Folders::default(),
            absences: Absences::default(),
            presence: Presence::default(),
            recent: Recent::default(),
            clocks: Clocks::default(),
            forks: Arc::default(),
            ahead: None,
            basebackups,
            mounted_at: Timestamp::now(),
            closing: AtomicBool::new(false),
        }
    }

    /// The same, where segments are sent ahead of the archiver (promise W8).
    pub fn working_ahead(mut self, ahead: Arc<Ahead>) -> Self {
        self.ahead = Some(ahead);
        self
    }

    /// Refuses new files from now on; those being written may be finished.
    pub fn close_gates(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Files being written now.
    pub fn open_writes(&self) -> usize {
        self.writings.open_files()
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] only on the store's own word, or where no such name can exist.
    pub async fn lookup(&self, parent: u64, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        match self.node(parent)? {
            Node::Root => self.lookup_top(name),
            Node::Own => match name.to_str() {
                Some("status.json") => self.attributes(Node::OwnFile(OwnFile::Status)),
                Some("version") => self.attributes(Node::OwnFile(OwnFile::Version)),
                _ => Err(Error::NotFound),
            },
            Node::Wal => self.lookup_wal(name, asker).await,
            Node::Folder(_) => self.lookup_in_folder(parent, name),
            Node::Absent => self.lookup_absent(name, asker).await,
            Node::Basebackups => self.lookup_basebackup(name, asker).await,
            Node::Tree(at) => self.lookup_in_tree(at, name, asker).await,
            Node::Draft(at) => self.lookup_in_draft(at, name),
            _ => Err(Error::NotDirectory),
        }
    }

    fn lookup_top(&self, name: &OsStr) -> Result<Attributes> {
        match name.to_str() {
            Some("wal") => self.attributes(Node::Wal),
            Some("basebackups") => self.attributes(Node::Basebackups),
            Some(".absent") => self.attributes(Node::Absent),
            Some(".walfs") => self.attributes(Node::Own),
            _ => Err(Error::NotFound),
        }
    }

    async fn lookup_wal(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        if let Some(writing) = name.to_str().and_then(|name| self.writings.find(name)) {
            return Ok(self.writing_attributes(&writing));
        }
        let Some(name) = wal_name(name) else {
            let folder = self.folder(name).ok_or(Error::NotFound)?;
            return self.attributes(folder);
        };
        let absent_to_writers = self.is_for_creating(name, asker) || self.is_yet_to_come(name, asker);
        if absent_to_writers || self.was_told_absent(name, asker) {
            return Err(Error::NotFound);
        }
        let found = self.found_attributes(name, asker, self.archived_meta(name, asker));
        self.within_moment(name, found).await
    }

    /// A name exists here when the store says that it does *not* exist in `wal/`. An answer that does not come is no
    /// proof, and this question may fail: the `restore_command` that asks it then stops the recovery, restartably.
    async fn lookup_absent(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        let Some(name) = wal_name(name) else {
            return Err(Error::NotFound);
        };
        let process = asker.and_then(Asker::tgid);
        if process.is_some_and(|process| self.absences.was_told(name, process)) {
            return self.attributes(Node::AbsentFile(name));
        }
        let patience = Patience::for_at_most(self.options.deadline);
        match self
            .while_wanted(asker, self.archive.wal_meta(name, patience))
            .await??
        {
            Some(_) => Err(Error::NotFound),
            None => match self.received_attributes(name, asker).await {
                Ok(_) => Err(Error::NotFound),
                Err(Error::NotFound) => self.attributes(Node::AbsentFile(name)),
                Err(error) => Err(error),
            },
        }
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone, [`Error::Archive`].
    pub async fn getattr(&self, ino: u64, asker: Option<&Asker>) -> Result<Attributes> {
        match self.node(ino)? {
            Node::Archived(name) => self.archived_attributes_for(name, asker).await,
            Node::Writing(ino) => {
                let writing = self.writings.get(ino).ok_or(Error::NotFound)?;
                Ok(self.writing_attributes(&writing))
            }
            Node::Folder(number) => self.folder_attributes(number),
            Node::Latest => self.latest_attributes(asker).await,
            Node::Tree(at) => self.tree_attributes(at, asker).await,
            Node::Draft(at) => self.draft_attributes(at),
            node => self.attributes(node),
        }
    }

    /// Opens a file: to write it anew, or else to read it.
    ///
    /// What is finished and is opened for writing without being truncated first opens as for reading, and refuses the
    /// write: `touch` and the `fsync` of a finished file do so, and change nothing.
    ///
    /// # Errors
    /// As [`Fs::open_to_read`] and [`Fs::open_to_replace`].
    pub async fn open_for(&self, ino: u64, opening: Opening, asker: Option<&Asker>) -> Result<u64> {
        match (self.node(ino)?, opening) {
            (Node::Draft(at), _) => {
                self.open_in_draft(at, opening != Opening::Read, opening == Opening::Replace)
                    .await
            }
            (_, Opening::Replace) => self.open_to_replace(ino, asker).await,
            (Node::Archived(name @ WalName::Partial(segment)), Opening::Write) => {
                match self.known_meta(name, asker).await {
                    Err(Error::NotFound) => self.open_received(segment, true, asker).await,
                    _ => self.open_to_read(ino, asker).await,
                }
            }
            (_, Opening::Read | Opening::Write) => self.open_to_read(ino, asker).await,
        }
    }

    /// Opens an archived file for reading, or a file in `.walfs`.
    ///
    /// # Errors
    /// As [`Fs::getattr`].
    pub async fn open_to_read(&self, ino: u64, asker: Option<&Asker>) -> Result<u64> {
        let handle = match self.node(ino)? {
            Node::Archived(name) => match (self.known_meta(name, asker).await, name) {
                (Err(Error::NotFound), WalName::Partial(segment)) => {
                    return self.open_received(segment, false, asker).await;
                }
                (meta, _) => Handle::Archived {
                    name,
                    bytes: meta?.bytes,
                },
            },
            Node::AbsentFile(_) => Handle::Text(Bytes::new()),
            Node::OwnFile(file) => Handle::Text(self.text(file).into()),
            Node::Writing(ino) => return self.reopen(ino),
            Node::Tree(at) => self.open_in_tree(at, asker).await?,
            Node::Draft(at) => return self.open_in_draft(at, false, false).await,
            Node::Root
            | Node::Wal
            | Node::Folder(_)
            | Node::Absent
            | Node::Own
            | Node::Basebackups
            | Node::Latest => {
                return Err(Error::IsDirectory);
            }
        };
        Ok(self.handles.insert(handle))
    }

    /// Reads from an open file; short only at its end.
    ///
    /// # Errors
    /// [`Error::Archive`]: damaged, or gone.
    pub async fn read(&self, handle: u64, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        match &*self.handles.get(handle)? {
            Handle::Archived {
                name,
                bytes: file_bytes,
            } => {
                let read = self
                    .reader
                    .read(*name, *file_bytes, offset, bytes, self.read_patience());
                let read = self.while_wanted(asker, read).await??;
                self.metrics
                    .read_bytes
                    .fetch_add(read.len() as u64, Ordering::Relaxed);
                Ok(read)
            }
            Handle::InTree { loaded, entry } => {
                let read =
                    self.reader
                        .trees()
                        .read(&loaded.tree, *entry, offset, bytes, self.read_patience());
                let read = self.while_wanted(asker, read).await??;
                self.metrics
                    .read_bytes
                    .fetch_add(read.len() as u64, Ordering::Relaxed);
                Ok(read)
            }
            Handle::Text(text) => {
                let start = text.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
                Ok(text.slice(start..text.len().min(start.saturating_add(bytes))))
            }
            Handle::Writing(writing) => self.read_back(writing, offset, bytes).await,
            Handle::Draft(open) => self.while_wanted(asker, open.read(offset, bytes)).await?,
            Handle::Listing { .. } => Err(Error::IsDirectory),
        }
    }

    fn text(&self, file: OwnFile) -> String {
        match file {
            OwnFile::Version => status::version(),
            OwnFile::Status => {
                let counters = self
                    .metrics
                    .of_all_rooms(&self.archive, &self.reader, &self.staging);
                let open_writes = self.open_writes();
                status::status(
                    &self.archive,
                    &self.metrics,
                    counters,
                    self.mounted_at,
                    open_writes,
                )
            }
        }
    }

    /// May the kernel keep what it has read? Only what can never change, and is not compared with what it writes.
    pub fn may_be_kept(&self, handle: u64) -> bool {
        let handle = self.handles.get(handle);
        handle.is_ok_and(|handle| matches!(*handle, Handle::InTree { .. }))
    }

    /// Does it matter that the file is closed? Not when nothing was written; the kernel then need not tell of it.
    pub fn is_close_a_statement(&self, handle: u64) -> bool {
        let handle = self.handles.get(handle);
        handle.is_ok_and(|handle| match &*handle {
            Handle::Writing(_) => true,
            Handle::Draft(open) => open.is_to_write(),
            _ => false,
        })
    }

    /// Changes mode, owner or times.
    ///
    /// # Errors
    /// [`Error::Committed`]. In `wal/` it is a success without effect: they are the archive's own there, and `cp -p`
    /// and `rsync` set them and must not fail.
    pub async fn set_attributes(&self, ino: u64, change: Change) -> Result<()> {
        match self.node(ino)? {
            Node::Tree(at) => self.set_in_backup(at, change).await,
            Node::Draft(at) => self.change_in_draft(at, change).await,
            _ => Ok(()),
        }
    }

    /// Sets or removes an extended attribute, such as an access control list. In `wal/` it is a success without effect, as
    /// with modes: `cp -p` of a file that has one must not fail, or the archiver stops there for ever.
    ///
    /// # Errors
    /// [`Error::Unsupported`] elsewhere.
    pub fn forget_extended_attribute(&self, ino: u64) -> Result<()> {
        match self.node(ino)? {
            Node::Wal | Node::Folder(_) | Node::Archived(_) | Node::Writing(_) => Ok(()),
            _ => Err(Error::Unsupported),
        }
    }

    pub(super) fn node(&self, ino: u64) -> Result<Node> {
        self.inodes.node(ino).ok_or(Error::NotFound)
    }

    /// Attributes of what is not a file of the archive.
    pub(super) fn attributes(&self, node: Node) -> Result<Attributes> {
        let directory = matches!(
            node,
            Node::Root | Node::Wal | Node::Folder(_) | Node::Absent | Node::Own | Node::Basebackups
        );
        let bytes = match node {
            Node::OwnFile(file) => self.text(file).len() as u64,
            _ => 0,
        };
        let mode = match node {
            Node::Wal | Node::Folder(_) | Node::Basebackups if !self.options.read_only => 0o700,
            _ if directory => 0o500,
            _ => 0o400,
        };
        Ok(Attributes {
            ino: self.inodes.number(node),
            kind: if directory { Kind::Directory } else { Kind::File },
            bytes,
            modified: self.mounted_at.into(),
            mode,
            owner: None,
            kept: match node {
                Node::Folder(_) => Kept::Never,
                _ if directory => Kept::AWhile,
                _ => Kept::Never,
            },
        })
    }

    pub(super) fn archived_attributes(&self, name: WalName, meta: &WalMeta) -> Attributes {
        Attributes {
            ino: self.inodes.number(Node::Archived(name)),
            kind: Kind::File,
            bytes: meta.bytes,
            modified: meta.modified,
            // Writable in its bits, so that a second `cp` gets as far as the comparison of contents.
            mode: 0o600,
            owner: None,
            // What was sent ahead is not shown to those who bring it, so the kernel must ask for each of them.
            kept: if self.ahead.as_ref().is_some_and(|ahead| ahead.is_ahead(name)) {
                Kept::Never
            } else {
                Kept::AWhile
            },
        }
    }

    pub(super) fn writing_attributes(&self, writing: &super::writing::Writing) -> Attributes {
        Attributes {
            ino: writing.ino,
            kind: Kind::File,
            bytes: writing.bytes.load(Ordering::Acquire),
            modified: writing.created,
            mode: 0o600,
            owner: None,
            kept: Kept::Never,
        }
    }

    /// Waits, but not longer than the asking process lives.
    pub(super) async fn while_wanted<T>(
        &self,
        asker: Option<&Asker>,
        wait: impl Future<Output = T>,
    ) -> Result<T> {
        tokio::pin!(wait);
        let Some(asker) = asker else { return Ok(wait.await) };
        loop {
            tokio::select! {
                biased;
                done = &mut wait => return Ok(done),
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    if asker.doomed() {
                        return Err(Error::Interrupted);
                    }
                }
            }
        }
    }

    /// Notes an error in log and status, and hands it on.
    pub(super) fn noted<T>(&self, what: &str, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome
            && error.is_notable()
        {
            self.metrics.error(format!("{what}: {error}"));
            tracing::warn!("{what}: {error}");
        }
        outcome
    }

    /// When the directory was mounted.
    pub fn mounted_at(&self) -> SystemTime {
        self.mounted_at.into()
    }
}

pub(super) fn wal_name(name: &OsStr) -> Option<WalName> {
    name.to_str()?.parse().ok()
}
