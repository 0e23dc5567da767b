//! Writing into `wal/`: who begins a new version of a file, and the object of a file that is open to be written.
//! Renaming is in `super::renaming`.
//!
//! The rules of what is archived when are those of [`crate::staging::wal`]; here is what belongs to the mount: who
//! may see a file being written. Whose close counts is in `super::settle`.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;

use crate::mount::asker::Asker;
use crate::mount::error::{Error, Result};
use crate::mount::room::{AnyFile, FilesOf, OpenFile};
use crate::pg::{self, WalName};
use crate::staging::wal::{Source, WalDraft};

use super::Wal;
use super::writing::{Content, Writing, is_visible_while_written};

impl Wal {
    /// A new version of a file, with one handle.
    pub(super) fn start_writing(&self, target: Target, asker: Option<&Asker>) -> Arc<Writing> {
        let opener = asker.and_then(Asker::tgid).unwrap_or(0);
        let (content, visible) = match target {
            Target::Final(name) => {
                let visible = Some(name.to_string()).filter(|text| {
                    is_visible_while_written(name)
                        && !self
                            .writings
                            .find(text)
                            .is_some_and(|old| old.is_being_received())
                });
                let deadline = self.archived.writers_deadline(name, asker);
                let (archive, staging) = (self.common.archive.clone(), &self.common.staging);
                let draft = WalDraft::new(archive, staging, name, deadline);
                let draft = self.archived.brought(draft, asker);
                let draft = self.archived.created(draft, asker, opener);
                (Content::Wal(Box::new(draft)), visible)
            }
            Target::Temporary(name) => (Content::Scratch(self.common.staging.draft()), Some(name)),
        };
        let ino = self.common.inodes.fresh();
        self.writings.create(ino, content, visible, opener)
    }

    /// A second writer starts over: it gets a version of its own, and the name. The first one, an orphan perhaps that
    /// still writes, keeps the old version to itself.
    pub(super) async fn replace(
        self: &Arc<Self>,
        old: Arc<Writing>,
        asker: Option<&Asker>,
    ) -> Result<AnyFile> {
        let Some(name) = old.name() else {
            self.truncate_writing(&old, 0, asker).await?;
            return self.reopen(old.ino);
        };
        self.common.gates_open()?;
        let target = acceptable(OsStr::new(&name))?;
        if !old.is_being_received() {
            self.writings.hide(&old);
        }
        Ok(self.opened(self.start_writing(target, asker)))
    }

    pub(super) fn reopen(self: &Arc<Self>, ino: u64) -> Result<AnyFile> {
        Ok(self.opened(self.writings.open(ino).ok_or(Error::Stale)?))
    }

    /// The object of a handle.
    pub(super) fn opened(self: &Arc<Self>, writing: Arc<Writing>) -> AnyFile {
        let wal = self.clone();
        Arc::new(OpenWriting { wal, writing })
    }

    /// Sets the length.
    ///
    /// # Errors
    /// As a write.
    pub(super) async fn truncate_writing(
        &self,
        writing: &Writing,
        bytes: u64,
        asker: Option<&Asker>,
    ) -> Result<()> {
        writing.check_length(bytes)?;
        let mut content = writing.content.lock().await;
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .truncate(bytes)
                .await
                .map_err(|error| writing.staging_failed(&error)),
            Content::Received(received) => received.truncate(bytes).await.map_err(Error::from),
            Content::Wal(wal) => {
                let name = wal.name().to_string();
                let source = || source(asker, &name);
                let undecided = wal.verdict().is_none();
                let outcome = wal.truncate(bytes, source).await.map_err(Error::from);
                self.forget_failed(writing, wal);
                self.after(writing, wal, undecided, outcome)
            }
        };
        writing.bytes.store(content.draft().bytes(), Ordering::Release);
        outcome
    }
}

/// A handle of a file being written.
#[derive(Debug)]
struct OpenWriting {
    wal: Arc<Wal>,
    writing: Arc<Writing>,
}

#[async_trait]
impl OpenFile for OpenWriting {
    async fn read(&self, offset: u64, bytes: usize, _asker: Option<&Asker>) -> Result<Bytes> {
        self.writing.read(offset, bytes).await
    }

    /// The write that completes a segment returns when it is in the store, or why it is not.
    async fn write(&self, offset: u64, data: &Bytes, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        let (room, writing) = (&self.wal, &self.writing);
        writing.check_length(offset.saturating_add(data.len() as u64))?;
        writing.written_by(files);
        let mut content = writing.content.lock().await;
        room.may_be_received(writing, &mut content, offset, data);
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .write_shared(offset, data)
                .await
                .map_err(|error| writing.staging_failed(&error)),
            Content::Received(received) => {
                let written = received.write(offset, data).await;
                if received.has_failed() {
                    room.writings.hide(writing);
                }
                room.common.noted("write", written.map_err(Error::from))
            }
            Content::Wal(wal) => {
                let name = wal.name().to_string();
                let source = || source(asker, &name);
                let undecided = wal.verdict().is_none();
                let outcome = wal.write(offset, data, source).await.map_err(Error::from);
                room.forget_failed(writing, wal);
                room.after(writing, wal, undecided, outcome)
            }
        };
        writing.bytes.store(content.draft().bytes(), Ordering::Release);
        outcome
    }

    async fn truncate(&self, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        self.wal.truncate_writing(&self.writing, bytes, asker).await
    }

    async fn flush(&self, files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        self.wal.flush(&self.writing, files, asker).await
    }

    async fn fsync(&self, asker: Option<&Asker>) -> Result<()> {
        self.wal.fsync(&self.writing, asker).await
    }

    async fn release(&self) {
        self.writing.warn_of_unfinished();
        self.wal.writings.close(&self.writing, !self.writing.is_safe());
    }

    fn is_close_a_statement(&self) -> bool {
        true
    }
}

/// The file of that name that the process is copying.
fn source(asker: Option<&Asker>, name: &str) -> Option<Source> {
    asker
        .and_then(|asker| asker.source(name))
        .map(|file| Box::new(file) as Source)
}

/// A name that may be written in `wal/`.
#[derive(Debug)]
pub(super) enum Target {
    Final(WalName),
    /// As [`super::writing::Place::key`] has it.
    Temporary(String),
}

pub(super) fn acceptable(name: &OsStr) -> Result<Target> {
    let text = name.to_str().unwrap_or_default();
    match text.parse::<WalName>() {
        Ok(name) => Ok(Target::Final(name)),
        Err(_) if pg::staging_target(text).is_some() => Ok(Target::Temporary(text.to_owned())),
        Err(_) if is_compressed(text) => Err(Error::Compressed {
            name: text.to_owned(),
        }),
        Err(reason) => Err(Error::BadName {
            name: name.to_string_lossy().into_owned(),
            reason: reason.to_string(),
        }),
    }
}

/// A segment, or a part of one, as `pg_receivewal --compress` names it.
fn is_compressed(text: &str) -> bool {
    let packed = text.strip_suffix(".partial").unwrap_or(text);
    let endings = [".gz", ".lz4", ".zst"];
    let plain = endings.iter().find_map(|ending| packed.strip_suffix(ending));
    plain.is_some_and(|plain| plain.parse::<WalName>().is_ok())
}
