//! Writing into `wal/`: create, write, truncate, flush, fsync, rename, release.
//!
//! The rules of what is archived when are those of [`crate::staging::wal`]; here is what belongs to the mount: who
//! may see a file being written, whose close counts, and what a rename means.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::archive::wal::Committed;
use crate::pg::{self, HeaderError, PageHeader, WalName};
use crate::staging::wal::WalDraft;

use super::asker::Asker;
use super::error::Error;
use super::fs::{Fs, Result};
use super::handles::Handle;
use super::node::{Attributes, Node};
use super::writing::{Content, Writing, is_visible_while_written};

impl Fs {
    /// Creates a file that the last lookup did not find, or did not look for.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::ReadOnly`], [`Error::Immutable`] outside of `wal/`.
    pub fn create(&self, parent: u64, name: &OsStr, asker: Option<&Asker>) -> Result<(Attributes, u64)> {
        if self.node(parent)? != Node::Wal {
            return Err(Error::Immutable {
                what: name.to_string_lossy().into_owned(),
            });
        }
        self.gates_open()?;
        let name = self.noted("create", acceptable(name))?;
        Ok(self.start_writing(name, asker))
    }

    /// Opens an archived file to be written again: its bytes are compared, never replaced (contract W4).
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::ReadOnly`].
    pub async fn open_to_replace(&self, ino: u64, asker: Option<&Asker>) -> Result<u64> {
        match self.node(ino)? {
            Node::Archived(name) => {
                self.gates_open()?;
                Ok(self.start_writing(Target::Final(name), asker).1)
            }
            Node::Writing(ino) => {
                self.truncate_inode(ino, 0).await?;
                self.reopen(ino)
            }
            _ => Err(Error::Immutable {
                what: "this file".into(),
            }),
        }
    }

    fn gates_open(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly("is read-only"));
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::ReadOnly("is being taken down"));
        }
        Ok(())
    }

    fn start_writing(&self, target: Target, asker: Option<&Asker>) -> (Attributes, u64) {
        let (content, visible) = match target {
            Target::Final(name) => {
                let visible = is_visible_while_written(name).then(|| name.to_string());
                let draft = WalDraft::new(self.archive.clone(), &self.staging, name, self.options.deadline);
                (Content::Wal(Box::new(draft)), visible)
            }
            Target::Temporary(name) => (Content::Scratch(self.staging.draft()), Some(name)),
        };
        let opener = asker.and_then(Asker::tgid).unwrap_or(0);
        let writing = self
            .writings
            .create(self.inodes.fresh(), content, visible, opener);
        let attributes = self.writing_attributes(&writing);
        (
            attributes,
            self.handles.insert(Handle::Writing {
                writing,
                wrote: AtomicBool::new(false),
            }),
        )
    }

    pub(super) fn reopen(&self, ino: u64) -> Result<u64> {
        let writing = self.writings.get(ino).ok_or(Error::NotFound)?;
        self.writings.open(&writing);
        Ok(self.handles.insert(Handle::Writing {
            writing,
            wrote: AtomicBool::new(false),
        }))
    }

    /// Takes bytes. The write that completes a segment returns when it is in the store, or why it is not.
    ///
    /// # Errors
    /// The verdict, [`Error::Archive`].
    pub async fn write(&self, handle: u64, offset: u64, data: &[u8], asker: Option<&Asker>) -> Result<usize> {
        let handle = self.handles.get(handle)?;
        let (writing, wrote) = match &*handle {
            Handle::Writing { writing, wrote } => (writing, wrote),
            Handle::Archived { name, .. } => {
                return Err(Error::Immutable {
                    what: name.to_string(),
                });
            }
            _ => return Err(Error::BadHandle),
        };
        wrote.store(true, Ordering::Release);
        let mut content = writing.content.lock().await;
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .write(offset, data)
                .await
                .map_err(|error| staging(writing, &error)),
            Content::Wal(wal) => {
                let name = wal.name().to_string();
                let source_bytes = || asker.and_then(|asker| asker.source_size(&name));
                let undecided = wal.verdict().is_none();
                let outcome = wal.write(offset, data, source_bytes).await.map_err(Error::from);
                self.after(writing, wal, undecided, outcome).await
            }
        };
        writing.bytes.store(content.draft().bytes(), Ordering::Release);
        outcome.map(|()| data.len())
    }

    /// Sets the length of an open file.
    ///
    /// # Errors
    /// As [`Fs::write`].
    pub async fn truncate(&self, handle: u64, bytes: u64) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Writing { writing, .. } = &*handle else {
            return Err(Error::Immutable {
                what: "an archived file".into(),
            });
        };
        self.truncate_writing(writing, bytes).await
    }

    /// Sets the length of a file being written, by inode.
    ///
    /// # Errors
    /// [`Error::Immutable`] for everything else; as [`Fs::write`].
    pub async fn truncate_inode(&self, ino: u64, bytes: u64) -> Result<()> {
        match self.node(ino)? {
            Node::Writing(ino) => {
                let writing = self.writings.get(ino).ok_or(Error::NotFound)?;
                self.truncate_writing(&writing, bytes).await
            }
            _ => Err(Error::Immutable {
                what: "an archived file".into(),
            }),
        }
    }

    async fn truncate_writing(&self, writing: &Arc<Writing>, bytes: u64) -> Result<()> {
        let mut content = writing.content.lock().await;
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .truncate(bytes)
                .await
                .map_err(|error| staging(writing, &error)),
            Content::Wal(wal) => {
                let undecided = wal.verdict().is_none();
                let outcome = wal.truncate(bytes).await.map_err(Error::from);
                self.after(writing, wal, undecided, outcome).await
            }
        };
        writing.bytes.store(content.draft().bytes(), Ordering::Release);
        outcome
    }

    pub(super) async fn read_back(&self, writing: &Arc<Writing>, offset: u64, bytes: usize) -> Result<Bytes> {
        let mut content = writing.content.lock().await;
        content
            .draft()
            .read(offset, bytes)
            .await
            .map_err(|error| staging(writing, &error))
    }

    /// A descriptor is being closed: finishes the file if its writer is done, or repeats the verdict.
    ///
    /// # Errors
    /// As [`Fs::write`]; [`Error::Archive`] with `Incomplete` for a segment that is not whole.
    pub async fn flush(&self, handle: u64, asker: Option<&Asker>) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Writing { writing, .. } = &*handle else {
            return Ok(());
        };
        let mut content = writing.content.lock().await;
        let Content::Wal(wal) = &mut *content else {
            self.note_killed(writing, asker);
            return Ok(());
        };
        if let Some(verdict) = wal.verdict() {
            return verdict.clone().map(drop).map_err(Error::from);
        }
        // A shell closes its copy of the descriptor before the program has written anything.
        if wal.bytes() == 0 || is_laid_out(wal) {
            return Ok(());
        }
        // The kernel closes what a killed process had open: that is no statement that the file is done.
        if self.note_killed(writing, asker) {
            return Err(Error::Interrupted);
        }
        if is_somebody_elses_to_finish(writing, wal, asker) {
            return Ok(());
        }
        self.finish(writing, wal).await
    }

    /// Is the process that closes the file dying? Then the file goes.
    fn note_killed(&self, writing: &Writing, asker: Option<&Asker>) -> bool {
        let killed = asker.and_then(Asker::is_exiting).unwrap_or(false);
        if killed {
            writing.abandoned.store(true, Ordering::Release);
        }
        killed
    }

    async fn finish(&self, writing: &Arc<Writing>, wal: &mut WalDraft) -> Result<()> {
        let outcome = wal.finish().await.map_err(Error::from);
        self.after(writing, wal, true, outcome).await
    }

    /// Notes what became of a file, the first time it is known.
    async fn after(
        &self,
        writing: &Arc<Writing>,
        wal: &WalDraft,
        undecided: bool,
        outcome: Result<()>,
    ) -> Result<()> {
        if !undecided {
            return outcome;
        }
        if let Some(Ok(committed)) = wal.verdict() {
            let uploaded = *committed == Committed::Stored;
            self.metrics.archived(wal.name().to_string(), uploaded);
            tracing::info!(
                "{} {}",
                if uploaded {
                    "archived"
                } else {
                    "archived before, the same:"
                },
                wal.name()
            );
            self.presence.archived(wal.name()).await;
            self.writings.hide(writing);
        }
        if outcome.is_err() {
            self.metrics.failed_files.fetch_add(1, Ordering::Relaxed);
        }
        self.noted("archive", outcome)
    }

    /// A process wants the file to be durable now.
    ///
    /// # Errors
    /// As [`Fs::flush`]. [`Error::Invalid`] for a `.partial` in the middle of being filled: only whole segments can
    /// be made durable, and `pg_receivewal --synchronous` would report to its server what is not stored.
    pub async fn fsync(&self, handle: u64, asker: Option<&Asker>) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let Handle::Writing { writing, wrote } = &*handle else {
            return Ok(());
        };
        let mut content = writing.content.lock().await;
        let Content::Wal(wal) = &mut *content else {
            return Ok(());
        };
        if wal.verdict().is_none() && (wal.bytes() == 0 || is_laid_out(wal)) {
            return Ok(());
        }
        if wal.verdict().is_none() && matches!(wal.name(), WalName::Partial(_)) {
            let bytes = wal.bytes();
            let to_its_end = wal.draft().coverage().last_write_ends_at(bytes);
            let outcome = if to_its_end || !wrote.load(Ordering::Acquire) {
                Ok(())
            } else {
                Err(midway(wal))
            };
            return self.noted("fsync", outcome);
        }
        drop(content);
        self.flush_handle(writing, asker).await
    }

    async fn flush_handle(&self, writing: &Arc<Writing>, asker: Option<&Asker>) -> Result<()> {
        let mut content = writing.content.lock().await;
        let Content::Wal(wal) = &mut *content else {
            return Ok(());
        };
        if let Some(verdict) = wal.verdict() {
            return verdict.clone().map(drop).map_err(Error::from);
        }
        if self.note_killed(writing, asker) {
            return Err(Error::Interrupted);
        }
        self.finish(writing, wal).await
    }

    /// Renames a file being written: to its final name, which archives it, or to another temporary name.
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
    ) -> Result<()> {
        let immutable = || Error::Immutable {
            what: name.to_string_lossy().into_owned(),
        };
        if self.node(parent)? != Node::Wal || self.node(new_parent)? != Node::Wal {
            return Err(immutable());
        }
        let Some(writing) = name.to_str().and_then(|name| self.writings.find(name)) else {
            self.lookup(parent, name, None).await?;
            return Err(immutable());
        };
        match self.noted("rename", acceptable(new_name))? {
            Target::Temporary(new_name) if !replace && self.writings.find(&new_name).is_some() => {
                Err(Error::Exists)
            }
            Target::Temporary(new_name) => {
                self.writings.rename(&writing, new_name);
                Ok(())
            }
            Target::Final(new_name) => self.rename_to_final(&writing, new_name, replace).await,
        }
    }

    async fn rename_to_final(&self, writing: &Arc<Writing>, name: WalName, replace: bool) -> Result<()> {
        if !replace
            && self
                .archive
                .wal_meta(name, self.write_patience())
                .await?
                .is_some()
        {
            return Err(Error::Exists);
        }
        let mut content = writing.content.lock().await;
        let draft = match std::mem::replace(&mut *content, Content::Scratch(self.staging.draft())) {
            Content::Scratch(draft) => draft,
            Content::Wal(wal) => wal.into_draft(),
        };
        let mut wal = WalDraft::adopt(self.archive.clone(), draft, name, self.options.deadline);
        let outcome = self.finish(writing, &mut wal).await;
        *content = match &outcome {
            Ok(()) => Content::Wal(Box::new(wal)),
            // Nothing is lost: the rename can be tried again.
            Err(_) => Content::Scratch(wal.into_draft()),
        };
        outcome
    }

    fn write_patience(&self) -> crate::store::Patience {
        crate::store::Patience::for_at_most(self.options.deadline)
    }

    /// The last reference to an open file is gone. Nothing is ever archived here (contract W3).
    pub fn release(&self, handle: u64) {
        if let Some(handle) = self.handles.remove(handle)
            && let Handle::Writing { writing, .. } = &*handle
        {
            self.writings.close(writing);
        }
    }
}

/// A name that may be written in `wal/`.
#[derive(Debug)]
enum Target {
    Final(WalName),
    Temporary(String),
}

fn acceptable(name: &OsStr) -> Result<Target> {
    let text = name.to_str().unwrap_or_default();
    match text.parse::<WalName>() {
        Ok(name) => Ok(Target::Final(name)),
        Err(_) if pg::staging_target(text).is_some() => Ok(Target::Temporary(text.to_owned())),
        Err(reason) => Err(Error::BadName {
            name: name.to_string_lossy().into_owned(),
            reason: reason.to_string(),
        }),
    }
}

/// Is the file so far only laid out with zeros, to be filled in later (`pg_receivewal`)?
fn is_laid_out(wal: &WalDraft) -> bool {
    matches!(wal.name(), WalName::Partial(_))
        && matches!(PageHeader::parse(wal.head()), Err(HeaderError::Zero))
}

/// A small file's length is not known, so a child's copy of the descriptor, closed in the middle, must not finish it:
/// that is for the process that opened it, as long as it lives.
fn is_somebody_elses_to_finish(writing: &Writing, wal: &WalDraft, asker: Option<&Asker>) -> bool {
    let closer = asker.and_then(Asker::tgid).unwrap_or(0);
    let known = writing.opener != 0 && closer != 0;
    let opener_lives = || Asker::of(writing.opener).is_some_and(|opener| !opener.doomed());
    wal.name().segment().is_none() && known && closer != writing.opener && opener_lives()
}

fn staging(writing: &Writing, error: &std::io::Error) -> Error {
    let name = writing.name().unwrap_or_else(|| "a file being written".into());
    crate::archive::Error::Staging {
        name,
        reason: error.to_string(),
    }
    .into()
}

fn midway(wal: &WalDraft) -> Error {
    Error::Invalid {
        name: wal.name().to_string(),
        reason: "only whole segments can be made durable; run pg_receivewal without --synchronous",
    }
}
