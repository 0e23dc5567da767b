//! A complete tree in the store, of which only what is asked for is read (promise K2).
//!
//! What is in memory is the index of its manifest; of the rest those leaves that were used last. So neither a million
//! files nor ten terabytes take more than a few requests until the first byte is here.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::{Error, FRAME, TreeReader, Trouble, frames, joined};
use crate::archive::tree::manifest::{
    self, Entries, EntryLeaf, Extents, Index, LAST_LINE_BYTES, ManifestError, PartLeaf,
};
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{Content, Entry, Part, TreeName};
use crate::store::Patience;

/// Frames of a manifest that are asked for together.
const FRAMES: u64 = 16;

/// A complete tree, opened.
pub struct StoredTree {
    reader: TreeReader,
    name: TreeName,
    /// The manifest is an object of frames as parts are.
    manifest: Part,
    key: Arc<str>,
    index: Index,
}

/// A file of a tree.
#[derive(Debug, Clone)]
pub struct StoredFile {
    /// Its number among the entries.
    pub number: u32,
    /// Its path in the tree.
    pub path: Box<[u8]>,
    /// Its length, in bytes.
    pub bytes: u64,
}

/// An entry, in the leaf that has it.
#[derive(Debug, Clone)]
pub struct Listed {
    leaf: Arc<Entries>,
    number: u32,
}

impl Listed {
    /// Its number among the entries of the tree.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The entry. Of a file it may have the first extents only.
    pub fn entry(&self) -> &Entry {
        self.leaf
            .entry(self.number)
            .expect("looked for when it was listed")
    }

    /// As a file that can be read; `None` if it is none.
    pub fn file(&self) -> Option<StoredFile> {
        let entry = self.entry();
        matches!(entry.content, Content::File { .. }).then(|| StoredFile {
            number: self.number,
            path: entry.path.clone(),
            bytes: entry.bytes(),
        })
    }
}

/// Extents of a file, in the leaf that has them.
#[derive(Debug)]
pub(in crate::read) struct Place {
    leaf: Arc<Entries>,
    number: u32,
    at: u64,
}

impl Place {
    pub(in crate::read) fn extents(&self) -> Extents<'_> {
        let found = self.leaf.extents(self.number, self.at);
        found.expect("looked for when the place was found")
    }
}

impl fmt::Debug for StoredTree {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StoredTree({})", self.index.id())
    }
}

impl TreeReader {
    /// Opens a tree: reads the index of its manifest and proves it against the summary.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`], [`Error::Store`].
    pub async fn open(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<StoredTree, Error> {
        let archive = &self.0.archive;
        let manifest = archive.manifest_part(name, summary)?;
        let index = self.index(&manifest, patience).await;
        let index = index.map_err(|trouble| self.manifest_error(name, &manifest, trouble))?;
        if Some(index.id()) != summary.tree_id(name).as_ref() {
            let other = format!("it is that of {}", index.id());
            return Err(self.manifest_error(name, &manifest, Trouble::Damaged(other)));
        }
        Ok(StoredTree {
            reader: self.clone(),
            name: name.clone(),
            key: manifest.key.as_str().into(),
            manifest,
            index,
        })
    }

    /// An error that names the summary of a backup.
    pub fn damaged_summary(&self, name: &TreeName, reason: String) -> Error {
        self.0.archive.tree_damaged(name, "its summary", reason)
    }

    async fn index(&self, manifest: &Part, patience: Patience) -> Result<Index, Trouble> {
        let bytes = manifest.plain_bytes;
        let end = self
            .plain(manifest, bytes.saturating_sub(LAST_LINE_BYTES)..bytes, patience)
            .await?;
        let at = manifest::index_at(&end, bytes)?;
        let text = self.plain(manifest, at..bytes, patience).await?;
        let parsed = tokio::task::spawn_blocking(move || Index::parse(&text, at)).await;
        Ok(parsed.expect("parsing does not panic")?)
    }

    /// Some bytes of a part's content.
    async fn plain(&self, part: &Part, range: Range<u64>, patience: Patience) -> Result<Bytes, Trouble> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / FRAME + FRAMES) * FRAME);
            let asked = frames(&(at..end));
            let in_all = asked.end - asked.start;
            let plan = self.plan(part, asked, in_all);
            self.read_frames(part, at..end, &plan, &mut pieces, patience)
                .await?;
            at = end;
        }
        Ok(joined(pieces))
    }

    fn manifest_error(&self, name: &TreeName, manifest: &Part, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Damaged(reason) => self.0.archive.tree_damaged(name, manifest.key.as_str(), reason),
        }
    }
}

impl From<ManifestError> for Trouble {
    fn from(error: ManifestError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl StoredTree {
    /// Its name.
    pub fn name(&self) -> &TreeName {
        &self.name
    }

    /// How many directories, links and files there are. Their numbers are below.
    pub fn entries(&self) -> u32 {
        self.index.entries()
    }

    /// Bytes that it holds, roughly, besides the leaves that the reader keeps.
    pub fn held_bytes(&self) -> usize {
        self.index.held_bytes()
    }

    /// An entry by its number; `None` if there are fewer.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`], [`Error::Store`].
    pub async fn entry(&self, number: u32, patience: Patience) -> Result<Option<Listed>, Error> {
        match self.index.leaf_of_entry(number, 0) {
            Some(leaf) => Ok(listed(self.leaf(leaf, patience).await?, number)),
            None => Ok(None),
        }
    }

    /// The entry with that path.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn find(&self, path: &[u8], patience: Patience) -> Result<Option<Listed>, Error> {
        let leaf = self.leaf(self.index.leaf_of_path(path), patience).await?;
        let found = listed(leaf.clone(), leaf.first_from(path));
        Ok(found.filter(|found| *found.entry().path == *path))
    }

    /// The number of the first entry of a directory, if it holds anything.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn first_child(&self, directory: &[u8], patience: Patience) -> Result<u32, Error> {
        if directory.is_empty() {
            return Ok(1);
        }
        // Behind this path, in the order of entries, begins what the directory holds.
        let before = [directory, b"/"].concat();
        let leaf = self.leaf(self.index.leaf_of_path(&before), patience).await?;
        Ok(leaf.first_from(&before))
    }

    /// What a directory holds, from the entry with that number on: some of it, nothing only if there is no more.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn children(
        &self,
        directory: &[u8],
        from: u32,
        patience: Patience,
    ) -> Result<Vec<Listed>, Error> {
        let Some(leaf) = self.index.leaf_of_entry(from, 0) else {
            return Ok(Vec::new());
        };
        let leaf = self.leaf(leaf, patience).await?;
        let here = leaf
            .from(from)
            .take_while(|(_, entry)| entry.directory() == directory);
        let here = here.map(|(number, _)| Listed {
            leaf: leaf.clone(),
            number,
        });
        Ok(here.collect())
    }

    /// Extents of a file, among them that of byte `at`.
    pub(in crate::read) async fn extents(
        &self,
        file: &StoredFile,
        at: u64,
        patience: Patience,
    ) -> Result<Place, Error> {
        let number = file.number;
        if let Some(leaf) = self.index.leaf_of_entry(number, at) {
            let leaf = self.leaf(leaf, patience).await?;
            let end = |found: Extents<'_>| {
                let bytes = found.extents.iter().map(|extent| extent.bytes);
                bytes.fold(found.from, u64::saturating_add)
            };
            if leaf.extents(number, at).is_some_and(|found| at < end(found)) {
                return Ok(Place { leaf, number, at });
            }
        }
        let path = String::from_utf8_lossy(&file.path);
        let reason = format!(
            "{path} has {} bytes, of which those from {at} on are nowhere",
            file.bytes
        );
        Err(self.damaged(Trouble::Damaged(reason)))
    }

    /// Shows the extents of all files, which reads all of the manifest: of each run of them the file's number and path. In
    /// no order. Each leaf gets its own patience.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn each_file(
        &self,
        patience: impl Fn() -> Patience,
        mut take: impl FnMut(u32, &[u8], Extents<'_>) + Send,
    ) -> Result<(), Error> {
        let mut next = self.index.leaf_of_entry(0, 0);
        // The last file, which may go on in the leaves that follow.
        let mut last: (u32, Box<[u8]>) = (0, Box::default());
        while let Some(leaf) = next {
            let entries = self.leaf(leaf, patience()).await?;
            let mut ends_with = None;
            for (number, path, extents) in entries.files() {
                ends_with = ends_with.max(path.map(|path| (number, path)));
                take(number, path.unwrap_or(&last.1), extents);
            }
            if let Some((number, path)) = ends_with.filter(|(number, _)| *number > last.0) {
                last = (number, path.into());
            }
            next = self.index.next(leaf);
        }
        Ok(())
    }

    /// All parts, in the order of their numbers. Each leaf gets its own patience.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn parts(&self, patience: impl Fn() -> Patience) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        self.each_part(patience, |part| parts.push(part.clone())).await?;
        Ok(parts)
    }

    /// Shows all parts, leaf by leaf, in the order of their numbers.
    ///
    /// # Errors
    /// As [`StoredTree::entry`].
    pub async fn each_part(
        &self,
        patience: impl Fn() -> Patience,
        mut take: impl FnMut(&Part) + Send,
    ) -> Result<(), Error> {
        let mut next = 0;
        while let Some(leaf) = self.index.leaf_of_part(next) {
            let found = self.part_leaf(leaf, patience()).await;
            let found = found.map_err(|trouble| self.damaged(trouble))?;
            found.iter().for_each(|part| take(part));
            next += found.len() as u32;
        }
        Ok(())
    }

    /// A part that extents name.
    pub(in crate::read) async fn part(&self, number: u32, patience: Patience) -> Result<Arc<Part>, Error> {
        let found = match self.index.leaf_of_part(number) {
            Some(leaf) => {
                let place = (number - self.index.first_part(leaf)) as usize;
                let parts = self.part_leaf(leaf, patience).await;
                parts.map(|parts| parts.get(place).cloned())
            }
            None => Ok(None),
        };
        let missing = || Trouble::Damaged(format!("it has no part {number}"));
        let found = found.and_then(|part| part.ok_or_else(missing));
        found.map_err(|trouble| self.damaged(trouble))
    }

    async fn part_leaf(&self, leaf: PartLeaf, patience: Patience) -> Result<Arc<Vec<Arc<Part>>>, Trouble> {
        let read = || {
            let range = self.index.range_of_parts(leaf);
            let read = async move {
                let text = self.reader.plain(&self.manifest, range, patience).await?;
                let parts = manifest::parts(&text, &self.index, leaf)?;
                Ok(parts.into_iter().map(Arc::new).collect())
            };
            // Boxed, as for entries.
            read.boxed()
        };
        self.reader.0.leaves.parts.get(&self.key, leaf, read).await
    }

    fn damaged(&self, trouble: Trouble) -> Error {
        self.reader.manifest_error(&self.name, &self.manifest, trouble)
    }

    async fn leaf(&self, leaf: EntryLeaf, patience: Patience) -> Result<Arc<Entries>, Error> {
        let read = || {
            let range = self.index.range_of_entries(leaf);
            let read = async move {
                let text = self.reader.plain(&self.manifest, range, patience).await?;
                Ok(Entries::parse(&text, &self.index, leaf)?)
            };
            // Boxed: it lies in the futures of all who ask for an entry.
            read.boxed()
        };
        let found = self.reader.0.leaves.entries.get(&self.key, leaf, read).await;
        found.map_err(|trouble| self.damaged(trouble))
    }
}

fn listed(leaf: Arc<Entries>, number: u32) -> Option<Listed> {
    leaf.entry(number).is_some().then_some(Listed { leaf, number })
}
