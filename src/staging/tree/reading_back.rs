//! Checksums of a tree's files that were not made while their bytes passed: from what is stored.
//!
//! Small files are read as they lie, many at a time, out of the bundles that they went out in; others window by window.
//! A few of these are under way at once, so the memory is bounded whatever the backup's size.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::pg::backup_manifest::{Checksum, ChecksumAlgorithm, Summer};

use super::file::{Content, DraftFile};
use super::sending::Outgoing;
use super::{Error, TreeDraft};

/// Plain bytes read at once, by one reader.
const WINDOW_BYTES: u64 = 1 << 20;

/// Readers side by side.
const READERS: usize = 4;

/// A file, and how it is to be summed up.
pub(super) type Wanted = (Arc<DraftFile>, ChecksumAlgorithm);

/// The checksum of the file with that number, in the order in which they were asked for.
type Summed = (usize, Checksum);

/// A file in a bundle.
#[derive(Debug)]
struct Piece {
    index: usize,
    algorithm: ChecksumAlgorithm,
    part: Outgoing,
    offset: u64,
    bytes: u64,
}

impl TreeDraft {
    /// Reads the files, and gives their checksums in the same order.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(super) async fn read_back(&self, files: Vec<Wanted>) -> Result<Vec<Checksum>, Error> {
        if !files.is_empty() {
            tracing::info!("{}: {} files are read to be compared", self.name, files.len());
        }
        let (pieces, alone) = apart(files).await;
        let runs = stream::iter(runs(pieces)).map(|run| self.sum_run(run));
        let runs: Vec<Vec<Summed>> = runs.buffer_unordered(READERS).try_collect().await?;
        let alone = stream::iter(alone).map(|(index, wanted)| self.sum_file(index, wanted));
        let alone: Vec<Summed> = alone.buffer_unordered(READERS).try_collect().await?;
        let mut summed: Vec<Summed> = runs.into_iter().flatten().chain(alone).collect();
        summed.sort_unstable_by_key(|(index, _)| *index);
        Ok(summed.into_iter().map(|(_, sum)| sum).collect())
    }

    /// Small files that lie next to each other.
    async fn sum_run(&self, run: Vec<Piece>) -> Result<Vec<Summed>, Error> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let start = first.offset;
        let plain = self
            .sender
            .read(&first.part, start..last.offset + last.bytes)
            .await?;
        let sum = move || {
            let sum = |piece: &Piece| {
                let from = (piece.offset - start) as usize;
                let content = &plain[from..from + piece.bytes as usize];
                (piece.index, Summer::of(piece.algorithm, content))
            };
            run.iter().map(sum).collect()
        };
        Ok(aside(sum).await)
    }

    async fn sum_file(&self, index: usize, (file, algorithm): Wanted) -> Result<Summed, Error> {
        let (mut summer, mut at) = (Summer::new(algorithm), 0);
        while at < file.bytes() {
            let window = file.read(self.way(), at, WINDOW_BYTES as usize).await?;
            at += window.len() as u64;
            let sum = move || {
                summer.update(&window);
                summer
            };
            summer = aside(sum).await;
        }
        Ok((index, summer.finish()))
    }
}

/// Those in bundles, and the others.
async fn apart(files: Vec<Wanted>) -> (Vec<Piece>, Vec<(usize, Wanted)>) {
    let (mut pieces, mut alone) = (Vec::new(), Vec::new());
    for (index, (file, algorithm)) in files.into_iter().enumerate() {
        let piece = match &*file.content.lock().await {
            Content::Bundled(member) => Some(Piece {
                index,
                algorithm,
                part: member.part.clone(),
                offset: member.offset,
                bytes: member.bytes,
            }),
            _ => None,
        };
        match piece {
            Some(piece) => pieces.push(piece),
            None => alone.push((index, (file, algorithm))),
        }
    }
    (pieces, alone)
}

/// Computing, on a thread that may be kept.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("summing up does not panic")
}

/// Pieces of one bundle that are read at once: at most a window, or one piece.
fn runs(mut pieces: Vec<Piece>) -> Vec<Vec<Piece>> {
    pieces.sort_by(|left, right| (left.part.key(), left.offset).cmp(&(right.part.key(), right.offset)));
    let mut runs: Vec<Vec<Piece>> = Vec::new();
    for piece in pieces {
        let fits = |run: &Vec<Piece>| {
            let first = &run[0];
            first.part.key() == piece.part.key() && piece.offset + piece.bytes - first.offset <= WINDOW_BYTES
        };
        match runs.last_mut().filter(|run| fits(run)) {
            Some(run) => run.push(piece),
            None => runs.push(vec![piece]),
        }
    }
    runs
}
