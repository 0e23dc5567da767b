//! Archived WAL, looked at while it is proved: does it belong under its name, does each page where it lies, and is each record
//! what was written?

use std::sync::{Arc, Mutex};

use crate::archive::{Archive, Error};
use crate::job::proof::Look;
use crate::job::restore::way::Way;
use crate::pg::extent::{Extent, Extents, Proved};
use crate::pg::wal_index::{Stop, Walked};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, SystemId, WalName};
use crate::read::wal_index::{Indexed, WalIndexReader};
use crate::store::Patience;

/// First byte of the pages of a server whose machine puts the highest byte first: nothing more is known of these.
const BIG_ENDIAN: u8 = 0xD1;

/// Length of the pages of which records are known.
const PAGE_BYTES: u64 = 8192;

/// What the content of an archived file says of itself.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Why it belongs elsewhere.
    pub(super) misplaced: Option<String>,
    /// The cluster that wrote it.
    pub(super) system_id: Option<SystemId>,
    extents: Option<Extents>,
    block_bytes: usize,
}

/// Looks at the content of a file as it comes.
pub(super) fn look(
    archive: &Arc<Archive>,
    name: WalName,
    size: Option<SegmentSize>,
) -> (Arc<Look>, Arc<Mutex<Seen>>) {
    let seen = Arc::<Mutex<Seen>>::default();
    let (archive, noted) = (archive.clone(), seen.clone());
    let look = move |offset: u64, content: &[u8]| {
        let mut seen = noted.lock().expect("no panic while held");
        if offset == 0 {
            *seen = Seen::begin(&archive, (name, size), content);
        }
        let Seen {
            extents, block_bytes, ..
        } = &mut *seen;
        if let Some(extents) = extents {
            content.chunks(*block_bytes).for_each(|page| extents.add(page));
        }
    };
    (Arc::new(look), seen)
}

impl Seen {
    fn begin(archive: &Archive, (name, size): (WalName, Option<SegmentSize>), content: &[u8]) -> Self {
        let misplaced = match archive.check_place(name, content) {
            Err(Error::Misplaced { reason, .. }) => Some(reason),
            _ => None,
        };
        let header = PageHeader::parse(content).ok().filter(|_| name.has_pages());
        // What is behind the end of an unfinished segment is of whatever segment the file was before.
        let extents = match (name, size, header) {
            (WalName::Segment(segment), Some(size), Some(header)) if content.first() != Some(&BIG_ENDIAN) => {
                Extents::new(segment.start(size), header)
            }
            _ => None,
        };
        Self {
            misplaced,
            system_id: header.map(|header| header.system_id),
            block_bytes: header.map_or(1, |header| header.block_bytes as usize),
            extents,
        }
    }

    /// What its pages show; `None`: it is no segment.
    pub(super) fn proved(&mut self) -> Option<Proved> {
        self.extents.take().map(Extents::proved)
    }
}

/// Why recovery ends in a segment, and where, if its pages show that. One that is only begun is fine unless it `is_followed`.
pub(super) fn obstacle(proved: &Proved, is_followed: bool) -> Option<(String, Lsn)> {
    let obstacle = match proved.extent {
        Extent::Begun(at) => match (proved.is_damaged(), proved.has_others, is_followed) {
            (true, ..) => format!("at byte {at} it has a damaged record"),
            (false, true, _) => {
                format!("its WAL ends at byte {at}, and what lies behind that is another segment's, or none")
            }
            (false, false, true) => format!("its WAL ends at byte {at}, and the segment behind it is there"),
            (false, false, false) => return None,
        },
        extent => extent.obstacle()?,
    };
    Some((format!("{obstacle}: recovery ends there"), proved.ends()?))
}

/// Why the first segment of a timeline on a way is not its own, and from where on: behind the place where the timeline began each
/// page is of that.
pub(super) fn is_not_own(segment: SegmentName, walked: &Walked, way: &Way) -> Option<(String, Lsn)> {
    let (parent, fork) = way.fork()?;
    let page = fork.0.checked_next_multiple_of(PAGE_BYTES)?;
    let last = walked.timelines.1;
    let is_wrong = walked.end.0 > page && last != segment.timeline;
    let reason = format!(
        "its pages behind {fork}, where timeline {} left timeline {parent}, are of timeline {last}: recovery ends there",
        segment.timeline
    );
    is_wrong.then_some((reason, fork))
}

/// How segments follow each other.
#[derive(Debug)]
pub(super) struct Followed {
    reader: WalIndexReader,
    size: SegmentSize,
    patience: Patience,
}

impl Followed {
    pub(super) fn new(archive: &Arc<Archive>, size: SegmentSize, patience: Patience) -> Self {
        Self {
            reader: WalIndexReader::new(archive.clone()),
            size,
            patience,
        }
    }

    /// Is the next segment of the same timeline archived?
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn is_followed(&self, segment: SegmentName) -> Result<bool, Error> {
        let number = segment.number(self.size) + 1;
        let Some(next) = SegmentName::from_number(segment.timeline, number, self.size) else {
            return Ok(false);
        };
        match self.reader.stored(next, self.size, self.patience).await {
            Ok(Indexed::Absent) => Ok(false),
            Ok(_) | Err(Error::Damaged { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Behind which position no whole record goes on into the segments of the same timeline that follow this one, although they
    /// are archived.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn leads_nowhere(
        &self,
        segment: SegmentName,
        walked: &Walked,
    ) -> Result<Option<Lsn>, Error> {
        let Some(mut walked) = Some(walked).filter(|walked| walked.stop == Stop::Window).cloned() else {
            return Ok(None);
        };
        let mut number = segment.number(self.size);
        loop {
            number += 1;
            let next = SegmentName::from_number(segment.timeline, number, self.size);
            let Some(index) = self.index(next).await? else {
                return Ok(None);
            };
            let end = walked.end;
            match walked.leads_to(&index) {
                Some(both) if index.passes() => walked = both,
                Some(_) => return Ok(None),
                None => return Ok(Some(end)),
            }
        }
    }

    /// Behind which position no whole record goes on into a segment, from what comes before it on a way and is archived.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(super) async fn comes_from_nowhere(
        &self,
        segment: SegmentName,
        (walked, way): (&Walked, &Way),
    ) -> Result<Option<Lsn>, Error> {
        let mut before: Vec<Walked> = Vec::new();
        // All of a segment may be some more of a record that began before; no record is longer than this.
        let most = u64::from(u32::MAX) / self.size.bytes() + 2;
        let mut numbers = (0..segment.number(self.size)).rev().take(most as usize);
        while before.last().is_none_or(Walked::passes) {
            let name = numbers.next().and_then(|number| way.segment(number, self.size));
            match self.index(name).await? {
                Some(index) => before.push(index),
                None => return Ok(None),
            }
        }
        let Some(mut leading) = before.pop().filter(|walked| walked.stop == Stop::Window) else {
            return Ok(None);
        };
        for next in before.iter().rev().chain([walked]) {
            let end = leading.end;
            match leading.leads_to(next) {
                Some(both) => leading = both,
                None => return Ok(Some(end)),
            }
        }
        Ok(None)
    }

    /// Where the records of a segment begin and end, if it is archived and has an index. What is wrong with it is found there.
    async fn index(&self, segment: Option<SegmentName>) -> Result<Option<Walked>, Error> {
        let Some(segment) = segment else {
            return Ok(None);
        };
        match self.reader.stored(segment, self.size, self.patience).await {
            Ok(Indexed::With(index)) => Ok(Some(index.walked)),
            Ok(Indexed::Absent | Indexed::Without(_)) | Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
