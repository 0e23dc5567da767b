//! What is left of trees that were begun and never committed: found, and removed.
//!
//! [`Archive::drop_unfinished`] is the only deletion of content in this program, and it asks for the summary first.

use std::collections::BTreeSet;
use std::time::SystemTime;

use futures::{StreamExt, TryStreamExt, stream};

use super::catalogue::{BEGUN, Beside, READS, Unfinished};
use super::claim::claimed;
use super::intact::SeenTrees;
use super::refused::WORD_BYTES;
use super::summary::Summary;
use super::{TreeId, TreeKind, TreeName};
use crate::archive::{Archive, Error};
use crate::store::{ByteRange, ErrorKind, Key, Patience};

impl Archive {
    /// Trees that were begun and are not complete, by name.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unfinished_trees(&self, patience: Patience) -> Result<Vec<Unfinished>, Error> {
        let complete = self.all_summaries(patience).await?;
        Ok(self.unfinished_beside(&complete, patience).await?.unfinished)
    }

    /// As [`Archive::unfinished_trees`], by somebody who has the complete ones of all kinds at hand.
    ///
    /// All folders are listed once, and what is seen of them is told with it. Of one with many thousand parts most are passed.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn unfinished_beside(
        &self,
        complete: &[(TreeKind, TreeName, Result<Summary, Error>)],
        patience: Patience,
    ) -> Result<Beside, Error> {
        let summaries = || {
            complete
                .iter()
                .filter_map(|(_, _, summary)| summary.as_ref().ok())
        };
        let known: BTreeSet<String> = summaries().map(|summary| summary.id.clone()).collect();
        let builds_on = summaries().flat_map(|summary| summary.builds_on.iter().map(|on| on.id.clone()));
        let needed = builds_on.collect();
        let orders = self.orders(patience).await?.into_iter();
        let ordered = orders
            .filter_map(|found| found.order)
            .flat_map(|order| order.trees);
        let gone = Gone {
            needed,
            ordered: ordered.collect(),
        };
        let seen = self.tree_folders(&known, patience).await?;
        let unknown = seen.keys().filter(|folder| !known.contains(*folder));
        let mut unknown: Vec<TreeId> = unknown.filter_map(|folder| TreeId::parse(folder)).collect();
        unknown.sort();
        let looks = stream::iter(unknown).map(|id| self.look_at_folder(id, &gone, patience));
        let folders: Vec<Folder> = looks.buffered(READS).try_collect().await?;
        let listed: BTreeSet<&TreeName> = complete.iter().map(|(_, name, _)| name).collect();
        let mut beside = Beside {
            seen: SeenTrees::all(seen),
            ..Beside::default()
        };
        for folder in folders {
            match folder {
                Folder::Committed => {}
                Folder::Remnant(id) => beside.remnants.push(id),
                Folder::Unfinished(tree) => beside.unfinished.push(tree),
                Folder::NotKnown(name, error) => {
                    let told = |(told, _): &(TreeName, Error)| *told == name;
                    if !listed.contains(&name) && !beside.unreadable.iter().any(told) {
                        beside.unreadable.push((name, error));
                    }
                }
            }
        }
        beside.unfinished.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(beside)
    }

    async fn look_at_folder(&self, id: TreeId, gone: &Gone, patience: Patience) -> Result<Folder, Error> {
        // It may have been committed since the summaries were read.
        for kind in TreeKind::ALL {
            match self.readable_summary(kind, &id.name(), patience).await? {
                Ok(summary) if is_of(summary.as_ref(), &id) => return Ok(Folder::Committed),
                Ok(_) => {}
                Err(error) => return Ok(Folder::NotKnown(id.name(), error)),
            }
        }
        if gone.ordered.contains(id.as_str()) {
            return Ok(Folder::Remnant(id));
        }
        let unfinished = self.look_at_unfinished(id, patience).await?;
        Ok(
            if unfinished.may_be_remnant() && gone.needed.contains(unfinished.id.as_str()) {
                Folder::Remnant(unfinished.id)
            } else {
                Folder::Unfinished(unfinished)
            },
        )
    }

    async fn look_at_unfinished(&self, id: TreeId, patience: Patience) -> Result<Unfinished, Error> {
        let objects = self.list_all(&id.prefix(), patience).await?;
        let begun = match self
            .store()
            .get(&id.key(BEGUN), ByteRange::AtMost(WORD_BYTES), patience)
            .await
        {
            Ok(fetched) => serde_json::from_slice(&fetched.bytes).ok(),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Damaged) => None,
            Err(error) => return Err(error.into()),
        };
        let manifest = self.manifest_key(&id);
        let has_inventory = objects.iter().any(|(key, _)| *key == manifest);
        let keys = objects.iter().map(|(key, _)| key);
        let refused = self.last_refused(&id, keys, patience).await?;
        let builds_on: Vec<TreeId> = objects.iter().filter_map(|(key, _)| claimed(&id, key)).collect();
        Ok(Unfinished {
            id,
            begun,
            refused,
            has_inventory,
            is_nothing: builds_on.len() == objects.len(),
            builds_on,
            last_stored: objects
                .iter()
                .map(|(_, meta)| meta.modified)
                .max()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            stored_bytes: objects
                .iter()
                .fold(0, |sum, (_, meta)| meta.stored_bytes.saturating_add(sum)),
        })
    }

    /// Deletes an unfinished tree. A committed one is refused, whoever asks, and so is one whose summary cannot be read, or on
    /// which another one builds.
    ///
    /// # Errors
    /// [`Error::TreeExists`] if it is committed, [`Error::TreeDamaged`] if that cannot be known, or if it has lost its summary
    /// and is needed; [`Error::Store`].
    pub async fn drop_unfinished(&self, id: &TreeId, patience: Patience) -> Result<(), Error> {
        let objects = self.check_unneeded(id, patience).await?;
        // The word of who began it goes last, so that an interrupted deletion is still known for what it is.
        let (begun, rest): (Vec<Key>, Vec<Key>) = objects.into_iter().partition(|key| *key == id.key(BEGUN));
        self.store().delete(&rest, patience).await?;
        Ok(self.store().delete(&begun, patience).await?)
    }

    /// May it be deleted? Its objects.
    ///
    /// # Errors
    /// As [`Archive::drop_unfinished`].
    pub async fn check_unneeded(&self, id: &TreeId, patience: Patience) -> Result<Vec<Key>, Error> {
        for kind in TreeKind::ALL {
            if is_of(self.summary(kind, &id.name(), patience).await?.as_ref(), id) {
                return Err(self.tree_exists(&id.name()));
            }
        }
        let objects = self.list_all(&id.prefix(), patience).await?;
        let has = |wanted: Key| objects.iter().any(|(key, _)| *key == wanted);
        // What says who began it, and has no manifest, was never complete.
        if has(self.manifest_key(id)) || !has(id.key(BEGUN)) {
            self.refuse_needed(id, patience).await?;
        }
        Ok(objects.into_iter().map(|(key, _)| key).collect())
    }
}

impl Archive {
    /// What has no summary may have had one, and be what others build on.
    async fn refuse_needed(&self, id: &TreeId, patience: Patience) -> Result<(), Error> {
        let needed = |by: String| Err(self.tree_damaged(&id.name(), "its summary", by));
        for kind in TreeKind::ALL {
            for (name, summary) in self.summaries(kind, patience).await? {
                match summary {
                    Ok(summary) if summary.builds_on.iter().any(|on| on.id == id.as_str()) => {
                        return needed(format!("it is missing, and backup {name} builds on what is left"));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        return needed(format!(
                            "it is missing, and whether {name} builds on it is not known: {error}"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Trees of which a prune has removed something, or may have.
struct Gone {
    /// Later ones point to them.
    needed: BTreeSet<String>,
    /// A prune is at them.
    ordered: BTreeSet<String>,
}

/// What a folder among the trees is.
enum Folder {
    /// A complete one's.
    Committed,
    /// Of a tree that was pruned, or is being pruned.
    Remnant(TreeId),
    Unfinished(Unfinished),
    /// The summary of its name cannot be read, and may be its own: then it is not for us to judge.
    NotKnown(TreeName, Error),
}

fn is_of(summary: Option<&Summary>, id: &TreeId) -> bool {
    summary.is_some_and(|summary| summary.id == id.as_str())
}
