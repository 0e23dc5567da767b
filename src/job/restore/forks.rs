//! Where a timeline forked: does its parent go on, and how far does each branch lead?

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::wal;
use super::way::{Stretch, Way};
use crate::archive::Archive;
use crate::archive::wal::WalCursor;
use crate::cache::Cache;
use crate::pg::record::{Found, Window};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, Timeline, WalName};
use crate::read::{PIECE_BYTES, Reader};
use crate::store::Patience;

/// The first look at a record; most end in its page.
const LOOK_BYTES: u64 = 1 << 20;

/// Has the archive WAL of this timeline behind the position? A segment after the position's, or a whole record in it.
///
/// # Errors
/// [`Error::Archive`].
pub(super) async fn goes_on(
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
        if names.any(|name| matches!(name, WalName::Segment(behind) if behind.timeline == timeline)) {
            return Ok(true);
        }
    }
    let Some(segment) = SegmentName::from_number(timeline, number, size) else {
        return Ok(false);
    };
    let name = WalName::Segment(segment);
    match archive.wal_meta(name, patience).await? {
        Some(_) => has_record(archive, segment, fork, size, patience).await,
        None => Ok(false),
    }
}

/// A record that runs on into the next segment, which is not there, is none.
async fn has_record(
    archive: &Arc<Archive>,
    segment: SegmentName,
    at: Lsn,
    size: SegmentSize,
    patience: Patience,
) -> Result<bool, Error> {
    let reader = Reader::new(archive.clone(), Cache::new(PIECE_BYTES), None);
    let read = |offset: u64, bytes: u64| {
        reader.read(
            WalName::Segment(segment),
            size.bytes(),
            offset,
            bytes as usize,
            patience,
        )
    };
    let unread = |error: Arc<crate::archive::Error>| Error::unreadable(&error, WalName::Segment(segment));
    let first = read(0, PageHeader::BYTES as u64).await.map_err(unread)?;
    // What is no WAL has no records.
    let Ok(header) = PageHeader::parse(&first) else {
        return Ok(false);
    };
    let offset = at.0 % size.bytes();
    let page = offset - offset % u64::from(header.block_bytes);
    let start = Lsn(segment.start(size).0 + page);
    let mut bytes = LOOK_BYTES;
    loop {
        let piece = read(page, bytes).await.map_err(unread)?;
        match Window::new(&header, start, &piece).record_at(at) {
            Found::Record(_) => return Ok(true),
            Found::Beyond if page + bytes < size.bytes() => bytes *= 16,
            Found::Beyond | Found::Nothing => return Ok(false),
        }
    }
}

/// An end that recovery can come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its timeline.
    pub timeline: Timeline,
    /// Which timeline it left, and where; `None` for one that is known from its beginning.
    pub forked: Option<(Timeline, Lsn)>,
    /// Its last archived segment.
    pub last: Option<SegmentName>,
    /// When its newest segment was archived, by the store's clock.
    pub newest: Option<SystemTime>,
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
    let runs = wal::list(archive, stretch, 0, size, patience).await?;
    let last = runs
        .last()
        .and_then(|run| SegmentName::from_number(timeline, run.last, size));
    Ok(Branch {
        timeline,
        forked,
        last,
        newest: runs.iter().map(|run| run.newest).max(),
    })
}

impl fmt::Display for Branch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "timeline {}", self.timeline)?;
        if let Some((parent, fork)) = self.forked {
            write!(out, ", forked from timeline {parent} at {fork}")?;
        }
        match self.last {
            Some(last) => write!(out, ", archived up to {last}")?,
            None => out.write_str(", with no segment of its own")?,
        }
        let newest = self.newest.and_then(|time| jiff::Timestamp::try_from(time).ok());
        newest.map_or(Ok(()), |time| write!(out, ", the newest at {time:.0}"))
    }
}
