//! Where a timeline forked: does its parent go on, and how far does each branch lead?

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::branch::Branch;
use super::error::Error;
use super::wal::Listed;
use super::way::{Stretch, Way};
use super::{begun, wal};
use crate::archive::Archive;
use crate::archive::wal::WalCursor;
use crate::cache::Cache;
use crate::pg::record::{Found, Window};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, Timeline, WalName};
use crate::read::{PIECE_BYTES, Reader};
use crate::staging::Draft;
use crate::store::Patience;

/// The first look at a record; most end in its page.
const LOOK_BYTES: u64 = 1 << 20;

/// Has the archive WAL of this timeline behind the position? A segment after the position's, or a whole record in it; the
/// beginning of a segment, received or archived as `.partial`, counts as the segment.
///
/// # Errors
/// [`Error::Archive`].
pub(in crate::job) async fn goes_on(
    archive: &Arc<Archive>,
    timeline: Timeline,
    fork: Lsn,
    size: SegmentSize,
    patience: Patience,
) -> Result<bool, Error> {
    let number = fork.0 / size.bytes();
    if let Some(next) = SegmentName::from_number(timeline, number + 1, size) {
        let page = archive.list_wal(Some(&WalCursor::before(next)), patience).await?;
        let mut names = page.entries.iter().map(|(name, _)| name);
        if names.any(|name| name.has_pages() && name.timeline() == timeline) {
            return Ok(true);
        }
        if archive.received_from(next, None, patience).await?.is_some() {
            return Ok(true);
        }
    }
    let Some(segment) = SegmentName::from_number(timeline, number, size) else {
        return Ok(false);
    };
    let mut content = match archive.wal_meta(WalName::Segment(segment), patience).await? {
        Some(_) => Content::Archived(Reader::new(archive.clone(), Cache::new(PIECE_BYTES), None)),
        None => match begun::load(archive, segment, patience).await? {
            Some(begun) => Content::Begun(begun.content),
            None => return Ok(false),
        },
    };
    content.has_record(segment, fork, size, patience).await
}

/// Where a segment's bytes come from.
enum Content {
    Archived(Reader),
    /// Only its beginning is there.
    Begun(Draft),
}

impl Content {
    /// A record that runs on into the next segment, which is not there, is none.
    async fn has_record(
        &mut self,
        segment: SegmentName,
        at: Lsn,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<bool, Error> {
        let whole = (segment, size.bytes());
        let first = self.read(whole, 0, PageHeader::BYTES as u64, patience).await?;
        // What is no WAL has no records.
        let Ok(header) = PageHeader::parse(&first) else {
            return Ok(false);
        };
        let offset = at.0 % size.bytes();
        let page = offset - offset % u64::from(header.block_bytes);
        let start = Lsn(segment.start(size).0 + page);
        let mut bytes = LOOK_BYTES;
        loop {
            let piece = self.read(whole, page, bytes, patience).await?;
            match Window::new(&header, start, &piece).record_at(at) {
                Found::Record(_) => return Ok(true),
                Found::Beyond if page + bytes < size.bytes() => bytes *= 16,
                Found::Beyond | Found::Nothing => return Ok(false),
            }
        }
    }

    async fn read(
        &mut self,
        (segment, segment_bytes): (SegmentName, u64),
        offset: u64,
        bytes: u64,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        let (name, bytes) = (WalName::Segment(segment), bytes as usize);
        match self {
            Self::Archived(reader) => {
                let read = reader.read(name, segment_bytes, offset, bytes, patience).await;
                read.map_err(|error| Error::unreadable(&error, name))
            }
            Self::Begun(draft) => {
                let read = draft.read(offset, bytes).await;
                read.map_err(Error::at("bring", Path::new(&name.to_string())))
            }
        }
    }
}

/// Looks how far a way leads on its last timeline.
///
/// # Errors
/// [`Error::Archive`].
pub(super) async fn branch(
    archive: &Archive,
    way: &Way,
    from: Lsn,
    size: SegmentSize,
    patience: Patience,
) -> Result<Branch, Error> {
    let timeline = way.timeline();
    let forked = way.fork();
    let begin = forked.map_or(from, |(_, fork)| fork.max(from));
    let stretch = Stretch {
        timeline,
        begin,
        end: None,
    };
    let Listed { runs, partial, .. } = wal::list(archive, stretch, 0, size, patience).await?;
    let last = runs
        .last()
        .and_then(|run| SegmentName::from_number(timeline, run.last, size));
    let received = match SegmentName::from_number(timeline, begin.0 / size.bytes(), size) {
        Some(first) => archive.received_from(first, None, patience).await?,
        None => None,
    };
    let (received, received_at) = received.unzip();
    let partial = partial.and_then(|partial| SegmentName::from_number(timeline, partial, size));
    let received = received.max(partial);
    Ok(Branch {
        timeline,
        forked,
        last,
        received: received.filter(|received| last.is_none_or(|last| last < *received)),
        newest: runs.last().map(|run| run.archived_at).max(received_at),
    })
}
