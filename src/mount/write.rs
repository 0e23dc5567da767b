//! Writing into `wal/`: create, write, truncate. Renaming is in `super::renaming`.
//!
//! The rules of what is archived when are those of [`crate::staging::wal`]; here is what belongs to the mount: who
//! may see a file being written. Whose close counts is in [`super::settle`].

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::pg::{self, WalName};
use crate::staging::wal::{Source, WalDraft};

use super::asker::Asker;
use super::basebackups::drafting::Making;
use super::error::Error;
use super::fs::{Fs, Result};
use super::handles::Handle;
use super::node::{Attributes, Node};
use super::writing::{Content, FilesOf, Writing, is_visible_while_written};

impl Fs {
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
        match self.node(parent)? {
            Node::Wal => {}
            Node::Folder(_) => {
                let place = self.place(parent).ok_or(Error::NotFound)?;
                return self.noted("create", Err(place.refusal(name)));
            }
            Node::Draft(at) => return self.create_in_draft(at, name, making).await,
            _ => return Err(self.refuse_change(parent, name)),
        }
        self.gates_open()?;
        let target = self.noted("create", acceptable(name))?;
        Ok(self.start_writing(target, asker))
    }

    /// Opens an archived file to be written again: its bytes are compared, never replaced (promise W4).
    ///
    /// # Errors
    /// [`Error::Immutable`], [`Error::ReadOnly`].
    pub async fn open_to_replace(&self, ino: u64, asker: Option<&Asker>) -> Result<u64> {
        match self.node(ino)? {
            Node::Archived(name) => {
                self.gates_open()?;
                Ok(self.start_writing(Target::Final(name), asker).1)
            }
            Node::Writing(ino) => self.replace_writing(ino, asker).await,
            Node::Tree(at) => Err(self.refuse_entry(at).await),
            _ => Err(Error::Immutable {
                what: "this file".into(),
            }),
        }
    }

    /// A second writer starts over: it gets a version of its own, and the name. The first one, an orphan perhaps that
    /// still writes, keeps the old version to itself.
    async fn replace_writing(&self, ino: u64, asker: Option<&Asker>) -> Result<u64> {
        let old = self.writings.get(ino).ok_or(Error::NotFound)?;
        let Some(name) = old.name() else {
            self.truncate_writing(&old, 0, asker).await?;
            return self.reopen(ino);
        };
        self.gates_open()?;
        let target = acceptable(OsStr::new(&name))?;
        if !old.is_being_received() {
            self.writings.hide(&old);
        }
        Ok(self.start_writing(target, asker).1)
    }

    pub(super) fn gates_open(&self) -> Result<()> {
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
                let visible = Some(name.to_string()).filter(|text| {
                    is_visible_while_written(name)
                        && !self
                            .writings
                            .find(text)
                            .is_some_and(|old| old.is_being_received())
                });
                let deadline = self.writers_deadline(name, asker);
                let draft = WalDraft::new(self.archive.clone(), &self.staging, name, deadline);
                let draft = self.looked_before(self.brought(draft, asker), asker);
                (Content::Wal(Box::new(draft)), visible)
            }
            Target::Temporary(name) => (Content::Scratch(self.staging.draft()), Some(name)),
        };
        let opener = asker.and_then(Asker::tgid).unwrap_or(0);
        if let Content::Wal(wal) = &content {
            self.presence.created(wal.name(), opener);
        }
        let writing = self
            .writings
            .create(self.inodes.fresh(), content, visible, opener);
        let attributes = self.writing_attributes(&writing);
        (attributes, self.handles.insert(Handle::Writing(writing)))
    }

    /// A file that is brought now may have been sent ahead.
    pub(super) fn brought(&self, draft: WalDraft, asker: Option<&Asker>) -> WalDraft {
        let (name, asker) = (draft.name(), asker.cloned());
        let origin = move || asker?.origin(&name.to_string());
        let brought = self.ahead.as_ref().and_then(|ahead| ahead.brought(name, origin));
        let Some((forerunner, followers)) = brought else {
            return draft;
        };
        let draft = draft.leading(followers);
        match forerunner {
            Some(forerunner) => draft.following(forerunner, &self.staging),
            None => draft,
        }
    }

    pub(super) fn reopen(&self, ino: u64) -> Result<u64> {
        let writing = self.writings.get(ino).ok_or(Error::NotFound)?;
        self.writings.open(&writing);
        Ok(self.handles.insert(Handle::Writing(writing)))
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
        let handle = self.handles.get(handle)?;
        let writing = match &*handle {
            Handle::Writing(writing) => writing,
            Handle::Archived { name, .. } => {
                return Err(Error::Immutable {
                    what: name.to_string(),
                });
            }
            Handle::InTree { loaded, entry } => {
                return Err(self.refuse_entry(loaded.backup.node(*entry)).await);
            }
            Handle::Draft(open) => {
                let written = open.write(offset, data).await;
                return self.noted("write", written).map(|()| data.len());
            }
            _ => return Err(Error::BadHandle),
        };
        check_length(writing, offset.saturating_add(data.len() as u64))?;
        writing.written_by(files);
        let mut content = writing.content.lock().await;
        self.may_be_received(writing, &mut content, offset, data);
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .write_shared(offset, data)
                .await
                .map_err(|error| staging(writing, &error)),
            Content::Received(received) => {
                let written = received.write(offset, data).await;
                if received.has_failed() {
                    self.writings.hide(writing);
                }
                self.noted("write", written.map_err(Error::from))
            }
            Content::Wal(wal) => {
                let name = wal.name().to_string();
                let source = || source(asker, &name);
                let undecided = wal.verdict().is_none();
                let outcome = wal.write(offset, data, source).await.map_err(Error::from);
                self.forget_failed(writing, wal);
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
    pub async fn truncate(&self, handle: u64, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        let handle = self.handles.get(handle)?;
        match &*handle {
            Handle::Writing(writing) => self.truncate_writing(writing, bytes, asker).await,
            Handle::InTree { loaded, entry } => Err(self.refuse_entry(loaded.backup.node(*entry)).await),
            Handle::Draft(open) => open.truncate(bytes).await,
            _ => Err(Error::Immutable {
                what: "an archived file".into(),
            }),
        }
    }

    /// Sets the length of a file being written, by inode.
    ///
    /// # Errors
    /// [`Error::Immutable`] for everything else; as [`Fs::write`].
    pub async fn truncate_inode(&self, ino: u64, bytes: u64, asker: Option<&Asker>) -> Result<()> {
        match self.node(ino)? {
            Node::Writing(ino) => {
                let writing = self.writings.get(ino).ok_or(Error::NotFound)?;
                self.truncate_writing(&writing, bytes, asker).await
            }
            Node::Tree(at) => Err(self.refuse_entry(at).await),
            Node::Draft(at) => self.truncate_in_draft(at, bytes).await,
            _ => Err(Error::Immutable {
                what: "an archived file".into(),
            }),
        }
    }

    async fn truncate_writing(
        &self,
        writing: &Arc<Writing>,
        bytes: u64,
        asker: Option<&Asker>,
    ) -> Result<()> {
        check_length(writing, bytes)?;
        let mut content = writing.content.lock().await;
        let outcome = match &mut *content {
            Content::Scratch(draft) => draft
                .truncate(bytes)
                .await
                .map_err(|error| staging(writing, &error)),
            Content::Received(received) => received.truncate(bytes).await.map_err(Error::from),
            Content::Wal(wal) => {
                let name = wal.name().to_string();
                let source = || source(asker, &name);
                let undecided = wal.verdict().is_none();
                let outcome = wal.truncate(bytes, source).await.map_err(Error::from);
                self.forget_failed(writing, wal);
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
    /// As [`super::folders::Place::key`] has it.
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

/// No WAL file is longer than the largest segment; what would be must not cost memory.
fn check_length(writing: &Writing, bytes: u64) -> Result<()> {
    if bytes <= pg::SegmentSize::MAX.bytes() {
        return Ok(());
    }
    let name = writing.name().unwrap_or_else(|| "a file being written".into());
    Err(Error::TooLong { name })
}

fn staging(writing: &Writing, error: &std::io::Error) -> Error {
    let name = writing.name().unwrap_or_else(|| "a file being written".into());
    crate::archive::Error::staging(name, error).into()
}
