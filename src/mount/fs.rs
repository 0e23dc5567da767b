//! The mounted directory without FUSE: every operation the kernel may ask for, testable by the thousand.
//!
//! [`Fs`] keeps open files, and hands each operation to the room that the inode belongs to: see `super::room`. It shows one
//! archive, or several: see `super::fleet`. What shapes all rooms:
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

use bytes::Bytes;

use crate::ahead::Ahead;
use crate::archive::Archive;
use crate::memory::Buffers;
use crate::metrics::Metrics;
use crate::read::Reader;
use crate::staging::Staging;
use crate::staging::tree::Change;

use super::asker::Asker;
use super::directory::{Entry, numbered};
use super::fleet::Fleet;
use super::handles::{Handle, Handles};
use super::node::{Attributes, Node};
use super::section::At;

pub use super::common::Options;
pub use super::error::{Error, Result};
pub use super::one::One;
pub use super::room::{FilesOf, Making, Opening};

/// Offsets of `.` and `..` lie below those of what a directory holds.
const LISTING_BASE: u64 = 1 << 8;

/// The mounted directory.
#[derive(Debug)]
pub struct Fs {
    handles: Handles,
    content: Content,
}

/// What is mounted.
#[derive(Debug)]
enum Content {
    One(Arc<One>),
    Many(Arc<Fleet>),
}

impl From<One> for Fs {
    /// A directory that shows an archive.
    fn from(one: One) -> Self {
        Self {
            handles: Handles::default(),
            content: Content::One(Arc::new(one)),
        }
    }
}

impl From<Fleet> for Fs {
    /// A directory with one for each archive.
    fn from(fleet: Fleet) -> Self {
        Self {
            handles: Handles::default(),
            content: Content::Many(Arc::new(fleet)),
        }
    }
}

impl Fs {
    /// A directory over an open archive: see [`One::new`].
    pub fn new(
        archive: Arc<Archive>,
        reader: Reader,
        staging: Staging,
        metrics: Arc<Metrics>,
        options: Options,
        ahead: Option<Arc<Ahead>>,
    ) -> Self {
        One::new(archive, reader, staging, metrics, options, ahead).into()
    }

    /// Refuses new files from now on; those being written may be finished.
    pub(super) fn close_gates(&self) {
        match &self.content {
            Content::One(one) => one.close_gates(),
            Content::Many(fleet) => fleet.close_gates(),
        }
    }

    /// Memory for what the kernel hands over to be written.
    pub(super) fn write_buffers(&self) -> Buffers {
        match &self.content {
            Content::One(one) => one.write_buffers(),
            Content::Many(fleet) => fleet.write_buffers(),
        }
    }

    /// Files being written now.
    pub(super) fn open_writes(&self) -> usize {
        match &self.content {
            Content::One(one) => one.open_writes(),
            Content::Many(fleet) => fleet.open_writes(),
        }
    }

    /// The mount has ended, and nobody writes to it any more: completes what was written without a word of its end.
    pub(super) async fn end(&self) {
        match &self.content {
            Content::One(one) => one.end().await,
            Content::Many(fleet) => fleet.end().await,
        }
    }

    /// What a number stands for. Of several archives that one is opened, if it is not.
    async fn find(&self, ino: u64, asker: Option<&Asker>) -> Result<At> {
        match &self.content {
            Content::One(one) => At::new(one.clone(), ino, 0),
            Content::Many(fleet) => fleet.find(ino, asker).await,
        }
    }

    /// Finds a name in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`] only on the store's own word, or where no such name can exist.
    pub async fn lookup(&self, parent: u64, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        let parent = self.find(parent, asker).await?;
        let found = parent.room().lookup((parent.node, name), asker).await;
        if found.is_err() {
            return parent.noted(&format!("look up {}", Path::new(name).display()), found);
        }
        found.map(|found| parent.shown(found))
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is gone, [`Error::Archive`].
    pub async fn getattr(&self, ino: u64, asker: Option<&Asker>) -> Result<Attributes> {
        if let Content::Many(fleet) = &self.content
            && let Some(known) = fleet.attributes(ino)
        {
            return known;
        }
        let at = self.find(ino, asker).await?;
        let found = at.room().getattr(at.node, asker).await;
        found.map(|found| at.shown(found))
    }

    /// Opens a file.
    ///
    /// What is finished and is opened for writing without being truncated first opens as for reading, and refuses the
    /// write: `touch` and the `fsync` of a finished file do so, and change nothing.
    ///
    /// # Errors
    /// As [`Fs::getattr`]; [`Error::Immutable`], [`Error::Committed`], [`Error::ReadOnly`].
    pub async fn open_for(&self, ino: u64, opening: Opening, asker: Option<&Asker>) -> Result<u64> {
        let at = self.find(ino, asker).await?;
        let file = at.room().open(at.node, opening, asker).await?;
        Ok(self.handles.insert(Handle::File(file, at.section)))
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
        let parent = self.find(parent, asker).await?;
        let (attributes, file) = parent.room().create((parent.node, name), making, asker).await?;
        let shown = parent.shown(attributes);
        Ok((shown, self.handles.insert(Handle::File(file, parent.section))))
    }

    /// Reads from an open file; short only at its end.
    ///
    /// # Errors
    /// [`Error::Archive`]: damaged, or gone.
    pub async fn read(&self, handle: u64, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let (file, section) = self.handles.file_and_section(handle)?;
        let read = file.read(offset, bytes, asker).await;
        if let Err(error) = &read {
            section.note("read", error);
        }
        read
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
        let at = self.find(ino, asker).await?;
        at.room().truncate(at.node, bytes, asker).await
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
        if let Some(Handle::File(file, _)) = self.handles.remove(handle) {
            file.release().await;
        }
    }

    /// May the kernel keep what it has read?
    pub(super) fn may_be_kept(&self, handle: u64) -> bool {
        self.handles.file(handle).is_ok_and(|file| file.may_be_kept())
    }

    /// Is it written from its beginning to its end?
    pub(super) fn is_stream(&self, handle: u64) -> bool {
        self.handles.file(handle).is_ok_and(|file| file.is_stream())
    }

    /// Does it matter that the file is closed?
    pub(super) fn is_close_a_statement(&self, handle: u64) -> bool {
        let file = self.handles.file(handle);
        file.is_ok_and(|file| file.is_close_a_statement())
    }

    /// Changes mode, owner or times.
    pub(super) async fn set_attributes(&self, ino: u64, change: Change) -> Result<()> {
        let at = self.find(ino, None).await?;
        at.room().set_attributes(at.node, change).await
    }

    /// Sets or removes an extended attribute, such as an access control list.
    pub(super) async fn forget_extended_attribute(&self, ino: u64) -> Result<()> {
        self.find(ino, None).await?.room().forget_extended_attribute()
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Archive`]: the store did not deliver what is to be listed.
    pub async fn open_directory(&self, ino: u64) -> Result<u64> {
        self.open_directory_for(ino, None).await
    }

    /// The same for a process.
    pub(super) async fn open_directory_for(&self, ino: u64, asker: Option<&Asker>) -> Result<u64> {
        let at = self.find(ino, None).await?;
        let entries = at.room().open_directory_for(at.node, asker).await?;
        Ok(self.handles.insert(Handle::Directory(at, entries)))
    }

    /// Entries from `offset` on (0: the start): some of them, none at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them; never a list that is silently short.
    pub async fn read_directory(&self, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let (at, listing) = self.handles.directory(handle)?;
        // The archive's names come with the first answer: after one of `.` and `..` alone the kernel would ask for
        // names without attributes, and `ls -l` then for those of each of the first thousand files.
        let mut entries = match offset < LISTING_BASE {
            true => dots(&at).await?.split_off(offset.min(2) as usize),
            false => Vec::new(),
        };
        let held = listing.from(offset.saturating_sub(LISTING_BASE)).await?;
        entries.extend(held.into_iter().map(|entry| Entry {
            next_offset: entry.next_offset + LISTING_BASE,
            ..entry
        }));
        Ok(at.listed(entries).collect())
    }

    /// Makes a directory: in `basebackups/` that begins a backup.
    pub(super) async fn make_directory(
        &self,
        parent: u64,
        name: &OsStr,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let parent = self.find(parent, asker).await?;
        let made = parent.room().make_directory((parent.node, name), making, asker);
        Ok(parent.shown(made.await?))
    }

    /// Makes a symbolic link.
    pub(super) async fn make_link(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        making: Making,
    ) -> Result<Attributes> {
        let parent = self.find(parent, None).await?;
        let made = parent.room().make_link((parent.node, name), target, making);
        Ok(parent.shown(made.await?))
    }

    /// Target of a symbolic link.
    pub(super) async fn read_link(&self, ino: u64, asker: Option<&Asker>) -> Result<Bytes> {
        let at = self.find(ino, asker).await?;
        at.room().read_link(at.node, asker).await
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
        let parent = self.find(parent, asker).await?;
        let new_parent = self.find(new_parent, asker).await?;
        if !parent.is_beside(&new_parent) {
            return Err(Error::OtherArchive);
        }
        let (from, to) = ((parent.node, name), (new_parent.node, new_name));
        match (parent.node, new_parent.node) {
            (Node::Wal | Node::Folder(_), Node::Wal | Node::Folder(_))
            | (Node::Draft(_) | Node::VersionSet(..), Node::Draft(_) | Node::VersionSet(..)) => {
                parent.room().rename(from, to, replace, asker).await
            }
            (Node::Wal | Node::Folder(_), _) => Err(new_parent.room().refuse_change(to)),
            _ => Err(parent.room().refuse_change(from)),
        }
    }

    /// Removes a name of a file that is being written.
    ///
    /// # Errors
    /// [`Error::Immutable`] for what is archived (promise B7), [`Error::NotFound`].
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.find(parent, None).await?;
        parent.room().unlink((parent.node, name)).await
    }

    /// Removes a directory: in `basebackups/` a backup that is not complete, with all that is stored of it.
    pub(super) async fn remove_directory(&self, parent: u64, name: &OsStr) -> Result<()> {
        let parent = self.find(parent, None).await?;
        parent.room().remove_directory((parent.node, name)).await
    }

    /// `fsync` of a directory: that of a backup completes it, if it is whole.
    pub(super) async fn sync_directory(&self, ino: u64) -> Result<()> {
        let at = self.find(ino, None).await?;
        at.room().sync_directory(at.node).await
    }

    /// Why a name is not made in a directory, whatever it is.
    pub(super) async fn refuse_change(&self, parent: u64, name: &OsStr) -> Error {
        match self.find(parent, None).await {
            Ok(parent) => parent.room().refuse_change((parent.node, name)),
            Err(error) => error,
        }
    }
}

/// `.` and `..`, as their section numbers them.
async fn dots(directory: &At) -> Result<Vec<Entry>> {
    let above = directory.with(directory.room().parent(directory.node)?);
    let own = directory.room().getattr(directory.node, None).await?;
    let above = above.room().getattr(above.node, None).await?;
    Ok(numbered([(".".into(), own), ("..".into(), above)], 0))
}
