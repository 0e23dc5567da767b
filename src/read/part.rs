//! Parts of stored trees for a restore: each fetched with one request, proved, and handed on while it is decoded.
//!
//! A part is proved by its seek table, whose content hash must be the one that the tree's manifest states; every frame
//! then proves itself against the table. What is handed on has been verified, in order and in pieces of some MiB, so that
//! a part of 32 MiB needs its stored bytes and one piece. Damage may have happened on the way: the part is fetched once
//! more, and the same pieces are handed on again.
//!
//! Who needs only a few frames says so, and gets them with one request for the table and one for each run of frames.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::archive::tree::{Part, TreeName};
use crate::archive::{Archive, Error};
use crate::codec::{Damage, FRAME_BYTES, SeekTable, frames_of};
use crate::store::{ByteRange, ErrorKind, Patience};

/// Frames handed on at once: 4 MiB of plain content.
const PIECE_FRAMES: u64 = 16;

/// Gaps up to this many frames are fetched along: cheaper than another request.
const GAP_FRAMES: u64 = 2;

/// Takes verified plain bytes, and where in the part they begin. Called on a thread for blocking work, and possibly
/// twice with the same bytes.
pub type Take = dyn Fn(u64, &[u8]) -> io::Result<()> + Send + Sync;

/// Why a part did not get to where it should.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// It could not be read: [`Error::Store`] or [`Error::TreeDamaged`].
    #[error(transparent)]
    Archive(#[from] Error),
    /// Who took the bytes failed.
    #[error(transparent)]
    Taker(#[from] io::Error),
}

/// Which frames of a part are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// These runs of frames, ascending and apart from each other.
    Frames(Vec<Range<u64>>),
}

impl Wanted {
    /// What to ask for so that all of these pieces of plain content (ascending) arrive: the whole part if that is most
    /// of it, single runs of frames otherwise.
    pub fn of(part_bytes: u64, pieces: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for piece in pieces {
            let frames = piece.start / FRAME_BYTES as u64..frames_of(piece.end);
            match runs.last_mut() {
                Some(last) if frames.start <= last.end + GAP_FRAMES => last.end = last.end.max(frames.end),
                _ => runs.push(frames),
            }
        }
        let wanted: u64 = runs.iter().map(|run| run.end - run.start).sum();
        // Each run is a request; the table is one more.
        if wanted + GAP_FRAMES * (runs.len() as u64 + 1) >= frames_of(part_bytes) {
            Self::Whole
        } else {
            Self::Frames(runs)
        }
    }
}

/// A part to be read, and for whom.
#[derive(Debug, Clone)]
pub struct PartRequest {
    /// The backup that is read.
    pub backup: TreeName,
    /// The part.
    pub part: Part,
    /// Which frames of it.
    pub wanted: Wanted,
    /// The files in it, for the error that names it.
    pub holds: String,
}

/// Reads a part and hands it on. Returns how many stored bytes were fetched.
///
/// # Errors
/// [`PartError`]; what was handed on before is not taken back.
pub async fn read_part(
    archive: &Archive,
    request: &PartRequest,
    patience: Patience,
    take: Arc<Take>,
) -> Result<u64, PartError> {
    read_part_in_turn(archive, request, patience, &Semaphore::new(1), take).await
}

/// As [`read_part`], by somebody who fetches more parts at once than he decodes: one permit of `decoders` each.
///
/// # Errors
/// As [`read_part`].
pub async fn read_part_in_turn(
    archive: &Archive,
    request: &PartRequest,
    patience: Patience,
    decoders: &Semaphore,
    take: Arc<Take>,
) -> Result<u64, PartError> {
    match read_once(archive, request, patience, decoders, take.clone()).await {
        Err(PartError::Archive(error @ Error::TreeDamaged { .. })) => {
            tracing::warn!("reading it once more: {error}");
            read_once(archive, request, patience, decoders, take).await
        }
        done => done,
    }
}

/// A restore does without page hashes. Who takes the next backup should know.
fn warn_of_annex(request: &PartRequest, table: &SeekTable, stored: &[u8]) {
    let annex = table.annex_range();
    if let Err(damage) = table.annex(&stored[annex.start as usize..annex.end as usize]) {
        tracing::warn!(
            "the page hashes in {} are damaged: {damage}. Its content is right; the next backup stores these pages again",
            request.part.key
        );
    }
}

async fn read_once(
    archive: &Archive,
    request: &PartRequest,
    patience: Patience,
    decoders: &Semaphore,
    take: Arc<Take>,
) -> Result<u64, PartError> {
    match &request.wanted {
        Wanted::Whole => {
            let stored = fetch(
                archive,
                request,
                ByteRange::AtMost(request.part.stored_bytes),
                patience,
            )
            .await?;
            let table = SeekTable::of_whole(&stored).map_err(|damage| broken(archive, request, &damage))?;
            let table = proved(archive, request, table)?;
            warn_of_annex(request, &table, &stored);
            let (frames, fetched_bytes) = (0..table.frames(), stored.len() as u64);
            let _turn = turn(decoders).await;
            hand_on(archive, request, table, frames, stored, take).await?;
            Ok(fetched_bytes)
        }
        Wanted::Frames(runs) => {
            let table = seek_table(archive, request, patience).await?;
            let mut fetched_bytes = 0;
            for run in runs {
                let range = ByteRange::Span(table.stored_range(run.clone()));
                let stored = fetch(archive, request, range, patience).await?;
                fetched_bytes += stored.len() as u64;
                let _turn = turn(decoders).await;
                hand_on(archive, request, table.clone(), run.clone(), stored, take.clone()).await?;
            }
            Ok(fetched_bytes)
        }
    }
}

async fn turn(decoders: &Semaphore) -> SemaphorePermit<'_> {
    decoders.acquire().await.expect("never closed")
}

async fn seek_table(
    archive: &Archive,
    request: &PartRequest,
    patience: Patience,
) -> Result<Arc<SeekTable>, Error> {
    match archive.seek_table(&request.part.key, patience).await {
        Ok(table) => proved(archive, request, table),
        Err(Error::Damaged { damage, .. }) => Err(broken(archive, request, &damage)),
        Err(Error::Store(error)) if error.kind == ErrorKind::NotFound => Err(gone(archive, request)),
        Err(error) => Err(error),
    }
}

async fn fetch(
    archive: &Archive,
    request: &PartRequest,
    range: ByteRange,
    patience: Patience,
) -> Result<Bytes, Error> {
    match archive.store().get(&request.part.key, range, patience).await {
        Ok(fetched) => Ok(fetched.bytes),
        Err(error) if error.kind == ErrorKind::NotFound => Err(gone(archive, request)),
        Err(error) if error.kind == ErrorKind::Damaged => Err(broken(archive, request, &error.message)),
        Err(error) => Err(error.into()),
    }
}

/// Is the table that of the part which the manifest names?
fn proved(archive: &Archive, request: &PartRequest, table: SeekTable) -> Result<Arc<SeekTable>, Error> {
    let Part {
        hash, plain_bytes, ..
    } = request.part;
    if (table.hash(), table.plain_bytes()) == (hash, plain_bytes) {
        return Ok(Arc::new(table));
    }
    let found = table.hash();
    let reason = format!("its content hash is {found}, the backup's manifest states {hash}");
    Err(broken(archive, request, &reason))
}

/// Decodes the frames, with which `stored` begins, piece by piece.
async fn hand_on(
    archive: &Archive,
    request: &PartRequest,
    table: Arc<SeekTable>,
    frames: Range<u64>,
    stored: Bytes,
    take: Arc<Take>,
) -> Result<(), PartError> {
    let decoding = tokio::task::spawn_blocking(move || decode(&table, frames, &stored, &*take));
    match decoding.await.expect("decoding does not panic") {
        Ok(()) => Ok(()),
        Err(Fault::Damage(damage)) => Err(broken(archive, request, &damage).into()),
        Err(Fault::Taker(error)) => Err(error.into()),
    }
}

enum Fault {
    Damage(Damage),
    Taker(io::Error),
}

fn decode(table: &SeekTable, frames: Range<u64>, stored: &[u8], take: &Take) -> Result<(), Fault> {
    let origin = table.stored_range(frames.clone()).start;
    let mut room = vec![0; FRAME_BYTES * PIECE_FRAMES.min(frames.end - frames.start) as usize];
    let mut at = frames.start;
    while at < frames.end {
        let piece = at..frames.end.min(at + PIECE_FRAMES);
        at = piece.end;
        let (start, end) = (
            table.plain_range(piece.start).start,
            table.plain_range(piece.end - 1).end,
        );
        let plain = &mut room[..(end - start) as usize];
        let from = (table.stored_range(piece.clone()).start - origin) as usize;
        let stored = &stored[from.min(stored.len())..];
        table.unpack_frames(piece, stored, plain).map_err(Fault::Damage)?;
        take(start, plain).map_err(Fault::Taker)?;
    }
    Ok(())
}

fn gone(archive: &Archive, request: &PartRequest) -> Error {
    broken(archive, request, &"it is not there")
}

fn broken(archive: &Archive, request: &PartRequest, reason: &dyn std::fmt::Display) -> Error {
    let what = format!("{} with {}", request.part.key, request.holds);
    archive.tree_damaged(&request.backup, &what, reason.to_string())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges, some of one")]
mod tests {
    use super::*;

    const FRAME: u64 = FRAME_BYTES as u64;

    #[test]
    fn few_frames_are_fetched_alone() {
        let part = 128 * FRAME;
        let of = |pieces: &[Range<u64>]| Wanted::of(part, pieces.iter().cloned());
        assert_eq!(of(&[5 * FRAME..6 * FRAME]), Wanted::Frames(vec![5..6]));
        assert_eq!(of(&[5 * FRAME - 1..5 * FRAME + 1]), Wanted::Frames(vec![4..6]));
        // Neighbours with a small gap are one request.
        assert_eq!(of(&[0..1, 3 * FRAME..3 * FRAME + 1]), Wanted::Frames(vec![0..4]));
        assert_eq!(
            of(&[0..1, 100 * FRAME..part]),
            Wanted::Frames(vec![0..1, 100..128])
        );
        assert_eq!(of(&[0..120 * FRAME, 125 * FRAME..part]), Wanted::Whole);
        assert_eq!(Wanted::of(1000, [0..10]), Wanted::Whole);
    }
}
