//! Chunks: the pieces of a file that are read, looked at and packed one by one.
//!
//! A file is cut every 256 KiB, the first time 8 KiB early, whatever its size. These are the frames of a large file in
//! its own volume, which begins with 8 KiB of tar headers ([`super::layout`]): so each chunk is one frame. All cuts lie
//! between pages.

use std::ops::Range;

use super::layout::HEADER_BYTES;
use crate::codec::FRAME_BYTES;

const FRAME: u64 = FRAME_BYTES as u64;

/// Where chunk `index` of a file of `bytes` lies, in bytes.
pub fn range(index: u64, bytes: u64) -> Range<u64> {
    (index * FRAME).saturating_sub(HEADER_BYTES)..bytes.min((index + 1) * FRAME - HEADER_BYTES)
}

/// Which chunk holds the byte at `offset`.
pub fn index_of(offset: u64) -> u64 {
    (offset + HEADER_BYTES) / FRAME
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::page_hashes::PAGE_BYTES;

    #[test]
    fn chunks_follow_each_other_and_cut_between_pages() {
        let bytes = 3 * FRAME + 12_345;
        let mut at = 0;
        for index in 0.. {
            let chunk = range(index, bytes);
            if chunk.is_empty() {
                break;
            }
            assert_eq!(chunk.start, at);
            assert!(chunk.start.is_multiple_of(PAGE_BYTES));
            assert_eq!((index_of(chunk.start), index_of(chunk.end - 1)), (index, index));
            at = chunk.end;
        }
        assert_eq!(at, bytes);
    }
}
