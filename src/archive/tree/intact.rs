//! Is what a complete tree consists of still there? As far as a listing tells: whether its content is right, only reading
//! it shows.

use super::summary::{Object, Summary};
use super::{TreeId, TreeName};
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
