//! The chunks of a file of the base, found by content, wherever in the file they lie: for what arrives as a stream, in which
//! an insertion moves all that is behind it.
//!
//! The file was stored by the same cutter, so each run of page hashes in the annex of a part is a chunk. Two chunks are the same
//! if their lengths are and the hashes of all their pages: at least two pages, so 16 bytes of hashes or more. A chunk of one
//! page is never found, and is stored again.
//!
//! What is kept of a chunk is 16 bytes, a few bytes of its hashes and where in the file it lies: some 200 KiB for a GiB of the
//! base, 16 MiB at most. Its hashes are looked up again in the annex, of which those used last are in memory. If there are too many chunks, only
//! every second is kept, then every fourth, and so on: behind a chunk that was found the next one is looked for first, so after a
//! change no more is stored again than up to the next chunk that is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;

use super::{Base, or_unknown};
use crate::archive::Error;
use crate::archive::tree::Extent;
use crate::archive::tree::page_hashes::{PageHash, PageHashes};
use crate::read::page_hashes::Placed;
use crate::read::tree::stored::StoredFile;
use crate::store::Patience;

/// Chunks that are kept, at most: 16 MiB, of all chunks of some 64 GiB.
const MOST_KEPT: usize = 1 << 20;

/// Parts of which the hashes are asked for at once.
const AT_ONCE: usize = 16;

/// Pages that a chunk has at least, if it is to be known again by its hashes.
const FEWEST_PAGES: usize = 2;

/// What is kept of a chunk: its key, and where it begins in the file.
type Kept = (u64, u64);

/// The chunks of a file of the base.
#[derive(Debug)]
pub struct ChunkIndex {
    base: Arc<Base>,
    file: StoredFile,
    kept: Kepts,
    /// Where the chunk begins behind the one that was found last.
    next: Option<u64>,
}

impl ChunkIndex {
    /// Of a file of the base; `None` if it does not have it. `patience` is asked for each request.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn of(
        base: Arc<Base>,
        path: &[u8],
        patience: impl Fn() -> Patience,
    ) -> Result<Option<Self>, Error> {
        let found = or_unknown(base.tree.find(path, patience()).await)?.flatten();
        let Some(file) = found.and_then(|found| found.file()) else {
            return Ok(None);
        };
        let mut index = Self {
            base,
            file,
            kept: Kepts::new(MOST_KEPT),
            next: Some(0),
        };
        index.fill(patience).await?;
        index.kept.settle();
        Ok(Some(index))
    }

    /// Where the base has a chunk of so many bytes, whose pages have these hashes.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn find(
        &mut self,
        bytes: u64,
        hashes: &[PageHash],
        patience: impl Fn() -> Patience,
    ) -> Result<Option<Placed>, Error> {
        let next = self.next.take();
        if hashes.len() < FEWEST_PAGES {
            return Ok(None);
        }
        for at in [next, self.kept.find(key(bytes, hashes))].into_iter().flatten() {
            let found = or_unknown(self.chunk_at(at, bytes, hashes, &patience).await)?.flatten();
            if found.is_some() {
                self.next = Some(at + bytes);
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The chunk that begins at that byte of the file, if it is this one.
    async fn chunk_at(
        &self,
        at: u64,
        bytes: u64,
        wanted: &[PageHash],
        patience: impl Fn() -> Patience,
    ) -> Result<Option<Placed>, Error> {
        let Base {
            tree,
            hashes,
            avoided,
            ..
        } = &*self.base;
        if at >= self.file.bytes {
            return Ok(None);
        }
        let window = tree.extents(&self.file, at, patience()).await?;
        let found = window.extents();
        let mut start = found.from;
        for extent in found.extents {
            let Some(within) = (at - start < extent.bytes).then(|| at - start) else {
                start += extent.bytes;
                continue;
            };
            let part = tree.part(extent.part, patience()).await?;
            let offset = extent.offset + within;
            let fits = bytes <= extent.bytes - within && !avoided.contains(&part.key);
            let known = hashes.of(&part, patience()).await?;
            let is_same = fits && known.run_at(offset) == Some((bytes, wanted));
            return Ok(is_same.then_some(Placed { part, offset, bytes }));
        }
        Ok(None)
    }

    /// Reads the hashes of all that the file has. What cannot be read is not known.
    async fn fill(&mut self, patience: impl Fn() -> Patience) -> Result<(), Error> {
        let mut at = 0;
        while at < self.file.bytes {
            let window = self.base.tree.extents(&self.file, at, patience()).await;
            let Some(window) = or_unknown(window)? else {
                return Ok(());
            };
            let found = window.extents();
            at = found.from;
            for extents in found.extents.chunks(AT_ONCE) {
                let known = self.hashes_of(extents, &patience).await?;
                for extent in extents {
                    if let Some(hashes) = known.get(&extent.part) {
                        self.kept.add_all(at, *extent, hashes);
                    }
                    at += extent.bytes;
                }
            }
        }
        Ok(())
    }

    /// The hashes of the parts in which these extents lie, but for those to which nothing shall point.
    async fn hashes_of(
        &self,
        extents: &[Extent],
        patience: impl Fn() -> Patience,
    ) -> Result<BTreeMap<u32, Arc<PageHashes>>, Error> {
        let mut numbers: Vec<u32> = extents.iter().map(|extent| extent.part).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let Base {
            tree,
            hashes,
            avoided,
            ..
        } = &*self.base;
        let (numbers, patience) = (numbers.into_iter(), &patience);
        let known = try_join_all(numbers.map(|number| async move {
            let Some(part) = or_unknown(tree.part(number, patience()).await)? else {
                return Ok(None);
            };
            if avoided.contains(&part.key) {
                return Ok(None);
            }
            Ok::<_, Error>(Some((number, hashes.of(&part, patience()).await?)))
        }))
        .await?;
        Ok(known.into_iter().flatten().collect())
    }
}

/// What is kept of chunks, no more than some number.
#[derive(Debug)]
struct Kepts {
    most: usize,
    chunks: Vec<Kept>,
    /// Bits of a key that must be 0 for its chunk to be kept.
    mask: u64,
}

impl Kepts {
    fn new(most: usize) -> Self {
        Self {
            most,
            chunks: Vec::new(),
            mask: 0,
        }
    }

    /// Adds the chunks in an extent that begins with one, at `start` of the file.
    fn add_all(&mut self, start: u64, extent: Extent, hashes: &PageHashes) {
        let mut at = 0;
        while let Some((bytes, run)) = hashes.run_at(extent.offset + at)
            && bytes <= extent.bytes - at
        {
            if run.len() >= FEWEST_PAGES {
                self.add((key(bytes, run), start + at));
            }
            at += bytes;
        }
    }

    fn add(&mut self, chunk: Kept) {
        if chunk.0 & self.mask != 0 {
            return;
        }
        self.chunks.push(chunk);
        while self.chunks.len() > self.most {
            self.mask = self.mask << 1 | 1;
            let mask = self.mask;
            self.chunks.retain(|(key, _)| key & mask == 0);
        }
    }

    /// Puts them in order, once all are there. Of those that are the same the first stays.
    fn settle(&mut self) {
        self.chunks.sort_unstable();
        self.chunks.dedup_by_key(|(key, _)| *key);
        self.chunks.shrink_to_fit();
    }

    fn find(&self, key: u64) -> Option<u64> {
        let place = self.chunks.binary_search_by_key(&key, |(key, _)| *key);
        place.ok().map(|place| self.chunks[place].1)
    }
}

/// By which a chunk is looked for; whether it is the same, all of its hashes say.
fn key(bytes: u64, hashes: &[PageHash]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.to_le_bytes());
    hashes.iter().for_each(|hash| _ = hasher.update(hash.as_bytes()));
    let hash = hasher.finalize();
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::page_hashes::PageKey;

    #[test]
    fn of_too_many_chunks_some_are_kept() {
        let mut kept = Kepts::new(100);
        let keys: Vec<u64> = (0..10_000).map(|number| key(number, &[])).collect();
        keys.iter().zip(0..).for_each(|(key, at)| kept.add((*key, at)));
        kept.settle();
        assert!((10..=100).contains(&kept.chunks.len()), "{}", kept.chunks.len());
        for (key, at) in keys.iter().zip(0..) {
            let expected = (key & kept.mask == 0).then_some(at);
            assert_eq!(kept.find(*key), expected);
        }
    }

    #[test]
    fn a_chunk_is_a_run_of_hashes_that_lies_in_the_extent() {
        let (one, two) = (vec![1; 20_000], vec![2; 30_000]);
        let page_key = PageKey::random().unwrap();
        let mut hashes = PageHashes::default();
        hashes.push(512, 20_000, page_key.pages(&one));
        hashes.push(20_512, 30_000, page_key.pages(&two));
        hashes.push(50_512, 100, page_key.pages(&one[..100]));
        let mut kept = Kepts::new(100);
        let extent = |offset, bytes| Extent {
            part: 0,
            offset,
            bytes,
        };
        kept.add_all(1000, extent(512, 50_100), &hashes);
        kept.settle();
        let of = |content: &[u8]| {
            let hashes: Vec<PageHash> = page_key.pages(content).collect();
            key(content.len() as u64, &hashes)
        };
        assert_eq!(kept.find(of(&one)), Some(1000));
        assert_eq!(kept.find(of(&two)), Some(21_000));
        assert_eq!(kept.find(of(&one[..100])), None, "one page is too little");
        // Only what lies in the extent, and only from where a run begins.
        for (offset, bytes, expected) in [(512, 49_999, 1), (20_512, 30_000, 1), (513, 49_999, 0)] {
            let mut kept = Kepts::new(100);
            kept.add_all(0, extent(offset, bytes), &hashes);
            assert_eq!(kept.chunks.len(), expected, "{bytes} at {offset}");
        }
    }
}
