//! Chunk hashes: by which an unchanged piece of a file is known without reading what is stored.
//!
//! A file is cut every 256 KiB, the first time 8 KiB early, whatever its size. These are the frames of a large file in
//! its own volume, which begins with 8 KiB of tar headers ([`super::layout`]): so a changed chunk is one frame. All cuts
//! lie between data pages. A chunk's hash says nothing of its place, so it can be compared with any other.

use std::fmt;
use std::ops::Range;

use super::layout::HEADER_BYTES;
use crate::codec::FRAME_BYTES;

/// The first 16 bytes of a chunk's BLAKE3. Enough to tell changes apart; each part's content has its whole hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkHash(pub [u8; 16]);

impl ChunkHash {
    /// Hash of a chunk at hand whole.
    pub fn of(plain: &[u8]) -> Self {
        Self::first_half(&blake3::hash(plain))
    }

    fn first_half(hash: &blake3::Hash) -> Self {
        Self(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ChunkHash({:032x})", u128::from_be_bytes(self.0))
    }
}

const FRAME: u64 = FRAME_BYTES as u64;

/// Number of chunks of a file of `bytes`.
pub fn count(bytes: u64) -> u64 {
    if bytes == 0 {
        0
    } else {
        (bytes + HEADER_BYTES).div_ceil(FRAME)
    }
}

/// Where chunk `index` of a file of `bytes` lies, in bytes.
pub fn range(index: u64, bytes: u64) -> Range<u64> {
    (index * FRAME).saturating_sub(HEADER_BYTES)..bytes.min((index + 1) * FRAME - HEADER_BYTES)
}

/// Which chunk holds the byte at `offset`.
pub fn index_of(offset: u64) -> u64 {
    (offset + HEADER_BYTES) / FRAME
}

/// Hashes of all chunks of a content at hand whole.
pub fn of(plain: &[u8]) -> Vec<ChunkHash> {
    let bytes = plain.len() as u64;
    let chunk = |index| {
        let range = range(index, bytes);
        ChunkHash::of(&plain[range.start as usize..range.end as usize])
    };
    (0..count(bytes)).map(chunk).collect()
}

/// Hashes the chunks of a content that arrives in order.
#[derive(Debug, Default)]
pub struct ChunkHasher {
    hasher: blake3::Hasher,
    bytes: u64,
    done: Vec<ChunkHash>,
}

impl ChunkHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut plain: &[u8]) {
        while !plain.is_empty() {
            let end = range(index_of(self.bytes), u64::MAX).end;
            let take = plain.len().min((end - self.bytes) as usize);
            self.hasher.update(&plain[..take]);
            self.bytes += take as u64;
            plain = &plain[take..];
            if self.bytes == end {
                self.close();
            }
        }
    }

    /// All hashes.
    pub fn finish(mut self) -> Vec<ChunkHash> {
        if (self.done.len() as u64) < count(self.bytes) {
            self.close();
        }
        self.done
    }

    fn close(&mut self) {
        self.done.push(ChunkHash::first_half(&self.hasher.finalize()));
        self.hasher.reset();
    }
}

/// The hashes as stored: one after the other, 16 bytes each, file by file in the tree's order.
pub fn to_bytes(hashes: impl IntoIterator<Item = ChunkHash>) -> Vec<u8> {
    hashes.into_iter().flat_map(|hash| hash.0).collect()
}

/// Reads [`to_bytes`]; `None` if the length is no multiple of 16.
pub fn from_bytes(bytes: &[u8]) -> Option<Vec<ChunkHash>> {
    let (hashes, rest) = bytes.as_chunks();
    rest.is_empty()
        .then(|| hashes.iter().map(|hash| ChunkHash(*hash)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_file() {
        for bytes in [
            0,
            1,
            FRAME - HEADER_BYTES,
            FRAME - HEADER_BYTES + 1,
            FRAME,
            5 * FRAME + 77,
        ] {
            let mut at = 0;
            for index in 0..count(bytes) {
                let range = range(index, bytes);
                assert_eq!(range.start, at, "chunk {index} of {bytes}");
                assert!(range.end > range.start);
                assert_eq!((index_of(range.start), index_of(range.end - 1)), (index, index));
                at = range.end;
            }
            assert_eq!(at, bytes);
        }
    }

    #[test]
    fn hashing_in_pieces_is_hashing_at_once() {
        let plain: Vec<u8> = (0..3 * FRAME_BYTES + 1000).map(|at| (at / 77) as u8).collect();
        for piece in [1000, 8192, 254 * 1024, FRAME_BYTES, plain.len()] {
            let mut hasher = ChunkHasher::default();
            plain.chunks(piece).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), of(&plain), "in pieces of {piece}");
        }
        let exact = &plain[..FRAME_BYTES - HEADER_BYTES as usize];
        let mut hasher = ChunkHasher::default();
        hasher.update(exact);
        assert_eq!(hasher.finish(), of(exact));
    }

    #[test]
    fn stored_hashes_are_read_back() {
        let hashes = of(&[7; 600_000]);
        assert_eq!(hashes.len(), 3);
        let bytes = to_bytes(hashes.clone());
        assert_eq!(from_bytes(&bytes), Some(hashes));
        assert_eq!(from_bytes(&bytes[1..]), None);
    }
}
