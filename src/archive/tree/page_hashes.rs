//! Page hashes: by which an unchanged page of a file is known without reading what is stored.
//!
//! A *page* is 8192 bytes of a file's content, at a multiple of as many; the last one of a file may be shorter. Each part
//! carries the hashes of the pages in it as its annex, so they lie beside the bytes that they are of: a later tree that
//! points to these bytes has their hashes, and none is stored twice.
//!
//! They are HighwayHash under the archive's own key, [`PageKey`]: three times as quick as BLAKE3, and who writes pages cannot
//! make two that have one hash. Parts that come from an archive with another key hold hashes that mean nothing here, and say so.
//!
//! The annex is `page`, the hash of an empty page, then run by run: offset in the part's plain content (u32), length in bytes
//! (u32), and the hash of each page of the run, 8 bytes. A run begins with a page, and only the last page of one may be short.

use std::fmt;
use std::str::FromStr;

use highway::{HighwayHash, HighwayHasher, Key};
use serde::{Deserialize, Serialize};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 8192;

/// What the annex of a part begins with.
const TAG: [u8; 4] = *b"page";

/// Bytes of a run before its hashes.
const RUN_BYTES: usize = 8;

/// By what pages are hashed in an archive: 256 random bits, shown and read as 64 hex digits. Whoever knows it can make pages
/// that are taken for each other.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageKey([u64; 4]);

impl PageKey {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut words = [0; 4];
        for word in &mut words {
            *word = getrandom::u64()?;
        }
        Ok(Self(words))
    }

    /// The hash of a page at hand whole.
    pub fn page(self, plain: &[u8]) -> PageHash {
        PageHash(self.hasher().hash64(plain).to_le_bytes())
    }

    /// The hashes of all pages of a content at hand whole, which begins where a page does.
    pub fn pages(self, plain: &[u8]) -> impl Iterator<Item = PageHash> {
        plain.chunks(PAGE_BYTES as usize).map(move |page| self.page(page))
    }

    fn hasher(self) -> HighwayHasher {
        HighwayHasher::new(Key(self.0))
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PageKey")
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(out, "{word:016x}"))
    }
}

/// A text that is no key for page hashes. What it is stays unsaid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not one of 64 hex digits")]
pub struct PageKeyError;

impl FromStr for PageKey {
    type Err = PageKeyError;

    fn from_str(text: &str) -> Result<Self, PageKeyError> {
        let mut words = [0; 4];
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(PageKeyError);
        }
        for (word, digits) in words.iter_mut().zip(digits.chunks(16)) {
            let digits = std::str::from_utf8(digits).map_err(|_| PageKeyError)?;
            *word = u64::from_str_radix(digits, 16).map_err(|_| PageKeyError)?;
        }
        Ok(Self(words))
    }
}

impl TryFrom<String> for PageKey {
    type Error = PageKeyError;

    fn try_from(text: String) -> Result<Self, PageKeyError> {
        text.parse()
    }
}

impl From<PageKey> for String {
    fn from(key: PageKey) -> Self {
        key.to_string()
    }
}

/// 64 bits that stand for a page. Enough to tell changes apart; each part's content has its whole hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageHash([u8; 8]);

impl PageHash {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "PageHash({:016x})", u64::from_be_bytes(self.0))
    }
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
    pub fn to_annex(&self, key: PageKey) -> Vec<u8> {
        if self.runs.is_empty() {
            return Vec::new();
        }
        let heads = TAG.len() + size_of::<PageHash>() + self.runs.len() * RUN_BYTES;
        let mut annex = Vec::with_capacity(heads + self.hashes.len() * size_of::<PageHash>());
        annex.extend_from_slice(&TAG);
        annex.extend_from_slice(key.page(&[]).as_bytes());
        for run in &self.runs {
            annex.extend_from_slice(&run.offset.to_le_bytes());
            annex.extend_from_slice(&run.bytes.to_le_bytes());
            let hashes = &self.hashes[run.first..run.first + pages(run.bytes)];
            annex.extend(hashes.iter().flat_map(|hash| hash.0));
        }
        annex
    }

    /// Reads [`PageHashes::to_annex`]; `None` if it is not that of a part of `plain_bytes`. Of one made with another key there are
    /// none.
    pub fn from_annex(annex: &[u8], plain_bytes: u64, key: PageKey) -> Option<Self> {
        let mut found = Self::default();
        if annex.is_empty() {
            return Some(found);
        }
        let (of_empty, mut rest) = annex.strip_prefix(&TAG)?.split_first_chunk()?;
        if PageHash(*of_empty) != key.page(&[]) {
            return Some(found);
        }
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
#[derive(Debug)]
pub struct PageHasher {
    key: PageKey,
    /// Of the page that is not whole yet, which has `open_bytes`.
    open: HighwayHasher,
    open_bytes: u64,
    bytes: u64,
    done: Vec<PageHash>,
}

impl PageHasher {
    /// Of no bytes yet.
    pub fn new(key: PageKey) -> Self {
        Self {
            key,
            open: key.hasher(),
            open_bytes: 0,
            bytes: 0,
            done: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut plain: &[u8]) {
        self.bytes += plain.len() as u64;
        while !plain.is_empty() {
            if self.open_bytes == 0 && plain.len() as u64 >= PAGE_BYTES {
                let (page, rest) = plain.split_at(PAGE_BYTES as usize);
                self.done.push(self.key.page(page));
                plain = rest;
                continue;
            }
            let take = plain.len().min((PAGE_BYTES - self.open_bytes) as usize);
            self.open.append(&plain[..take]);
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
        let open = std::mem::replace(&mut self.open, self.key.hasher());
        self.done.push(PageHash(open.finalize64().to_le_bytes()));
        self.open_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: PageKey = PageKey([1, 2, 3, 4]);

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        fastrand::Rng::with_seed(bytes as u64).fill(&mut noise);
        noise
    }

    fn sample() -> PageHashes {
        let mut hashes = PageHashes::default();
        hashes.push(512, 20_000, KEY.pages(&noise(20_000)));
        hashes.push(0x6000, 100, KEY.pages(&noise(100)));
        hashes.push(0x7000, 16_384, KEY.pages(&noise(16_384)));
        hashes
    }

    #[test]
    fn a_page_is_found_where_it_begins_and_in_its_length() {
        let hashes = sample();
        let content = noise(20_000);
        assert_eq!(hashes.at(512, 8192), Some(KEY.page(&content[..8192])));
        assert_eq!(hashes.at(512 + 16_384, 3616), Some(KEY.page(&content[16_384..])));
        assert_eq!(hashes.at(0x6000, 100), Some(KEY.page(&noise(100))));
        assert_eq!(
            hashes.at(0x7000 + 8192, 8192),
            Some(KEY.page(&noise(16_384)[8192..]))
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
        let annex = hashes.to_annex(KEY);
        assert_eq!(PageHashes::from_annex(&annex, plain_bytes, KEY), Some(hashes));
        assert_eq!(PageHashes::from_annex(&annex, plain_bytes - 1, KEY), None);
        for cut in 1..annex.len() {
            let whole_runs = [12, 44, 60].contains(&cut);
            assert_eq!(
                PageHashes::from_annex(&annex[..cut], plain_bytes, KEY).is_some(),
                whole_runs,
                "{cut}"
            );
        }
        assert_eq!(PageHashes::from_annex(&[], 0, KEY), Some(PageHashes::default()));
        assert!(PageHashes::default().to_annex(KEY).is_empty());
        assert_eq!(PageHashes::from_annex(b"pagf", 0, KEY), None);
        let other = PageKey([1, 2, 3, 5]);
        assert_eq!(
            PageHashes::from_annex(&annex, plain_bytes, other),
            Some(PageHashes::default())
        );
    }

    #[test]
    fn a_key_is_read_back_and_no_other_text_is_one() {
        let key = PageKey::random().unwrap();
        assert_ne!(key, PageKey::random().unwrap());
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(format!("{:064x}", 0).parse(), Ok(PageKey([0; 4])));
        for text in [
            "",
            "0",
            &"0".repeat(65),
            &"g".repeat(64),
            &"é".repeat(32),
            &format!("+{}", "0".repeat(63)),
        ] {
            assert_eq!(text.parse::<PageKey>(), Err(PageKeyError), "{text:?}");
        }
    }

    /// Of HighwayHash's own test vectors: key 0706050403020100, ..., and the bytes 0, 1, 2, ...
    #[test]
    fn the_hash_is_that_of_the_format() {
        let key = "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918";
        let key: PageKey = key.parse().unwrap();
        let bytes: Vec<u8> = (0..64).collect();
        for (length, hash) in [
            (0, 0x907a_56de_22c2_6e53_u64),
            (1, 0x7eab_43aa_c7cd_dd78),
            (2, 0xb8d0_569a_b0b5_3d62),
        ] {
            assert_eq!(key.page(&bytes[..length]).as_bytes(), &hash.to_le_bytes());
        }
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
            let mut hasher = PageHasher::new(KEY);
            let mut from = 0;
            for to in cuts.into_iter().chain([bytes]) {
                hasher.update(&content[from..to]);
                from = to;
            }
            prop_assert_eq!(hasher.take(), (bytes as u64, KEY.pages(&content).collect()));
        }
    }
}
