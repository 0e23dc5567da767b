//! What is in the folder of each tree, as far as listings tell: of all trees at once, or of one.

use std::collections::{BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt, stream};

use super::{TREES, TreeId};
use crate::archive::object::Object;
use crate::archive::{Archive, Error};
use crate::store::{Key, Meta, Patience};

/// Objects in a page. Of a folder with more only what stands behind the parts is looked at.
pub(super) const PAGE: usize = 1000;

/// Stretches of the trees that are listed at once.
const STRETCHES: usize = 4;

/// Folders from which on a further stretch pays: most have a few objects.
const FOLDERS_OF_ONE: usize = 64;

/// What a listing shows of a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Objects that were counted.
    pub(super) objects: usize,
    /// Are there more parts?
    pub(super) has_more: bool,
    /// Bytes stored of parts and manifest.
    pub(super) bytes: u64,
    /// Bytes stored of parts.
    pub(super) part_bytes: u64,
    /// Bytes of the manifest, if it is there.
    pub(super) manifest_bytes: Option<u64>,
}

impl Archive {
    /// All folders, by name. The `known` ones among them cut the listing into stretches.
    pub(super) async fn tree_folders(
        &self,
        known: &BTreeSet<String>,
        patience: Patience,
    ) -> Result<HashMap<String, Contents>, Error> {
        let stretches = stream::iter(stretches(known)).map(|stretch| self.folders_of(stretch, patience));
        let found: Vec<HashMap<String, Contents>> = stretches.buffered(STRETCHES).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn folders_of(
        &self,
        (mut after, until): (String, Option<String>),
        patience: Patience,
    ) -> Result<HashMap<String, Contents>, Error> {
        let mut found: HashMap<String, Contents> = HashMap::new();
        let prefix = format!("{TREES}/");
        loop {
            let page = self.store().list(&prefix, Some(&after), PAGE, patience).await?;
            let mut last = None;
            for (key, meta) in &page.entries {
                if until.as_deref().is_some_and(|until| key.as_str() > until) {
                    return Ok(found);
                }
                let Some((name, file)) = key.as_str()[prefix.len()..].split_once('/') else {
                    continue;
                };
                let folder = found.entry(name.to_owned()).or_default();
                self.count(folder, key, file, meta);
                last = Some(name);
            }
            let Some((key, _)) = page.entries.last().filter(|_| page.more) else {
                return Ok(found);
            };
            key.as_str().clone_into(&mut after);
            if let Some(name) = last
                && let Some(folder) = found.get_mut(name)
                && folder.objects >= PAGE
                && behind_parts(name) > after
            {
                folder.has_more = true;
                after = behind_parts(name);
            }
        }
    }

    /// The folder of one tree.
    pub(super) async fn tree_folder(&self, id: &TreeId, patience: Patience) -> Result<Contents, Error> {
        let page = self.tree_page(id, None, patience).await?;
        if !page.more {
            return Ok(self.folder_of(id, &page.entries));
        }
        let behind = Key::new(behind_parts(id.as_str()));
        let rest = self.tree_page(id, Some(&behind), patience);
        Ok(Contents {
            has_more: true,
            ..self.folder_of(id, &rest.await?.entries)
        })
    }

    /// The folder that has these objects.
    pub(super) fn folder_of(&self, id: &TreeId, entries: &[(Key, Meta)]) -> Contents {
        let (mut folder, prefix) = (Contents::default(), id.prefix());
        for (key, meta) in entries {
            self.count(&mut folder, key, &key.as_str()[prefix.len()..], meta);
        }
        folder
    }

    fn count(&self, folder: &mut Contents, key: &Key, file: &str, meta: &Meta) {
        folder.objects += 1;
        if !file.ends_with(".json") {
            folder.bytes = folder.bytes.saturating_add(meta.stored_bytes);
        }
        match self.object(key) {
            Some(Object::Part(_)) => folder.part_bytes = folder.part_bytes.saturating_add(meta.stored_bytes),
            Some(Object::Manifest(_)) => folder.manifest_bytes = Some(meta.stored_bytes),
            _ => {}
        }
    }
}

/// Behind which key each begins, and with which one it ends at the latest.
fn stretches(known: &BTreeSet<String>) -> Vec<(String, Option<String>)> {
    let mut behind: Vec<String> = known.iter().map(|name| after_folder(name)).collect();
    // '/' is not the least that a name has.
    behind.sort();
    let folders = behind.len().div_ceil(STRETCHES).max(FOLDERS_OF_ONE);
    let cuts: Vec<String> = behind.into_iter().skip(folders).step_by(folders).collect();
    let begins = std::iter::once(format!("{TREES}/")).chain(cuts.iter().cloned());
    let ends = cuts.iter().cloned().map(Some).chain([None]);
    begins.zip(ends).collect()
}

/// Where a listing goes on behind a folder: '0' is the byte after '/'.
fn after_folder(name: &str) -> String {
    format!("{TREES}/{name}0")
}

/// Where it goes on behind the parts in a folder: these are numbers, everything else is behind them.
fn behind_parts(name: &str) -> String {
    format!("{TREES}/{name}/a")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_follow_each_other() {
        assert_eq!(stretches(&BTreeSet::new()), [("trees/".to_owned(), None)]);
        for count in [1, 63, 64, 65, 257, 1000] {
            let known = (0..count)
                .map(|number| format!("day-{number}.0123456789abcdef"))
                .collect();
            let all = stretches(&known);
            assert!(all.len() <= STRETCHES && all[0].0 == "trees/", "{count}: {all:?}");
            assert!(
                all.windows(2)
                    .all(|pair| pair[0].1.as_ref() == Some(&pair[1].0) && pair[0].0 < pair[1].0)
            );
            assert_eq!(all.last().and_then(|last| last.1.clone()), None);
            assert!(count <= 64 || all.len() > 1, "{count}");
        }
    }
}
