//! Writing: frames are packed in any order, packed frames become an object.
//!
//! A [`Packed`] frame is its bytes and a small [`FrameSummary`]; once the bytes have gone elsewhere (a file, a part
//! of an upload) the summaries are all that [`finish`] needs. An [`ObjectBuilder`] does both for frames that come in order.

use std::io::{self, Write};

use bytes::Bytes;

use super::format::{
    Annex, Container, ENTRY_BYTES, Entry, FOOTER_BYTES, Footer, HEADER_BYTES, header, most_annex_bytes,
};
use super::frame::{self, Expected};
use super::{Compression, ContentHash, Damage, FRAME_BYTES, FrameHash, MAX_PLAIN_BYTES, hash};

/// A frame ready to be stored. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The frame's bytes.
    pub stored: Bytes,
    /// What remains to be known of it when the bytes are gone.
    pub summary: FrameSummary,
}

/// A packed frame without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSummary {
    index: u64,
    plain_bytes: u32,
    container: Container,
    /// As the table has it if there are other frames.
    entry: Entry,
    /// Of frame 0: the content hash, should there be no other frame.
    alone: Option<ContentHash>,
}

impl FrameSummary {
    /// Number of the frame in its content, from 0.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Size of its content, 1 to [`FRAME_BYTES`].
    pub const fn plain_bytes(&self) -> u32 {
        self.plain_bytes
    }

    /// Size of the frame as stored.
    pub const fn stored_bytes(&self) -> u32 {
        self.entry.stored_bytes
    }

    /// Verifies and unpacks the frame's bytes, wherever they have been meanwhile.
    ///
    /// # Errors
    ///
    /// [`Damage::FrameLength`], `FrameChecksum`, `FrameContent` or `FrameHash`; then `plain` holds nothing of use.
    ///
    /// # Panics
    ///
    /// If `plain` does not have [`FrameSummary::plain_bytes`].
    pub fn unpack(&self, stored: &[u8], plain: &mut [u8]) -> Result<(), Damage> {
        assert_eq!(
            plain.len(),
            self.plain_bytes as usize,
            "room for frame {}",
            self.index
        );
        let expected = Expected {
            container: self.container,
            index: self.index,
            alone: false,
            entry: &self.entry,
        };
        expected.unpack(stored, plain)
    }

    /// What it adds to the content's hash.
    pub const fn hash(&self) -> FrameHash {
        FrameHash {
            node: self.entry.value,
            alone: self.alone,
        }
    }

    /// The entry it gets in a table of so many frames.
    fn entry_among(&self, frames: usize) -> Entry {
        match self.alone {
            Some(hash) if frames == 1 => Entry {
                value: *hash.as_bytes(),
                ..self.entry
            },
            _ => self.entry,
        }
    }
}

/// Packs the content of the frame that starts at plain offset `index * FRAME_BYTES`.
///
/// Every frame but the content's last has [`FRAME_BYTES`]; the last has 1 to as many. Which bytes a compressor makes
/// of a frame is its own affair and may differ between versions and threads: compare contents by hash.
///
/// # Panics
///
/// If the frame is empty or too long, or lies beyond [`MAX_PLAIN_BYTES`].
pub fn pack(compression: Compression, index: u64, plain: &[u8]) -> Packed {
    assert!(
        (1..=FRAME_BYTES).contains(&plain.len()),
        "a frame of {} bytes",
        plain.len()
    );
    assert!(
        index < MAX_PLAIN_BYTES / FRAME_BYTES as u64,
        "frame {index} lies beyond the largest content"
    );
    let stored = frame::encode(compression, plain);
    let FrameHash { node: value, alone } = FrameHash::of(index, plain);
    let entry = Entry {
        stored_bytes: stored.len() as u32,
        crc32c: crc32c::crc32c(&stored),
        value,
    };
    let plain_bytes = plain.len() as u32;
    Packed {
        stored,
        summary: FrameSummary {
            index,
            plain_bytes,
            container: compression.container(),
            entry,
            alone,
        },
    }
}

/// What completes an object.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Bytes that follow the last frame: the annex, if any, and the seek table.
    pub trailer: Bytes,
    /// BLAKE3 of the content.
    pub hash: ContentHash,
    /// Size of the content.
    pub plain_bytes: u64,
    /// Size of the whole object, trailer included.
    pub stored_bytes: u64,
}

/// Makes the trailer for these frames, given in order. `annex` is stored in front of it, if there is any.
///
/// # Panics
///
/// If the annex is longer than a 32nd of the content, or the frames are not one content: numbered 0, 1, 2 ..., all but the last full, all of `compression`'s container.
/// (`none` and `lz4` share theirs.) Each of these would make an object that cannot be read.
pub fn finish(
    compression: Compression,
    frames: impl IntoIterator<Item = FrameSummary>,
    annex: &[u8],
) -> Finished {
    let frames: Vec<FrameSummary> = frames.into_iter().collect();
    assert_one_content(compression.container(), &frames);
    let entries: Vec<Entry> = frames
        .iter()
        .map(|frame| frame.entry_among(frames.len()))
        .collect();
    let plain_bytes = frames.iter().map(|frame| u64::from(frame.plain_bytes)).sum();
    let frames_bytes: u64 = entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum();
    let hash = hash::root(&entries.iter().map(|entry| entry.value).collect::<Vec<_>>());
    assert!(
        annex.len() as u64 <= most_annex_bytes(plain_bytes),
        "an annex of {} bytes for {plain_bytes} of content",
        annex.len()
    );
    let footer = |table_crc32c| Footer {
        plain_bytes,
        container: compression.container(),
        hash,
        annex: Annex::of(annex),
        table_crc32c,
    };
    let trailer = trailer(annex, &entries, footer);
    Finished {
        stored_bytes: frames_bytes + trailer.len() as u64,
        trailer,
        hash,
        plain_bytes,
    }
}

/// Writes an object of frames that come in order.
#[derive(Debug)]
pub struct ObjectBuilder<W> {
    compression: Compression,
    frames: Vec<FrameSummary>,
    object: W,
}

impl<W: Write> ObjectBuilder<W> {
    /// Nothing yet. The object goes to `object`.
    pub const fn new(compression: Compression, object: W) -> Self {
        Self {
            compression,
            frames: Vec::new(),
            object,
        }
    }

    /// Frames so far.
    pub const fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Bytes that they take in the object.
    pub fn stored_bytes(&self) -> u64 {
        self.frames
            .iter()
            .map(|frame| u64::from(frame.stored_bytes()))
            .sum()
    }

    /// Packs the content of the next frame: all but the last have [`FRAME_BYTES`].
    ///
    /// # Errors
    ///
    /// Those of `object`.
    ///
    /// # Panics
    ///
    /// As [`pack`].
    pub fn push(&mut self, content: &[u8]) -> io::Result<()> {
        let packed = pack(self.compression, self.frames.len() as u64, content);
        self.frames.push(packed.summary);
        self.object.write_all(&packed.stored)
    }

    /// Writes the trailer, `annex` in front of it, and gives back where the object went.
    ///
    /// # Errors
    ///
    /// Those of `object`.
    ///
    /// # Panics
    ///
    /// As [`finish`].
    pub fn finish(mut self, annex: &[u8]) -> io::Result<(W, Finished)> {
        let finished = finish(self.compression, self.frames, annex);
        self.object.write_all(&finished.trailer)?;
        Ok((self.object, finished))
    }
}

fn assert_one_content(container: Container, frames: &[FrameSummary]) {
    for (place, frame) in frames.iter().enumerate() {
        let last = place + 1 == frames.len();
        assert_eq!(frame.index, place as u64, "frames are finished in order");
        assert!(
            last || frame.plain_bytes as usize == FRAME_BYTES,
            "frame {place} is short, and not the last"
        );
        assert_eq!(
            frame.container, container,
            "frame {place} is of another container"
        );
    }
}

fn trailer(annex: &[u8], entries: &[Entry], footer: impl Fn(u32) -> Footer) -> Bytes {
    let room = 2 * HEADER_BYTES + annex.len() + entries.len() * ENTRY_BYTES + FOOTER_BYTES;
    let mut bytes = Vec::with_capacity(room);
    if !annex.is_empty() {
        bytes.extend_from_slice(&Annex::of(annex).header());
        bytes.extend_from_slice(annex);
    }
    let table = bytes.len();
    bytes.extend_from_slice(&header(entries.len() as u64));
    for entry in entries {
        bytes.extend_from_slice(&entry.to_bytes());
    }
    let table_crc32c = crc32c::crc32c(&bytes[table..]);
    bytes.extend_from_slice(&footer(table_crc32c).to_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_packed_in_any_order_make_the_same_object() {
        let mut rng = fastrand::Rng::with_seed(11);
        let plain: Vec<u8> = (0..5 * FRAME_BYTES + 1000).map(|at| (at / 300) as u8).collect();
        let mut frames: Vec<_> = plain.chunks(FRAME_BYTES).zip(0..).collect();
        rng.shuffle(&mut frames);
        let pack_one = |(content, index)| pack(Compression::None, index, content);
        let mut packed: Vec<Packed> = frames.into_iter().map(pack_one).collect();
        packed.sort_by_key(|frame| frame.summary.index());
        let finished = finish(Compression::None, packed.iter().map(|frame| frame.summary), &[]);
        let mut object: Vec<u8> = packed.iter().flat_map(|frame| frame.stored.to_vec()).collect();
        object.extend_from_slice(&finished.trailer);
        assert_eq!(finished.hash, ContentHash::of(&plain));
        assert_eq!(
            (finished.plain_bytes, finished.stored_bytes),
            (plain.len() as u64, object.len() as u64)
        );
        assert_eq!(object, crate::codec::pack_all(Compression::None, &plain).0);
    }

    #[test]
    fn a_packed_frame_gives_its_content_back() {
        for (index, compression) in [(0, "none"), (1, "lz4"), (300, "zstd")] {
            let content = vec![index as u8; 70_000];
            let packed = pack(compression.parse().unwrap(), index, &content);
            let mut plain = vec![0; content.len()];
            assert_eq!(packed.summary.unpack(&packed.stored, &mut plain), Ok(()));
            assert_eq!(plain, content);
        }
    }

    #[test]
    fn a_spilled_frame_that_changed_is_damage() {
        let packed = pack(Compression::default(), 2, &[5; 1000]);
        let mut spilled = packed.stored.to_vec();
        spilled[12] ^= 1;
        let found = packed.summary.unpack(&spilled, &mut [0; 1000]).unwrap_err();
        assert!(matches!(found, Damage::FrameChecksum { frame: 2, .. }), "{found}");
        let found = packed.summary.unpack(&spilled[1..], &mut [0; 1000]).unwrap_err();
        assert!(matches!(found, Damage::FrameLength { frame: 2, .. }), "{found}");
    }

    #[test]
    #[should_panic(expected = "frame 0 is short")]
    fn a_hole_in_the_content_is_a_bug() {
        let frames = [
            pack(Compression::None, 0, b"short"),
            pack(Compression::None, 1, b"last"),
        ];
        finish(Compression::None, frames.map(|frame| frame.summary), &[]);
    }
}
