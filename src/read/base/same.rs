//! Is a new tree the same as the base: the same entries, and each file the same bytes? Then it need not be there twice.

use super::{Base, or_unknown};
use crate::archive::Error;
use crate::archive::tree::{Content, Extent, Tree};
use crate::store::{Key, Patience};

/// Bytes that lie together: in which part, from where on, how many.
type Run = (Key, u64, u64);

impl Base {
    /// Has it the same entries as a tree, and lies each file of both at the same places? Then it has the same content. What lies
    /// elsewhere may have it too, and is taken for another.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn is_same_as(&self, tree: &Tree, patience: impl Fn() -> Patience) -> Result<bool, Error> {
        if !self.has_entries_of(tree, &patience).await? {
            return Ok(false);
        }
        for entry in tree.entries() {
            let Content::File { extents, .. } = &entry.content else {
                continue;
            };
            let mut own = Vec::new();
            for extent in extents {
                add(&mut own, &tree.parts[extent.part as usize].key, extent);
            }
            let there = or_unknown(self.runs(&entry.path, &patience).await)?;
            if there != Some(own) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where a file of the base lies.
    async fn runs(&self, path: &[u8], patience: impl Fn() -> Patience) -> Result<Vec<Run>, Error> {
        let mut runs = Vec::new();
        let found = self.tree.find(path, patience()).await?;
        let Some(file) = found.and_then(|found| found.file()) else {
            return Ok(runs);
        };
        let mut at = 0;
        while at < file.bytes {
            let window = self.tree.extents(&file, at, patience()).await?;
            let found = window.extents();
            at = found.from;
            for extent in found.extents {
                let part = self.tree.part(extent.part, patience()).await?;
                add(&mut runs, &part.key, extent);
                at += extent.bytes;
            }
        }
        Ok(runs)
    }
}

/// What goes on where the run before ends is a part of that.
fn add(runs: &mut Vec<Run>, key: &Key, extent: &Extent) {
    match runs.last_mut() {
        Some((last, offset, bytes)) if last == key && *offset + *bytes == extent.offset => {
            *bytes += extent.bytes
        }
        _ => runs.push((key.clone(), extent.offset, extent.bytes)),
    }
}
