//! What packing makes: ranges of files, with where their bytes are, and parts.

use super::pages::Findings;
use crate::archive::tree::Attributes;
use crate::memory::Held;
use crate::parts::part::FinishedPart;
use crate::parts::volume::{VolumeBuilder, file_entry, pages_entry};
use crate::read::base::{Difference, Piece};
use crate::read::page_hashes::Placed;

/// A range of a file, with what is known of it since it was packed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) path: Box<[u8]>,
    pub(super) attributes: Attributes,
    /// Length of the whole file.
    pub(super) file_bytes: u64,
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// Its length.
    pub(super) bytes: u64,
    /// CRC-32C of its bytes.
    pub(super) crc32c: u32,
    /// Where its bytes are, in order.
    pub(super) extents: Vec<PackedExtent>,
    /// Is it in this backup's parts as a tar tool would unpack it?
    pub(super) is_plain: bool,
}

/// Where bytes of a file are.
#[derive(Debug, Clone)]
pub(super) enum PackedExtent {
    /// In a part of this backup.
    Own {
        volume: u32,
        slice: u32,
        /// In the part's plain content.
        offset: u64,
        bytes: u64,
    },
    /// In a part of the base.
    Base(Placed),
}

/// A part, to be stored under volume and slice.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) volume: u32,
    pub(super) slice: u32,
    pub(super) part: FinishedPart,
    /// Its memory, to be held until it is stored.
    pub(super) memory: Option<Held>,
}

/// What a thread has made.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// Ranges of files. The parts that they are in may come later.
    pub(super) files: Vec<Packed>,
    pub(super) parts: Vec<Built>,
    pub(super) found: Findings,
}

impl Packed {
    /// Bytes that are in parts of this backup.
    pub(super) fn own_bytes(&self) -> u64 {
        let own = self.extents.iter().map(|extent| match extent {
            PackedExtent::Own { bytes, .. } => *bytes,
            PackedExtent::Base(_) => 0,
        });
        own.sum()
    }

    /// All of it is in a part of this backup, there.
    pub(super) fn place(&mut self, volume: u32, slice: u32, offset: u64) {
        self.extents = vec![PackedExtent::Own {
            volume,
            slice,
            offset,
            bytes: self.bytes,
        }];
    }
}

/// Where the bytes of a file are that was compared.
#[derive(Debug)]
pub(super) struct PackedExtents {
    pub(super) extents: Vec<PackedExtent>,
    pub(super) is_plain: bool,
}

impl Default for PackedExtents {
    fn default() -> Self {
        Self {
            extents: Vec::new(),
            is_plain: true,
        }
    }
}

impl PackedExtents {
    /// Nothing has changed.
    pub(super) fn keep(&mut self, difference: &Difference) {
        self.is_plain = false;
        self.add(difference, 0, 0);
    }

    /// Puts what has changed into a bundle. A file that has changed as a whole is there as itself.
    pub(super) fn store(
        &mut self,
        (path, attributes, file_bytes): (&[u8], Attributes, u64),
        difference: &Difference,
        volume: u32,
        builder: &mut VolumeBuilder,
    ) {
        let bytes = difference.changed.len() as u64;
        let is_whole = bytes == file_bytes;
        self.is_plain &= is_whole;
        builder.begin_member(&match is_whole {
            true => file_entry(path, attributes, bytes),
            false => pages_entry(path, attributes, bytes),
        });
        let offset = builder.plain_bytes();
        builder.content(&difference.changed);
        builder.end_member(bytes);
        self.add(difference, volume, offset);
    }

    fn add(&mut self, difference: &Difference, volume: u32, mut offset: u64) {
        let place = |piece: &Piece| match piece {
            Piece::Kept(place) => PackedExtent::Base(place.clone()),
            &Piece::Changed(bytes) => {
                let own = PackedExtent::Own {
                    volume,
                    slice: 0,
                    offset,
                    bytes,
                };
                offset += bytes;
                own
            }
        };
        self.extents.extend(difference.pieces.iter().map(place));
    }
}
