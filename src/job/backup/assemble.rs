//! Puts together what the threads have made, in whatever order it came: the tree, its chunk hashes, and the
//! `backup_manifest`.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::pack::{Built, PackedExtent, Whole};
use super::pages::Findings;
use super::walk::Source;
use crate::archive::tree::backup::Pages;
use crate::archive::tree::chunks::ChunkHash;
use crate::archive::tree::{Attributes, Extent, Part, Tree, TreeError, TreeId};
use crate::parts::tree::TreeBuilder;
use crate::pg::Lsn;
use crate::pg::backup_manifest::{Checksum, FileLine, ManifestVersion, WalRange, Writer};

/// Volume and slice: the order of the parts.
type Place = (u32, u32);

/// What is stored so far, or on its way.
#[derive(Debug, Default)]
pub(super) struct Collected {
    parts: BTreeMap<Place, Part>,
    /// Each file's extents.
    files: HashMap<Box<[u8]>, Vec<(Place, PackedExtent)>>,
    found: Findings,
}

impl Collected {
    /// Notes a part whose place is `part.key`.
    pub(super) fn add(&mut self, built: Built, part: Part) {
        let place = (built.volume, built.slice);
        self.parts.insert(place, part);
        for extent in built.extents {
            self.files
                .entry(extent.path.clone())
                .or_default()
                .push((place, extent));
        }
        self.found.add(built.found);
    }

    /// Takes what was found in data pages; the backup's WAL ends at `end`.
    pub(super) fn take_pages(&mut self, end: Lsn) -> Pages {
        std::mem::take(&mut self.found).settle(end)
    }

    /// Puts the extents of every file in order.
    pub(super) fn sort(&mut self) {
        for packed in self.files.values_mut() {
            packed.sort_by_key(|(_, extent)| extent.file_offset);
        }
    }

    /// The `backup_manifest` of all files so far and of those at hand; `ranges` newest first.
    pub(super) fn manifest(&self, version: ManifestVersion, more: &[Whole], ranges: &[WalRange]) -> Vec<u8> {
        let mut writer = Writer::new(version);
        let mut text = Vec::new();
        let mut paths: Vec<_> = self.files.keys().collect();
        paths.sort();
        for path in paths {
            let packed = &self.files[path];
            let first = &packed[0].1;
            file_line(
                &mut writer,
                path,
                first.file_bytes,
                first.attributes,
                crc32c(packed),
            );
            text.append(&mut writer.take());
        }
        for whole in more {
            let bytes = whole.content.len() as u64;
            file_line(
                &mut writer,
                whole.path.as_bytes(),
                bytes,
                whole.attributes,
                whole.crc32c(),
            );
        }
        text.append(&mut writer.finish(ranges));
        text
    }

    /// The tree, and the hashes of all chunks in its order.
    pub(super) fn into_tree(
        self,
        id: TreeId,
        sources: &[Source],
    ) -> Result<(Tree, Vec<ChunkHash>), TreeError> {
        let mut builder = TreeBuilder::default();
        let numbers: HashMap<Place, u32> = self
            .parts
            .iter()
            .map(|(place, part)| (*place, builder.part(part)))
            .collect();
        let directories = sources.iter().filter(|source| source.bytes.is_none());
        directories.for_each(|source| builder.node(source.directory()));
        for (path, packed) in self.files {
            let (attributes, bytes) = (packed[0].1.attributes, packed[0].1.file_bytes);
            let extents: Vec<Extent> = packed
                .iter()
                .map(|(place, extent)| Extent {
                    part: numbers[place],
                    offset: extent.part_offset,
                    bytes: extent.bytes,
                })
                .collect();
            let hashes = packed.into_iter().flat_map(|(_, extent)| extent.hashes);
            builder.file(path, attributes, bytes, extents, hashes.collect());
        }
        builder.build(id)
    }
}

fn crc32c(packed: &[(Place, PackedExtent)]) -> u32 {
    packed.iter().fold(0, |crc, (_, extent)| {
        crc32c::crc32c_combine(crc, extent.crc32c, extent.bytes as usize)
    })
}

fn file_line(writer: &mut Writer, path: &[u8], bytes: u64, attributes: Attributes, crc32c: u32) {
    writer.file(&FileLine {
        path,
        bytes,
        modified: SystemTime::from(attributes.modified),
        checksum: Some(&Checksum::crc32c(crc32c)),
    });
}
