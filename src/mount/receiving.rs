//! `.partial` files that `pg_receivewal` fills in: laid out with zeros, kept at each sync, found again by whoever comes
//! next. The rules are those of [`crate::staging::received`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::archive::wal::Committed;
use crate::pg::{SegmentName, WalName};
use crate::staging::received::Received;
use crate::store::Patience;

use super::asker::Asker;
use super::directory::Entry;
use super::error::Error;
use super::fs::{Fs, Result};
use super::handles::Handle;
use super::node::{Attributes, Kept, Node};
use super::writing::{Content, Writing};

/// Bytes of a first page that are zeros in a file that is only laid out.
const HEADER_BYTES: usize = 40;

/// Offsets of what is listed behind the archive's names: no page of these has so high a number.
const RECEIVED_BASE: u64 = 1 << 62;

impl Fs {
    /// Whoever begins a `.partial` with zeros will fill it in.
    pub(super) fn may_be_received(
        &self,
        writing: &Writing,
        content: &mut Content,
        offset: u64,
        data: &Bytes,
    ) {
        let Content::Wal(wal) = content else { return };
        let WalName::Partial(segment) = wal.name() else {
            return;
        };
        let is_blank = data.iter().take(HEADER_BYTES).all(|byte| *byte == 0);
        if wal.bytes() > 0 || wal.verdict().is_some() || offset > 0 || !is_blank {
            return;
        }
        let (archive, deadline) = (self.archive.clone(), self.options.deadline);
        let received = Received::new(archive, &self.staging, segment, deadline);
        *content = Content::Received(Box::new(received));
        writing.received.store(true, Ordering::Release);
    }

    /// Its writer wants to know that what it has written is safe: by a sync, or by closing it.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn keep(&self, received: &mut Received, killed: bool) -> Result<()> {
        if killed && !received.is_whole() {
            return Err(Error::Interrupted);
        }
        let outcome = received.keep().await;
        self.after_keeping(received, outcome.map_err(Error::from))
    }

    /// It is renamed: to the segment that it is, when it is full.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Archive`].
    pub(super) async fn rename_received(
        &self,
        writing: &Writing,
        received: &mut Received,
        to: WalName,
    ) -> Result<()> {
        let segment = received.segment();
        if to != WalName::Segment(segment) {
            let refused = Error::Invalid {
                name: WalName::Partial(segment).to_string(),
                reason: "it is being received, and can only be renamed to its own segment",
            };
            return self.noted("rename", Err(refused));
        }
        let outcome = received.finish().await;
        self.after_keeping(received, outcome.map_err(Error::from))?;
        self.writings.hide(writing);
        Ok(())
    }

    fn after_keeping(&self, received: &Received, outcome: Result<Option<Committed>>) -> Result<()> {
        match outcome {
            Ok(Some(committed)) => {
                self.note_archived(WalName::Segment(received.segment()), committed);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(error) => {
                self.metrics.failed_files.fetch_add(1, Ordering::Relaxed);
                self.noted("archive", Err(error))
            }
        }
    }

    /// Does the store have some of it, which stays?
    pub(super) async fn is_kept_in_part(writing: &Writing) -> bool {
        match &*writing.content.lock().await {
            Content::Received(received) => received.is_known(),
            _ => false,
        }
    }

    /// Is nothing of it lost when the mount forgets it?
    pub(super) fn is_safe(writing: &Writing) -> bool {
        let content = writing.content.try_lock();
        content.is_ok_and(|content| match &*content {
            Content::Received(received) => received.is_kept(),
            _ => false,
        })
    }

    /// What the store has of a segment that is being received, as a file of its whole length.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for every other kind of file.
    pub(super) async fn received_attributes(
        &self,
        name: WalName,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let WalName::Partial(segment) = name else {
            return Err(Error::NotFound);
        };
        if let Some(writing) = self.writings.find(&name.to_string()) {
            let ino = self.inodes.number(Node::Archived(name));
            return Ok(Attributes {
                ino,
                ..self.writing_attributes(&writing)
            });
        }
        let found = self.archive.received_meta(segment, self.read_patience());
        let meta = self.while_wanted(asker, found).await??.ok_or(Error::NotFound)?;
        Ok(Attributes {
            kept: Kept::Never,
            ..self.archived_attributes(name, &meta)
        })
    }

    /// Opens what was received before: to be filled in further, found by everybody, or to be read.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ReadOnly`], [`Error::Archive`].
    pub(super) async fn open_received(
        &self,
        segment: SegmentName,
        to_write: bool,
        asker: Option<&Asker>,
    ) -> Result<u64> {
        let name = WalName::Partial(segment).to_string();
        if let Some(writing) = self.writings.find(&name) {
            return self.reopen(writing.ino);
        }
        let patience = match to_write {
            true => {
                self.gates_open()?;
                Patience::for_at_most(self.options.deadline)
            }
            false => self.read_patience(),
        };
        let deadline = self.options.deadline;
        let loading = Received::load(&self.archive, &self.staging, segment, deadline, patience);
        let received = self.while_wanted(asker, loading).await?.map_err(Arc::new)?;
        let received = received.ok_or(Error::NotFound)?;
        // Another one may have opened it meanwhile.
        match self.writings.find(&name).filter(|_| to_write) {
            Some(writing) => self.reopen(writing.ino),
            None => Ok(self.begin_again(received, to_write.then_some(name), asker)),
        }
    }

    fn begin_again(&self, mut received: Received, name: Option<String>, asker: Option<&Asker>) -> u64 {
        let bytes = received.draft().bytes();
        let opener = asker.and_then(Asker::tgid).unwrap_or(0);
        let (ino, content) = (self.inodes.fresh(), Content::Received(Box::new(received)));
        let writing = self.writings.create(ino, content, name, opener);
        writing.received.store(true, Ordering::Release);
        writing.bytes.store(bytes, Ordering::Release);
        self.handles.insert(Handle::Writing(writing))
    }

    /// What is listed behind the archived names: `pg_receivewal` goes on where this says.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn list_received(&self) -> Result<Vec<Entry>> {
        let patience = Patience::for_at_most(self.options.deadline);
        let found = self.archive.last_received(patience).await?;
        let entry = |(at, (segment, meta)): (u64, (SegmentName, _))| {
            let name = WalName::Partial(segment);
            let attributes = self.archived_attributes(name, &meta);
            Entry {
                name: name.to_string().into(),
                attributes: Attributes {
                    kept: Kept::Never,
                    ..attributes
                },
                next_offset: RECEIVED_BASE + at,
            }
        };
        Ok((1..).zip(found).map(entry).collect())
    }

    /// Those of them that follow an offset; all, if the archived names end there.
    pub(super) fn received_from(received: &[Entry], offset: u64) -> Vec<Entry> {
        let seen = offset.saturating_sub(RECEIVED_BASE) as usize;
        received.iter().skip(seen).cloned().collect()
    }

    /// Have the archived names all been listed before this offset?
    pub(super) fn is_beyond_archived(offset: u64) -> bool {
        offset >= RECEIVED_BASE
    }
}
