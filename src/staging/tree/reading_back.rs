//! Checksums of a tree's files that were not made while their bytes passed: from what is stored.
//!
//! Small files are read as they lie, many at a time, out of the bundles that they went out in; others window by window.
//! A few of these are under way at once, so the memory is bounded whatever the backup's size.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::tree::Part;

use super::Error;
use super::file::{Content, DraftFile};
use super::judge::Written;

/// Plain bytes read at once, by one reader.
const WINDOW_BYTES: u64 = 1 << 20;

/// Readers side by side.
const READERS: usize = 4;

/// Sums up the bytes of a file, in their order.
pub(crate) trait Sum: Send + Sized + 'static {
    /// How.
    type Algorithm: Copy + Send + Sync + 'static;
    /// What comes of it.
    type Found: Send + 'static;

    fn new(algorithm: Self::Algorithm) -> Self;

    fn update(&mut self, plain: &[u8]);

    fn finish(self) -> Self::Found;
}

/// A file, and how it is to be summed up.
type Wanted<S> = (Arc<DraftFile>, <S as Sum>::Algorithm);

/// The checksum of the file with that number, in the order in which they were asked for.
type Summed<S> = (usize, <S as Sum>::Found);

/// A file in a bundle.
struct InBundle<S: Sum> {
    index: usize,
    algorithm: S::Algorithm,
    part: Part,
    offset: u64,
    bytes: u64,
}

impl Written<'_> {
    /// Reads the files, and gives their checksums in the same order.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub(crate) async fn read_back<S: Sum>(self, files: Vec<Wanted<S>>) -> Result<Vec<S::Found>, Error> {
        if !files.is_empty() {
            tracing::info!("{}: {} files are read to be compared", self.name(), files.len());
        }
        let (members, alone) = apart::<S>(files).await?;
        let runs = stream::iter(runs(members)).map(|run| self.sum_run(run));
        let runs: Vec<Vec<Summed<S>>> = runs.buffer_unordered(READERS).try_collect().await?;
        let alone = stream::iter(alone).map(|(index, wanted)| self.sum_file::<S>(index, wanted));
        let alone: Vec<Summed<S>> = alone.buffer_unordered(READERS).try_collect().await?;
        let mut summed: Vec<Summed<S>> = runs.into_iter().flatten().chain(alone).collect();
        summed.sort_unstable_by_key(|(index, _)| *index);
        Ok(summed.into_iter().map(|(_, sum)| sum).collect())
    }

    /// Small files that lie next to each other.
    async fn sum_run<S: Sum>(self, run: Vec<InBundle<S>>) -> Result<Vec<Summed<S>>, Error> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let start = first.offset;
        let (sender, range) = (&self.draft.sender, start..last.offset + last.bytes);
        let plain = sender.read_stored(&first.part, range).await.map_err(Arc::new)?;
        let sum = move || {
            let sum = |member: &InBundle<S>| {
                let from = (member.offset - start) as usize;
                let mut sum = S::new(member.algorithm);
                sum.update(&plain[from..from + member.bytes as usize]);
                (member.index, sum.finish())
            };
            run.iter().map(sum).collect()
        };
        Ok(aside(sum).await)
    }

    async fn sum_file<S: Sum>(self, index: usize, (file, algorithm): Wanted<S>) -> Result<Summed<S>, Error> {
        let (mut whole, mut at) = (S::new(algorithm), 0);
        while at < file.bytes() {
            let window = self.read(&file, at, WINDOW_BYTES as usize).await?;
            at += window.len() as u64;
            let sum = move || {
                whole.update(&window);
                whole
            };
            whole = aside(sum).await;
        }
        Ok((index, whole.finish()))
    }
}

/// Those that are in bundles whole, and the others.
async fn apart<S: Sum>(files: Vec<Wanted<S>>) -> Result<(Vec<InBundle<S>>, Vec<(usize, Wanted<S>)>), Error> {
    let (mut members, mut alone) = (Vec::new(), Vec::new());
    for (index, (file, algorithm)) in files.into_iter().enumerate() {
        let member = match &*file.content.lock().await {
            Content::Bundled(member) => Some((member.part.clone(), member.file, member.bytes)),
            _ => None,
        };
        let mut whole = None;
        if let Some((outgoing, file, bytes)) = member {
            let arrived = outgoing.arrived().await?;
            whole = arrived.part.clone().zip(arrived.files[file].alone());
            members.extend(whole.clone().map(|(part, offset)| InBundle {
                index,
                algorithm,
                part,
                offset,
                bytes,
            }));
        }
        if whole.is_none() {
            alone.push((index, (file, algorithm)));
        }
    }
    Ok((members, alone))
}

/// Computing, on a thread that may be kept.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("summing up does not panic")
}

/// Members of one bundle that are read at once: at most a window, or one member.
fn runs<S: Sum>(mut members: Vec<InBundle<S>>) -> Vec<Vec<InBundle<S>>> {
    members.sort_by(|left, right| (&left.part.key, left.offset).cmp(&(&right.part.key, right.offset)));
    let mut runs: Vec<Vec<InBundle<S>>> = Vec::new();
    for member in members {
        let fits = |run: &Vec<InBundle<S>>| {
            let first = &run[0];
            first.part.key == member.part.key && member.offset + member.bytes - first.offset <= WINDOW_BYTES
        };
        match runs.last_mut().filter(|run| fits(run)) {
            Some(run) => run.push(member),
            None => runs.push(vec![member]),
        }
    }
    runs
}
