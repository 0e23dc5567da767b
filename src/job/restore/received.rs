//! WAL behind the last whole segment: what `pg_receivewal` has kept of the one that it was receiving.
//!
//! PostgreSQL does not ask an archive for it. So it is put into `pg_wal` under its segment's name, as long as a segment,
//! with zeros behind what was received: recovery takes it when the archive has no more, and ends where the WAL in it
//! ends. Should the whole segment be archived after all, recovery takes that.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::error::Error;
use super::finish::Access;
use super::spot::{Roots, Spot};
use super::target::Target;
use super::unarchived::wal_bytes;
use super::wal::Reach;
use super::way::Way;
use crate::archive::{self, Archive};
use crate::beneath::Root;
use crate::codec::FRAME_BYTES;
use crate::long_write;
use crate::pg::record::Head;
use crate::pg::wal_index::{WalIndex, Walks};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, WalName};
use crate::staging::received::Received;
use crate::staging::{self, Draft, Staging};
use crate::store::Patience;

/// The beginning of a segment that is not archived.
#[derive(Debug)]
pub(in crate::job) struct Rest {
    pub segment: SegmentName,
    /// Where the WAL in it may end at the latest.
    pub end: Lsn,
    filled_bytes: u64,
    content: Mutex<Draft>,
}

/// Looks for what was received behind the last segment.
///
/// # Errors
/// [`Error::Archive`]: it is damaged, or the store does not answer.
pub(super) async fn find(
    archive: &Arc<Archive>,
    reach: &Reach,
    target: &Target,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Rest>, Error> {
    let is_needed = match target {
        Target::Immediate => false,
        Target::Lsn(lsn) => *lsn > reach.end,
        _ => true,
    };
    let (Some(segment), None, true) = (reach.next, reach.gap, is_needed) else {
        return Ok(None);
    };
    let rest = rest(archive, segment, size, patience).await?;
    Ok(rest.filter(|rest| rest.end > reach.end))
}

/// What was received of a segment, if it is more than nothing.
///
/// # Errors
/// [`archive::Error`]: it is damaged, or the store does not answer.
pub(in crate::job) async fn rest(
    archive: &Arc<Archive>,
    segment: SegmentName,
    size: SegmentSize,
    patience: Patience,
) -> Result<Option<Rest>, archive::Error> {
    let received = load(archive, segment, patience).await?;
    Ok(received.map(|received| Rest {
        segment,
        end: Lsn(segment.start(size).0 + received.filled_bytes()),
        filled_bytes: received.filled_bytes(),
        content: Mutex::new(received.into_draft()),
    }))
}

/// What the operator should know of WAL that was received, and that recovery does not replay: its commits were acknowledged.
///
/// # Errors
/// As [`find`].
pub(super) async fn warnings(
    archive: &Archive,
    way: &Way,
    (start, reach): (Lsn, &Reach),
    size: SegmentSize,
    patience: Patience,
) -> Result<Vec<String>, Error> {
    let received = archive.received_segments(patience).await?;
    let mut warnings = Vec::new();
    for segment in received
        .iter()
        .filter(|segment| segment.number(size) >= start.0 / size.bytes())
    {
        if let Some(bytes) = archive.received_otherwise(*segment, patience).await? {
            warnings.push(format!(
                "{segment} is archived with other content than pg_receivewal brought of it, {bytes} bytes: another server \
                 has archived it. What was committed in these bytes, and acknowledged, is not restored.\n\
                 HINT: they stay in receiving/ of the archive; docs/format.md says how to put them together"
            ));
        }
    }
    warnings.extend(before_fork(archive, way, reach, &received, (size, patience)).await?);
    Ok(warnings)
}

/// A timeline began in a segment that is not archived: the beginning of that one, before the fork, may be there as its
/// parent's only.
async fn before_fork(
    archive: &Archive,
    way: &Way,
    reach: &Reach,
    received: &BTreeSet<SegmentName>,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<String>, Error> {
    let (Some(next), Some((parent, fork))) = (reach.next, way.fork()) else {
        return Ok(None);
    };
    let number = next.number(size);
    if next.timeline != way.timeline() || number != fork.0 / size.bytes() {
        return Ok(None);
    }
    let Some(segment) = SegmentName::from_number(parent, number, size) else {
        return Ok(None);
    };
    let partial = archive.wal_meta(WalName::Partial(segment), patience).await?;
    let what = match (received.contains(&segment), partial) {
        (true, _) => "pg_receivewal has brought the beginning of",
        (false, Some(_)) => "the archive has the beginning, .partial, of",
        (false, None) => return Ok(None),
    };
    Ok(Some(format!(
        "timeline {} began at {fork}, in {next}, which is not archived: what timeline {parent} committed between {} and \
         {fork} is not restored, although {what} {segment}.\n\
         HINT: --target-timeline {parent} restores what was received of it; a .partial is put into pg_wal by hand, as \
         {segment}, before the server is started",
        next.timeline, reach.end
    )))
}

/// What was received of a segment, if it is more than nothing.
///
/// # Errors
/// As [`find`].
pub(super) async fn load(
    archive: &Arc<Archive>,
    segment: SegmentName,
    patience: Patience,
) -> Result<Option<Received>, archive::Error> {
    let staging = Staging::new(
        archive.compression(),
        &staging::Options {
            memory: archive.memory().clone(),
            ..Default::default()
        },
    );
    let deadline = archive::DEFAULT_DEADLINE;
    let received = Received::load(archive, &staging, segment, deadline, patience).await?;
    Ok(received.filter(|received| received.filled_bytes() > 0))
}

impl Rest {
    /// What the records say that it has whole; `None` if it is no WAL that is known.
    ///
    /// # Errors
    /// [`archive::Error::Staging`].
    pub(in crate::job) async fn index(&self, size: SegmentSize) -> Result<Option<WalIndex>, archive::Error> {
        let mut parts = Vec::new();
        self.each_frame(size, |frame| parts.push(WalIndex::of(frame)))
            .await?;
        Ok(WalIndex::join(parts.iter().map(Option::as_ref), size.bytes()))
    }

    /// Shows each record that it has whole, in no order.
    ///
    /// # Errors
    /// [`archive::Error::Staging`].
    pub(in crate::job) async fn visit(
        &self,
        size: SegmentSize,
        visit: impl FnMut(Lsn, Head<'_>),
    ) -> Result<(), archive::Error> {
        let mut walks = Walks::new(visit);
        self.each_frame(size, |frame| walks.go_on(frame)).await
    }

    /// As far as it was received.
    async fn each_frame(&self, size: SegmentSize, mut take: impl FnMut(&[u8])) -> Result<(), archive::Error> {
        let filled_bytes = self.end.0 - self.segment.start(size).0;
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
        let spot = roots.bases.spot(format!("pg_wal/{}", self.segment).as_bytes());
        if roots.on("look at", &spot, Root::kind)?.is_some() {
            let own_bytes = roots.on("read", &spot, |root, below| wal_bytes(root.open_file(below)?))?;
            let (common, mut content) = (own_bytes.min(self.filled_bytes), self.content.lock().await);
            match is_in(&mut content, roots, &spot, common).await? {
                false => {
                    return Ok(Some(format!(
                        "pg_receivewal brought other WAL of {} than {} has: what it brought is not restored.\n\
                         HINT: it stays in receiving/ of the archive; docs/format.md says how to put it together",
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
        while at < content.bytes() {
            let piece = content.read(at, FRAME_BYTES).await?;
            long_write::write_all(file, &piece)?;
            at += piece.len() as u64;
        }
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
