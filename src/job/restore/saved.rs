//! WAL that stays in `pg_wal` is archived before the server that takes over replays it (promise S7).
//!
//! PostgreSQL removes or recycles it when the recovery ends, with its `.ready` marks: in an archive recovery it takes all
//! segments for archived (`XLogArchiveCheckDone`). Only of the one in which the recovery ends it archives the beginning, as
//! `.partial`. So what is whole comes into the archive from here; that beginning does not.

use std::io::Read;
use std::sync::Arc;

use super::error::Error;
use super::spot::Roots;
use super::unarchived::wal_bytes;
use crate::archive::{self, Archive};
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::staging::wal::WalDraft;
use crate::staging::{self, Staging};
use crate::store::Patience;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Which of the WAL that stays is whole: what waits for the archiver, is full, or has a successor.
///
/// # Errors
/// Files that cannot be read; [`Error::Archive`].
pub(super) async fn whole(
    archive: &Archive,
    roots: &Roots,
    kept: &[WalName],
    (size, patience): (SegmentSize, Patience),
) -> Result<Vec<SegmentName>, Error> {
    let mut whole = Vec::new();
    for name in kept {
        let WalName::Segment(segment) = *name else {
            continue;
        };
        let mark = format!("pg_wal/archive_status/{segment}.ready");
        let is_ready = roots.kind(&roots.bases.spot(mark.as_bytes()))?.is_some();
        if is_ready
            || is_full(roots, segment, size)?
            || has_successor(archive, kept, segment, (size, patience)).await?
        {
            whole.push(segment);
        }
    }
    Ok(whole)
}

fn is_full(roots: &Roots, segment: SegmentName, size: SegmentSize) -> Result<bool, Error> {
    let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
    let bytes = roots.on("read", &spot, |root, below| wal_bytes(root.open_file(below)?))?;
    Ok(bytes == size.bytes())
}

async fn has_successor(
    archive: &Archive,
    kept: &[WalName],
    segment: SegmentName,
    (size, patience): (SegmentSize, Patience),
) -> Result<bool, Error> {
    let next = SegmentName::from_number(segment.timeline, segment.number(size) + 1, size);
    let Some(next) = next.map(WalName::Segment) else {
        return Ok(false);
    };
    Ok(kept.contains(&next) || archive.wal_meta(next, patience).await?.is_some())
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
