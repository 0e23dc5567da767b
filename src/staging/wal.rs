//! The rules by which a WAL file that is being written becomes archived: the same for the mount and for `wal-push`.
//!
//! A segment's length is known, so the write (or the truncate of a sparse copy) that completes it is the one that
//! archives it, and its failure is that write's failure: not every copier looks at `close` (promise W2). What comes
//! later on the same file only repeats the verdict. The length of a `.history` or `.backup` file is not known; it is
//! archived when its writer says it is done, or in the write after which it is as long as the file it is copied from.
//! When a file is whole, and what tells a hole from bytes that are still to come, is in `whole`.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::archive::wal::{Committed, Fork, Looked, SMALL_FILE_BYTES};
use crate::archive::{Archive, Error};
use crate::codec::Compression;
use crate::pg::{HeaderError, PageHeader, SwitchSearch, WalName};
use crate::store::{self, GRACE, Grant, Patience};

use super::forerunner::Forerunner;
use super::received::joined::Brought;
use super::{Draft, FinishedDraft, Staging};

mod whole;

/// Bytes of the first page that are looked at.
const HEADER_BYTES: usize = 40;

/// What became of a file; it stays.
pub type Verdict = Result<Committed, Arc<Error>>;

/// The file that is being copied, where it can be known: what tells a hole from bytes that are still to come.
pub trait CopySource {
    /// Its length.
    fn bytes(&self) -> u64;
    /// Are these bytes of it zeros?
    fn is_zero(&self, range: Range<u64>) -> bool;
}

/// See [`CopySource`].
pub type Source = Box<dyn CopySource>;

/// A question to the store that is under way; withdrawn when nobody wants the answer any more.
#[derive(Debug)]
struct Look(JoinHandle<Option<Looked>>);

impl Drop for Look {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A WAL file being written under its final name.
#[derive(Debug)]
pub struct WalDraft {
    archive: Arc<Archive>,
    name: WalName,
    draft: Draft,
    /// The first bytes, as they are now.
    head: Vec<u8>,
    /// The first page's header, once it has come and fits.
    header: Option<PageHeader>,
    /// Is there one of that name already? Asked while the bytes arrive.
    look: Option<Look>,
    /// What was sent of this file ahead of its copier.
    forerunner: Option<Forerunner>,
    /// Leave for what is sent ahead behind this file.
    followers: Option<Grant>,
    /// Where its WAL ends, looked for as far as its bytes have come.
    switch: SwitchSearch,
    /// Was it brought under its name by somebody who says that it is whole?
    vouched: bool,
    /// What a history shows.
    fork: Option<Fork>,
    deadline: Duration,
    /// When its last question or its upload has to have its answer, once its writer is done: one deadline for all of them.
    ends: Option<Instant>,
    verdict: Option<Verdict>,
}

impl WalDraft {
    /// An empty file.
    pub fn new(archive: Arc<Archive>, staging: &Staging, name: WalName, deadline: Duration) -> Self {
        // Small files are stored uncompressed: then their size can be told from a listing.
        let draft = if name.has_pages() {
            staging.draft()
        } else {
            staging.draft_with(Compression::None)
        };
        Self::of(archive, draft, name, deadline)
    }

    /// A file that was written under another name so far; to be finished at once. Whoever brings it under its name says
    /// that it is whole.
    pub fn adopt(archive: Arc<Archive>, draft: Draft, name: WalName, deadline: Duration) -> Self {
        Self {
            vouched: true,
            ..Self::of(archive, draft, name, deadline)
        }
    }

    fn of(archive: Arc<Archive>, draft: Draft, name: WalName, deadline: Duration) -> Self {
        Self {
            archive,
            name,
            draft,
            head: Vec::new(),
            header: None,
            look: None,
            forerunner: None,
            followers: None,
            switch: SwitchSearch::default(),
            vouched: false,
            fork: None,
            deadline,
            ends: None,
            verdict: None,
        }
    }

    /// Where the store has been asked already whether the name is taken.
    pub fn looked(mut self, look: impl Future<Output = Option<Looked>> + Send + 'static) -> Self {
        self.look = Some(Look(tokio::spawn(look)));
        self
    }

    /// A file that was sent to the store ahead: what comes is only compared with that, unless that has failed.
    pub fn following(mut self, forerunner: Forerunner, staging: &Staging) -> Self {
        if self.draft.bytes() == 0 {
            // The hash is all that is needed of it, most likely.
            self.draft = staging.draft().compared();
        }
        if forerunner.is_kept() {
            // What was stored before this copy began may have gone since; asked while the bytes come.
            self.look = Some(self.look_ahead());
        }
        self.forerunner = Some(forerunner);
        self
    }

    /// A file whose followers are sent ahead: they may be stored once it is archived.
    pub fn leading(mut self, followers: Grant) -> Self {
        self.followers = Some(followers);
        self
    }

    /// Its final name.
    pub fn name(&self) -> WalName {
        self.name
    }

    /// Its length so far.
    pub fn bytes(&self) -> u64 {
        self.draft.bytes()
    }

    /// Its first bytes, as far as they have come and are looked at.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The fork that a history shows, once it has been checked.
    pub fn fork(&self) -> Option<Fork> {
        self.fork
    }

    /// What became of it, if that is decided.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// The content, to be kept when finishing failed.
    pub fn into_draft(self) -> Draft {
        self.draft
    }

    /// The content written so far.
    pub fn draft(&mut self) -> &mut Draft {
        &mut self.draft
    }

    /// Takes bytes; archives the file if these complete it.
    ///
    /// `source` is asked for only where the bytes alone do not tell: for small files, and for gaps.
    ///
    /// # Errors
    /// What [`Archive::commit_wal`] and [`Archive::check_header`] say; the first one stays the verdict.
    /// [`Error::TooLong`], [`Error::Immutable`].
    pub async fn write(
        &mut self,
        offset: u64,
        data: &Bytes,
        source: impl FnOnce() -> Option<Source>,
    ) -> Result<(), Arc<Error>> {
        if matches!(self.verdict, Some(Ok(_))) {
            return self.compare(offset, data).await.map_err(Arc::new);
        }
        self.still_open()?;
        if let Err(error) = self.take(offset, data).await {
            return Err(self.decide(Err(Arc::new(error))).expect_err("just failed"));
        }
        if self.is_complete(source).await.map_err(Arc::new)? {
            self.complete().await
        } else {
            Ok(())
        }
    }

    /// Sets the length; archives the file if that completes it (a sparse copy ends so).
    ///
    /// # Errors
    /// As [`WalDraft::write`].
    pub async fn truncate(
        &mut self,
        bytes: u64,
        source: impl FnOnce() -> Option<Source>,
    ) -> Result<(), Arc<Error>> {
        if self.draft.bytes() == bytes {
            return Ok(());
        }
        self.still_open()?;
        if let Err(error) = self.draft.truncate(bytes).await {
            let error = self.staging_error(&error);
            return Err(self.decide(Err(Arc::new(error))).expect_err("just failed"));
        }
        if bytes == 0 {
            (self.head, self.header) = (Vec::new(), None);
            self.switch = SwitchSearch::default();
        }
        if self.is_complete(source).await.map_err(Arc::new)? {
            self.complete().await
        } else {
            Ok(())
        }
    }

    /// The writer says it is done: archives the file, or repeats the verdict.
    ///
    /// A file that is not whole is an error but no verdict: a forked child may close its copy of the descriptor while
    /// its parent goes on writing.
    ///
    /// # Errors
    /// [`Error::Incomplete`], [`Error::Gap`], [`Error::Text`], and as [`WalDraft::write`].
    pub async fn finish(&mut self) -> Result<(), Arc<Error>> {
        if let Some(verdict) = &self.verdict {
            return verdict.clone().map(drop);
        }
        self.ends = Some(Instant::now() + self.deadline);
        let checked = self.check_whole().await;
        self.commit_checked(checked).await
    }

    /// The last byte has come.
    async fn complete(&mut self) -> Result<(), Arc<Error>> {
        self.ends = Some(Instant::now() + self.deadline);
        let checked = match self.name.has_pages() {
            true => Ok(()),
            false => self.check_text().await,
        };
        self.commit_checked(checked).await
    }

    /// What is not whole may still become so; that the store did not say what is archived there, is the verdict.
    async fn commit_checked(&mut self, checked: Result<(), Error>) -> Result<(), Arc<Error>> {
        match checked {
            Ok(()) => self.commit_now().await,
            Err(error @ Error::Store(_)) => self.decide(Err(Arc::new(error))).map(drop),
            Err(error) => Err(Arc::new(error)),
        }
    }

    async fn commit_now(&mut self) -> Result<(), Arc<Error>> {
        let verdict = self.commit().await.map_err(Arc::new);
        self.decide(verdict).map(drop)
    }

    /// What is archived may be written once more, the same: a copier of a sparse file may write zeros where it knows of
    /// a hole.
    async fn compare(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let limit_bytes = self.draft.bytes();
        if offset + data.len() as u64 > limit_bytes {
            return Err(Error::TooLong {
                name: self.name,
                limit_bytes,
            });
        }
        let archived = self
            .draft
            .read(offset, data.len())
            .await
            .map_err(|error| self.staging_error(&error))?;
        if archived == data {
            Ok(())
        } else {
            Err(Error::Immutable { name: self.name })
        }
    }

    fn decide(&mut self, verdict: Verdict) -> Verdict {
        if let Some(followers) = self.followers.take()
            && verdict.is_ok()
        {
            followers.give();
        }
        self.verdict.insert(verdict).clone()
    }

    fn still_open(&self) -> Result<(), Arc<Error>> {
        match &self.verdict {
            None => Ok(()),
            Some(Ok(_)) => Err(Arc::new(Error::Immutable { name: self.name })),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    async fn take(&mut self, offset: u64, data: &Bytes) -> Result<(), Error> {
        if self.look.is_none() && self.forerunner.is_none() {
            self.look = Some(self.look_ahead());
        }
        let end = offset + data.len() as u64;
        if let Some(limit) = self.limit(offset, data).await?.filter(|&limit| end > limit) {
            return Err(Error::TooLong {
                name: self.name,
                limit_bytes: limit,
            });
        }
        self.draft
            .write_shared(offset, data)
            .await
            .map_err(|error| self.staging_error(&error))
    }

    /// How long the file may become; looks at the first page as soon as it comes, to refuse early what must be refused.
    async fn limit(&mut self, offset: u64, data: &[u8]) -> Result<Option<u64>, Error> {
        if !self.name.has_pages() {
            return Ok(Some(SMALL_FILE_BYTES));
        }
        if offset < HEADER_BYTES as u64 {
            self.take_head(offset as usize, data);
            self.header = self.checked_header().await?;
        }
        Ok(self.segment_bytes())
    }

    fn take_head(&mut self, offset: usize, data: &[u8]) {
        let end = HEADER_BYTES.min(offset + data.len());
        if self.head.len() < end {
            self.head.resize(end, 0);
        }
        self.head[offset..end].copy_from_slice(&data[..end - offset]);
    }

    /// The header, if it has come. A first page of zeros is what a writer leaves that fills in the data later.
    async fn checked_header(&self) -> Result<Option<PageHeader>, Error> {
        if self.head.len() < HEADER_BYTES {
            return Ok(None);
        }
        match PageHeader::parse(&self.head) {
            Ok(header) => {
                self.archive
                    .check_header(self.name, &header, self.patience())
                    .await?;
                Ok(Some(header))
            }
            Err(HeaderError::Zero) => Ok(None),
            Err(reason) => Err(Error::Header {
                name: self.name,
                reason,
            }),
        }
    }

    fn segment_bytes(&self) -> Option<u64> {
        match &self.header {
            Some(header) => Some(u64::from(header.segment_bytes)),
            None => self
                .archive
                .known_cluster()
                .map(|cluster| cluster.segment_size.bytes()),
        }
    }

    /// Asks the store in the background whether the name is taken: the answer is there when the last byte is.
    fn look_ahead(&self) -> Look {
        let (archive, name, patience) = (self.archive.clone(), self.name, self.patience());
        Look(tokio::spawn(async move {
            archive.look_before(name, patience).await.ok()
        }))
    }

    async fn commit(&mut self) -> Result<Committed, Error> {
        // The store keeps to the deadline by itself; this also bounds waiting for the look, for what was sent ahead, and
        // for another writer of the same name.
        let (deadline, name) = (self.deadline, self.name);
        let place = self.archive.place();
        let left = self
            .ends
            .map_or(deadline, |ends| ends.saturating_duration_since(Instant::now()));
        tokio::time::timeout(left + GRACE, self.commit_with(self.patience()))
            .await
            .unwrap_or_else(|_| {
                let target = format!("{name} in {place}");
                Err(store::Error::late(
                    "put",
                    target,
                    deadline,
                    "the store is slow, or others are in the way",
                )
                .into())
            })
    }

    async fn commit_with(&mut self, patience: Patience) -> Result<Committed, Error> {
        if let Some(forerunner) = self.forerunner.take() {
            let hash = self
                .draft
                .hash()
                .await
                .map_err(|error| self.staging_error(&error))?;
            let stored_meanwhile = self.look.is_none();
            if forerunner.stored().await == Some(hash) {
                if stored_meanwhile {
                    return Ok(Committed::Stored);
                }
                let looked = self.looked_at().await;
                if looked.as_ref().is_some_and(|looked| looked.shows(hash)) {
                    return Ok(Committed::Stored);
                }
                return self.store(std::future::ready(looked), patience).await;
            }
        }
        let look = self.look.take();
        self.store(async { (&mut look?.0).await.ok().flatten() }, patience)
            .await
    }

    async fn looked_at(&mut self) -> Option<Looked> {
        (&mut self.look.take()?.0).await.ok().flatten()
    }

    async fn store(
        &mut self,
        looking: impl Future<Output = Option<Looked>>,
        patience: Patience,
    ) -> Result<Committed, Error> {
        let object = Arc::new(self.finish_draft().await?);
        let committed = self
            .archive
            .commit_wal(self.name, object, self.header.as_ref(), looking, patience)
            .await;
        match (committed, self.name, self.header) {
            (Err(conflict @ Error::Conflict { .. }), WalName::Partial(segment), Some(header)) => {
                let brought = Brought {
                    segment,
                    header,
                    content: &mut self.draft,
                    deadline: self.deadline,
                };
                // It takes more stack than all the rest.
                Box::pin(brought.join(&self.archive, conflict, patience)).await
            }
            (committed, ..) => committed,
        }
    }

    async fn finish_draft(&mut self) -> Result<FinishedDraft, Error> {
        let finished = self.draft.finish().await;
        finished.map_err(|error| self.staging_error(&error))
    }

    fn patience(&self) -> Patience {
        self.ends
            .map_or_else(|| Patience::for_at_most(self.deadline), Patience::Until)
    }

    fn staging_error(&self, error: &io::Error) -> Error {
        Error::staging(self.name, error)
    }
}

#[cfg(test)]
mod tests;
