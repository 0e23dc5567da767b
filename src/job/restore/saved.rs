//! WAL that stays in `pg_wal` is archived before the server that takes over replays it (promise S7).
//!
//! PostgreSQL removes or recycles it when the recovery ends, with its `.ready` marks: in an archive recovery it takes all
//! segments for archived (`XLogArchiveCheckDone`). Only of the one in which the recovery ends it archives the beginning, as
//! `.partial`. So what is whole comes into the archive from here; that beginning does not.

use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::error::Error;
use super::spot::Roots;
use crate::archive::{self, Archive};
use crate::pg::{SegmentName, SegmentSize, WalEnd, WalName};
use crate::staging::wal::WalDraft;
use crate::staging::{self, Staging};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Which of the WAL that stays is whole. A mark for the archiver, or a later segment beside it, says that the server had it
/// whole, and nothing of this copy.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn whole(roots: &Roots, kept: &[WalName], size: SegmentSize) -> Result<Vec<SegmentName>, Error> {
    let mut whole = Vec::new();
    for name in kept {
        if let WalName::Segment(segment) = *name
            && is_complete(roots, segment, size)?
        {
            whole.push(segment);
        }
    }
    Ok(whole)
}

/// What the operator should know of those that the server had whole, by its mark for the archiver, and that are not.
///
/// # Errors
/// Marks that cannot be looked for.
pub(super) fn torn(roots: &Roots, kept: &[WalName], whole: &[SegmentName]) -> Result<Option<String>, Error> {
    for name in kept {
        let WalName::Segment(segment) = name else { continue };
        let mark = format!("pg_wal/archive_status/{segment}.ready");
        if !whole.contains(segment) && roots.kind(&roots.bases.spot(mark.as_bytes()))?.is_some() {
            return Ok(Some(format!(
                "{segment} has a mark for the archiver, and not all of its WAL: it is not archived, and the server replays it only \
                 up to what is missing.\n\
                 HINT: look for a whole copy, in pg_wal of a standby for example, and put it in its place before the server starts"
            )));
        }
    }
    Ok(None)
}

/// Is every page of it WAL, up to its end or to the record of a switch? One whose first page does not tell is for the archive to
/// refuse.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn is_complete(roots: &Roots, segment: SegmentName, size: SegmentSize) -> Result<bool, Error> {
    let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
    let end = roots.on("read", &spot, |root, below| {
        let file = root.open_file(below)?;
        WalEnd::find(size.bytes(), |page, at| match file.read_exact_at(page, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                page.fill(0);
                Ok(())
            }
            read => read,
        })
    })?;
    Ok(!matches!(end, WalEnd::NoWal(1..)))
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
