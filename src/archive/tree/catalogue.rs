//! Which trees there are: begun, committed, listed, read, and what unfinished ones have left.
//!
//! A tree is begun by an object of its own, `begun.json`, which says who is at it; then come its parts, in any order;
//! [`Archive::store_inventory`] writes the manifest, [`Archive::commit_stored`], last, the summary. Whatever happens before that leaves
//! an unfinished tree, which nobody sees as a backup ([`super::unfinished`]).

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::begun::Process;
use super::intact::SeenTrees;
use super::refused::Refused;
use super::summary::{BuildsOn, Description, Inventory, Object, Summary};
use super::{Content, Entry, Part, Tree, TreeId, TreeKind, TreeName, manifest};
use crate::archive::{Archive, Error, put_mode};
use crate::codec::{self, ContentHash};
use crate::pg::SegmentName;
use crate::store::{self, ByteRange, ErrorKind, Key, Meta, Patience, PutMode};

pub(super) const BEGUN: &str = "begun.json";

/// The longest summary: of a backup that brings a hundred thousand segments along.
const SUMMARY_BYTES: u64 = 4 << 20;

/// Objects of one folder that are listed; `backup-list` has all of them in memory.
const MOST_LISTED: usize = 1_000_000;

/// Objects asked for at once.
pub(super) const READS: usize = 8;

/// Summaries read at once: an archive of years has a thousand, and most have a few KiB.
const SUMMARIES: usize = 32;

/// `begun.json`: who is at an unfinished tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// When it was begun.
    pub at: Timestamp,
    /// What it will hold.
    pub content: TreeKind,
    /// What began it.
    pub by: By,
    /// Who.
    #[serde(flatten)]
    pub process: Process,
}

/// What begins trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// `walfs backup` or `walfs files`, which say themselves whether they are done.
    Backup,
    /// Whoever writes through the mount. Tools may have been told that they are done, and what they brought may be the only
    /// copy that there is: it goes by an operator's word only (promise B9).
    Mount,
}

/// A tree without a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its folder.
    pub id: TreeId,
    /// Who began it; `None` if that cannot be read.
    pub begun: Option<Begun>,
    /// Why it was not completed when its maker wanted that; `None` if nobody has wanted it yet.
    pub refused: Option<Refused>,
    /// Is stored of it what tells its parts apart? That comes last before the summary: it may be complete, and have lost
    /// that.
    pub has_inventory: bool,
    /// Folders of earlier trees that it may point to.
    pub builds_on: Vec<TreeId>,
    /// Is there nothing of it but that?
    pub is_nothing: bool,
    /// When the last object of it was stored.
    pub last_stored: SystemTime,
    /// Bytes stored of it.
    pub stored_bytes: u64,
}

/// What there is beside the trees whose summaries are listed.
#[derive(Debug, Default)]
pub struct Beside {
    /// Trees without a summary.
    pub unfinished: Vec<Unfinished>,
    /// Names of trees in the place of whose summary lies something that cannot be read, and why.
    pub unreadable: Vec<(TreeName, Error)>,
    /// What is left of pruned trees: parts that later ones point to, or that a prune has not removed yet.
    pub remnants: Vec<TreeId>,
    /// What was seen of all folders.
    pub seen: SeenTrees,
}

/// Is all the WAL at hand that makes a backup consistent (promise B2)?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupWal {
    /// Every segment from start to stop is archived, or in the backup itself.
    Complete,
    /// These are not; of very many the first ones.
    Missing(Vec<SegmentName>),
    /// These came after the backup, from another server: recovery with them would fail, or end in its history.
    Others(Vec<SegmentName>),
}

impl Archive {
    /// Begins a tree under a [fresh](TreeId::fresh) id.
    ///
    /// # Errors
    /// [`Error::TreeExists`], [`Error::Store`].
    pub async fn begin_tree(&self, id: &TreeId, begun: &Begun, patience: Patience) -> Result<(), Error> {
        let name = id.name();
        if let Some(summary) = self.summary(begun.content, &name, patience).await? {
            return Err(self.name_taken(&name, &summary, patience).await);
        }
        let text = Bytes::from(serde_json::to_vec_pretty(begun).expect("plain data becomes JSON"));
        Ok(self
            .store()
            .put(&id.key(BEGUN), text, PutMode::Overwrite, patience)
            .await?)
    }

    /// When a tree was begun, by the store's clock; `None` if nothing says so.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn tree_begun(&self, id: &TreeId, patience: Patience) -> Result<Option<SystemTime>, Error> {
        match self.store().head(&id.key(BEGUN), patience).await {
            Ok(meta) => Ok(Some(meta.modified)),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores one part of an unfinished tree; `Ok` means durable. Whoever makes parts of which there may be many at once
    /// takes [`Memory::uploads`](crate::memory::Memory) for them first.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn put_part(&self, key: &Key, object: Bytes, patience: Patience) -> Result<(), Error> {
        // The key is random: nobody else's, and a try that is repeated replaces itself by the same.
        Ok(self
            .store()
            .put(key, object, PutMode::Overwrite, patience)
            .await?)
    }

    /// Deletes parts of an unfinished tree that nothing in it points to any more. For its maker only, before it commits.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn delete_parts(&self, id: &TreeId, parts: &[Key], patience: Patience) -> Result<(), Error> {
        let prefix = id.prefix();
        let own = parts.iter().filter(|key| key.as_str().starts_with(&prefix));
        let own: Vec<Key> = own.cloned().collect();
        Ok(self.store().delete(&own, patience).await?)
    }

    /// Stores what tells a tree's parts apart: its manifest. Nothing points to it before the tree is committed, so the parts
    /// may still be on their way.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn store_inventory(&self, tree: &Tree, patience: Patience) -> Result<Inventory, Error> {
        let key = self.manifest_key(&tree.id);
        let manifest = self.put_object(&key, manifest::to_text(tree), patience).await?;
        let mut of_trees = tree.stored_bytes_by_tree();
        let own_bytes = of_trees.remove(tree.id.as_str()).unwrap_or_default();
        let builds_on = of_trees.into_iter().map(|(id, stored_bytes)| BuildsOn {
            id: id.to_owned(),
            stored_bytes,
        });
        let root = tree.entries().first();
        let is_file = |entry: &&Entry| matches!(entry.content, Content::File { .. });
        Ok(Inventory {
            id: tree.id.clone(),
            mode: root.map_or(0o700, |root| root.attributes.mode),
            files: tree.entries().iter().filter(is_file).count() as u64,
            bytes: tree.bytes(),
            stored_bytes: own_bytes + manifest.stored_bytes,
            extents: tree.extents(),
            builds_on: builds_on.collect(),
            manifest,
        })
    }

    /// Makes a tree exist whose parts and inventory are stored: stores its summary.
    ///
    /// # Errors
    /// [`Error::TreeExists`] if another tree of that name was quicker; [`Error::TreeRemoved`] if some of it is gone;
    /// [`Error::Store`].
    pub async fn commit_stored(
        &self,
        inventory: Inventory,
        description: Description,
        patience: Patience,
    ) -> Result<Summary, Error> {
        let name = &inventory.id.name();
        let mut summary = Summary::new(inventory, description);
        // What nobody would read again must not be called a backup.
        let implausible = |reason| self.tree_damaged(name, "its summary", reason);
        summary.check().map_err(implausible)?;
        // Another process may have taken its maker for dead. Before: nothing incomplete comes to exist. Behind: what went
        // in between is told.
        let stored = self.check_stored(name, &summary, patience).await?;
        let stored = stored.and_then(|at| Timestamp::try_from(at).ok());
        summary.finished = summary.finished.max(stored.unwrap_or(Timestamp::MIN));
        self.check_not_pruned(name, &summary, patience).await?;
        self.put_summary(name, &summary, patience).await?;
        let stays = self.check_stored(name, &summary, patience).await;
        if let Err(Error::TreeRemoved { .. }) = stays {
            let (key, text) = (name.summary_key(summary.content), summary.to_text().into());
            self.store().delete_if_same(&key, &text, patience).await?;
        }
        stays.map(|_| summary)
    }

    /// A prune that began before this tree did, has not seen it.
    async fn check_not_pruned(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<(), Error> {
        let orders = self.orders(patience).await;
        if orders.is_ok_and(|orders| orders.iter().any(|order| order.concerns_name(name))) {
            return Err(Error::TreeNamePruned {
                name: name.clone(),
                place: self.place(),
            });
        }
        if summary.backup.wal.is_empty() {
            return Ok(());
        }
        let implausible = |reason| self.tree_damaged(name, "its summary", reason);
        let (size, needed) = (summary.backup.segment_size(), summary.backup.segments());
        let mut needed = needed.map_err(implausible)?;
        needed.retain(|segment| !summary.backup.own_wal.contains(segment));
        match self
            .pruned_of(&needed, size.map_err(implausible)?, patience)
            .await
        {
            // Who may not list has no prune either.
            Err(Error::Store(error)) if error.kind == ErrorKind::Denied => Ok(()),
            Ok(None) => Ok(()),
            Ok(Some(segment)) => Err(Error::TreePruned {
                name: name.clone(),
                place: self.place(),
                segment,
            }),
            Err(error) => Err(error),
        }
    }

    async fn put_object(&self, key: &Key, plain: Vec<u8>, patience: Patience) -> Result<Object, Error> {
        let compression = self.compression();
        let packed = tokio::task::spawn_blocking(move || (codec::pack_all(compression, &plain), plain.len()));
        let ((stored, hash), plain_bytes) = packed.await.expect("packing does not panic");
        let stored_bytes = stored.len() as u64;
        self.put_part(key, stored, patience).await?;
        Ok(Object {
            plain_bytes: plain_bytes as u64,
            stored_bytes,
            hash: hash.to_string(),
        })
    }

    async fn put_summary(&self, name: &TreeName, summary: &Summary, patience: Patience) -> Result<(), Error> {
        let judges = self.marker().put_if_absent;
        if !judges && self.summary(summary.content, name, patience).await?.is_some() {
            return Err(self.tree_exists(name));
        }
        let text = summary.to_text();
        let key = name.summary_key(summary.content);
        match self
            .store()
            .put(&key, text.into(), put_mode(judges), patience)
            .await
        {
            Ok(()) => Ok(()),
            // Somebody was quicker, or the answer to our own first try was lost: the id decides.
            Err(error) if error.kind == ErrorKind::AlreadyExists => {
                match self.summary(summary.content, name, patience).await? {
                    Some(found) if found.id == summary.id => Ok(()),
                    _ => Err(self.tree_exists(name)),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Why a tree of that name is not begun. It may be one that waits for its WAL only.
    async fn name_taken(&self, name: &TreeName, summary: &Summary, patience: Patience) -> Error {
        match self.backup_wal(summary, patience).await {
            Ok(BackupWal::Missing(segments)) => Error::TreeLacksWal {
                name: name.clone(),
                place: self.place(),
                missing: segments,
            },
            _ => self.tree_exists(name),
        }
    }

    /// An error that names the backup and WAL that came from another server.
    pub fn other_wal(&self, name: &TreeName, others: Vec<SegmentName>) -> Error {
        Error::TreeOtherWal {
            name: name.clone(),
            place: self.place(),
            others,
        }
    }

    pub(super) fn tree_exists(&self, name: &TreeName) -> Error {
        Error::TreeExists {
            name: name.clone(),
            place: self.place(),
        }
    }

    /// Names of all complete trees of a kind, ascending, and when each was committed.
    ///
    /// # Errors
    /// [`Error::Store`]: complete or an error, never short.
    pub async fn trees(
        &self,
        kind: TreeKind,
        patience: Patience,
    ) -> Result<Vec<(TreeName, SystemTime)>, Error> {
        let mut found = Vec::new();
        for (key, meta) in self.list_all(&format!("{}/", kind.folder()), patience).await? {
            let name = key
                .as_str()
                .strip_prefix(kind.folder())
                .and_then(|rest| rest.strip_prefix('/'));
            let name = name
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|name| name.parse().ok());
            found.extend(name.map(|name| (name, meta.modified)));
        }
        found.sort();
        Ok(found)
    }

    pub(in crate::archive) async fn list_all(
        &self,
        prefix: &str,
        patience: Patience,
    ) -> Result<Vec<(Key, Meta)>, Error> {
        let mut found: Vec<(Key, Meta)> = Vec::new();
        loop {
            let after = found.last().map(|(key, _)| key.as_str().to_owned());
            let page = self
                .store()
                .list(prefix, after.as_deref(), 1000, patience)
                .await?;
            let done = !page.more || page.entries.is_empty();
            found.extend(page.entries);
            if done {
                return Ok(found);
            }
            if found.len() > MOST_LISTED {
                let message =
                    format!("more than {MOST_LISTED} objects are listed, which walfs does not store there");
                return Err(Error::Store(store::Error {
                    kind: ErrorKind::Permanent,
                    operation: "list",
                    target: format!("{}/{prefix}", self.place()),
                    message,
                }));
            }
        }
    }

    /// A tree's summary; `None` when the store said that there is none.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::TreeDamaged`].
    pub async fn summary(
        &self,
        kind: TreeKind,
        name: &TreeName,
        patience: Patience,
    ) -> Result<Option<Summary>, Error> {
        let read = self.summary_text(kind, name, patience).await?;
        Ok(read.map(|(summary, _)| summary))
    }

    /// As [`Archive::summary`], of whatever kind has that name.
    ///
    /// # Errors
    /// As [`Archive::summary`].
    pub async fn summary_of_any(
        &self,
        name: &TreeName,
        patience: Patience,
    ) -> Result<Option<Summary>, Error> {
        for kind in TreeKind::ALL {
            if let Some(summary) = self.summary(kind, name, patience).await? {
                return Ok(Some(summary));
            }
        }
        Ok(None)
    }

    /// As [`Archive::summary`], with the text itself.
    ///
    /// # Errors
    /// As [`Archive::summary`].
    pub async fn summary_text(
        &self,
        kind: TreeKind,
        name: &TreeName,
        patience: Patience,
    ) -> Result<Option<(Summary, Bytes)>, Error> {
        let broken = |reason: String| self.tree_damaged(name, "its summary", reason);
        let fetched = match self
            .store()
            .get(
                &name.summary_key(kind),
                ByteRange::AtMost(SUMMARY_BYTES),
                patience,
            )
            .await
        {
            Ok(fetched) => fetched,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind == ErrorKind::Damaged => return Err(broken(error.message)),
            Err(error) => return Err(error.into()),
        };
        let summary = Summary::parse(&fetched.bytes).map_err(broken)?;
        if summary.tree_id(name).is_none() {
            return Err(broken(format!("it is that of {}", summary.id)));
        }
        if summary.content != kind {
            return Err(broken(format!(
                "it is that of a tree which belongs into {}",
                summary.content.folder()
            )));
        }
        // Somebody has brought it here: no WAL of this archive makes it consistent.
        if let Some((own, whose)) = summary
            .backup
            .system_identifier
            .zip(self.known_cluster())
            .filter(|(own, whose)| *own != whose.system_id)
        {
            let whose = whose.system_id;
            return Err(broken(format!(
                "the backup is of cluster {own}, and this is the archive of cluster {whose}"
            )));
        }
        Ok(Some((summary, fetched.bytes)))
    }

    /// As [`Archive::summary`]; with why one cannot be read, where that is a matter of this one.
    pub(super) async fn readable_summary(
        &self,
        kind: TreeKind,
        name: &TreeName,
        patience: Patience,
    ) -> Result<Result<Option<Summary>, Error>, Error> {
        match self.summary(kind, name, patience).await {
            Ok(summary) => Ok(Ok(summary)),
            Err(error @ Error::TreeDamaged { .. }) => Ok(Err(error)),
            // What will not go away by itself.
            Err(Error::Store(error)) if matches!(error.kind, ErrorKind::Denied | ErrorKind::Permanent) => {
                Ok(Err(self.tree_damaged(name, "its summary", error.to_string())))
            }
            Err(error) => Err(error),
        }
    }

    /// All complete trees of all kinds, each kind as [`Archive::summaries`] has it.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn all_summaries(
        &self,
        patience: Patience,
    ) -> Result<Vec<(TreeKind, TreeName, Result<Summary, Error>)>, Error> {
        let mut all = Vec::new();
        for kind in TreeKind::ALL {
            let found = self.summaries(kind, patience).await?.into_iter();
            all.extend(found.map(|(name, summary)| (kind, name, summary)));
        }
        Ok(all)
    }

    /// All complete trees of a kind with their summaries, or why one cannot be read, oldest first: by where they end.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn summaries(
        &self,
        kind: TreeKind,
        patience: Patience,
    ) -> Result<Vec<(TreeName, Result<Summary, Error>)>, Error> {
        let names = self.trees(kind, patience).await?;
        let read = |(name, _): (TreeName, SystemTime)| async move {
            let summary = self.readable_summary(kind, &name, patience).await?;
            Ok::<_, Error>(summary.transpose().map(|summary| (name, summary)))
        };
        let read = stream::iter(names).map(read).buffered(SUMMARIES);
        let mut found: Vec<(TreeName, Result<Summary, Error>)> = read
            .try_filter_map(|found| async { Ok(found) })
            .try_collect()
            .await?;
        found.sort_by_key(|(_, summary)| summary.as_ref().ok().map(Summary::age));
        Ok(found)
    }

    /// Name and summary of the newest base backup from which a server can start and that is all there, with all its WAL; what
    /// `LATEST` means.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn latest(&self, patience: Patience) -> Result<Option<(TreeName, Summary)>, Error> {
        let backups = self.summaries(TreeKind::BaseBackup, patience).await?;
        let backups = backups
            .into_iter()
            .rev()
            .filter_map(|(name, summary)| Some((name, summary.ok()?)));
        let found = self.found_in_backups(patience).await?;
        let seen = SeenTrees::default();
        for (name, summary) in found.behind(backups.collect(), |(_, summary)| summary) {
            if summary.backup.incremental_from.is_none()
                && self
                    .missing_of_tree(&name, &summary, &seen, patience)
                    .await?
                    .is_none()
                && self.backup_wal(&summary, patience).await? == BackupWal::Complete
            {
                return Ok(Some((name, summary)));
            }
        }
        Ok(None)
    }

    /// Reads a tree's manifest and proves it against the summary.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`], [`Error::Store`].
    pub async fn tree(
        &self,
        name: &TreeName,
        summary: &Summary,
        patience: Patience,
    ) -> Result<Arc<Tree>, Error> {
        let broken = |reason: String| self.tree_damaged(name, "its manifest", reason);
        let id = summary
            .tree_id(name)
            .ok_or_else(|| broken("it is another tree's".into()))?;
        let text = self
            .read_object(name, &self.manifest_key(&id), &summary.manifest, patience)
            .await?;
        let tree = tokio::task::spawn_blocking(move || manifest::parse(&text))
            .await
            .expect("parsing does not panic");
        let tree = tree.map_err(|error| broken(error.to_string()))?;
        if tree.id != id {
            return Err(broken(format!("it is that of {}", tree.id)));
        }
        Ok(Arc::new(tree))
    }

    async fn read_object(
        &self,
        name: &TreeName,
        key: &Key,
        object: &Object,
        patience: Patience,
    ) -> Result<Vec<u8>, Error> {
        let damaged = |reason: String| self.tree_damaged(name, key.as_str(), reason);
        let most = ByteRange::AtMost(object.stored_bytes);
        let stored = match self.store().get(key, most, patience).await {
            Ok(fetched) => fetched.bytes,
            Err(error) if error.kind == ErrorKind::NotFound => return Err(damaged("it is not there".into())),
            Err(error) if error.kind == ErrorKind::Damaged => return Err(damaged(error.message)),
            Err(error) => return Err(error.into()),
        };
        let plain_bytes = object.plain_bytes;
        let plain = tokio::task::spawn_blocking(move || codec::unpack_at_most(&stored, plain_bytes))
            .await
            .expect("unpacking does not panic");
        let plain = plain.map_err(|damage| damaged(damage.to_string()))?;
        if object.content_hash() != Some(ContentHash::of(&plain)) {
            return Err(damaged("it is not the object that the summary names".into()));
        }
        Ok(plain)
    }

    /// A tree's manifest, as the object of frames that it is.
    ///
    /// # Errors
    /// [`Error::TreeDamaged`] if the summary cannot be that of the tree.
    pub fn manifest_part(&self, name: &TreeName, summary: &Summary) -> Result<Part, Error> {
        let broken = |reason: &str| self.tree_damaged(name, "its summary", reason.to_owned());
        let id = summary
            .tree_id(name)
            .ok_or_else(|| broken("it is another tree's"))?;
        let Object {
            plain_bytes,
            stored_bytes,
            ..
        } = summary.manifest;
        Ok(Part {
            key: self.manifest_key(&id),
            plain_bytes,
            stored_bytes,
            hash: (summary.manifest.content_hash()).ok_or_else(|| broken("it has no hash"))?,
            used_bytes: plain_bytes,
        })
    }

    /// Key of a tree's manifest.
    pub fn manifest_key(&self, id: &TreeId) -> Key {
        id.key(&format!("manifest.{}", self.marker().codec))
    }

    /// An error that names the backup and what of it.
    pub fn tree_damaged(&self, name: &TreeName, what: &str, reason: String) -> Error {
        Error::TreeDamaged {
            name: name.clone(),
            place: self.place(),
            what: what.to_owned(),
            reason,
        }
    }
}
