//! A segment that is received bit by bit, and kept as far as it has come whenever its writer asks for it.
//!
//! `pg_receivewal` lays a `.partial` out with zeros, fills it in from the beginning on, syncs it now and then (with
//! `--synchronous` after each commit that waits), and renames it when it is full. Whatever the sync says must be true, so
//! it stores what has been filled in since the last one, as fragments (`archive::wal::received`). Small ones are replaced by
//! longer ones as they become many: a fragment takes the one before it along if that is not more than twice as long. So
//! there are few of them, and each byte is stored a few times. A full file is archived as the segment that it is.
//!
//! What is kept may not change any more: an acknowledged commit may rest on it. What others have of the segment must be the
//! same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use self::others::{Company, Listed};
use super::wal::WalDraft;
use super::{Draft, Staging};
use crate::archive::wal::{Committed, Fragment, MAX_FRAGMENT_BYTES, Prefix, Prefixes, Torn};
use crate::archive::{Archive, Error};
use crate::codec::FRAME_BYTES;
use crate::pg::{PageHeader, SegmentName, SegmentSize, WalName};
use crate::store::{self, GRACE, Patience};

pub(super) mod joined;
mod load;
mod others;

/// Bytes of the first page that say whose the segment is.
const HEADER_BYTES: usize = 40;

/// A fragment is never shorter than this for the question whether it goes into the next one: a page of WAL, which
/// PostgreSQL itself writes anew with each commit in it.
const PAGE_BYTES: u64 = 8 << 10;

/// Fragments up to this size go into longer ones, in segments of up to 64 MiB.
const LONG_FRAGMENT_BYTES: u64 = 1 << 20;

/// So many replaced fragments are deleted together.
const REPLACED: usize = 16;

/// A `.partial` that was laid out and is being filled in.
#[derive(Debug)]
pub struct Received {
    archive: Arc<Archive>,
    segment: SegmentName,
    deadline: Duration,
    content: Content,
    /// So many bytes from the beginning on have come.
    filled: u64,
    /// Has nothing come beyond that?
    in_order: bool,
    /// So far a receiver lays it out anew, with zeros over what is kept; 0 if none does.
    laid_out: u64,
    /// Is it known whose it is?
    admitted: bool,
    kept: Kept,
}

#[derive(Debug)]
enum Content {
    /// Takes bytes, and looks at the first page as of a file that is archived.
    Growing(WalDraft),
    /// Archived as the segment that it is.
    Whole(WalDraft),
}

/// What the store has of it.
#[derive(Debug, Clone, Default)]
struct Kept {
    /// Bytes up to where it is kept, summed up.
    prefixes: Prefixes,
    /// Does the store know that there is a file?
    is_known: bool,
    /// Fragments that were put by this process and not replaced; each begins where the one before it ends.
    fragments: Vec<Fragment>,
    /// Put by this process, and replaced by longer ones.
    replaced: Vec<Fragment>,
    /// Found in the store, and the same as the content here.
    found: Vec<Fragment>,
    /// All this, before what was put last was compared with what others have.
    before: Option<Box<Kept>>,
    /// Put since then, and by nobody else.
    new: Vec<Fragment>,
    /// Who else has put fragments.
    company: Company,
    /// What the last listing had.
    listed: Listed,
    /// Found in the store, and not following what is here.
    torn: Option<Torn>,
}

impl Received {
    /// An empty file.
    pub fn new(archive: Arc<Archive>, staging: &Staging, segment: SegmentName, deadline: Duration) -> Self {
        let name = WalName::Partial(segment);
        // As a `.partial` it is never archived: nobody need ask whether there is one.
        let wal = WalDraft::new(archive.clone(), staging, name, deadline).looked(async { None });
        Self {
            content: Content::Growing(wal),
            archive,
            segment,
            deadline,
            filled: 0,
            laid_out: 0,
            in_order: true,
            admitted: false,
            kept: Kept::default(),
        }
    }

    /// The segment that it becomes.
    pub fn segment(&self) -> SegmentName {
        self.segment
    }

    /// The content written so far.
    pub fn draft(&mut self) -> &mut Draft {
        match &mut self.content {
            Content::Growing(wal) | Content::Whole(wal) => wal.draft(),
        }
    }

    /// Its length so far; once it is whole, that of a segment.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Growing(wal) | Content::Whole(wal) => wal.bytes(),
        }
    }

    /// Is it archived as the segment that it is?
    pub fn is_whole(&self) -> bool {
        matches!(self.content, Content::Whole(_))
    }

    /// Is some of it in the store, under no other name than its own?
    pub fn is_known(&self) -> bool {
        self.kept.is_known
    }

    /// Would nothing be lost if it were forgotten here?
    pub fn is_kept(&self) -> bool {
        let kept_bytes = self.kept.prefixes.bytes();
        !self.is_whole() && self.kept.is_known && self.in_order && kept_bytes == self.filled
    }

    /// Has it failed for good? Then the next try begins with what is kept.
    pub fn has_failed(&self) -> bool {
        matches!(&self.content, Content::Growing(wal) if matches!(wal.verdict(), Some(Err(_))))
    }

    /// Takes bytes. A receiver that saw no file lays one out, and another one's sync may have kept something of it since: these
    /// zeros say nothing of what is kept.
    ///
    /// # Errors
    /// [`Error::Kept`] for bytes other than those that are kept; as [`WalDraft::write`].
    pub async fn write(&mut self, offset: u64, data: &Bytes) -> Result<(), Arc<Error>> {
        let kept_bytes = self.kept.prefixes.bytes();
        let end = offset + data.len() as u64;
        let lays_out = offset == 0 || offset == self.laid_out;
        if !self.is_whole() && kept_bytes > 0 && lays_out && is_zero(data) {
            self.laid_out = end;
            let behind = kept_bytes.clamp(offset, end);
            return self.put(behind, &data.slice((behind - offset) as usize..)).await;
        }
        self.laid_out = 0;
        self.check_kept(offset, data).await.map_err(Arc::new)?;
        self.put(offset, data).await?;
        if !self.is_whole() {
            self.note(offset, data);
        }
        Ok(())
    }

    async fn put(&mut self, offset: u64, data: &Bytes) -> Result<(), Arc<Error>> {
        match &mut self.content {
            Content::Growing(wal) | Content::Whole(wal) => wal.write(offset, data, || None).await,
        }
    }

    /// What an earlier sync has kept may be written once more, the same: `pg_receivewal` begins a segment again when it
    /// is started again.
    async fn check_kept(&mut self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let kept_bytes = self.kept.prefixes.bytes();
        let overlap = kept_bytes.saturating_sub(offset).min(data.len() as u64) as usize;
        if overlap == 0 {
            return Ok(());
        }
        let known = self.draft().read(offset, overlap).await;
        let known = known.map_err(|error| self.staging_error(&error))?;
        if known == data[..overlap] {
            return Ok(());
        }
        Err(Error::Kept {
            name: WalName::Partial(self.segment),
            place: self.archive.place(),
            kept_bytes,
        })
    }

    /// Zeros lay the file out, or are WAL, if they follow what has come so far.
    fn note(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let begins = offset == 0 && !is_zero(&data[..data.len().min(HEADER_BYTES)]);
        if begins || self.filled > 0 && offset <= self.filled {
            self.filled = self.filled.max(end);
        } else if !is_zero(data) {
            self.in_order = false;
        }
    }

    /// Sets the length.
    ///
    /// # Errors
    /// [`Error::Kept`], [`Error::Immutable`]; as [`WalDraft::truncate`].
    pub async fn truncate(&mut self, bytes: u64) -> Result<(), Arc<Error>> {
        let kept_bytes = self.kept.prefixes.bytes();
        if bytes < kept_bytes {
            return Err(Arc::new(Error::Kept {
                name: WalName::Partial(self.segment),
                place: self.archive.place(),
                kept_bytes,
            }));
        }
        match &mut self.content {
            Content::Growing(wal) => wal.truncate(bytes, || None).await?,
            Content::Whole(wal) => return wal.truncate(bytes, || None).await,
        }
        self.filled = self.filled.min(bytes);
        self.in_order |= bytes == 0;
        Ok(())
    }

    /// Makes durable what has come: archives the segment if it is full, and keeps it as it is if not.
    ///
    /// `Some`, the first time that it is archived.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if bytes have come that do not follow each other; as [`Archive::commit_wal`].
    pub async fn keep(&mut self) -> Result<Option<Committed>, Arc<Error>> {
        let Content::Growing(wal) = &self.content else {
            return Ok(None);
        };
        if let Some(Err(failed)) = wal.verdict() {
            return Err(failed.clone());
        }
        if self.in_order && self.filled > 0 && self.filled == self.bytes() && self.has_right_length() {
            return self.archive_whole().await.map(Some);
        }
        self.keep_as_it_is().await.map_err(Arc::new)?;
        Ok(None)
    }

    fn has_right_length(&self) -> bool {
        let known = self
            .archive
            .known_cluster()
            .map(|cluster| cluster.segment_size.bytes());
        match known {
            Some(bytes) => self.bytes() == bytes,
            None => SegmentSize::new(self.bytes()).is_ok(),
        }
    }

    /// The file is renamed to its segment.
    ///
    /// # Errors
    /// [`Error::Incomplete`] if it is not full; as [`Received::keep`].
    pub async fn finish(&mut self) -> Result<Option<Committed>, Arc<Error>> {
        if !self.is_whole() && (!self.in_order || self.filled < self.bytes() || self.filled == 0) {
            return Err(Arc::new(self.incomplete(WalName::Segment(self.segment))));
        }
        self.keep().await
    }

    fn incomplete(&self, name: WalName) -> Error {
        Error::Incomplete {
            name,
            expected_bytes: self.bytes(),
            found_bytes: self.filled,
            detail: if self.in_order {
                ""
            } else {
                " from its beginning on, and others beyond"
            },
        }
    }

    async fn archive_whole(&mut self) -> Result<Committed, Arc<Error>> {
        let Content::Growing(wal) = &mut self.content else {
            unreachable!("asked for before");
        };
        let draft = wal.draft().take_all();
        let adopt = |draft, name| WalDraft::adopt(self.archive.clone(), draft, name, self.deadline);
        let mut whole = adopt(draft, WalName::Segment(self.segment));
        if let Err(error) = whole.finish().await {
            // It can be tried again.
            *wal.draft() = whole.into_draft();
            return Err(error);
        }
        let committed = whole.verdict().and_then(|verdict| verdict.as_ref().ok().copied());
        self.content = Content::Whole(whole);
        self.forget_all();
        Ok(committed.unwrap_or(Committed::AlreadyThere))
    }

    async fn keep_as_it_is(&mut self) -> Result<(), Error> {
        if !self.in_order || SegmentSize::new(self.bytes()).is_err() {
            return match self.bytes() {
                // Nothing has been written yet.
                0 => Ok(()),
                _ => Err(self.incomplete(WalName::Partial(self.segment))),
            };
        }
        let (deadline, patience) = (self.deadline, Patience::for_at_most(self.deadline));
        let target = format!("{}.partial in {}", self.segment, self.archive.place());
        let late = |_| store::Error::late("put", target, deadline, "the store is slow");
        tokio::time::timeout(deadline + GRACE, self.put_fragments(patience))
            .await
            .map_err(late)?
    }

    async fn put_fragments(&mut self, patience: Patience) -> Result<(), Error> {
        if self.filled > 0 && !self.admitted {
            self.admit(patience).await?;
        }
        match self.filled {
            0 => self.put_all(patience).await?,
            _ => self.put_beside_others(patience).await?,
        }
        if self.kept.replaced.len() >= REPLACED {
            let replaced = std::mem::take(&mut self.kept.replaced);
            self.forget(replaced);
        }
        Ok(())
    }

    async fn put_all(&mut self, patience: Patience) -> Result<(), Error> {
        while self.has_more() {
            self.put_fragment(patience).await?;
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        !self.kept.is_known || self.kept.prefixes.bytes() < self.filled
    }

    /// W5: what is kept of a segment ties the archive to its cluster, as the segment would.
    async fn admit(&mut self, patience: Patience) -> Result<(), Error> {
        let name = WalName::Partial(self.segment);
        let head = self.draft().read(0, HEADER_BYTES).await;
        let head = head.map_err(|error| self.staging_error(&error))?;
        let header = PageHeader::parse(&head).map_err(|reason| Error::Header { name, reason })?;
        self.archive.admit(name, &header, patience).await?;
        self.admitted = true;
        Ok(())
    }

    /// The next fragment, and with it those before it that are not much longer.
    async fn put_fragment(&mut self, patience: Patience) -> Result<(), Error> {
        let longest = (self.bytes() / 64).clamp(LONG_FRAGMENT_BYTES, MAX_FRAGMENT_BYTES);
        let kept_bytes = self.kept.prefixes.bytes();
        let end = self.filled.min(kept_bytes + longest);
        let stays = self.kept.that_stay(end, longest);
        let (start, before) = match self.kept.fragments.get(stays) {
            Some(first) => (first.range.start, first.before),
            None => (kept_bytes, self.kept.prefixes.prefix()),
        };
        let plain = self.draft().read(start, (end - start) as usize).await;
        let plain = plain.map_err(|error| self.staging_error(&error))?;
        let mut prefixes = self.kept.prefixes.clone();
        prefixes.add(&plain[(kept_bytes - start) as usize..]);
        let fragment = self.fragment(start, before, &prefixes);
        if self.archive.put_fragment(&fragment, plain, patience).await? == Committed::Stored {
            self.kept.new.push(fragment.clone());
        }
        self.kept.took(fragment, stays, prefixes);
        Ok(())
    }

    fn fragment(&self, start: u64, before: Prefix, up_to: &Prefixes) -> Fragment {
        Fragment {
            segment: self.segment,
            range: start..up_to.bytes(),
            file_bytes: self.bytes(),
            before,
            after: up_to.prefix(),
        }
    }

    /// The complete segment has all of it.
    fn forget_all(&mut self) {
        let Kept {
            mut fragments,
            replaced,
            found,
            listed,
            ..
        } = std::mem::take(&mut self.kept);
        fragments.extend(replaced);
        fragments.extend(found);
        fragments.extend(listed.into_others());
        self.forget(fragments);
    }

    /// Nobody waits for it, and a store may forbid it.
    fn forget(&self, fragments: Vec<Fragment>) {
        if fragments.is_empty() {
            return;
        }
        let (archive, patience) = (self.archive.clone(), Patience::for_at_most(self.deadline));
        tokio::spawn(async move {
            if let Err(error) = archive.forget_fragments(&fragments, patience).await {
                tracing::debug!(
                    "{} fragments stay, which are in nobody's way: {error}",
                    fragments.len()
                );
            }
        });
    }

    fn staging_error(&self, error: &std::io::Error) -> Error {
        Error::staging(WalName::Partial(self.segment), error)
    }
}

impl Kept {
    /// How many of the fragments stay when one comes that ends there.
    fn that_stay(&self, end: u64, longest: u64) -> usize {
        let (mut stays, mut start) = (self.fragments.len(), self.prefixes.bytes());
        while let Some(last) = stays.checked_sub(1).map(|at| &self.fragments[at]) {
            let fits = end - last.range.start <= longest;
            if !fits || last.bytes().max(PAGE_BYTES) > 2 * (end - start).max(PAGE_BYTES) {
                break;
            }
            (stays, start) = (stays - 1, last.range.start);
        }
        stays
    }

    fn took(&mut self, fragment: Fragment, stays: usize, prefixes: Prefixes) {
        self.replaced.extend(self.fragments.drain(stays..));
        self.fragments.push(fragment);
        self.prefixes = prefixes;
        self.is_known = true;
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// As much of a draft as is read at once.
const READ_BYTES: usize = FRAME_BYTES;
