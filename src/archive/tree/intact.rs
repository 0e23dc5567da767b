//! Is what a complete tree consists of still there? As far as a listing tells: whether its content is right, only reading
//! it shows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use super::summary::{BuildsOn, Object, Summary};
use super::{Part, TREES, TreeId, TreeName};
use crate::archive::object;
use crate::archive::{Archive, Error};
use crate::store::{ErrorKind, Key, Meta, Patience};

/// Objects in the page that is looked at.
const PAGE: usize = 1000;

/// Earlier trees that were looked at, for a list of backups of which each builds on those before it: otherwise it would
/// look at each of them as often as there are backups.
#[derive(Debug, Default)]
pub struct SeenTrees(Mutex<HashMap<String, Option<u64>>>);

impl SeenTrees {
    fn of(&self, prefix: &str) -> Option<Option<u64>> {
        self.0.lock().expect("no panic while held").get(prefix).copied()
    }

    fn note(&self, prefix: &str, bytes: Option<u64>) {
        let mut seen = self.0.lock().expect("no panic while held");
        seen.insert(prefix.to_owned(), bytes);
    }
}

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
        seen: &SeenTrees,
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
        let own = told_apart.or_else(|| match many {
            true => None,
            false => missing_bytes(bytes_of(&entries, &prefix), &prefix, summary.stored_bytes),
        });
        match own {
            None => self.missing_of_others(summary, seen, patience).await,
            missing => Ok(missing),
        }
    }

    /// What is missing of the earlier trees that one builds on; of more than a page of parts nothing is looked for.
    async fn missing_of_others(
        &self,
        summary: &Summary,
        seen: &SeenTrees,
        patience: Patience,
    ) -> Result<Option<String>, Error> {
        for BuildsOn { id, stored_bytes } in &summary.builds_on {
            let Some(id) = TreeId::parse(id) else {
                return Ok(Some(format!("it builds on {id:?}, which is no tree")));
            };
            let prefix = id.prefix();
            let known = seen.of(&prefix);
            let found = match known {
                Some(found) => found,
                None => self.bytes_of_parts(&prefix, patience).await?,
            };
            seen.note(&prefix, found);
            let missing = found.and_then(|found| missing_bytes(found, &prefix, *stored_bytes));
            if missing.is_some() {
                return Ok(missing);
            }
        }
        Ok(None)
    }

    /// Every object in the folder of a tree.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tree_objects(&self, id: &TreeId, patience: Patience) -> Result<Vec<(Key, Meta)>, Error> {
        self.list_all(&id.prefix(), patience).await
    }

    /// Stored bytes of the parts of a tree; `None` where more than a page would have to be listed, or nothing may be.
    async fn bytes_of_parts(&self, prefix: &str, patience: Patience) -> Result<Option<u64>, Error> {
        let page = match self.store().list(prefix, None, PAGE, patience).await {
            Err(error) if error.kind == ErrorKind::Denied => return Ok(None),
            page => page?,
        };
        let parts = page
            .entries
            .iter()
            .filter(|(key, _)| matches!(self.object(key), Some(object::Object::Part(_))));
        Ok((!page.more).then(|| parts.map(|(_, meta)| meta.stored_bytes).sum()))
    }

    /// The first of these parts, of one tree or of several, that is gone or cut, and what is wrong with it: as far as a
    /// listing tells. Of a store that refuses to list nothing is told.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn missing_part(
        &self,
        parts: &[Part],
        patience: Patience,
    ) -> Result<Option<(Key, String)>, Error> {
        let mut listed: HashMap<Key, u64> = HashMap::new();
        let trees: BTreeSet<&str> = parts.iter().map(Part::tree).collect();
        for id in trees {
            let of_tree = match self.list_all(&format!("{TREES}/{id}/"), patience).await {
                Err(Error::Store(error)) if error.kind == ErrorKind::Denied => return Ok(None),
                of_tree => of_tree?,
            };
            listed.extend(of_tree.into_iter().map(|(key, meta)| (key, meta.stored_bytes)));
        }
        Ok(parts.iter().find_map(|part| match listed.get(&part.key) {
            Some(&bytes) if bytes == part.stored_bytes => None,
            Some(bytes) => {
                let reason = format!("it has {bytes} bytes, it was stored with {}", part.stored_bytes);
                Some((part.key.clone(), reason))
            }
            None => Some((part.key.clone(), "it is not there".to_owned())),
        }))
    }

    /// Is everything there that was stored of a tree, and what it builds on? Every object of it is listed. Of a store that refuses to list nothing
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
        let own = self.missing_inventory(&id, summary, &entries);
        let own = own.or_else(|| missing_bytes(bytes_of(&entries, &prefix), &prefix, summary.stored_bytes));
        let missing = match own {
            None => {
                let seen = SeenTrees::default();
                self.missing_of_others(summary, &seen, patience).await?
            }
            own => own,
        };
        match missing {
            None => Ok(()),
            Some(missing) => Err(self.tree_removed(name, missing)),
        }
    }

    /// Are the parts there that the tree of that name points to, its own and those of earlier ones, each in its length?
    ///
    /// # Errors
    /// [`Error::TreeRemoved`], [`Error::Store`].
    pub async fn check_parts(
        &self,
        name: &TreeName,
        parts: &[Part],
        patience: Patience,
    ) -> Result<(), Error> {
        match self.missing_part(parts, patience).await? {
            None => Ok(()),
            Some((part, reason)) => Err(self.tree_removed(name, format!("{part}: {reason}"))),
        }
    }

    fn tree_removed(&self, name: &TreeName, missing: String) -> Error {
        Error::TreeRemoved {
            name: name.clone(),
            place: self.place(),
            missing,
        }
    }

    /// Is what tells the parts apart missing?
    fn missing_inventory(&self, id: &TreeId, summary: &Summary, entries: &[(Key, Meta)]) -> Option<String> {
        if entries.is_empty() {
            return Some(format!("nothing is left in {}", id.prefix()));
        }
        missing_object(entries, &self.manifest_key(id), &summary.manifest)
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

/// Stored bytes of a tree's own parts and manifest.
fn bytes_of(entries: &[(Key, Meta)], prefix: &str) -> u64 {
    let told_apart = |key: &Key| !key.as_str()[prefix.len()..].ends_with(".json");
    let counted = entries.iter().filter(|(key, _)| told_apart(key));
    counted.map(|(_, meta)| meta.stored_bytes).sum()
}

fn missing_bytes(found: u64, prefix: &str, stored: u64) -> Option<String> {
    (found < stored).then(|| {
        let missing = stored - found;
        format!("{missing} of the {stored} bytes stored in {prefix} are missing")
    })
}
