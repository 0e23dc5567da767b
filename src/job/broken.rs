//! Archived segments in which recovery ends although more WAL lies behind: a page or a record of it was lost before it was
//! archived, or the object is damaged (promises R6, K5).
//!
//! The index of a segment tells where its records end, for one request, and those of two whether the record between them is
//! whole; what `walfs verify` remembers tells of damage that an
//! index does not know. Nothing rests on either alone: the segment itself is read and its pages and records are looked at, of
//! `MOST_READS` segments at most. A segment without an index is looked at if one before it has one, or `verify` has found something. Of what leads
//! on the archive's handle keeps note, as nothing archived changes.

use std::iter;
use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::{StreamExt, stream};

use crate::archive::{Archive, Error};
use crate::pg::extent::Extent;
use crate::pg::wal_index::Walked;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalName};
use crate::read::wal_index::{Indexed, WalIndexReader};
use crate::store::Patience;

/// Indexes read at once.
const LOOKS: usize = 16;

/// Segments that are read, of those in which something seems wrong.
const MOST_READS: usize = 64;

/// A segment that does not lead on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct Broken {
    pub segment: SegmentName,
    /// Where recovery ends, or before.
    pub at: Lsn,
    pub fault: Fault,
}

/// Why it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Of the page at this byte, behind which there is more of its WAL.
    Page(u64),
    /// Of the record at this byte, behind which there is more of its WAL.
    Record(u64),
    /// Of the record that ends in the next one: it does not go on there, or is not what was written.
    Across(Lsn),
    /// Its WAL ends at this byte, without the record of a switch.
    Short(u64),
    /// Its object cannot be read.
    Damaged,
}

impl Fault {
    /// Says it of a segment.
    pub fn of(self, segment: SegmentName) -> String {
        match self {
            Self::Page(at) => format!("{segment} has a hole: its page at byte {at} is empty or another's"),
            Self::Record(at) => format!("{segment} has a damaged record, or none, at byte {at}"),
            Self::Across(at) => {
                format!(
                    "{segment} does not lead on: no whole record goes on from {at} into the segment behind it"
                )
            }
            Self::Short(at) => {
                format!("{segment} is only begun: its WAL ends at byte {at}")
            }
            Self::Damaged => format!("{segment} is damaged, and cannot be read"),
        }
    }
}

/// What an index tells.
struct Looked {
    segment: SegmentName,
    /// What its index says.
    walked: Option<Walked>,
    /// It is there, and has none.
    is_unindexed: bool,
    is_damaged: bool,
}

impl Looked {
    /// Where the records end, if that is before the segment does.
    fn ends(&self) -> Option<Lsn> {
        self.walked.as_ref()?.ends_early()
    }
}

/// The first of these segments, in the order of the WAL, that does not lead on. The last one may be only begun, unless it
/// `is_followed`, or ends before what it must reach.
///
/// # Errors
/// [`Error::Store`].
pub(in crate::job) async fn first(
    archive: &Arc<Archive>,
    runs: &[(Timeline, RangeInclusive<u64>)],
    (is_followed, must_reach): (bool, Lsn),
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Broken>, Error> {
    let Some(last) = runs.last().map(|(_, run)| *run.end()) else {
        return Ok(None);
    };
    let (reader, remembered) = (
        WalIndexReader::new(archive.clone()),
        archive.found_damaged(patience).await?,
    );
    let mut names = (runs.iter().cloned())
        .flat_map(move |(timeline, run)| {
            run.filter_map(move |number| SegmentName::from_number(timeline, number, size))
        })
        .peekable();
    let names = iter::from_fn(move || Some((names.next()?, names.peek().copied())));
    let mut looks = stream::iter(names)
        .map(|(segment, next)| look(archive, &reader, (segment, next), (size, patience)))
        .buffered(LOOKS);
    let (mut reads, mut has_indexes) = (MOST_READS, false);
    let mut behind: Option<(SegmentName, Walked)> = None;
    while let Some(looked) = looks.next().await {
        let mut looked = looked?;
        let key = archive.wal_key(WalName::Segment(looked.segment));
        // One alone without an index is not as the others are.
        has_indexes |= looked.walked.is_some();
        let is_suspect = looked.ends().is_some()
            || looked.is_damaged
            || looked.is_unindexed && has_indexes
            || remembered.contains(key.as_str());
        // Of what lies in between a run may lack some.
        let before = behind
            .take()
            .filter(|(segment, _)| segment.number(size) + 1 == looked.segment.number(size));
        if let (Some((segment, walked)), Some(own)) = (before, &mut looked.walked) {
            let at = walked.end;
            match walked.leads_to(own) {
                Some(both) if own.passes() => *own = both,
                Some(_) if segment.timeline == looked.segment.timeline => archive.leads_on(segment, size),
                Some(_) => {}
                None => {
                    let fault = Fault::Across(at);
                    return Ok(Some(Broken { segment, at, fault }));
                }
            }
        }
        if !is_suspect {
            let Looked { segment, walked, .. } = looked;
            behind = walked.map(|walked| (segment, walked));
            continue;
        }
        if reads == 0 {
            break;
        }
        reads -= 1;
        let Some(broken) = read(&reader, looked.segment, (size, patience)).await? else {
            // By itself it is whole. What `verify` has found may lie across its end.
            let Looked { segment, walked, .. } = looked;
            let leads = walked.filter(|walked| walked.ends_early().is_none());
            behind = leads.map(|walked| (segment, walked));
            continue;
        };
        let may_be_begun = looked.segment.number(size) == last && !is_followed;
        if !may_be_begun || broken.at < must_reach || !matches!(broken.fault, Fault::Short(_)) {
            return Ok(Some(broken));
        }
    }
    Ok(None)
}

async fn look(
    archive: &Archive,
    reader: &WalIndexReader,
    (segment, next): (SegmentName, Option<SegmentName>),
    (size, patience): (SegmentSize, Patience),
) -> Result<Looked, Error> {
    let mut looked = Looked {
        segment,
        walked: None,
        is_unindexed: false,
        is_damaged: false,
    };
    // That is known of the segment behind it on its own timeline.
    if next.is_some_and(|next| next.timeline == segment.timeline) && archive.is_leading_on(segment, size) {
        return Ok(looked);
    }
    match reader.stored(segment, size, patience).await {
        Ok(Indexed::With(index)) => looked.walked = Some(index.walked),
        Ok(Indexed::Without(_)) => looked.is_unindexed = true,
        // It may be in the backup.
        Ok(Indexed::Absent) => {}
        Err(Error::Damaged { .. }) => looked.is_damaged = true,
        Err(error) => return Err(error),
    }
    Ok(looked)
}

/// What its pages say.
async fn read(
    reader: &WalIndexReader,
    segment: SegmentName,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Broken>, Error> {
    let (fault, at) = match reader.proved(segment, size, patience).await {
        Ok(None) => return Ok(None),
        Ok(Some(proved)) => match (proved.extent, proved.ends()) {
            (Extent::Whole, _) | (_, None) => return Ok(None),
            (Extent::Holed(at), Some(ends)) => (Fault::Page(at), ends),
            (Extent::Broken(at), Some(ends)) => (Fault::Record(at), ends),
            (Extent::Begun(at), Some(ends)) => (Fault::Short(at), ends),
        },
        Err(Error::Damaged { .. }) => (Fault::Damaged, segment.start(size)),
        Err(error) => return Err(error),
    };
    Ok(Some(Broken { segment, at, fault }))
}
