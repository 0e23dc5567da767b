//! What packing makes: ranges of files, with where their bytes are, and parts.

use tokio::sync::oneshot;

use super::pages::Findings;
use crate::archive::tree::Attributes;
use crate::memory::Held;
use crate::parts::part::FinishedPart;
use crate::parts::volume::{VolumeBuilder, file_entry, pages_entry};
use crate::read::base::{Difference, Piece};
use crate::read::page_hashes::Placed;

/// A range of a file, with what is known of it since it was packed.
#[derive(Debug)]
pub(in crate::job) struct Packed {
    pub(in crate::job) path: Box<[u8]>,
    pub(in crate::job) attributes: Attributes,
    /// Length of the whole file.
    pub(in crate::job) file_bytes: u64,
    /// Where it begins in the file.
    pub(in crate::job) offset: u64,
    /// Its length.
    pub(in crate::job) bytes: u64,
    /// CRC-32C of its bytes.
    pub(in crate::job) crc32c: u32,
    /// Where its bytes are, in order.
    pub(in crate::job) extents: Vec<PackedExtent>,
    /// Is it in this backup's parts as a tar tool would unpack it?
    pub(in crate::job) is_plain: bool,
}

/// Where bytes of a file are.
#[derive(Debug, Clone)]
pub(in crate::job) enum PackedExtent {
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
pub(in crate::job) struct Built {
    pub(in crate::job) volume: u32,
    pub(in crate::job) slice: u32,
    pub(in crate::job) part: FinishedPart,
    /// Its memory, to be held until it is stored.
    pub(in crate::job) memory: Option<Held>,
}

/// What a thread has made.
#[derive(Debug, Default)]
pub(in crate::job) struct Made {
    /// Ranges of files. The parts that they are in may come later.
    pub(in crate::job) files: Vec<Packed>,
    pub(in crate::job) parts: Vec<Built>,
    pub(in crate::job) found: Findings,
    /// Who waits until all parts before are stored.
    pub(in crate::job) settled: Option<oneshot::Sender<()>>,
}

impl Packed {
    /// Bytes that are in parts of this backup.
    pub(in crate::job) fn own_bytes(&self) -> u64 {
        let own = self.extents.iter().map(|extent| match extent {
            PackedExtent::Own { bytes, .. } => *bytes,
            PackedExtent::Base(_) => 0,
        });
        own.sum()
    }

    /// All of it is in a part of this backup, there.
    pub(in crate::job) fn place(&mut self, volume: u32, slice: u32, offset: u64) {
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
pub(in crate::job) struct PackedExtents {
    pub(in crate::job) extents: Vec<PackedExtent>,
    pub(in crate::job) is_plain: bool,
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
    pub(in crate::job) fn keep(&mut self, difference: &Difference) {
        self.is_plain = false;
        self.add(difference, 0, 0);
    }

    /// Puts what has changed into a bundle. A file that has changed as a whole is there as itself.
    pub(in crate::job) fn store(
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
