//! Is what a complete tree consists of still there? As far as a listing tells: whether its content is right, only reading
//! it shows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::SystemTime;

use super::folders::{Contents, PAGE};
use super::summary::{BuildsOn, Object, Summary};
use super::{Part, TREES, TreeId, TreeName};
use crate::archive::{Archive, Error};
use crate::store::{ErrorKind, Key, Meta, Page, Patience};

/// Trees that were looked at, for a list of backups of which each builds on those before it: otherwise it would look at
/// each of them as often as there are backups.
#[derive(Debug, Default)]
pub struct SeenTrees {
    /// By folder, if all were listed.
    all: Option<HashMap<String, Contents>>,
    /// Of earlier ones the bytes of their parts.
    earlier: Mutex<HashMap<String, Option<u64>>>,
}

impl SeenTrees {
    /// All there are were listed.
    pub(super) fn all(folders: HashMap<String, Contents>) -> Self {
        Self {
            all: Some(folders),
            earlier: Mutex::default(),
        }
    }

    fn folder(&self, id: &TreeId) -> Option<Contents> {
        let all = self.all.as_ref()?;
        Some(all.get(id.as_str()).copied().unwrap_or_default())
    }

    fn bytes_of_parts(&self, id: &TreeId) -> Option<Option<u64>> {
        if let Some(folder) = self.folder(id) {
            return Some((!folder.has_more).then_some(folder.part_bytes));
        }
        let earlier = self.earlier.lock().expect("no panic while held");
        earlier.get(id.as_str()).copied()
    }

    fn note(&self, id: &TreeId, bytes: Option<u64>) {
        let mut earlier = self.earlier.lock().expect("no panic while held");
        earlier.insert(id.to_string(), bytes);
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
        let folder = match seen.folder(&id) {
            Some(folder) => folder,
            None => self.tree_folder(&id, patience).await?,
        };
        let own = self.missing_of_folder(&id, summary, folder);
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
            let found = match seen.bytes_of_parts(&id) {
                Some(found) => found,
                None => {
                    let found = self.bytes_of_parts(&id, patience).await?;
                    seen.note(&id, found);
                    found
                }
            };
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

    /// A page of the objects in the folder of a tree, behind a key, ascending.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tree_page(
        &self,
        id: &TreeId,
        after: Option<&Key>,
        patience: Patience,
    ) -> Result<Page, Error> {
        let after = after.map(Key::as_str);
        Ok(self.store().list(&id.prefix(), after, PAGE, patience).await?)
    }

    /// Stored bytes of the parts of a tree; `None` where more than a page would have to be listed, or nothing may be.
    async fn bytes_of_parts(&self, id: &TreeId, patience: Patience) -> Result<Option<u64>, Error> {
        let page = match self.tree_page(id, None, patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => return Ok(None),
            page => page?,
        };
        Ok((!page.more).then(|| self.folder_of(id, &page.entries).part_bytes))
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

    /// Is everything there that was stored of a tree, and what it builds on? Every object of it is listed: when the newest of them was
    /// stored, by the store's clock. Of a store that refuses to list nothing can be told but what it has confirmed.
    ///
    /// # Errors
    /// [`Error::TreeRemoved`], [`Error::Store`].
    pub(super) async fn check_stored(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<Option<SystemTime>, Error> {
        let Some(id) = summary.tree_id(name) else {
            return Ok(None);
        };
        let entries = match self.list_all(&id.prefix(), patience).await {
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => {
                tracing::warn!("whether all of backup {name} is still there cannot be seen: {error}");
                return Ok(None);
            }
            listed => listed?,
        };
        let missing = match self.missing_of_folder(&id, summary, self.folder_of(&id, &entries)) {
            None => {
                let seen = SeenTrees::default();
                self.missing_of_others(summary, &seen, patience).await?
            }
            own => own,
        };
        match missing {
            None => Ok(entries.iter().map(|(_, meta)| meta.modified).max()),
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

    /// Is what tells the parts apart missing, or some of them? Of more than were counted the latter is not known.
    fn missing_of_folder(&self, id: &TreeId, summary: &Summary, folder: Contents) -> Option<String> {
        let prefix = id.prefix();
        if folder.objects == 0 {
            return Some(format!("nothing is left in {prefix}"));
        }
        let inventory = missing_object(folder.manifest_bytes, &self.manifest_key(id), &summary.manifest);
        inventory.or_else(|| match folder.has_more {
            true => None,
            false => missing_bytes(folder.bytes, &prefix, summary.stored_bytes),
        })
    }
}

fn missing_object(found_bytes: Option<u64>, key: &Key, object: &Object) -> Option<String> {
    match found_bytes {
        Some(bytes) if bytes == object.stored_bytes => None,
        Some(bytes) => Some(format!(
            "{key} has {bytes} bytes, it was stored with {}",
            object.stored_bytes
        )),
        None => Some(format!("{key} is missing")),
    }
}

fn missing_bytes(found: u64, prefix: &str, stored: u64) -> Option<String> {
    (found < stored).then(|| {
        let missing = stored - found;
        format!("{missing} of the {stored} bytes stored in {prefix} are missing")
    })
}
