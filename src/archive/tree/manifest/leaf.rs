//! A leaf of a manifest, read: some parts, or some entries.

use std::cmp::Ordering;

use super::ManifestError;
use super::index::{EntryLeaf, Index, PartLeaf};
use super::line::{Line, Said};
use crate::archive::tree::entry::{Content, Entry, Extent, Part, check_part, order};

/// Extents of a file that lie together in a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents<'a> {
    /// Where in the file they begin, in bytes.
    pub from: u64,
    /// They.
    pub extents: &'a [Extent],
}

/// Some of the entries of a tree, in their order.
#[derive(Debug)]
pub struct Entries {
    /// Number of the first of `entries`.
    first: u32,
    /// Files have the extents of their own lines only.
    entries: Vec<Entry>,
    /// Further extents of files: the file's number, and where in it they begin. Ascending by these.
    more: Vec<(u32, u64, Box<[Extent]>)>,
}

/// Reads the text of a leaf of parts. The first has the number that the index says.
///
/// # Errors
/// [`ManifestError`].
pub fn parts(text: &[u8], index: &Index, leaf: PartLeaf) -> Result<Vec<Part>, ManifestError> {
    let numbers = index.numbers_of_parts(leaf);
    let mut parts = Vec::new();
    for said in lines(text, index.range_of_parts(leaf).start) {
        match said? {
            (_, Said::Part(part)) => {
                check_part(&part)?;
                parts.push(part);
            }
            (at, _) => return Err(wrong(at, "a part was expected")),
        }
    }
    if parts.len() != numbers.len() {
        return Err(ManifestError::Index("it counts other parts than there are"));
    }
    Ok(parts)
}

fn wrong(at: u64, reason: &str) -> ManifestError {
    let reason = reason.to_owned();
    ManifestError::Line { at, reason }
}

/// What the lines of a leaf say, and where each begins.
fn lines(text: &[u8], at: u64) -> impl Iterator<Item = Result<(u64, Said), ManifestError>> {
    let mut next = at;
    text.split_inclusive(|&byte| byte == b'\n').map(move |line| {
        let at = next;
        next += line.len() as u64;
        let said = Line::parse(line).and_then(Line::said);
        said.map(|said| (at, said))
            .map_err(|reason| ManifestError::Line { at, reason })
    })
}

impl Entries {
    /// Reads the text of a leaf of entries. It begins with what the index says, and ends before what it says of the next.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(text: &[u8], index: &Index, leaf: EntryLeaf) -> Result<Self, ManifestError> {
        let begin = index
            .first_of(leaf)
            .ok_or(ManifestError::Index("there is no such leaf"))?;
        let starts_within = begin.from > 0;
        let mut found = Self {
            first: begin.number + u32::from(starts_within),
            entries: Vec::new(),
            more: Vec::new(),
        };
        // The file that further extents are of, and where they go on.
        let mut open = starts_within.then_some((begin.number, begin.from));
        for said in lines(text, index.range_of_entries(leaf).start) {
            match said? {
                (at, Said::Entry(entry)) => {
                    let ascends = match found.entries.last() {
                        Some(last) => order(&last.path, &entry.path) == Ordering::Less,
                        None if starts_within => order(&begin.path, &entry.path) == Ordering::Less,
                        None => begin.path == entry.path,
                    };
                    if !ascends {
                        return Err(wrong(at, "it is not in order"));
                    }
                    let number = found.first + found.entries.len() as u32;
                    open = match &entry.content {
                        Content::File { extents, .. } => Some((number, sum(extents))),
                        _ => None,
                    };
                    found.entries.push(entry);
                }
                (at, Said::More { from, extents }) => match &mut open {
                    Some((number, next)) if *next == from && from > 0 && !extents.is_empty() => {
                        *next = next.saturating_add(sum(&extents));
                        found.more.push((*number, from, extents.into()));
                    }
                    _ => return Err(wrong(at, "it does not go on where the line before ends")),
                },
                (at, Said::Part(_)) => return Err(wrong(at, "an entry was expected")),
            }
        }
        found.check_end(index, leaf, open)?;
        Ok(found)
    }

    fn check_end(
        &self,
        index: &Index,
        leaf: EntryLeaf,
        open: Option<(u32, u64)>,
    ) -> Result<(), ManifestError> {
        let behind = self.first + self.entries.len() as u32;
        let next = index.next(leaf).and_then(|next| index.first_of(next));
        let fits = match next {
            Some(next) if next.from > 0 => open == Some((next.number, next.from)),
            Some(next) => {
                let last = self.entries.last();
                next.number == behind
                    && last.is_none_or(|last| order(&last.path, &next.path) == Ordering::Less)
            }
            None => index.entries == behind,
        };
        fits.then_some(())
            .ok_or(ManifestError::Index("it does not say what its leaves have"))
    }

    /// An entry by its number.
    pub fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number.checked_sub(self.first)? as usize)
    }

    /// The number of the first entry that is not before `path`.
    pub fn first_from(&self, path: &[u8]) -> u32 {
        let before = |entry: &Entry| order(&entry.path, path) == Ordering::Less;
        self.first + self.entries.partition_point(before) as u32
    }

    /// The entries, with their numbers, from one of them on.
    pub fn from(&self, number: u32) -> impl Iterator<Item = (u32, &Entry)> {
        let skip = number.saturating_sub(self.first) as usize;
        (self.first..).zip(&self.entries).skip(skip)
    }

    /// Extents of a file, among them that of byte `at`, unless they are in another leaf or the file ends before.
    pub fn extents(&self, number: u32, at: u64) -> Option<Extents<'_>> {
        let behind = self
            .more
            .partition_point(|(file, from, _)| (*file, *from) <= (number, at));
        if let Some((file, from, extents)) = self.more[..behind].last()
            && *file == number
        {
            return Some(Extents { from: *from, extents });
        }
        match &self.entry(number)?.content {
            Content::File { extents, .. } => Some(Extents { from: 0, extents }),
            _ => None,
        }
    }

    /// The extents of all files, line by line: each with its file's number, and the path where the file begins here.
    pub fn files(&self) -> impl Iterator<Item = (u32, Option<&[u8]>, Extents<'_>)> {
        let own = (self.first..)
            .zip(&self.entries)
            .filter_map(|(number, entry)| match &entry.content {
                Content::File { extents, .. } => {
                    Some((number, Some(&*entry.path), Extents { from: 0, extents }))
                }
                _ => None,
            });
        let more = self.more.iter().map(|(number, from, extents)| {
            let path = self.entry(*number).map(|entry| &*entry.path);
            (*number, path, Extents { from: *from, extents })
        });
        own.chain(more)
    }

    /// Bytes that it holds, roughly.
    pub fn held_bytes(&self) -> usize {
        let entry = |entry: &Entry| {
            let content = match &entry.content {
                Content::File { extents, .. } => size_of_val::<[Extent]>(extents),
                Content::Symlink(target) => target.len(),
                Content::Directory => 0,
            };
            size_of::<Entry>() + entry.path.len() + 32 + content
        };
        let more = self
            .more
            .iter()
            .map(|(_, _, extents)| 64 + size_of_val::<[Extent]>(extents));
        self.entries.iter().map(entry).sum::<usize>() + more.sum::<usize>()
    }

    /// Adds them to those of the leaves before.
    pub(super) fn join(self, all: &mut Vec<Entry>) {
        all.extend(self.entries);
        for (number, _, more) in self.more {
            if let Some(entry) = all.get_mut(number as usize)
                && let Content::File { extents, .. } = &mut entry.content
            {
                let mut joined = std::mem::take(extents).into_vec();
                joined.extend(more);
                *extents = joined.into();
            }
        }
    }
}

fn sum(extents: &[Extent]) -> u64 {
    extents
        .iter()
        .map(|extent| extent.bytes)
        .fold(0, u64::saturating_add)
}
