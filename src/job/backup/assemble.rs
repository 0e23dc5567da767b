//! Puts together what the threads have made, in whatever order it came: the tree and the `backup_manifest`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::packed::{Packed, PackedExtent};
use super::pages::Findings;
use super::whole::Whole;
use crate::archive::tree::backup::Pages;
use crate::archive::tree::{Attributes, Entry, Extent, Part, Tree, TreeError, TreeId};
use crate::parts::tree::TreeBuilder;
use crate::pg::Lsn;
use crate::pg::backup_manifest::{Checksum, FileLine, ManifestVersion, WalRange, Writer};

/// Volume and slice: the order of the parts.
type Number = (u32, u32);

/// What is stored so far, or on its way.
#[derive(Debug, Default)]
pub(in crate::job) struct Collected {
    parts: BTreeMap<Number, Part>,
    /// The ranges of each file.
    files: HashMap<Box<[u8]>, Vec<Packed>>,
    found: Findings,
    /// Bytes of files that were read, and those of them that no earlier backup has.
    pub(in crate::job) read_bytes: u64,
    pub(in crate::job) changed_bytes: u64,
}

impl Collected {
    /// Notes a part.
    pub(in crate::job) fn add_part(&mut self, volume: u32, slice: u32, part: Part) {
        self.parts.insert((volume, slice), part);
    }

    /// Notes what was packed, and what was found in it.
    pub(in crate::job) fn add_files(&mut self, files: Vec<Packed>, found: Findings) {
        for packed in files {
            self.read_bytes += packed.bytes;
            self.changed_bytes += packed.own_bytes();
            self.files.entry(packed.path.clone()).or_default().push(packed);
        }
        self.found.add(found);
    }

    /// Takes what was found in data pages; the backup's WAL ends at `end`, until when pages have had checksums, or not.
    pub(in crate::job) fn take_pages(&mut self, end: Lsn, checksums: bool) -> Pages {
        std::mem::take(&mut self.found).settle(end, checksums)
    }

    /// Puts the ranges of every file in order.
    pub(in crate::job) fn sort(&mut self) {
        for packed in self.files.values_mut() {
            packed.sort_by_key(|packed| packed.offset);
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
            let first = &packed[0];
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

    /// Has anything become a part of this tree?
    pub(in crate::job) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Every file so far: its path, length, and attributes when it was opened.
    pub(in crate::job) fn files(&self) -> impl Iterator<Item = (&[u8], u64, Attributes)> {
        let files = self.files.iter();
        files.map(|(path, packed)| (&**path, packed[0].file_bytes, packed[0].attributes))
    }

    /// A file will be read again: what was read of it is no part of the tree.
    pub(in crate::job) fn forget(&mut self, path: &[u8]) {
        self.files.remove(path);
    }

    /// The tree, with what is no file, and whether its own parts are it as a tar tool would unpack them.
    pub(in crate::job) fn into_tree(
        self,
        id: TreeId,
        nodes: impl IntoIterator<Item = Entry>,
    ) -> Result<(Tree, bool), TreeError> {
        let mut builder = TreeBuilder::default();
        let numbers: HashMap<Number, u32> = self
            .parts
            .iter()
            .map(|(number, part)| (*number, builder.part(part)))
            .collect();
        nodes.into_iter().for_each(|node| builder.node(node));
        let mut is_plain = true;
        // Parts of the base by where they are in memory, which they do not leave: most are named by very many extents.
        let mut earlier: HashMap<*const Part, u32> = HashMap::new();
        for (path, packed) in &self.files {
            let (attributes, bytes) = (packed[0].attributes, packed[0].file_bytes);
            is_plain &= packed.iter().all(|packed| packed.is_plain);
            let mut extents: Vec<Extent> = Vec::new();
            for extent in packed.iter().flat_map(|packed| &packed.extents) {
                extents.push(match extent {
                    &PackedExtent::Own {
                        volume,
                        slice,
                        offset,
                        bytes,
                    } => Extent {
                        part: numbers[&(volume, slice)],
                        offset,
                        bytes,
                    },
                    PackedExtent::Base(place) => Extent {
                        part: *(earlier.entry(Arc::as_ptr(&place.part)))
                            .or_insert_with(|| builder.part(&place.part)),
                        offset: place.offset,
                        bytes: place.bytes,
                    },
                });
            }
            builder.file(path.clone(), attributes, bytes, extents);
        }
        Ok((builder.build(id)?, is_plain))
    }
}

fn crc32c(packed: &[Packed]) -> u32 {
    packed.iter().fold(0, |crc, packed| {
        crc32c::crc32c_combine(crc, packed.crc32c, packed.bytes as usize)
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
