//! What a directory of the mount is to the mount: a room, which answers for all that is in it, and the files that are
//! opened in it. What a room or a file does not say is what most of them say.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::linux::kernel::Owner;
use crate::staging::tree::Change;

use super::asker::Asker;
use super::directory::Entries;
use super::error::{Error, Result};
use super::node::{Attributes, Node};

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

/// What a new file, directory or link gets.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    /// Permission bits.
    pub mode: u32,
    /// Who makes it.
    pub owner: Owner,
}

/// A process's table of open files, by the number that the kernel gives it in this mount; `None` when it gives none. The
/// same in all pid namespaces; a child has another one.
pub type FilesOf = Option<u64>;

/// The offset of what is appended to a stream. Of the length the kernel knows what it was told last, perhaps of what others have open
/// under the same number.
pub(super) const AT_END: u64 = u64::MAX;

/// A directory, and a name in it.
pub(super) type Named<'a> = (Node, &'a OsStr);

/// A file that is open, of whatever kind.
pub(super) type AnyFile = Arc<dyn OpenFile>;

/// A directory of the mount, with all that is in it. It is asked only about nodes of its own.
#[async_trait]
#[allow(unused_variables, reason = "what most rooms answer needs none of them")]
pub(super) trait Room: Debug + Send + Sync {
    /// Finds a name.
    async fn lookup(&self, at: Named<'_>, asker: Option<&Asker>) -> Result<Attributes>;

    async fn getattr(&self, node: Node, asker: Option<&Asker>) -> Result<Attributes>;

    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        Err(Error::IsDirectory)
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>>;

    /// The same for a process, to which it may matter who it is.
    async fn open_directory_for(&self, node: Node, asker: Option<&Asker>) -> Result<Arc<dyn Entries>> {
        self.open_directory(node).await
    }

    /// The directory that a directory is in.
    fn parent(&self, directory: Node) -> Result<Node> {
        Ok(Node::Root)
    }

    /// Why a name is not made, removed or renamed in a directory that is not written to.
    fn refuse_change(&self, at: Named<'_>) -> Error {
        Error::immutable(at.1)
    }

    /// Creates a file, and opens it to be written.
    async fn create(
        &self,
        at: Named<'_>,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<(Attributes, AnyFile)> {
        Err(self.refuse_change(at))
    }

    async fn make_directory(
        &self,
        at: Named<'_>,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        Err(self.refuse_change(at))
    }

    async fn make_link(&self, at: Named<'_>, target: &OsStr, making: Making) -> Result<Attributes> {
        Err(self.refuse_change(at))
    }

    /// Renames within the room.
    async fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        replace: bool,
        asker: Option<&Asker>,
    ) -> Result<()> {
        Err(self.refuse_change(from))
    }

    async fn unlink(&self, at: Named<'_>) -> Result<()> {
        Err(self.refuse_change(at))
    }

    async fn remove_directory(&self, at: Named<'_>) -> Result<()> {
        Err(self.refuse_change(at))
    }

    /// Sets the length of a file that the caller has not opened.
    async fn truncate(&self, node: Node, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        Err(Error::immutable("an archived file"))
    }

    /// Changes mode, owner or times. In `wal/` they are the archive's own, and `cp -p` and `rsync` set them and must not
    /// fail.
    async fn set_attributes(&self, node: Node, change: Change) -> Result<()> {
        Ok(())
    }

    /// Sets or removes an extended attribute, which is not kept.
    fn forget_extended_attribute(&self) -> Result<()> {
        Err(Error::Unsupported)
    }

    async fn read_link(&self, node: Node, asker: Option<&Asker>) -> Result<Bytes> {
        Err(Error::wrong_kind("a file"))
    }

    /// `fsync` of a directory. Most names are durable when they appear.
    async fn sync_directory(&self, node: Node) -> Result<()> {
        Ok(())
    }
}

/// An open file.
#[async_trait]
#[allow(unused_variables, reason = "what most files answer needs none of them")]
pub(super) trait OpenFile: Debug + Send + Sync {
    /// Short only at the file's end.
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes>;

    async fn write(&self, offset: u64, data: &Bytes, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        Err(Error::BadHandle)
    }

    /// Sets the length.
    async fn truncate(&self, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        Err(Error::immutable("an archived file"))
    }

    /// A descriptor is being closed.
    async fn flush(&self, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        Ok(())
    }

    /// A process wants the file to be durable now.
    async fn fsync(&self, asker: Option<&Asker>) -> Result<()> {
        Ok(())
    }

    /// The last reference to the open file is gone.
    async fn release(&self) {}

    /// May the kernel keep what it has read? Only what can never change, and is not compared with what it writes.
    fn may_be_kept(&self) -> bool {
        false
    }

    /// Is it written from its beginning to its end? Who would go back is told at once that this cannot be done.
    fn is_stream(&self) -> bool {
        false
    }

    /// Does it matter that the file is closed? Not when nothing was written; the kernel then need not tell of it.
    fn is_close_a_statement(&self) -> bool {
        false
    }
}
