//! Page hashes: by which an unchanged page of a file is known without reading what is stored.
//!
//! A *page* is 8192 bytes of a file's content, at a multiple of as many; the last one of a file may be shorter. Each part
//! carries the hashes of the pages in it as its annex, so they lie beside the bytes that they are of: a later tree that
//! points to these bytes has their hashes, and none is stored twice.
//!
//! The annex is `page`, then run by run: offset in the part's plain content (u32), length in bytes (u32), and the hash
//! of each page of the run, 8 bytes. A run begins with a page, and only the last page of one may be short.

use std::fmt;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 8192;

/// What the annex of a part begins with.
const TAG: [u8; 4] = *b"page";

/// Bytes of a run before its hashes.
const RUN_BYTES: usize = 8;

/// The first 8 bytes of a page's BLAKE3. Enough to tell changes apart; each part's content has its whole hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageHash([u8; 8]);

impl PageHash {
    /// Of a page at hand whole.
    pub fn of(plain: &[u8]) -> Self {
        Self::first_bytes(&blake3::hash(plain))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    fn first_bytes(hash: &blake3::Hash) -> Self {
        Self(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PageHash({:016x})", u64::from_be_bytes(self.0))
    }
}

/// The hashes of all pages of a content at hand whole, which begins where a page does.
pub fn of(plain: &[u8]) -> impl Iterator<Item = PageHash> {
    plain.chunks(PAGE_BYTES as usize).map(PageHash::of)
}

/// Pages that lie behind each other in a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    offset: u32,
    bytes: u32,
    /// Its first hash, among all.
    first: usize,
}

/// The hashes of the pages in a part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageHashes {
    /// Ascending by offset, apart from each other.
    runs: Vec<Run>,
    hashes: Vec<PageHash>,
}

impl PageHashes {
    /// Adds a run of `bytes` behind all others.
    ///
    /// # Panics
    /// If it is not behind the others, lies beyond 4 GiB, or does not have as many pages as there are hashes.
    pub fn push(&mut self, offset: u64, bytes: u64, hashes: impl IntoIterator<Item = PageHash>) {
        let run = Run {
            offset: u32::try_from(offset).expect("a part is shorter"),
            bytes: u32::try_from(bytes).expect("a part is shorter"),
            first: self.hashes.len(),
        };
        assert!(self.end() <= offset, "{run:?} is not behind the others");
        self.hashes.extend(hashes);
        let pages = (self.hashes.len() - run.first) as u64;
        assert_eq!(pages, bytes.div_ceil(PAGE_BYTES), "hashes of {run:?}");
        if pages > 0 {
            self.runs.push(run);
        }
    }

    /// The hash of a page of `bytes` that begins at `offset` in the part; `None` if none does.
    pub fn at(&self, offset: u64, bytes: u64) -> Option<PageHash> {
        let behind = self.runs.partition_point(|run| u64::from(run.offset) <= offset);
        let run = self.runs[..behind].last()?;
        let within = offset - u64::from(run.offset);
        let left = u64::from(run.bytes).checked_sub(within)?;
        let fits = within.is_multiple_of(PAGE_BYTES) && bytes == left.min(PAGE_BYTES);
        let place = run.first + (within / PAGE_BYTES) as usize;
        fits.then(|| self.hashes.get(place).copied()).flatten()
    }

    /// The run that begins at `offset` in the part: its length in bytes, and the hashes of its pages.
    pub fn run_at(&self, offset: u64) -> Option<(u64, &[PageHash])> {
        let place = self.runs.binary_search_by_key(&offset, |run| run.offset.into());
        let run = self.runs[place.ok()?];
        Some((run.bytes.into(), &self.hashes[run.first..][..pages(run.bytes)]))
    }

    /// Bytes that it holds, roughly.
    pub fn held_bytes(&self) -> usize {
        self.runs.len() * size_of::<Run>() + self.hashes.len() * size_of::<PageHash>()
    }

    /// As the annex of a part.
    pub fn to_annex(&self) -> Vec<u8> {
        if self.runs.is_empty() {
            return Vec::new();
        }
        let mut annex = Vec::with_capacity(TAG.len() + self.runs.len() * RUN_BYTES + self.hashes.len() * 8);
        annex.extend_from_slice(&TAG);
        for run in &self.runs {
            annex.extend_from_slice(&run.offset.to_le_bytes());
            annex.extend_from_slice(&run.bytes.to_le_bytes());
            let hashes = &self.hashes[run.first..run.first + pages(run.bytes)];
            annex.extend(hashes.iter().flat_map(|hash| hash.0));
        }
        annex
    }

    /// Reads [`PageHashes::to_annex`]; `None` if it is not that of a part of `plain_bytes`.
    pub fn from_annex(annex: &[u8], plain_bytes: u64) -> Option<Self> {
        let mut found = Self::default();
        if annex.is_empty() {
            return Some(found);
        }
        let mut rest = annex.strip_prefix(&TAG)?;
        while let Some((head, behind)) = rest.split_first_chunk::<RUN_BYTES>() {
            let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
            let (offset, bytes) = (number(0), number(4));
            let end = u64::from(offset) + u64::from(bytes);
            if bytes == 0 || u64::from(offset) < found.end() || end > plain_bytes {
                return None;
            }
            let (hashes, behind) = behind.split_at_checked(pages(bytes) * size_of::<PageHash>())?;
            let hashes = hashes.as_chunks().0.iter().map(|hash| PageHash(*hash));
            found.push(offset.into(), bytes.into(), hashes);
            rest = behind;
        }
        rest.is_empty().then_some(found)
    }

    fn end(&self) -> u64 {
        let last = self.runs.last();
        last.map_or(0, |run| u64::from(run.offset) + u64::from(run.bytes))
    }
}

/// Pages of a run of so many bytes.
const fn pages(bytes: u32) -> usize {
    (bytes as u64).div_ceil(PAGE_BYTES) as usize
}

/// Hashes the pages of a content that arrives in order, in pieces of any length.
#[derive(Debug, Default)]
pub struct PageHasher {
    /// Of the page that is not whole yet, which has `open_bytes`.
    open: blake3::Hasher,
    open_bytes: u64,
    bytes: u64,
    done: Vec<PageHash>,
}

impl PageHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut plain: &[u8]) {
        self.bytes += plain.len() as u64;
        while !plain.is_empty() {
            if self.open_bytes == 0 && plain.len() as u64 >= PAGE_BYTES {
                let (page, rest) = plain.split_at(PAGE_BYTES as usize);
                self.done.push(PageHash::of(page));
                plain = rest;
                continue;
            }
            let take = plain.len().min((PAGE_BYTES - self.open_bytes) as usize);
            self.open.update(&plain[..take]);
            self.open_bytes += take as u64;
            plain = &plain[take..];
            if self.open_bytes == PAGE_BYTES {
                self.close();
            }
        }
    }

    /// How many bytes there were, and the hashes of their pages. Empty from now on.
    pub fn take(&mut self) -> (u64, Vec<PageHash>) {
        if self.open_bytes > 0 {
            self.close();
        }
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.done))
    }

    fn close(&mut self) {
        self.done.push(PageHash::first_bytes(&self.open.finalize()));
        self.open.reset();
        self.open_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        fastrand::Rng::with_seed(bytes as u64).fill(&mut noise);
        noise
    }

    fn sample() -> PageHashes {
        let mut hashes = PageHashes::default();
        hashes.push(512, 20_000, of(&noise(20_000)));
        hashes.push(0x6000, 100, of(&noise(100)));
        hashes.push(0x7000, 16_384, of(&noise(16_384)));
        hashes
    }

    #[test]
    fn a_page_is_found_where_it_begins_and_in_its_length() {
        let hashes = sample();
        let content = noise(20_000);
        assert_eq!(hashes.at(512, 8192), Some(PageHash::of(&content[..8192])));
        assert_eq!(
            hashes.at(512 + 16_384, 3616),
            Some(PageHash::of(&content[16_384..]))
        );
        assert_eq!(hashes.at(0x6000, 100), Some(PageHash::of(&noise(100))));
        assert_eq!(
            hashes.at(0x7000 + 8192, 8192),
            Some(PageHash::of(&noise(16_384)[8192..]))
        );
        for (offset, bytes) in [
            (0, 8192),
            (512, 8191),
            (513, 8192),
            (512 + 16_384, 8192),
            (0x6000, 8192),
            (0x7000 + 16_384, 8192),
        ] {
            assert_eq!(hashes.at(offset, bytes), None, "{bytes} at {offset}");
        }
    }

    #[test]
    fn an_annex_is_read_back_and_nothing_else_is() {
        let (hashes, plain_bytes) = (sample(), 0x7000 + 16_384);
        let annex = hashes.to_annex();
        assert_eq!(PageHashes::from_annex(&annex, plain_bytes), Some(hashes));
        assert_eq!(PageHashes::from_annex(&annex, plain_bytes - 1), None);
        for cut in 1..annex.len() {
            let whole_runs = [4, 36, 52].contains(&cut);
            assert_eq!(
                PageHashes::from_annex(&annex[..cut], plain_bytes).is_some(),
                whole_runs,
                "{cut}"
            );
        }
        assert_eq!(PageHashes::from_annex(&[], 0), Some(PageHashes::default()));
        assert!(PageHashes::default().to_annex().is_empty());
        assert_eq!(PageHashes::from_annex(b"pagf", 0), None);
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_have_the_same_hashes(
            bytes in 0..30_000_usize,
            cuts in prop::collection::vec(0..30_000_usize, 0..6),
        ) {
            let content = noise(bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(bytes)).collect();
            cuts.sort_unstable();
            let mut hasher = PageHasher::default();
            let mut from = 0;
            for to in cuts.into_iter().chain([bytes]) {
                hasher.update(&content[from..to]);
                from = to;
            }
            prop_assert_eq!(hasher.take(), (bytes as u64, of(&content).collect()));
        }
    }
}
