//! Inode numbers and attributes: pure.
//!
//! The number of an archived file is computed from its name and back, so that a listing of a million segments leaves
//! nothing behind in memory. The few names that do not fit (`.backup` files, timelines past 4095) and the files
//! being written get numbers from a counter.
//!
//! The numbers of one archive have `OWN_BITS`; the bits above say which archive of a mount it is: see `super::fleet`.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::archive::tree::TreeKind;
use crate::pg::{SegmentName, Timeline, WalName};

use crate::linux::kernel::Owner;
use crate::overview::Form;

/// What an inode number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// `/`
    Root,
    /// `/wal`
    Wal,
    /// `/.absent`
    Absent,
    /// `/.walfs`
    Own,
    /// A file in `/.walfs`.
    OwnFile(OwnFile),
    /// An archived file.
    Archived(WalName),
    /// A proof of absence.
    AbsentFile(WalName),
    /// A file being written, by its number.
    Writing(u64),
    /// A folder in `/wal` for what is on its way, see `super::wal::folders`.
    Folder(u32),
    /// `/basebackups`
    Basebackups,
    /// `/basebackups/LATEST`
    Latest,
    /// `/files`, or `/dumps`
    Versions(TreeKind),
    /// A directory there, with the versions of one name, by its number: see `super::versions`.
    VersionSet(TreeKind, u32),
    /// `LATEST` in such a directory.
    VersionsLatest(TreeKind, u32),
    /// A plain file there that is written and has no version yet, by the number of its name.
    Plain(TreeKind, u32),
    /// A plain file there as it is in its newest version, by the number of that among all trees. Of each version it is another
    /// one: who has it open sees the length that goes with what is read.
    Newest(TreeKind, u32),
    /// What is in a complete base backup, or in a version.
    Tree(TreeNode),
    /// What is in a base backup that is being written.
    Draft(TreeNode),
}

impl Node {
    /// Is it a directory whose mode lets its owner make something in it?
    pub(super) fn is_written_in(self) -> bool {
        matches!(
            self,
            Self::Wal | Self::Folder(_) | Self::Basebackups | Self::Versions(_) | Self::VersionSet(..)
        )
    }
}

/// The place of a file, directory or link in a base backup, or in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeNode {
    /// Which backup: see `super::basebackups::slots`, and `super::basebackups::drafts` for those that are being
    /// written.
    pub slot: u32,
    /// Which entry of its tree; 0 is the root. Beyond the tree's entries: its segments in `wal/`.
    pub entry: u32,
}

/// The files in `/.walfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnFile {
    /// `error.txt`: why an archive is not shown.
    Error,
    /// `mount.json`
    Mount,
    /// The state of the archive, in one of its forms.
    Status(Form),
    /// `version`
    Version,
}

/// Number of the root directory, fixed by the protocol.
pub const ROOT: u64 = 1;

/// The fixed nodes, in the order of their numbers from [`ROOT`] on.
const FIXED: [Node; 15] = [
    Node::Root,
    Node::Wal,
    Node::Absent,
    Node::Own,
    Node::OwnFile(OwnFile::Mount),
    Node::OwnFile(OwnFile::Version),
    Node::Basebackups,
    Node::Latest,
    Node::OwnFile(OwnFile::Status(Form::Screen)),
    Node::OwnFile(OwnFile::Status(Form::Json)),
    Node::OwnFile(OwnFile::Status(Form::Picture)),
    Node::OwnFile(OwnFile::Status(Form::Metrics)),
    Node::Versions(TreeKind::Files),
    Node::Versions(TreeKind::Dump),
    Node::OwnFile(OwnFile::Error),
];

/// Bits of a number that an archive gives.
pub(super) const OWN_BITS: u32 = 52;

// Layout of a computed number: 1 bit set (bit 50), 3 bits of kind, 12 bits of timeline, 35 bits of log and segment.
const COMPUTED: u64 = 1 << 50;
const COUNTED: u64 = 1 << (OWN_BITS - 1);
const KIND_SHIFT: u32 = 47;
const TIMELINE_SHIFT: u32 = 35;
const TIMELINE_MAX: u32 = (1 << 12) - 1;
const LOG_BITS: u32 = TIMELINE_SHIFT - SEGMENT_BITS;
/// Segments of 1 MiB: 4096 for each log number.
const SEGMENT_BITS: u32 = 12;

// Layout of an entry's number: bits 51 and 50 clear, 1 bit set (bit 49), 1 bit of kind (0: of a complete backup; 1:
// of one that is being written), 20 bits of slot, 28 bits of entry.
const IN_TREE: u64 = 0b10;
const IN_DRAFT: u64 = 0b11;
const TREE_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
const SLOT_SHIFT: u32 = 28;
const SLOT_BITS: u32 = 20;

/// Gives numbers to nodes and nodes to numbers.
#[derive(Debug)]
pub struct Inodes {
    next: AtomicU64,
    named: Mutex<HashMap<Node, u64>>,
    numbered: Mutex<HashMap<u64, Node>>,
}

impl Default for Inodes {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(fastrand::u64(..)),
            named: Mutex::default(),
            numbered: Mutex::default(),
        }
    }
}

impl Inodes {
    /// A number that none has had before, nor another mount, as chance goes: who has both open is not mistaken.
    pub fn fresh(&self) -> u64 {
        COUNTED | self.next.fetch_add(1, Ordering::Relaxed) & (COUNTED - 1)
    }

    /// The node's number, the same every time.
    pub fn number(&self, node: Node) -> u64 {
        if let Node::Writing(number) = node {
            return number;
        }
        let known = fixed_number(node).or_else(|| computed(node));
        known.unwrap_or_else(|| self.counted(node))
    }

    fn counted(&self, node: Node) -> u64 {
        let mut named = self.named.lock().expect("no panic while held");
        *named.entry(node).or_insert_with(|| {
            let number = self.fresh();
            self.numbered
                .lock()
                .expect("no panic while held")
                .insert(number, node);
            number
        })
    }

    /// The node with that number.
    pub fn node(&self, number: u64) -> Option<Node> {
        if let Some(fixed) = fixed(number) {
            return Some(fixed);
        }
        if number & COUNTED == 0 {
            return decompose(number);
        }
        let counted = self
            .numbered
            .lock()
            .expect("no panic while held")
            .get(&number)
            .copied();
        Some(counted.unwrap_or(Node::Writing(number)))
    }
}

/// The number of a node that has the same in every archive.
pub(super) fn fixed_number(node: Node) -> Option<u64> {
    let index = FIXED.iter().position(|fixed| *fixed == node)?;
    Some(ROOT + index as u64)
}

/// The node with that number, if it is such a one.
pub(super) fn fixed(number: u64) -> Option<Node> {
    let index = number.checked_sub(ROOT)?;
    FIXED.get(usize::try_from(index).ok()?).copied()
}

fn computed(node: Node) -> Option<u64> {
    let (name, absent) = match node {
        Node::Tree(at) => return entry_of(IN_TREE, at),
        Node::Draft(at) => return entry_of(IN_DRAFT, at),
        Node::Archived(name) => (name, 0),
        Node::AbsentFile(name) => (name, 3),
        _ => return None,
    };
    let (kind, timeline, place) = match name {
        WalName::Segment(segment) => (0, segment.timeline, place(segment)?),
        WalName::Partial(segment) => (1, segment.timeline, place(segment)?),
        WalName::History(timeline) => (2, timeline, 0),
        WalName::Backup(..) => return None,
    };
    (timeline.0 <= TIMELINE_MAX)
        .then_some(COMPUTED | (kind + absent) << KIND_SHIFT | u64::from(timeline.0) << TIMELINE_SHIFT | place)
}

fn entry_of(kind: u64, at: TreeNode) -> Option<u64> {
    let (slot, entry) = (u64::from(at.slot), u64::from(at.entry));
    (slot < 1 << SLOT_BITS && entry < 1 << SLOT_SHIFT)
        .then_some(kind << TREE_SHIFT | slot << SLOT_SHIFT | entry)
}

fn place(segment: SegmentName) -> Option<u64> {
    (segment.seg < 1 << SEGMENT_BITS && segment.log < 1 << LOG_BITS)
        .then_some(u64::from(segment.log) << SEGMENT_BITS | u64::from(segment.seg))
}

fn decompose(number: u64) -> Option<Node> {
    if number & COMPUTED == 0 {
        return in_tree(number);
    }
    let kind = number >> KIND_SHIFT & 0b111;
    let timeline = Timeline((number >> TIMELINE_SHIFT) as u32 & TIMELINE_MAX);
    let place = number & ((1 << TIMELINE_SHIFT) - 1);
    let segment = SegmentName {
        timeline,
        log: (place >> SEGMENT_BITS) as u32,
        seg: place as u32 & ((1 << SEGMENT_BITS) - 1),
    };
    let name = match kind % 3 {
        0 => WalName::Segment(segment),
        1 => WalName::Partial(segment),
        _ => WalName::History(timeline),
    };
    Some(if kind < 3 {
        Node::Archived(name)
    } else {
        Node::AbsentFile(name)
    })
}

fn in_tree(number: u64) -> Option<Node> {
    let at = TreeNode {
        slot: (number >> SLOT_SHIFT) as u32 & ((1 << SLOT_BITS) - 1),
        entry: number as u32 & ((1 << SLOT_SHIFT) - 1),
    };
    match number >> TREE_SHIFT {
        IN_TREE => Some(Node::Tree(at)),
        IN_DRAFT => Some(Node::Draft(at)),
        _ => None,
    }
}

/// What `stat` shows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Plain size, of a link the length of its target, in bytes.
    pub bytes: u64,
    /// Time of the last change, which is also all other times.
    pub modified: SystemTime,
    /// Permission bits.
    pub mode: u16,
    /// Whose it was where it was taken; `None`: the mounting user's.
    pub owner: Option<Owner>,
    /// How long the kernel may take these, and the name they were found by, for granted.
    pub kept: Kept,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// How long something may be taken for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Not at all: the next moment may bring another answer.
    Never,
    /// The name for a second, because names appear through other mounts; the attributes for some more.
    AWhile,
    /// The attributes for as long as the kernel likes; the name not at all: it will mean something else.
    Attributes,
    /// For as long as the kernel likes: it never changes, or only by what the kernel itself asks for.
    Always,
}

impl Attributes {
    /// Is it a directory?
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<WalName> {
        [
            "000000010000000000000001",
            "00000FFF007FFFFF00000FFF",
            "000010000000000000000001",
            "000000010080000000000001",
            "00007FFFFFFFFFFF00000FFF",
            "000080000000000000000001",
            "000000010000000000000001.partial",
            "00000002.history",
            "0000ABCD.history",
            "000000010000000000000003.00000028.backup",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec()
    }

    fn tree_nodes() -> impl Iterator<Item = Node> {
        let (last, beyond) = ((1 << SLOT_BITS) - 1, 1 << SLOT_BITS);
        let places = [
            (0, 0),
            (0, 1),
            (7, 123_456),
            (last, (1 << 28) - 1),
            (beyond, 1),
            (0, u32::MAX),
        ];
        let places = places.map(|(slot, entry)| TreeNode { slot, entry });
        places
            .into_iter()
            .flat_map(|at| [Node::Tree(at), Node::Draft(at)])
    }

    #[test]
    fn every_name_has_one_number_and_back() {
        let inodes = Inodes::default();
        let nodes = names()
            .into_iter()
            .flat_map(|name| [Node::Archived(name), Node::AbsentFile(name)])
            .chain(FIXED)
            .chain(tree_nodes());
        let mut seen = std::collections::HashSet::new();
        for node in nodes {
            let number = inodes.number(node);
            assert!(number < 1 << OWN_BITS, "{node:?} has too long a number");
            assert_eq!(inodes.node(number), Some(node));
            assert_eq!(inodes.number(node), number);
            assert!(seen.insert(number), "{node:?} shares its number");
        }
    }

    #[test]
    fn a_listing_of_segments_leaves_nothing_behind() {
        let inodes = Inodes::default();
        for seg in 0..1000 {
            let segment = SegmentName {
                timeline: Timeline(1),
                log: 7,
                seg,
            };
            inodes.number(Node::Archived(WalName::Segment(segment)));
        }
        assert!(inodes.named.lock().unwrap().is_empty());
    }

    #[test]
    fn unknown_numbers_are_files_being_written_or_nothing() {
        let inodes = Inodes::default();
        let fresh = inodes.fresh();
        assert_eq!(inodes.node(fresh), Some(Node::Writing(fresh)));
        assert_eq!(inodes.node(0), None);
        assert_eq!(inodes.node(99), None);
        assert_eq!(inodes.node(1 << (TREE_SHIFT - 1)), None);
    }
}
