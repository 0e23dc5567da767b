//! WAL that stays in `pg_wal` is archived before the server that takes over replays it (promise S7).
//!
//! PostgreSQL removes or recycles it when the recovery ends, with its `.ready` marks: in an archive recovery it takes all
//! segments for archived (`XLogArchiveCheckDone`). Only of the one in which the recovery ends it archives the beginning, as
//! `.partial`. So what is whole comes into the archive from here; that beginning does not.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::sync::Arc;

use super::error::Error;
use super::spot::Roots;
use super::unarchived::wal_bytes;
use crate::archive::{self, Archive};
use crate::pg::{PageHeader, Searched, SegmentName, SegmentSize, SwitchSearch, WalName};
use crate::staging::wal::WalDraft;
use crate::staging::{self, Staging};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// Which of the WAL that stays is whole: what waits for the archiver, is full, ends in the record of a switch, or has a
/// successor beside it. That the archive has the next one says nothing of this copy, which may be a standby's.
///
/// # Errors
/// Files that cannot be read.
pub(super) fn whole(roots: &Roots, kept: &[WalName], size: SegmentSize) -> Result<Vec<SegmentName>, Error> {
    let mut whole = Vec::new();
    for name in kept {
        let WalName::Segment(segment) = *name else {
            continue;
        };
        let mark = format!("pg_wal/archive_status/{segment}.ready");
        let is_ready = roots.kind(&roots.bases.spot(mark.as_bytes()))?.is_some();
        if is_ready || is_complete(roots, segment, size)? || has_successor(roots, kept, segment, size)? {
            whole.push(segment);
        }
    }
    Ok(whole)
}

/// Is it full, or does it end in the record of a switch?
///
/// # Errors
/// A file that cannot be read.
pub(super) fn is_complete(roots: &Roots, segment: SegmentName, size: SegmentSize) -> Result<bool, Error> {
    Ok(filled(roots, segment)? == size.bytes() || is_switched(roots, segment)?)
}

/// Bytes of WAL of its own.
fn filled(roots: &Roots, segment: SegmentName) -> Result<u64, Error> {
    let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
    roots.on("read", &spot, |root, below| wal_bytes(root.open_file(below)?))
}

fn is_switched(roots: &Roots, segment: SegmentName) -> Result<bool, Error> {
    let spot = roots.bases.spot(format!("pg_wal/{segment}").as_bytes());
    roots.on("read", &spot, |root, below| {
        ends_in_switch(root.open_file(below)?)
    })
}

fn ends_in_switch(mut file: File) -> io::Result<bool> {
    let mut first = [0; PageHeader::BYTES];
    file.read_exact(&mut first)?;
    let Ok(header) = PageHeader::parse(&first) else {
        return Ok(false);
    };
    file.rewind()?;
    let (mut file, mut page) = (BufReader::new(file), Vec::new());
    let mut search = SwitchSearch::default();
    loop {
        page.clear();
        (&mut file)
            .take(header.block_bytes.into())
            .read_to_end(&mut page)?;
        match search.look(&header, &page) {
            Searched::EndsAt(_) => return Ok(true),
            Searched::NoWal => return Ok(false),
            Searched::NotYet => {}
        }
    }
}

fn has_successor(
    roots: &Roots,
    kept: &[WalName],
    segment: SegmentName,
    size: SegmentSize,
) -> Result<bool, Error> {
    let next = SegmentName::from_number(segment.timeline, segment.number(size) + 1, size);
    match next.filter(|next| kept.contains(&WalName::Segment(*next))) {
        Some(next) => Ok(filled(roots, next)? > 0),
        None => Ok(false),
    }
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
