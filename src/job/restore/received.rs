//! WAL behind the last whole segment: what `pg_receivewal` has kept of the one that it was receiving, or a promoted server
//! has archived of it as `.partial`.
//!
//! PostgreSQL does not ask an archive for it. So it is put into `pg_wal` under its segment's name, as long as a segment,
//! with zeros behind the WAL: recovery takes it when the archive has no more, and ends where the WAL in it ends. Should the
//! whole segment be archived after all, recovery takes that.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::begun;
use super::error::Error;
use super::finish::Access;
use super::spot::{Roots, Spot};
use super::target::Target;
use super::unarchived::wal_bytes;
use super::wal::Reach;
use super::way::Way;
use crate::archive::wal::Torn;
use crate::archive::{self, Archive};
use crate::beneath::Root;
use crate::codec::FRAME_BYTES;
use crate::long_write;
use crate::pg::record::Head;
use crate::pg::wal_index::{WalIndex, Walks};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, WalName};
use crate::staging::Draft;
use crate::store::Patience;

/// Bytes of it that are looked at together.
pub(super) const READ_BYTES: usize = 4 * FRAME_BYTES;

/// The beginning of a segment that is not archived.
#[derive(Debug)]
pub(in crate::job) struct Rest {
    pub segment: SegmentName,
    /// Where the WAL in it may end at the latest.
    pub end: Lsn,
    /// What was received of it and does not follow that.
    pub torn: Option<Torn>,
    filled_bytes: u64,
    /// Is something else of it archived, or received, as well?
    differs: bool,
    content: Mutex<Draft>,
}

/// Looks for what there is of the segment behind the last one.
///
/// # Errors
/// [`Error::Archive`]: it is damaged, or the store does not answer.
pub(super) async fn find(
    archive: &Arc<Archive>,
    (way, reach): (&Way, &Reach),
    target: &Target,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Rest>, Error> {
    let is_needed = match target {
        Target::Immediate => false,
        Target::Lsn(lsn) => *lsn > reach.end,
        _ => true,
    };
    let (Some(segment), true) = (reach.next, is_needed) else {
        return Ok(None);
    };
    let rest = behind(archive, way, segment.number(size), (size, patience)).await?;
    Ok(rest.filter(|rest| rest.end > reach.end || rest.torn.is_some()))
}

/// What there is of the segment with this number, which is not archived: of the timelines that the way goes through in it the
/// one of which there is most. Of a timeline that is left there only what lies before that counts.
///
/// # Errors
/// [`archive::Error`]: it is damaged, or the store does not answer.
pub(in crate::job) async fn behind(
    archive: &Arc<Archive>,
    way: &Way,
    number: u64,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Rest>, archive::Error> {
    let mut furthest: Option<Rest> = None;
    for stretch in way
        .stretches()
        .iter()
        .rev()
        .filter(|stretch| stretch.is_in(number, size))
    {
        let Some(segment) = SegmentName::from_number(stretch.timeline, number, size) else {
            continue;
        };
        let Some(begun) = begun::load(archive, segment, patience).await? else {
            continue;
        };
        let start = segment.start(size).0;
        let left_at = stretch.end.map_or(u64::MAX, |end| end.0 - start);
        let filled_bytes = begun.filled_bytes.min(left_at);
        let rest = Rest {
            segment,
            end: Lsn(start + filled_bytes),
            torn: begun.torn.filter(|torn| torn.from < left_at),
            filled_bytes,
            differs: begun.differs,
            content: Mutex::new(begun.content),
        };
        if furthest.as_ref().is_none_or(|found| found.end < rest.end) {
            furthest = Some(rest);
        }
    }
    Ok(furthest)
}

/// Segments that are compared, and named.
const MOST_SEGMENTS: usize = 1000;

/// What the operator should know of WAL that was received, and that recovery does not replay: its commits were acknowledged.
///
/// # Errors
/// As [`find`].
pub(super) async fn warnings(
    archive: &Archive,
    start: Lsn,
    rest: Option<&Rest>,
    (size, patience): (SegmentSize, Patience),
) -> Result<Vec<String>, Error> {
    let received = archive.received_segments(patience).await?.into_keys();
    let received = received.filter(|segment| segment.number(size) >= start.0 / size.bytes());
    let mut warnings = Vec::new();
    for segment in received.take(MOST_SEGMENTS) {
        if let Some(bytes) = archive.received_otherwise(segment, patience).await? {
            warnings.push(format!(
                "{segment} is archived with other content than pg_receivewal brought of it, {bytes} bytes: another server \
                 has archived it. What was committed in these bytes, and acknowledged, is not restored.\n\
                 HINT: they stay in receiving/ of the archive; docs/format.md says how to put them together"
            ));
        }
    }
    warnings.extend(rest.filter(|rest| rest.differs).map(|rest| {
        format!(
            "of {0} pg_receivewal brought other WAL than is archived as {0}.partial: the longer one of the two is restored.\n\
             HINT: both stay in the archive; docs/format.md says how to put together what was received",
            rest.segment
        )
    }));
    Ok(warnings)
}

impl Rest {
    /// What the records say that it has whole; `None` if it is no WAL that is known.
    ///
    /// # Errors
    /// [`archive::Error::Staging`].
    pub(in crate::job) async fn index(&self, size: SegmentSize) -> Result<Option<WalIndex>, archive::Error> {
        let mut parts = Vec::new();
        self.each_frame(|frame| parts.push(WalIndex::of(frame))).await?;
        Ok(WalIndex::join(parts.iter().map(Option::as_ref), size.bytes()))
    }

    /// Shows each record that it has whole, in no order.
    ///
    /// # Errors
    /// [`archive::Error::Staging`].
    pub(in crate::job) async fn visit(&self, visit: impl FnMut(Lsn, Head<'_>)) -> Result<(), archive::Error> {
        let mut walks = Walks::new(visit);
        self.each_frame(|frame| walks.go_on(frame)).await
    }

    /// As far as it was received.
    async fn each_frame(&self, mut take: impl FnMut(&[u8])) -> Result<(), archive::Error> {
        let filled_bytes = self.filled_bytes;
        let mut content = self.content.lock().await;
        for at in (0..filled_bytes).step_by(FRAME_BYTES) {
            let left = (filled_bytes - at).min(FRAME_BYTES as u64) as usize;
            // Not even a page's header.
            if left < PageHeader::BYTES {
                break;
            }
            let read = content.read(at, left).await;
            take(&read.map_err(|error| archive::Error::staging(WalName::Partial(self.segment), &error))?);
        }
        Ok(())
    }

    /// Puts it in its place. A file of that name, which the backup has brought or which was left there, goes if this begins
    /// with its WAL; otherwise it stays, and why is returned unless it has more.
    ///
    /// # Errors
    /// [`Error::System`].
    pub(super) async fn bring(&self, roots: &Roots, access: Access) -> Result<Option<String>, Error> {
        if self.filled_bytes == 0 {
            return Ok(None);
        }
        let spot = roots.bases.spot(format!("pg_wal/{}", self.segment).as_bytes());
        if roots.on("look at", &spot, Root::kind)?.is_some() {
            let own_bytes = roots.on("read", &spot, |root, below| wal_bytes(root.open_file(below)?))?;
            let (common, mut content) = (own_bytes.min(self.filled_bytes), self.content.lock().await);
            match is_in(&mut content, roots, &spot, common).await? {
                false => {
                    return Ok(Some(format!(
                        "the archive has other WAL of the beginning of {} than {} has: what the archive has is not restored.\n\
                         HINT: it stays there, as .partial or in receiving/; docs/format.md says how to put that together",
                        self.segment,
                        roots.bases.path(&spot).display()
                    )));
                }
                true if own_bytes >= self.filled_bytes => return Ok(None),
                true => {}
            }
        }
        // Under its name it is whole, or not there: who goes on after a kill would not know it for his own.
        let passing = roots
            .bases
            .spot(format!("pg_wal/.{}.walfs", self.segment).as_bytes());
        let file = roots.on("write", &passing, |root, below| root.create(below, access.file()))?;
        let written = self.write(&file).await;
        written.map_err(Error::at("write", &roots.bases.path(&passing)))?;
        roots.on("rename", &passing, |root, below| {
            root.rename(below, &below.with_file_name(self.segment.to_string()))
        })?;
        Ok(None)
    }

    async fn write(&self, file: &File) -> std::io::Result<()> {
        let mut content = self.content.lock().await;
        let mut at = 0;
        while at < self.filled_bytes {
            let wanted = FRAME_BYTES.min((self.filled_bytes - at) as usize);
            let piece = content.read(at, wanted).await?;
            if piece.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            long_write::write_all(file, &piece)?;
            at += piece.len() as u64;
        }
        file.set_len(content.bytes())?;
        file.sync_all()
    }
}

/// Are so many first bytes of a file the first ones of this, which has as many?
///
/// # Errors
/// [`Error::System`].
pub(super) async fn is_in(
    content: &mut Draft,
    roots: &Roots,
    spot: &Spot,
    bytes: u64,
) -> Result<bool, Error> {
    let path = roots.bases.path(spot);
    let mut at = 0;
    while at < bytes {
        let wanted = FRAME_BYTES.min((bytes - at) as usize);
        let piece = content
            .read(at, wanted)
            .await
            .map_err(Error::at("compare", &path))?;
        let is_same = roots.on("read", spot, |root, below| {
            let mut here = vec![0; piece.len()];
            root.open_file(below)?.read_exact_at(&mut here, at)?;
            Ok(here == piece)
        })?;
        if !is_same || piece.is_empty() {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}
