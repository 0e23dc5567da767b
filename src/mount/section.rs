//! A section of the mount: what gives numbers to its nodes, and has a room for each. A mount of one archive is one section; of
//! several, each open archive is one, and so are the directory over them and what stands for an archive that does not open.

use std::fmt::Debug;
use std::sync::Arc;

use super::directory::Entry;
use super::error::{Error, Result};
use super::node::{Attributes, Node, OWN_BITS};
use super::room::Room;

/// A section.
pub(super) trait Section: Debug + Send + Sync {
    /// The node of a number that this section has given.
    fn node(&self, number: u64) -> Option<Node>;

    /// The room that answers for a node.
    fn room(&self, node: Node) -> &dyn Room;

    /// Takes note of an error.
    fn note(&self, what: &str, error: &Error);
}

/// A node, and the section that it is in.
#[derive(Debug, Clone)]
pub(super) struct At {
    /// The section. Whoever holds it keeps the archive open.
    pub(super) section: Arc<dyn Section>,
    pub(super) node: Node,
    /// Which of the mount's archives this is; 0 for the only one.
    archive: u16,
}

impl At {
    /// The node of a section's number. `archive`: which one of the mount it is.
    ///
    /// # Errors
    /// [`Error::Stale`]: the section does not know it, and a name has to be looked up again.
    pub(super) fn new(section: Arc<dyn Section>, number: u64, archive: u16) -> Result<Self> {
        let node = section.node(number).ok_or(Error::Stale)?;
        Ok(Self {
            section,
            node,
            archive,
        })
    }

    /// Another node of the same section.
    pub(super) fn with(&self, node: Node) -> Self {
        Self { node, ..self.clone() }
    }

    /// What answers for it.
    pub(super) fn room(&self) -> &dyn Room {
        self.section.room(self.node)
    }

    /// Is the other one of the same archive?
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.archive == other.archive
    }

    /// Attributes from its section, as the kernel is to see them.
    pub(super) fn shown(&self, attributes: Attributes) -> Attributes {
        Attributes {
            ino: numbered_in(self.archive, attributes.ino),
            ..attributes
        }
    }

    /// The same of what a directory holds.
    pub(super) fn listed(&self, entries: Vec<Entry>) -> impl Iterator<Item = Entry> {
        entries.into_iter().map(|entry| Entry {
            attributes: self.shown(entry.attributes),
            ..entry
        })
    }

    /// Notes an error, and hands it on.
    pub(super) fn noted<T>(&self, what: &str, outcome: Result<T>) -> Result<T> {
        if let Err(error) = &outcome {
            self.section.note(what, error);
        }
        outcome
    }
}

/// The mount's number of what has this one in that archive.
pub(super) fn numbered_in(archive: u16, number: u64) -> u64 {
    u64::from(archive) << OWN_BITS | number
}

/// Which archive a number is of, and which number it is there.
pub(super) fn split(number: u64) -> (u16, u64) {
    ((number >> OWN_BITS) as u16, number & ((1 << OWN_BITS) - 1))
}
