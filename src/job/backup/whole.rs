//! Files at hand whole, which come last: packed as the others are, without a thread.

use std::ops::Range;

use super::packed::{Built, Made, Packed, PackedExtents};
use super::pages::Findings;
use super::{Error, patience};
use crate::archive::tree::{Attributes, Entry};
use crate::parts::Form;
use crate::parts::part::FinishedPart;
use crate::parts::volume::{VolumeBuilder, file_entry};
use crate::read::base::{self, Base};

/// A file whose content is at hand.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) path: &'static str,
    pub(super) attributes: Attributes,
    pub(super) content: Vec<u8>,
}

impl Whole {
    pub(super) fn crc32c(&self) -> u32 {
        crc32c::crc32c(&self.content)
    }

    fn entry(&self) -> Entry {
        file_entry(self.path.as_bytes(), self.attributes, self.content.len() as u64)
    }

    fn packed(&self, range: Range<u64>) -> Packed {
        Packed {
            path: self.path.as_bytes().into(),
            attributes: self.attributes,
            file_bytes: self.content.len() as u64,
            offset: range.start,
            bytes: range.end - range.start,
            crc32c: crc32c::crc32c(&self.content[range.start as usize..range.end as usize]),
            extents: Vec::new(),
            is_plain: true,
        }
    }
}

/// Files at hand, in one part. Of one that the base has only what has changed.
pub(super) async fn bundle_of(
    form: Form,
    volume: u32,
    files: &[Whole],
    base: Option<&Base>,
) -> Result<Made, Error> {
    let mut builder = VolumeBuilder::new(form);
    let mut made = Made::default();
    for whole in files {
        let bytes = whole.content.len() as u64;
        let mut packed = whole.packed(0..bytes);
        let known = match base {
            Some(base) => base.file(whole.path.as_bytes(), patience()).await?,
            None => None,
        };
        if let Some(mut comparison) = known {
            for (at, chunk) in base::chunks(&whole.content) {
                comparison.push(at, chunk, patience()).await?;
            }
            let (file, mut extents) = (
                (whole.path.as_bytes(), whole.attributes, bytes),
                PackedExtents::default(),
            );
            extents.store(file, &comparison.take(), volume, &mut builder);
            (packed.extents, packed.is_plain) = (extents.extents, extents.is_plain);
        } else {
            builder.begin_member(&whole.entry());
            packed.place(volume, 0, builder.plain_bytes());
            builder.content(&whole.content);
            builder.end_member(bytes);
        }
        made.files.push(packed);
    }
    made.parts.push(built(volume, 0, builder.finish_bundle()));
    Ok(made)
}

/// A slice of the volume of a large file at hand.
pub(super) fn slice_of(form: Form, volume: u32, index: u64, whole: &Whole) -> Made {
    let bytes = whole.content.len() as u64;
    let mut builder = VolumeBuilder::new(form);
    let range = builder.begin_slice(index, &whole.entry());
    let mut packed = whole.packed(range.clone());
    packed.place(volume, index as u32, builder.plain_bytes());
    builder.content(&whole.content[range.start as usize..range.end as usize]);
    Made {
        files: vec![packed],
        parts: vec![built(volume, index as u32, builder.finish_slice(index, bytes))],
        found: Findings::default(),
        settled: None,
    }
}

fn built(volume: u32, slice: u32, part: FinishedPart) -> Built {
    Built {
        volume,
        slice,
        part,
        memory: None,
    }
}
