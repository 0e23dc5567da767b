//! One frame: 256 KiB of content in an LZ4 or zstd container of its own.
//!
//! LZ4 frames are put together here by hand, from a constant header, one block and the end mark: the library's frame
//! writer would add a content checksum or choose its own blocks. A block that does not shrink is stored raw, so a
//! frame is never more than 15 bytes larger than its content. zstd frames are the library's, with content size and
//! without checksum. Checksums of both are in the seek table.

use std::cell::RefCell;

use bytes::Bytes;
use lzzzz::lz4;
use zstd::bulk::{Compressor, Decompressor};

use super::format::{Container, Entry, HEADER_BYTES, frames_of, most_annex_bytes, trailer_bytes};
use super::{Compression, ContentHash, Damage, FRAME_BYTES, MAX_PLAIN_BYTES, hash};

/// Magic 0x184D2204; version 1 with independent blocks, no checksums, no content size; blocks up to 256 KiB; the
/// second byte of the two flag bytes' XXH32.
const LZ4_HEADER: [u8; 7] = [0x04, 0x22, 0x4D, 0x18, 0x60, 0x50, 0xFB];
/// A block of size zero.
const LZ4_END: [u8; 4] = [0; 4];
/// In a block's size: its bytes are the plain bytes.
const LZ4_RAW: u32 = 1 << 31;
/// What an LZ4 frame adds to its block: header, size of the block, end mark.
const LZ4_AROUND_BYTES: usize = LZ4_HEADER.len() + 4 + LZ4_END.len();

/// Most bytes a frame may take in an object, whichever codec: zstd's own worst case is less than this.
pub(super) const MAX_STORED_BYTES: u32 = FRAME_BYTES as u32 + 4096;

/// Longest object of so much content, whichever codec.
pub const fn most_stored_bytes(plain_bytes: u64) -> u64 {
    let frames_bytes = frames_of(plain_bytes).saturating_mul(MAX_STORED_BYTES as u64);
    let annex_bytes = most_annex_bytes(plain_bytes) + HEADER_BYTES as u64;
    frames_bytes
        .saturating_add(annex_bytes)
        .saturating_add(trailer_bytes(plain_bytes))
}

/// Stored size of an object made with [`Compression::None`] of so much content.
///
/// A pure function, so that the size of content can be told from a listing: see [`plain_bytes_uncompressed`].
pub const fn stored_bytes_uncompressed(plain_bytes: u64) -> u64 {
    let around_bytes = frames_of(plain_bytes) * LZ4_AROUND_BYTES as u64 + trailer_bytes(plain_bytes);
    plain_bytes.saturating_add(around_bytes)
}

/// Size of the content of an object made with [`Compression::None`], from its stored size; `None` if no content has
/// that stored size.
pub fn plain_bytes_uncompressed(stored_bytes: u64) -> Option<u64> {
    let frames_bytes = stored_bytes.checked_sub(trailer_bytes(0))?;
    let per_frame = trailer_bytes(1) - trailer_bytes(0) + LZ4_AROUND_BYTES as u64;
    let frames = frames_bytes.div_ceil(FRAME_BYTES as u64 + per_frame);
    let plain_bytes = frames_bytes.checked_sub(frames * per_frame)?;
    let fits = plain_bytes <= MAX_PLAIN_BYTES && stored_bytes_uncompressed(plain_bytes) == stored_bytes;
    fits.then_some(plain_bytes)
}

thread_local! {
    /// Where a frame is compressed before it is copied at its final size: the compressors want the worst case.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Contexts are kept: making one costs more than a small frame.
    static ZSTD_IN: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static ZSTD_OUT: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Makes the stored bytes of a frame with 1 to [`FRAME_BYTES`] bytes of content.
pub(super) fn encode(compression: Compression, content: &[u8]) -> Bytes {
    match compression.clamped() {
        Compression::None => lz4_frame(content, LZ4_RAW),
        Compression::Lz4 { acceleration } => encode_lz4(acceleration, content),
        Compression::Zstd { level } => encode_zstd(level, content),
    }
}

fn encode_lz4(acceleration: i32, content: &[u8]) -> Bytes {
    // Room for the worst case, always: after a failure the library's per-thread state must not be used again.
    with_scratch(lz4::max_compressed_size(content.len()), |scratch| {
        let bytes = lz4::compress(content, scratch, acceleration).expect("LZ4 fits its own worst case");
        if bytes < content.len() {
            lz4_frame(&scratch[..bytes], 0)
        } else {
            lz4_frame(content, LZ4_RAW)
        }
    })
}

fn lz4_frame(block: &[u8], raw: u32) -> Bytes {
    let size = raw | u32::try_from(block.len()).expect("a block is at most FRAME_BYTES");
    [&LZ4_HEADER, size.to_le_bytes().as_slice(), block, &LZ4_END]
        .concat()
        .into()
}

fn encode_zstd(level: i32, content: &[u8]) -> Bytes {
    with_scratch(zstd::zstd_safe::compress_bound(content.len()), |scratch| {
        ZSTD_IN.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some((of, compressor)) if *of == level => compressor,
                _ => {
                    &mut slot
                        .insert((level, Compressor::new(level).expect("memory for a zstd context")))
                        .1
                }
            };
            let bytes = compressor
                .compress_to_buffer(content, scratch)
                .expect("zstd fits its own worst case");
            Bytes::copy_from_slice(&scratch[..bytes])
        })
    })
}

fn with_scratch<T>(bytes: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < bytes {
            scratch.resize(bytes, 0);
        }
        work(&mut scratch[..bytes])
    })
}

/// A frame that is about to be unpacked, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) container: Container,
    /// Number of the frame.
    pub(super) index: u64,
    /// Is it the only one, so that its value is the content hash?
    pub(super) alone: bool,
    pub(super) entry: &'a Entry,
}

impl Expected<'_> {
    /// Verifies `stored`, unpacks it into `plain`, which has the size of its content, and verifies that.
    pub(super) fn unpack(&self, stored: &[u8], plain: &mut [u8]) -> Result<(), Damage> {
        self.check_stored(stored)?;
        let decoded = match self.container {
            Container::Lz4 => decode_lz4(stored, plain),
            Container::Zstd => decode_zstd(stored, plain),
        };
        decoded.map_err(|reason| Damage::FrameContent {
            frame: self.index,
            reason,
        })?;
        self.check_plain(plain)
    }

    fn check_stored(&self, stored: &[u8]) -> Result<(), Damage> {
        let (frame, expected_bytes) = (self.index, u64::from(self.entry.stored_bytes));
        if stored.len() as u64 != expected_bytes {
            return Err(Damage::FrameLength {
                frame,
                expected_bytes,
                found_bytes: stored.len() as u64,
            });
        }
        let (expected, found) = (self.entry.crc32c, crc32c::crc32c(stored));
        if found != expected {
            return Err(Damage::FrameChecksum {
                frame,
                expected,
                found,
            });
        }
        Ok(())
    }

    fn check_plain(&self, plain: &[u8]) -> Result<(), Damage> {
        let (expected, found) = (self.entry.value, hash::table_value(self.index, self.alone, plain));
        if found != expected {
            let (expected, found) = (ContentHash::from_bytes(expected), ContentHash::from_bytes(found));
            return Err(Damage::FrameHash {
                frame: self.index,
                expected,
                found,
            });
        }
        Ok(())
    }
}

fn decode_lz4(stored: &[u8], plain: &mut [u8]) -> Result<(), &'static str> {
    let body = stored
        .strip_prefix(&LZ4_HEADER)
        .ok_or("it does not begin with the LZ4 frame header")?;
    let body = body
        .strip_suffix(&LZ4_END)
        .ok_or("it does not end in the LZ4 end mark")?;
    let (size, block) = body.split_first_chunk().ok_or("it has no LZ4 block")?;
    let size = u32::from_le_bytes(*size);
    if (size & !LZ4_RAW) as usize != block.len() {
        return Err("its LZ4 block does not have the stated size");
    }
    if size & LZ4_RAW == 0 {
        let bytes = lz4::decompress(block, plain).map_err(|_| "its LZ4 block is malformed or too long")?;
        return (bytes == plain.len())
            .then_some(())
            .ok_or("its LZ4 block is too short");
    }
    if block.len() != plain.len() {
        return Err("its raw block does not have the size of its content");
    }
    plain.copy_from_slice(block);
    Ok(())
}

fn decode_zstd(stored: &[u8], plain: &mut [u8]) -> Result<(), &'static str> {
    ZSTD_OUT.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(Decompressor::new().expect("memory for a zstd context")),
        };
        let bytes = context
            .decompress_to_buffer(stored, plain)
            .map_err(|_| "zstd finds it malformed or too long")?;
        (bytes == plain.len())
            .then_some(())
            .ok_or("its zstd content is too short")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_cases_stay_under_the_bound() {
        let mut noise = vec![0; FRAME_BYTES];
        fastrand::Rng::with_seed(7).fill(&mut noise);
        for compression in ["none", "lz4", "lz4:65537", "zstd:1", "zstd:3", "zstd:19"] {
            let stored = encode(compression.parse().unwrap(), &noise);
            assert!(
                stored.len() <= MAX_STORED_BYTES as usize,
                "{compression}: {}",
                stored.len()
            );
        }
        assert!(zstd::zstd_safe::compress_bound(FRAME_BYTES) <= MAX_STORED_BYTES as usize);
        assert_eq!(
            encode(Compression::default(), &noise).len(),
            FRAME_BYTES + LZ4_AROUND_BYTES
        );
    }

    #[test]
    fn levels_may_change_from_frame_to_frame() {
        let content: Vec<u8> = (0..FRAME_BYTES as u32)
            .map(|at| (at.wrapping_mul(at >> 7) >> 9) as u8 & 0x3F)
            .collect();
        let bytes = |level| encode(Compression::Zstd { level }, &content).len();
        let (fast, small) = (bytes(1), bytes(19));
        assert!(small < fast, "{small} at level 19, {fast} at level 1");
        assert_eq!((bytes(-7), bytes(99)), (fast, small));
    }

    /// Bytes with the right checksum that are no frame of this content: damage before they were first summed.
    #[test]
    fn malformed_frames_are_refused() {
        let content = [b'x'; 100];
        for (container, text) in [
            (Container::Lz4, "none"),
            (Container::Lz4, "lz4"),
            (Container::Zstd, "zstd"),
        ] {
            let good = encode(text.parse().unwrap(), &content).to_vec();
            let edit = |edit: &dyn Fn(&mut Vec<u8>)| {
                let mut bytes = good.clone();
                edit(&mut bytes);
                bytes
            };
            let malformed = [
                Vec::new(),
                edit(&|bytes| bytes[0] ^= 1),
                edit(&|bytes| bytes[7] ^= 1),
                edit(&|bytes| bytes.truncate(good.len() - 1)),
                edit(&|bytes| bytes.push(0)),
                encode(text.parse().unwrap(), &content[..99]).to_vec(),
                encode(text.parse().unwrap(), &[b'x'; 101]).to_vec(),
            ];
            for stored in malformed {
                let value = hash::table_value(3, false, &content);
                let entry = Entry {
                    stored_bytes: stored.len() as u32,
                    crc32c: crc32c::crc32c(&stored),
                    value,
                };
                let found = Expected {
                    container,
                    index: 3,
                    alone: false,
                    entry: &entry,
                }
                .unpack(&stored, &mut [0; 100]);
                assert!(
                    matches!(found, Err(Damage::FrameContent { frame: 3, .. })),
                    "{text}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn uncompressed_size_is_known_both_ways() {
        let frame = FRAME_BYTES as u64;
        let sizes = [
            0,
            1,
            41,
            300,
            frame - 1,
            frame,
            frame + 1,
            64 * frame,
            4096 * frame,
            4096 * frame + 1,
        ];
        for plain in sizes {
            assert_eq!(
                plain_bytes_uncompressed(stored_bytes_uncompressed(plain)),
                Some(plain)
            );
        }
        assert_eq!(plain_bytes_uncompressed(u64::MAX), None);
    }

    #[test]
    fn sizes_that_no_content_has_are_refused() {
        let taken = (0..2000).filter_map(plain_bytes_uncompressed).collect::<Vec<_>>();
        let from = stored_bytes_uncompressed(1);
        assert_eq!(taken, (0..=2000 - from).collect::<Vec<_>>());
        let (last_of_one, first_of_two) = (
            stored_bytes_uncompressed(FRAME_BYTES as u64),
            stored_bytes_uncompressed(FRAME_BYTES as u64 + 1),
        );
        for between in last_of_one + 1..first_of_two {
            assert_eq!(plain_bytes_uncompressed(between), None, "{between}");
        }
    }
}
