//! Is what a complete tree consists of still there? As far as a listing tells: whether its content is right, only reading
//! it shows.

use std::collections::HashMap;

use super::summary::{Object, Summary};
use super::{Tree, TreeId, TreeName};
use crate::archive::{Archive, Error};
use crate::store::{ErrorKind, Key, Meta, Patience};

/// Objects in the page that is looked at.
const PAGE: usize = 1000;

impl Archive {
    /// What is missing of a complete tree, in words. Of one with more than a page of parts only what tells them apart is
    /// looked for.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn missing_of_tree(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<Option<String>, Error> {
        let Some(id) = summary.tree_id(name) else {
            return Ok(None);
        };
        let prefix = id.prefix();
        let page = self.store().list(&prefix, None, PAGE, patience).await?;
        let many = page.more;
        let entries = if many {
            // Parts are numbers; everything else is behind them.
            let behind_parts = format!("{prefix}a");
            let rest = self.store().list(&prefix, Some(&behind_parts), PAGE, patience);
            rest.await?.entries
        } else {
            page.entries
        };
        let told_apart = self.missing_inventory(&id, summary, &entries);
        Ok(told_apart.or_else(|| match many {
            true => None,
            false => missing_bytes(&entries, &prefix, summary),
        }))
    }

    /// The first part of a tree that is gone or cut, and what is wrong with it: as far as a listing tells. Of a store that
    /// refuses to list nothing is told.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn missing_part(
        &self,
        tree: &Tree,
        patience: Patience,
    ) -> Result<Option<(Key, String)>, Error> {
        let prefix = tree.id.prefix();
        let listed = match self.list_all(&prefix, patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => return Ok(None),
            listed => listed?,
        };
        let listed: HashMap<&Key, u64> = listed
            .iter()
            .map(|(key, meta)| (key, meta.stored_bytes))
            .collect();
        let mut own = tree
            .parts
            .iter()
            .filter(|part| part.key.as_str().starts_with(&prefix));
        Ok(own.find_map(|part| match listed.get(&part.key) {
            Some(&bytes) if bytes == part.stored_bytes => None,
            Some(bytes) => {
                let reason = format!("it has {bytes} bytes, it was stored with {}", part.stored_bytes);
                Some((part.key.clone(), reason))
            }
            None => Some((part.key.clone(), "it is not there".to_owned())),
        }))
    }

    /// Is everything there that was stored of a tree? Every object of it is listed. Of a store that refuses to list nothing
    /// can be told but what it has confirmed.
    ///
    /// # Errors
    /// [`Error::TreeRemoved`], [`Error::Store`].
    pub(super) async fn check_stored(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Error> {
        let Some(id) = summary.tree_id(name) else {
            return Ok(());
        };
        let prefix = id.prefix();
        let entries = match self.list_all(&prefix, patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => {
                tracing::warn!("whether all of backup {name} is still there cannot be seen: {error}");
                return Ok(());
            }
            listed => listed?,
        };
        let missing = self.missing_inventory(&id, summary, &entries);
        match missing.or_else(|| missing_bytes(&entries, &prefix, summary)) {
            None => Ok(()),
            Some(missing) => Err(Error::TreeRemoved {
                name: name.clone(),
                place: self.place(),
                missing,
            }),
        }
    }

    /// Which of the objects is missing that tell the parts apart?
    fn missing_inventory(&self, id: &TreeId, summary: &Summary, entries: &[(Key, Meta)]) -> Option<String> {
        if entries.is_empty() {
            return Some(format!("nothing is left in {}", id.prefix()));
        }
        [
            (self.manifest_key(id), &summary.manifest),
            (self.chunks_key(id), &summary.chunks),
        ]
        .iter()
        .find_map(|(key, object)| missing_object(entries, key, object))
    }
}

fn missing_object(entries: &[(Key, Meta)], key: &Key, object: &Object) -> Option<String> {
    let found = entries.iter().find(|(found, _)| found == key);
    match found.map(|(_, meta)| meta.stored_bytes) {
        Some(bytes) if bytes == object.stored_bytes => None,
        Some(bytes) => Some(format!(
            "{key} has {bytes} bytes, it was stored with {}",
            object.stored_bytes
        )),
        None => Some(format!("{key} is missing")),
    }
}

fn missing_bytes(entries: &[(Key, Meta)], prefix: &str, summary: &Summary) -> Option<String> {
    let told_apart = |key: &Key| !key.as_str()[prefix.len()..].ends_with(".json");
    let counted = entries.iter().filter(|(key, _)| told_apart(key));
    let found: u64 = counted.map(|(_, meta)| meta.stored_bytes).sum();
    let stored = summary.stored_bytes;
    (found < stored).then(|| {
        let missing = stored - found;
        format!("{missing} of the {stored} bytes stored in {prefix} are missing")
    })
}
