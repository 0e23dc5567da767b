//! What is learnt of a file's content while its bytes pass: the hashes of its pages, and a CRC-32C of the whole.
//!
//! The bytes of a file come in any order and are packed frame by frame, on several cores. A CRC-32C of a run can be had
//! from those of its pieces, so the whole file's costs no second look at a byte; it is what a `backup_manifest` has of a
//! file, unless somebody asked for another checksum.

use crate::archive::tree::page_hashes::{PageHash, PageKey};

/// CRC-32C of a run of bytes, and how many they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Crc {
    value: u32,
    bytes: u64,
}

impl Crc {
    pub(crate) fn of(plain: &[u8]) -> Self {
        Self {
            value: crc32c::crc32c(plain),
            bytes: plain.len() as u64,
        }
    }

    /// Of so many zeros, which nobody has to make: by doubling.
    pub(crate) fn of_zeros(bytes: u64) -> Self {
        let (mut whole, mut power, mut left) = (Self::default(), Self::of(&[0]), bytes);
        while left > 0 {
            if left % 2 == 1 {
                whole = whole.then(power);
            }
            power = power.then(power);
            left /= 2;
        }
        whole
    }

    /// Of this run with another one behind it.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            value: crc32c::crc32c_combine(self.value, next.value, next.bytes as usize),
            bytes: self.bytes + next.bytes,
        }
    }

    pub(crate) fn value(self) -> u32 {
        self.value
    }
}

/// A frame of a tree's file, as one of its chunks.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    hashes: Box<[PageHash]>,
    crc: Crc,
}

impl Chunk {
    /// Of a frame whose first `skipped` bytes are not the file's. `None` if nothing is left.
    pub(crate) fn of(frame: &[u8], skipped: usize, key: PageKey) -> Option<Self> {
        let content = frame.get(skipped..).unwrap_or_default();
        (!content.is_empty()).then(|| Self {
            hashes: key.pages(content).collect(),
            crc: Crc::of(content),
        })
    }
}

/// A run of chunks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunks {
    pub(crate) hashes: Vec<PageHash>,
    /// Of each chunk.
    crcs: Vec<u32>,
    pub(crate) crc: Crc,
}

impl Chunks {
    /// That of the chunk with this number, which has so many bytes.
    pub(crate) fn crc_of(&self, number: usize, bytes: u64) -> Option<Crc> {
        self.crcs.get(number).map(|&value| Crc { value, bytes })
    }
}

impl FromIterator<Chunk> for Chunks {
    fn from_iter<I: IntoIterator<Item = Chunk>>(chunks: I) -> Self {
        let mut all = Self::default();
        for Chunk { hashes, crc } in chunks {
            all.hashes.extend(hashes);
            all.crcs.push(crc.value);
            all.crc = all.crc.then(crc);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The check value of CRC-32C (RFC 3720, B.4: 32 bytes of zeros are `8a9136aa`).
    #[test]
    fn zeros_are_those_of_the_standard() {
        assert_eq!(Crc::of_zeros(32).value(), 0x8a91_36aa);
        for bytes in [0, 1, 2, 3, 1000, 262_144, 262_145, (1 << 20) + 77] {
            assert_eq!(Crc::of_zeros(bytes), Crc::of(&vec![0; bytes as usize]), "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn pieces_give_the_whole(content: Vec<u8>, cuts in prop::collection::vec(0..200_usize, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(content.len())).collect();
            cuts.sort_unstable();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([content.len()]);
            let whole = starts.zip(ends).fold(Crc::default(), |whole, (start, end)| whole.then(Crc::of(&content[start..end])));
            prop_assert_eq!(whole, Crc::of(&content));
        }
    }
}
