//! The parts that hold each file become the tree, as its manifest has it.

use std::collections::HashMap;

use crate::archive::tree::{Attributes, Content, Entry, Extent, Part, Tree, TreeError, TreeId};
use crate::store::Key;

/// A tree in the making.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    parts: Vec<Part>,
    numbers: HashMap<Key, u32>,
    entries: Vec<Entry>,
}

impl TreeBuilder {
    /// The number of a part, by which extents name it. Each part is in the tree once.
    pub fn part(&mut self, part: &Part) -> u32 {
        let next = self.parts.len() as u32;
        let number = *self.numbers.entry(part.key.clone()).or_insert(next);
        if number == next {
            self.parts.push(part.clone());
        }
        number
    }

    /// A directory or a link.
    pub fn node(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// A file of so many bytes, and where they lie (extents without bytes are left out).
    pub fn file(
        &mut self,
        path: Box<[u8]>,
        attributes: Attributes,
        bytes: u64,
        extents: impl IntoIterator<Item = Extent>,
    ) {
        let extents: Box<[Extent]> = extents.into_iter().filter(|extent| extent.bytes > 0).collect();
        self.entries.push(Entry {
            path,
            attributes,
            content: Content::File { bytes, extents },
        });
    }

    /// The tree.
    ///
    /// # Errors
    /// As [`Tree::new`].
    pub fn build(self, id: TreeId) -> Result<Tree, TreeError> {
        Tree::new(id, self.parts, self.entries)
    }
}
