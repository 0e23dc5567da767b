//! The mounted directory without FUSE: every operation the kernel may ask for, testable by the thousand.
//!
//! [`Fs`] keeps inode numbers and open files, and hands each operation to the room that the inode belongs to: see
//! `super::room`. What shapes all rooms:
//!
//! - **Who asks matters, but only as a hint.** An [`Asker`] tells whether the process is dying (its close is no
//!   statement), or evidently copies *to* the name it looks up (then the store need not be asked; every other
//!   lookup waits for as long as the store is away, because PostgreSQL takes an error for the end of the WAL).
//! - **Nothing waits for anything else.** An operation locks at most the one file it is about; lookups and listings
//!   lock nothing (promise S4). The kernel does: a lookup holds its directory. So no lookup waits for long, see
//!   `super::wal::lookup`.
//! - **A wait never outlives its process.** While a request waits, its process is looked at; once it is being killed
//!   the request is answered EINTR, which it will not see, so that it can go (a FUSE request cannot be interrupted).

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use jiff::Timestamp;

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::archive::tree::TreeKind;
use crate::memory::Buffers;
use crate::metrics::Metrics;
use crate::read::Reader;
use crate::staging::Staging;
use crate::staging::tree::Change;

use super::asker::Asker;
use super::basebackups::Basebackups;
use super::common::Common;
use super::directory::{Entry, numbered};

use super::handles::{Handle, Handles};
use super::node::{Attributes, Inodes, Node};
use super::own::Own;
use super::room::Room;
use super::versions::Versions;
use super::wal::Wal;
use super::wal::archived::Archived;
use crate::overview::{Looks, Overview};

pub use super::common::Options;
pub use super::error::{Error, Result};
pub use super::room::{FilesOf, Making, Opening};

/// Offsets of `.` and `..` lie below those of what a directory holds.
const LISTING_BASE: u64 = 1 << 8;

/// The mounted directory.
#[derive(Debug)]
pub struct Fs {
    common: Arc<Common>,
    handles: Handles,
    own: Own,
    wal: Arc<Wal>,
    basebackups: Basebackups,
    files: Versions,
    dumps: Versions,
}

impl Fs {
    /// A directory over an open archive. `ahead`: what sends segments before the archiver brings them (promise W8).
    pub fn new(
        archive: Arc<Archive>,
        reader: Reader,
        staging: Staging,
        metrics: Arc<Metrics>,
        options: Options,
        ahead: Option<Arc<Ahead>>,
    ) -> Self {
        let common = Arc::new(Common {
            archive,
            reader,
            staging,
            metrics,
            options,
            inodes: Inodes::default(),
            mounted_at: Timestamp::now(),
            closing: AtomicBool::new(false),
        });
        let archived = Arc::new(Archived::new(common.clone(), ahead));
        let wal = Arc::new(Wal::new(common.clone(), archived.clone()));
        let basebackups = Basebackups::new(common.clone(), archived);
        Self {
            handles: Handles::default(),
            own: Own {
                common: common.clone(),
                wal: wal.clone(),
                looks: None,
            },
            wal,
            files: Versions::new(TreeKind::Files, common.clone(), basebackups.complete()),
            dumps: Versions::new(TreeKind::Dump, common.clone(), basebackups.complete()),
            basebackups,
            common,
        }
    }

    /// With the state of the archive in `.walfs/`.
    pub fn showing(mut self, overview: Arc<dyn Overview>) -> Self {
        self.own.looks = Some(Looks::new(overview));
        self
    }

    /// Refuses new files from now on; those being written may be finished.
    pub(super) fn close_gates(&self) {
        self.common.close_gates();
    }

    /// Memory for what the kernel hands over to be written.
    pub(super) fn write_buffers(&self) -> Buffers {
        self.common.archive.memory().buffers.clone()
    }

    /// Files being written now.
    pub(super) fn open_writes(&self) -> usize {
        self.wal.open_writes()
    }

    fn room(&self, node: Node) -> &dyn Room {
        match node {
            Node::Root | Node::Own | Node::OwnFile(_) | Node::Absent | Node::AbsentFile(_) => &self.own,
            Node::Wal | Node::Folder(_) | Node::Archived(_) | Node::Writing(_) => &self.wal,
            Node::Versions(TreeKind::Dump)
            | Node::VersionSet(TreeKind::Dump, _)
            | Node::VersionsLatest(TreeKind::Dump, _) => &self.dumps,
            Node::Versions(_) | Node::VersionSet(..) | Node::VersionsLatest(..) => &self.files,
            Node::Basebackups | Node::Latest | Node::Tree(_) | Node::Draft(_) => self.basebackups.room(node),
        }
    }

    /// A node, and the room that answers for it.
    fn find(&self, ino: u64) -> Result<(Node, &dyn Room)> {
        let node = self.common.inodes.node(ino).ok_or(Error::NotFound)?;
        Ok((node, self.room(node)))
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] only on the store's own word, or where no such name can exist.
    pub async fn lookup(&self, parent: u64, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        let (parent, room) = self.find(parent)?;
        let found = room.lookup((parent, name), asker).await;
        if found.is_err() {
            return self
                .common
                .noted(&format!("look up {}", Path::new(name).display()), found);
        }
        found
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone, [`Error::Archive`].
    pub async fn getattr(&self, ino: u64, asker: Option<&Asker>) -> Result<Attributes> {
        let (node, room) = self.find(ino)?;
        room.getattr(node, asker).await
    }

    /// Opens a file.
    ///
    /// What is finished and is opened for writing without being truncated first opens as for reading, and refuses the
    /// write: `touch` and the `fsync` of a finished file do so, and change nothing.
    ///
    /// # Errors
    /// As [`Fs::getattr`]; [`Error::Immutable`], [`Error::Committed`], [`Error::ReadOnly`].
    pub async fn open_for(&self, ino: u64, opening: Opening, asker: Option<&Asker>) -> Result<u64> {
        let (node, room) = self.find(ino)?;
        let file = room.open(node, opening, asker).await?;
        Ok(self.handles.insert(Handle::File(file)))
    }

    /// Creates a file that the last lookup did not find, or did not look for.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::ReadOnly`], [`Error::Draft`]; [`Error::Immutable`] elsewhere.
    pub async fn create(
        &self,
        parent: u64,
        name: &OsStr,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<(Attributes, u64)> {
        let (parent, room) = self.find(parent)?;
        let (attributes, file) = room.create((parent, name), making, asker).await?;
        Ok((attributes, self.handles.insert(Handle::File(file))))
    }

    /// Reads from an open file; short only at its end.
    ///
    /// # Errors
    /// [`Error::Archive`]: damaged, or gone.
    pub async fn read(&self, handle: u64, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let read = self.handles.file(handle)?.read(offset, bytes, asker).await;
        self.common.noted("read", read)
    }

    /// Takes bytes. The write that completes a segment returns when it is in the store, or why it is not.
    ///
    /// # Errors
    /// The verdict, [`Error::Archive`].
    pub async fn write(
        &self,
        handle: u64,
        offset: u64,
        data: &Bytes,
        files: FilesOf,
        asker: Option<&Asker>,
    ) -> Result<usize> {
        let file = self.handles.file(handle)?;
        file.write(offset, data, files, asker).await?;
        Ok(data.len())
    }

    /// Sets the length of an open file.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub async fn truncate(&self, handle: u64, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        self.handles.file(handle)?.truncate(bytes, asker).await
    }

    /// Sets the length of a file by inode.
    pub(super) async fn truncate_inode(&self, ino: u64, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        let (node, room) = self.find(ino)?;
        room.truncate(node, bytes, asker).await
    }

    /// A descriptor is being closed: finishes the file if its writer is done, or repeats the verdict.
    ///
    /// # Errors
    /// As [`Fs::write`]; [`Error::Archive`] with `Incomplete` for a segment that is not whole.
    pub async fn flush(&self, handle: u64, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        self.handles.file(handle)?.flush(files, asker).await
    }

    /// A process wants the file to be durable now.
    ///
    /// # Errors
    /// As [`Fs::flush`].
    pub async fn fsync(&self, handle: u64, asker: Option<&Asker>) -> Result<()> {
        self.handles.file(handle)?.fsync(asker).await
    }

    /// The last reference to an open file or directory is gone. Nothing is ever archived here (promise W3).
    pub async fn release(&self, handle: u64) {
        if let Some(Handle::File(file)) = self.handles.remove(handle) {
            file.release().await;
        }
    }

    /// May the kernel keep what it has read?
    pub(super) fn may_be_kept(&self, handle: u64) -> bool {
        self.handles.file(handle).is_ok_and(|file| file.may_be_kept())
    }

    /// Does it matter that the file is closed?
    pub(super) fn is_close_a_statement(&self, handle: u64) -> bool {
        let file = self.handles.file(handle);
        file.is_ok_and(|file| file.is_close_a_statement())
    }

    /// Changes mode, owner or times.
    pub(super) async fn set_attributes(&self, ino: u64, change: Change) -> Result<()> {
        let (node, room) = self.find(ino)?;
        room.set_attributes(node, change).await
    }

    /// Sets or removes an extended attribute, such as an access control list.
    pub(super) fn forget_extended_attribute(&self, ino: u64) -> Result<()> {
        self.find(ino)?.1.forget_extended_attribute()
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Archive`]: the store did not deliver what is to be listed.
    pub async fn open_directory(&self, ino: u64) -> Result<u64> {
        let (node, room) = self.find(ino)?;
        let entries = room.open_directory(node).await?;
        Ok(self.handles.insert(Handle::Directory(node, entries)))
    }

    /// Entries from `offset` on (0: the start): some of them, none at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them; never a list that is silently short.
    pub async fn read_directory(&self, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let (node, listing) = self.handles.directory(handle)?;
        // The archive's names come with the first answer: after one of `.` and `..` alone the kernel would ask for
        // names without attributes, and `ls -l` then for those of each of the first thousand files.
        let mut entries = match offset < LISTING_BASE {
            true => self.dots(node).await?.split_off(offset.min(2) as usize),
            false => Vec::new(),
        };
        let held = listing.from(offset.saturating_sub(LISTING_BASE)).await?;
        entries.extend(held.into_iter().map(|entry| Entry {
            next_offset: entry.next_offset + LISTING_BASE,
            ..entry
        }));
        Ok(entries)
    }

    /// `.` and `..`
    async fn dots(&self, directory: Node) -> Result<Vec<Entry>> {
        let room = self.room(directory);
        let above = room.parent(directory)?;
        let own = room.getattr(directory, None).await?;
        let above = self.room(above).getattr(above, None).await?;
        Ok(numbered([(".".into(), own), ("..".into(), above)], 0))
    }

    /// Makes a directory: in `basebackups/` that begins a backup.
    pub(super) async fn make_directory(
        &self,
        parent: u64,
        name: &OsStr,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let (parent, room) = self.find(parent)?;
        room.make_directory((parent, name), making, asker).await
    }

    /// Makes a symbolic link.
    pub(super) async fn make_link(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        making: Making,
    ) -> Result<Attributes> {
        let (parent, room) = self.find(parent)?;
        room.make_link((parent, name), target, making).await
    }

    /// Target of a symbolic link.
    pub(super) async fn read_link(&self, ino: u64, asker: Option<&Asker>) -> Result<Bytes> {
        let (node, room) = self.find(ino)?;
        room.read_link(node, asker).await
    }

    /// Renames a file being written: in `wal/` its final name archives it. Nothing leaves its room.
    ///
    /// # Errors
    /// [`Error::Immutable`] for archived files, [`Error::Exists`], [`Error::BadName`]; as [`Fs::write`].
    pub async fn rename(
        &self,
        parent: u64,
        name: &OsStr,
        new_parent: u64,
        new_name: &OsStr,
        replace: bool,
        asker: Option<&Asker>,
    ) -> Result<()> {
        let (parent, room) = self.find(parent)?;
        let (new_parent, new_room) = self.find(new_parent)?;
        let (from, to) = ((parent, name), (new_parent, new_name));
        match (parent, new_parent) {
            (Node::Wal | Node::Folder(_), Node::Wal | Node::Folder(_)) | (Node::Draft(_), Node::Draft(_)) => {
                room.rename(from, to, replace, asker).await
            }
            (Node::Wal | Node::Folder(_), _) => Err(new_room.refuse_change(to)),
            _ => Err(room.refuse_change(from)),
        }
    }

    /// Removes a name of a file that is being written.
    ///
    /// # Errors
    /// [`Error::Immutable`] for what is archived (promise B7), [`Error::NotFound`].
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let (parent, room) = self.find(parent)?;
        room.unlink((parent, name)).await
    }

    /// Removes a directory: in `basebackups/` a backup that is not complete, with all that is stored of it.
    pub(super) async fn remove_directory(&self, parent: u64, name: &OsStr) -> Result<()> {
        let (parent, room) = self.find(parent)?;
        room.remove_directory((parent, name)).await
    }

    /// `fsync` of a directory: that of a backup completes it, if it is whole.
    pub(super) async fn sync_directory(&self, ino: u64) -> Result<()> {
        let (node, room) = self.find(ino)?;
        room.sync_directory(node).await
    }

    /// Why a name is not made in a directory, whatever it is.
    pub(super) fn refuse_change(&self, parent: u64, name: &OsStr) -> Error {
        match self.find(parent) {
            Ok((parent, room)) => room.refuse_change((parent, name)),
            Err(error) => error,
        }
    }
}
