//! A tree in memory: its entries in one ascending order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::layout::MAX_FILE_BYTES;
use super::{TREES, TreeId};
use crate::codec::{ContentHash, most_stored_bytes};
use crate::store::Key;

/// What a file system keeps of a file besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner's number where the tree was taken.
    pub uid: u32,
    /// Group's number where the tree was taken.
    pub gid: u32,
    /// Time of the last change of its content.
    pub modified: Timestamp,
}

/// Bytes of a file, in a part. The extents of a file follow each other without gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Which part, by its place in [`Tree::parts`].
    pub part: u32,
    /// Offset in the part's plain content, in bytes.
    pub offset: u64,
    /// Length, in bytes; never 0.
    pub bytes: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A directory.
    Directory,
    /// A symbolic link, and where it points to, byte for byte.
    Symlink(Box<[u8]>),
    /// A regular file.
    File {
        /// Its length; the sum of its extents'.
        bytes: u64,
        /// Where its bytes are.
        extents: Box<[Extent]>,
    },
}

/// A file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path from the tree's root, components divided by `/`, any bytes but 0; empty for the root itself.
    pub path: Box<[u8]>,
    /// Its attributes.
    pub attributes: Attributes,
    /// What it is.
    pub content: Content,
}

impl Entry {
    /// Last component of its path; empty for the root.
    pub fn name(&self) -> &[u8] {
        split(&self.path).1
    }

    /// Path of the directory that holds it; of the root its own.
    pub fn directory(&self) -> &[u8] {
        split(&self.path).0
    }

    /// Length of a file, or of a link's target; 0 for a directory.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Directory => 0,
            Content::Symlink(target) => target.len() as u64,
            Content::File { bytes, .. } => *bytes,
        }
    }
}

/// An object that holds content of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its whole key; may lie in an earlier tree's folder.
    pub key: Key,
    /// Length of its plain content, in bytes.
    pub plain_bytes: u64,
    /// Length of the object, in bytes.
    pub stored_bytes: u64,
    /// Hash of its plain content: proves that the object is the one that was stored.
    pub hash: ContentHash,
    /// Bytes of its content that files of the tree are made of. Where few are, a later tree need not point to it.
    pub used_bytes: u64,
}

impl Part {
    /// The folder, below `trees/`, of the tree that it was stored for.
    pub fn tree(&self) -> &str {
        let below = self.key.as_str().strip_prefix(TREES).unwrap_or_default();
        below.split('/').nth(1).unwrap_or_default()
    }
}

/// A tree in memory: what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Its folder in the store.
    pub id: TreeId,
    /// The objects that its extents point into.
    pub parts: Vec<Part>,
    /// Every directory, link and file, ascending by [`order`]: the root first.
    entries: Vec<Entry>,
}

/// Why entries are not a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The root is not there.
    #[error("it has no root directory")]
    NoRoot,
    /// An entry's directory is not there, or is none.
    #[error("{path:?} has no directory that holds it")]
    NoParent {
        /// The entry's path, readable.
        path: String,
    },
    /// Two entries have one path.
    #[error("{path:?} is there twice")]
    Twice {
        /// The path, readable.
        path: String,
    },
    /// A part that none can be.
    #[error("part {key} claims {plain_bytes} bytes of content, stored as {stored_bytes}, which no part has")]
    Part {
        /// Its key.
        key: Key,
        /// Bytes of content.
        plain_bytes: u64,
        /// Bytes of the object.
        stored_bytes: u64,
    },
    /// An extent that is not in its part, or extents that are not the file's length.
    #[error("the extents of {path:?} do not fit: {reason}")]
    Extents {
        /// The path, readable.
        path: String,
        /// What does not fit.
        reason: &'static str,
    },
}

impl Tree {
    /// Puts a tree together from entries in any order.
    ///
    /// # Errors
    /// Any [`TreeError`].
    pub fn new(id: TreeId, mut parts: Vec<Part>, mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        entries.sort_by(|left, right| order(&left.path, &right.path));
        parts.iter().try_for_each(check_part)?;
        check_extents(&parts, &entries)?;
        count_used(&mut parts, &entries);
        check_directories(&entries)?;
        Ok(Self { id, parts, entries })
    }

    /// All entries, the root first; their places are the numbers by which the other methods name them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An entry by its number.
    pub fn entry(&self, number: u32) -> Option<&Entry> {
        self.entries.get(number as usize)
    }

    /// What a directory holds, ascending by name.
    pub fn children<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = &'a Entry> {
        let first = self.entries.partition_point(|entry| {
            let (holder, name) = split(&entry.path);
            (directory_order(holder, directory)).then_with(|| name.cmp(b"")) != Ordering::Greater
        });
        let rest = self.entries[first..].iter();
        rest.take_while(move |entry| entry.directory() == directory)
    }

    /// Number of the entry with that path.
    pub fn find(&self, path: &[u8]) -> Option<u32> {
        let found = self.entries.binary_search_by(|entry| order(&entry.path, path));
        found.ok().map(|number| number as u32)
    }

    /// Stored bytes of its parts, by the tree in whose folder they are.
    pub fn stored_bytes_by_tree(&self) -> BTreeMap<&str, u64> {
        let mut of_trees = BTreeMap::new();
        for part in &self.parts {
            let sum: &mut u64 = of_trees.entry(part.tree()).or_default();
            *sum = sum.saturating_add(part.stored_bytes);
        }
        of_trees
    }

    /// Extents of all files.
    pub fn extents(&self) -> u64 {
        let extents = self.entries.iter().map(|entry| match &entry.content {
            Content::File { extents, .. } => extents.len() as u64,
            _ => 0,
        });
        extents.sum()
    }

    /// Plain bytes of all files.
    pub fn bytes(&self) -> u64 {
        let files = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.content, Content::File { .. }));
        files.map(Entry::bytes).fold(0, u64::saturating_add)
    }
}

/// The order of entries: what one directory holds is together, ascending by name; the directories as a walk goes through
/// them, each before what it holds.
pub(crate) fn order(left: &[u8], right: &[u8]) -> Ordering {
    let ((left, left_name), (right, right_name)) = (split(left), split(right));
    directory_order(left, right).then_with(|| left_name.cmp(right_name))
}

/// By path, what is below a directory right behind it: `/` sorts before every other byte.
fn directory_order(left: &[u8], right: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
    left.iter().map(rank).cmp(right.iter().map(rank))
}

/// A path's directory and last component.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// The path of what has that name, or path, in a directory.
pub(crate) fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}

fn readable(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Most bytes of content of a part: writers close one long before. What is read of a part is bounded by it.
const MOST_PART_BYTES: u64 = 1 << 30;

/// Of each part how much of it files are made of.
fn count_used(parts: &mut [Part], entries: &[Entry]) {
    parts.iter_mut().for_each(|part| part.used_bytes = 0);
    let files = entries.iter().filter_map(|entry| match &entry.content {
        Content::File { extents, .. } => Some(extents),
        _ => None,
    });
    for extent in files.flatten() {
        let used = &mut parts[extent.part as usize].used_bytes;
        *used = used.saturating_add(extent.bytes);
    }
}

/// Can there be such a part?
///
/// # Errors
/// [`TreeError::Part`].
pub(super) fn check_part(part: &Part) -> Result<(), TreeError> {
    let fits =
        part.plain_bytes <= MOST_PART_BYTES && part.stored_bytes <= most_stored_bytes(part.plain_bytes);
    fits.then_some(()).ok_or_else(|| TreeError::Part {
        key: part.key.clone(),
        plain_bytes: part.plain_bytes,
        stored_bytes: part.stored_bytes,
    })
}

fn check_extents(parts: &[Part], entries: &[Entry]) -> Result<(), TreeError> {
    for entry in entries {
        let Content::File { bytes, extents } = &entry.content else {
            continue;
        };
        let wrong = |reason| TreeError::Extents {
            path: readable(&entry.path),
            reason,
        };
        let mut sum = 0_u64;
        for extent in extents {
            let part = parts
                .get(extent.part as usize)
                .ok_or_else(|| wrong("there is no such part"))?;
            let end = extent.offset.checked_add(extent.bytes);
            if extent.bytes == 0 || end.is_none_or(|end| end > part.plain_bytes) {
                return Err(wrong("one is empty or lies outside of its part"));
            }
            sum = sum.saturating_add(extent.bytes);
        }
        if sum != *bytes {
            return Err(wrong("their sum is not the file's length"));
        }
        if *bytes > MAX_FILE_BYTES {
            return Err(wrong("no file is that long"));
        }
    }
    Ok(())
}

/// Has each of the entries, which are in order, a path of its own, and its directory?
fn check_directories(entries: &[Entry]) -> Result<(), TreeError> {
    match entries.first() {
        Some(root) if root.path.is_empty() && root.content == Content::Directory => {}
        _ => return Err(TreeError::NoRoot),
    }
    let mut directories = HashSet::from([&[][..]]);
    for pair in entries.windows(2) {
        let (before, entry) = (&pair[0], &pair[1]);
        let path = || readable(&entry.path);
        if before.path == entry.path {
            return Err(TreeError::Twice { path: path() });
        }
        if !directories.contains(entry.directory()) {
            return Err(TreeError::NoParent { path: path() });
        }
        if entry.content == Content::Directory {
            directories.insert(&entry.path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, content: Content) -> Entry {
        Entry {
            path: path.as_bytes().into(),
            attributes: Attributes {
                mode: 0o700,
                uid: 0,
                gid: 0,
                modified: Timestamp::UNIX_EPOCH,
            },
            content,
        }
    }

    fn id() -> TreeId {
        TreeId::fresh(&"monday".parse().unwrap())
    }

    fn empty_file() -> Content {
        Content::File {
            bytes: 0,
            extents: [].into(),
        }
    }

    fn tree(paths: &[&str]) -> Result<Tree, TreeError> {
        let entries = paths.iter().map(|path| {
            let content = if path.contains('.') {
                empty_file()
            } else {
                Content::Directory
            };
            entry(path, content)
        });
        Tree::new(id(), Vec::new(), entries.collect())
    }

    #[test]
    fn what_a_directory_holds_is_together() {
        let tree = tree(&["", "a-b", "a", "a/x.1", "a/b", "a/b/c.1", "z.1"]).unwrap();
        let paths: Vec<_> = tree.entries().iter().map(|entry| readable(&entry.path)).collect();
        assert_eq!(paths, ["", "a", "a-b", "z.1", "a/b", "a/x.1", "a/b/c.1"]);
        let names = |directory: &str| -> Vec<String> {
            let children = tree.children(directory.as_bytes());
            children.map(|child| readable(child.name())).collect()
        };
        assert_eq!(names(""), ["a", "a-b", "z.1"]);
        assert_eq!(names("a"), ["b", "x.1"]);
        assert_eq!(names("z.1"), [""; 0]);
        assert_eq!(tree.find(b"a/b/c.1"), Some(6));
        assert_eq!(tree.find(b"a/b/d.1"), None);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        assert_eq!(tree(&["a"]), Err(TreeError::NoRoot));
        let nowhere = tree(&["", "a/b"]).unwrap_err();
        assert!(matches!(nowhere, TreeError::NoParent { .. }), "{nowhere}");
        let in_a_file = tree(&["", "a.1", "a.1/b"]).unwrap_err();
        assert!(matches!(in_a_file, TreeError::NoParent { .. }), "{in_a_file}");
        let twice = tree(&["", "a", "a"]).unwrap_err();
        assert!(matches!(twice, TreeError::Twice { .. }), "{twice}");
    }

    #[test]
    fn extents_lie_in_their_parts_and_make_the_file() {
        let part = Part {
            key: Key::new("trees/x/1"),
            plain_bytes: 100,
            stored_bytes: 50,
            hash: ContentHash::of(b""),
            used_bytes: 0,
        };
        let file = |bytes, offset, extent_bytes, part| Content::File {
            bytes,
            extents: [Extent {
                part,
                offset,
                bytes: extent_bytes,
            }]
            .into(),
        };
        let tree = |content| {
            Tree::new(
                id(),
                vec![part.clone()],
                vec![entry("", Content::Directory), entry("f", content)],
            )
        };
        assert!(tree(file(40, 60, 40, 0)).is_ok());
        for wrong in [
            file(41, 60, 41, 0),
            file(40, 60, 39, 0),
            file(1, 0, 1, 1),
            file(1, u64::MAX, 1, 0),
        ] {
            assert!(matches!(tree(wrong), Err(TreeError::Extents { .. })));
        }
    }
}
