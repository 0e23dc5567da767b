//! `.partial` files that `pg_receivewal` fills in: laid out with zeros, kept at each sync, found again by the
//! next receiver. The rules are those of [`crate::staging::received`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::archive::wal::{Committed, WalMeta};
use crate::mount::asker::Asker;
use crate::mount::directory::{Entry, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Node};
use crate::pg::{SegmentName, WalName};
use crate::staging::received::Received;

use super::Wal;
use super::forks::segment_archived;
use super::writing::{Content, Writing};

/// Bytes of a first page that are zeros in a file that is only laid out.
const HEADER_BYTES: usize = 40;

/// Offsets of what is listed behind the archive's names: no page of these has so high a number.
pub(super) const RECEIVED_BASE: u64 = 1 << 62;

impl Wal {
    /// A writer that begins a `.partial` with zeros will fill it in.
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
        let (archive, deadline) = (self.common.archive.clone(), self.common.options.deadline);
        let received = Received::new(archive, &self.common.staging, segment, deadline);
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
            return self.common.noted("rename", Err(refused));
        }
        let outcome = received.finish().await;
        self.after_keeping(received, outcome.map_err(Error::from))?;
        self.writings.hide(writing);
        Ok(())
    }

    fn after_keeping(&self, received: &Received, outcome: Result<Option<Committed>>) -> Result<()> {
        match outcome {
            Ok(Some(committed)) => {
                let name = WalName::Segment(received.segment());
                self.archived.note_archived(name, received.bytes(), committed);
                segment_archived(&self.forks, &self.common, received.segment());
                Ok(())
            }
            Ok(None) => {
                self.forks.receivers.saw(true);
                Ok(())
            }
            Err(error) => {
                self.common.metrics.failed_files.fetch_add(1, Ordering::Relaxed);
                self.common.noted("archive", Err(error))
            }
        }
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
            return Ok(Attributes {
                ino: self.common.inodes.number(Node::Archived(name)),
                ..writing.attributes()
            });
        }
        let patience = self.common.read_patience();
        let found = self.common.archive.received_meta(segment, patience);
        let meta = self.common.while_wanted(asker, found).await??;
        Ok(self.unfinished(name, &meta.ok_or(Error::NotFound)?))
    }

    /// It may still grow.
    fn unfinished(&self, name: WalName, meta: &WalMeta) -> Attributes {
        Attributes {
            kept: Kept::Never,
            ..self.archived.attributes(name, meta)
        }
    }

    /// Opens what was received before: to be filled in further, found by every process, or to be read.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::ReadOnly`], [`Error::Archive`]. [`Error::Stale`]: its last writer left meanwhile.
    pub(super) async fn open_received(
        &self,
        segment: SegmentName,
        to_write: bool,
        asker: Option<&Asker>,
    ) -> Result<Arc<Writing>> {
        let name = WalName::Partial(segment).to_string();
        let reopen = |writing: Arc<Writing>| self.writings.open(writing.ino).ok_or(Error::Stale);
        if let Some(writing) = self.writings.find(&name) {
            return reopen(writing);
        }
        let common = &self.common;
        let patience = match to_write {
            true => {
                common.gates_open()?;
                common.prompt_patience()
            }
            false => common.read_patience(),
        };
        let (archive, deadline) = (&common.archive, common.options.deadline);
        let loading = Received::load(archive, &common.staging, segment, deadline, patience);
        let received = common.while_wanted(asker, loading).await?.map_err(Arc::new)?;
        let received = received.ok_or(Error::NotFound)?;
        // Another one may have opened it meanwhile.
        match self.writings.find(&name).filter(|_| to_write) {
            Some(writing) => reopen(writing),
            None => Ok(self.begin_again(received, to_write.then_some(name), asker)),
        }
    }

    fn begin_again(
        &self,
        mut received: Received,
        name: Option<String>,
        asker: Option<&Asker>,
    ) -> Arc<Writing> {
        let bytes = received.draft().bytes();
        let opener = asker.and_then(Asker::tgid).unwrap_or(0);
        let (ino, content) = (self.common.inodes.fresh(), Content::Received(Box::new(received)));
        let writing = self.writings.create(ino, content, name, opener);
        writing.received.store(true, Ordering::Release);
        writing.bytes.store(bytes, Ordering::Release);
        writing
    }

    /// What is listed behind the archived names: `pg_receivewal` goes on where this says.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn list_received(&self) -> Result<Vec<Entry>> {
        let patience = self.common.prompt_patience();
        let mut shown = Vec::new();
        for (segment, meta) in self.common.archive.last_received(patience).await? {
            let name = WalName::Partial(segment);
            // An archived beginning is listed among the archived names.
            if self.common.archive.wal_meta(name, patience).await?.is_none() {
                shown.push((name.to_string().into(), self.unfinished(name, &meta)));
            }
        }
        Ok(numbered(shown, RECEIVED_BASE))
    }
}
