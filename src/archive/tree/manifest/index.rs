//! The index of a manifest: its last lines, by which one entry is found without the rest.
//!
//! The lines of parts and of entries are cut into *leaves* of some 64 KiB. The index has where each leaf begins and with
//! what. The very last line says where the index begins.

use std::cmp::Ordering;
use std::ops::Range;

use super::line::{self, EntriesLine, Line, PartsLine, Text, TreeLine};
use super::{MANIFEST_VERSION, ManifestError};
use crate::archive::tree::TreeId;
use crate::archive::tree::entry::order;

/// Bytes of lines after which a leaf is closed.
pub(super) const LEAF_BYTES: u64 = 64 << 10;

/// Longest leaf: it is in memory whole. Its last line may be the longest there is, some 200 KiB.
const MOST_LEAF_BYTES: u64 = 512 << 10;

/// Longest index: of the longest manifest, if all paths are long.
const MOST_INDEX_BYTES: u64 = 16 << 20;

/// Parts, or entries, that are counted at most.
const MOST_LINES: u32 = 1 << 30;

/// As many bytes as the last line has at most, and the line feed before it.
pub const LAST_LINE_BYTES: u64 = 512;

/// The first entry line of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirstEntry {
    pub(super) number: u32,
    pub(super) path: Box<[u8]>,
    /// Above 0 if the leaf begins with further extents of that file.
    pub(super) from: u64,
}

/// Where a manifest has what. Offsets are those in its text, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    pub(super) id: TreeId,
    pub(super) parts: u32,
    pub(super) entries: u32,
    at: u64,
    /// Offset and first number of each leaf of parts.
    part_leaves: Vec<(u64, u32)>,
    /// Offset of each leaf of entries, and with what it begins.
    entry_leaves: Vec<(u64, FirstEntry)>,
}

/// One of the leaves of entries, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryLeaf(pub(super) u32);

/// One of the leaves of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartLeaf(pub(super) u32);

/// Where the index of a manifest of `plain_bytes` begins, by the end of its text.
///
/// # Errors
/// [`ManifestError`].
pub fn index_at(end: &[u8], plain_bytes: u64) -> Result<u64, ManifestError> {
    let last = last_line(end)?;
    let most = plain_bytes.checked_sub(last.index_at);
    match most {
        Some(bytes) if bytes <= MOST_INDEX_BYTES => Ok(last.index_at),
        _ => Err(ManifestError::Index("its place cannot be")),
    }
}

fn last_line(end: &[u8]) -> Result<TreeLine, ManifestError> {
    let wrong = |reason| ManifestError::Line { at: 0, reason };
    let line = end
        .strip_suffix(b"\n")
        .ok_or(ManifestError::Index("its end is missing"))?;
    let start = line
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    match Line::parse(&end[start..]).map_err(wrong)? {
        Line::Tree(last) if last.manifest_version != MANIFEST_VERSION => Err(ManifestError::Version {
            found: last.manifest_version,
        }),
        Line::Tree(last) => Ok(last),
        _ => Err(ManifestError::Index("its end is missing")),
    }
}

impl Index {
    /// Of a tree, with no leaves yet.
    pub(super) fn new(id: TreeId, parts: u32, entries: u32) -> Self {
        Self {
            id,
            parts,
            entries,
            at: 0,
            part_leaves: Vec::new(),
            entry_leaves: Vec::new(),
        }
    }

    pub(super) fn part_leaf(&mut self, at: u64, first: u32) {
        self.part_leaves.push((at, first));
    }

    pub(super) fn entry_leaf(&mut self, at: u64, first: FirstEntry) {
        self.entry_leaves.push((at, first));
    }

    /// Ends a text, which has all leaves.
    pub(super) fn write(&self, text: &mut Vec<u8>) {
        let index_at = text.len() as u64;
        for &(at, first) in &self.part_leaves {
            line::push(text, &Line::Parts(PartsLine { at, first }));
        }
        for (at, first) in &self.entry_leaves {
            let line = EntriesLine {
                at: *at,
                first: first.number,
                path: Text::of(&first.path),
                from: first.from,
            };
            line::push(text, &Line::Entries(line));
        }
        let last = TreeLine {
            manifest_version: MANIFEST_VERSION,
            id: self.id.to_string(),
            parts: self.parts,
            entries: self.entries,
            index_at,
        };
        line::push(text, &Line::Tree(last));
    }

    /// Reads the index, which begins at `at`.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &[u8], at: u64) -> Result<Self, ManifestError> {
        let last = last_line(text)?;
        let id = TreeId::parse(&last.id).ok_or(ManifestError::Index("its id cannot be"))?;
        let mut index = Self::new(id, last.parts, last.entries);
        index.at = at;
        let mut place = at;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let wrong = |reason| ManifestError::Line { at: place, reason };
            match Line::parse(line).map_err(wrong)? {
                Line::Parts(line) => index.part_leaf(line.at, line.first),
                Line::Entries(line) => {
                    let first = FirstEntry {
                        number: line.first,
                        path: line.path.path().map_err(wrong)?,
                        from: line.from,
                    };
                    index.entry_leaf(line.at, first);
                }
                Line::Tree(_) => {}
                _ => return Err(wrong("it does not belong to the index".into())),
            }
            place += line.len() as u64;
        }
        index.check().map_err(ManifestError::Index)?;
        Ok(index)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.parts.max(self.entries) > MOST_LINES {
            return Err("no tree has as many lines");
        }
        let places = self.part_leaves.iter().map(|(at, _)| *at);
        let places = places.chain(self.entry_leaves.iter().map(|(at, _)| *at));
        let mut end = 0;
        let mut begin = None;
        for at in places.chain([self.at]) {
            let bytes = at.checked_sub(end).filter(|bytes| *bytes <= MOST_LEAF_BYTES);
            if begin.is_some_and(|begin| begin >= at) || bytes.is_none() || (begin.is_none() && at != 0) {
                return Err("its leaves do not follow each other");
            }
            (begin, end) = (Some(at), at);
        }
        let parts_ascend = self.part_leaves.is_sorted_by(|left, right| left.1 < right.1);
        let first_part = self.part_leaves.first().map(|(_, first)| *first);
        if !parts_ascend || first_part != (self.parts > 0).then_some(0) {
            return Err("its parts are not in order");
        }
        let ascends = |left: &(u64, FirstEntry), right: &(u64, FirstEntry)| {
            let paths = order(&left.1.path, &right.1.path);
            match left.1.number.cmp(&right.1.number) {
                Ordering::Less => paths == Ordering::Less,
                Ordering::Equal => paths == Ordering::Equal && left.1.from < right.1.from,
                Ordering::Greater => false,
            }
        };
        let root = self.entry_leaves.first().map(|(_, first)| first);
        let begins = root.is_some_and(|root| root.number == 0 && root.path.is_empty() && root.from == 0);
        if !begins || !self.entry_leaves.is_sorted_by(ascends) {
            return Err("its entries are not in order");
        }
        let within = self.part_leaves.last().is_none_or(|(_, last)| *last < self.parts)
            && self
                .entry_leaves
                .last()
                .is_some_and(|(_, last)| last.number < self.entries);
        within.then_some(()).ok_or("it counts fewer lines than there are")
    }

    /// The tree's folder.
    pub fn id(&self) -> &TreeId {
        &self.id
    }

    /// How many directories, links and files there are.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    /// Bytes that it holds, roughly.
    pub fn held_bytes(&self) -> usize {
        let first = size_of::<(u64, FirstEntry)>() + 16;
        let paths = self.entry_leaves.iter().map(|(_, leaf)| first + leaf.path.len());
        paths.sum::<usize>() + self.part_leaves.len() * size_of::<(u64, u32)>()
    }

    /// The leaf with a part, if there is such a part.
    pub fn leaf_of_part(&self, number: u32) -> Option<PartLeaf> {
        let behind = self.part_leaves.partition_point(|(_, first)| *first <= number);
        (number < self.parts).then_some(PartLeaf(behind.checked_sub(1)? as u32))
    }

    /// The leaf that has byte `at` of the file with that number, and with `at` 0 the entry itself.
    pub fn leaf_of_entry(&self, number: u32, at: u64) -> Option<EntryLeaf> {
        let behind = |(_, first): &(u64, FirstEntry)| (first.number, first.from) <= (number, at);
        let behind = self.entry_leaves.partition_point(behind);
        (number < self.entries).then_some(EntryLeaf(behind.checked_sub(1)? as u32))
    }

    /// The leaf in which an entry with that path is, if there is one, or would be.
    pub fn leaf_of_path(&self, path: &[u8]) -> EntryLeaf {
        let behind = |(_, first): &(u64, FirstEntry)| match order(&first.path, path) {
            Ordering::Less => true,
            Ordering::Equal => first.from == 0,
            Ordering::Greater => false,
        };
        let behind = self.entry_leaves.partition_point(behind);
        EntryLeaf(behind.saturating_sub(1) as u32)
    }

    /// The leaf behind another.
    pub fn next(&self, leaf: EntryLeaf) -> Option<EntryLeaf> {
        let next = leaf.0 + 1;
        ((next as usize) < self.entry_leaves.len()).then_some(EntryLeaf(next))
    }

    /// All leaves of parts.
    pub(super) fn part_leaves(&self) -> impl Iterator<Item = PartLeaf> {
        (0..self.part_leaves.len() as u32).map(PartLeaf)
    }

    /// All leaves of entries.
    pub(super) fn entry_leaves(&self) -> impl Iterator<Item = EntryLeaf> {
        (0..self.entry_leaves.len() as u32).map(EntryLeaf)
    }

    /// Where a leaf of parts lies in the text.
    pub fn range_of_parts(&self, leaf: PartLeaf) -> Range<u64> {
        let at = |place: usize| self.part_leaves.get(place).map(|(at, _)| *at);
        let end = at(leaf.0 as usize + 1).or_else(|| self.entry_leaves.first().map(|(at, _)| *at));
        at(leaf.0 as usize).unwrap_or(self.at)..end.unwrap_or(self.at)
    }

    /// Where a leaf of entries lies in the text.
    pub fn range_of_entries(&self, leaf: EntryLeaf) -> Range<u64> {
        let at = |place: usize| self.entry_leaves.get(place).map_or(self.at, |(at, _)| *at);
        at(leaf.0 as usize)..at(leaf.0 as usize + 1)
    }

    /// The number of the first part of a leaf.
    pub fn first_part(&self, leaf: PartLeaf) -> u32 {
        self.numbers_of_parts(leaf).start
    }

    /// The number of the first part of a leaf, and of the one behind its last.
    pub(super) fn numbers_of_parts(&self, leaf: PartLeaf) -> Range<u32> {
        let first = |place: usize| {
            self.part_leaves
                .get(place)
                .map_or(self.parts, |(_, first)| *first)
        };
        first(leaf.0 as usize)..first(leaf.0 as usize + 1)
    }

    /// With what a leaf begins.
    pub(super) fn first_of(&self, leaf: EntryLeaf) -> Option<&FirstEntry> {
        self.entry_leaves.get(leaf.0 as usize).map(|(_, first)| first)
    }
}
