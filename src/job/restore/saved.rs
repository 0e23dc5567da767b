//! WAL that stays in `pg_wal` is archived before the server that takes over replays it (promise S7).
//!
//! PostgreSQL removes or recycles it when the recovery ends, with its `.ready` marks: in an archive recovery it takes all
//! segments for archived (`XLogArchiveCheckDone`). Only of the one in which the recovery ends it archives the beginning, as
//! `.partial`. So what is whole comes into the archive from here; that beginning does not.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::error::Error;
use super::spot::Roots;
use super::unarchived::each_page;
use crate::archive::{self, Archive};
use crate::beneath::Root;
use crate::pg::extent::{Extent, Extents};
use crate::pg::{PageHeader, SegmentName, SegmentSize, WalName};
use crate::staging::wal::WalDraft;
use crate::staging::{self, Staging};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Which of the WAL that stays is whole. A mark, or the next segment beside it, here or in the archive, says nothing of that: a
/// server may have begun it only, and one that is damaged is not passed on.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn whole(roots: &Roots, kept: &[WalName], size: SegmentSize) -> Result<Vec<SegmentName>, Error> {
    let mut whole = Vec::new();
    for name in kept {
        if let WalName::Segment(segment) = *name
            && extent(roots, segment, size)? == Extent::Whole
        {
            whole.push(segment);
        }
    }
    Ok(whole)
}

/// How much of a segment in `pg_wal` is there?
///
/// # Errors
/// A file that cannot be read.
pub(super) fn extent(roots: &Roots, segment: SegmentName, size: SegmentSize) -> Result<Extent, Error> {
    let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
    let bytes = roots.metadata(&spot)?.map_or(0, |found| found.size());
    if bytes != size.bytes() {
        return Ok(Extent::Begun(0));
    }
    let begin = |header: PageHeader| Extents::new(segment.start(size), header);
    let add = |extents: &mut Option<Extents>, page: &[u8]| extents.iter_mut().for_each(|own| own.add(page));
    let look = |root: &Root, below: &Path| each_page(root.open_file(below)?, begin, add);
    let extents = roots.on("read", &spot, look)?.flatten();
    // What has pages of its own, and another's first one or none, has lost that.
    Ok(extents.map_or(Extent::Holed(0), |extents| extents.proved().extent))
}

/// What the operator should know of them, if the server that is restored archives nothing.
pub(super) fn warning(whole: &[SegmentName]) -> Option<String> {
    let (first, last) = (whole.first()?, whole.last()?);
    Some(format!(
        "{} segments of WAL, {first} to {last}, are only in pg_wal, and the server that is restored here does not archive: it \
         removes them once they are replayed.\n\
         HINT: if the archive shall have them, archive each by `walfs wal-push` before the server starts; with --take-over \
         walfs restore does so",
        whole.len()
    ))
}

/// Archives segments, in the order of the WAL, as `walfs wal-push` does.
///
/// # Errors
/// [`Error::KeptWalNotArchived`]: which one; those before it are archived.
pub(super) async fn archive(
    archive: &Arc<Archive>,
    roots: &Roots,
    segments: &[SegmentName],
) -> Result<(), Error> {
    let options = staging::Options {
        memory: archive.memory().clone(),
        ..Default::default()
    };
    let staging = Staging::new(archive.compression(), &options);
    for segment in segments {
        let name = WalName::Segment(*segment);
        let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
        let failed = |source| Error::KeptWalNotArchived {
            path: roots.bases.path(&spot),
            source,
        };
        let mut file = roots.on("read", &spot, |root, below| root.open_file(below))?;
        let (mut draft, mut buffer) = (staging.draft(), vec![0; READ_BYTES]);
        loop {
            let read = file.read(&mut buffer);
            let bytes = read.map_err(Error::at("read", &roots.bases.path(&spot)))?;
            if bytes == 0 {
                break;
            }
            let put = draft.write(draft.bytes(), &buffer[..bytes]).await;
            put.map_err(|error| failed(Arc::new(archive::Error::staging(name, &error))))?;
        }
        let mut draft = WalDraft::adopt(archive.clone(), draft, name, archive::DEFAULT_DEADLINE);
        draft.finish().await.map_err(failed)?;
        if let Some(fork) = draft.fork() {
            tracing::warn!("{fork}");
        }
    }
    Ok(())
}
