//! `basebackups/`: complete base backups as directories, and `LATEST`.
//!
//! A backup is here once its summary is, whoever stored it: the store is asked at every opening of the directory and for
//! every name that is not known. What was found is remembered for a minute, because nothing complete changes; absence
//! never is. The names wait for the store no longer than a writer does, because whoever creates a directory here stands
//! behind them. What is *in* a backup is [`browse`].

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::archive;
use crate::archive::tree::{LATEST, TreeKind, TreeName};
use crate::staging::tree::Change;
use crate::store::Patience;

use super::asker::Asker;
use super::directory::Entry;
use super::error::Error;
use super::fs::{Fs, Result};
use super::node::{Attributes, Kept, Kind, Node, TreeNode};

pub mod browse;
pub mod drafting;
pub mod drafts;
pub mod latest;
pub mod loaded;
pub mod slots;

use drafts::Drafts;
use latest::Latest;
use loaded::Trees;
use slots::{Committed, Slots};

/// Summaries read at once for a listing.
const READS: usize = 8;

/// What is remembered of base backups.
#[derive(Debug)]
pub struct Basebackups {
    drafts: Drafts,
    slots: Slots,
    trees: Trees,
    latest: Latest,
}

impl Basebackups {
    /// Keeps manifests of so many bytes.
    pub fn new(manifest_bytes: u64) -> Self {
        Self {
            drafts: Drafts::default(),
            slots: Slots::default(),
            trees: Trees::new(manifest_bytes),
            latest: Latest::default(),
        }
    }
}

impl Fs {
    pub(super) async fn lookup_basebackup(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        if name == LATEST {
            return self.latest_attributes(asker).await;
        }
        let name = name.to_str().and_then(|name| name.parse().ok());
        let name = name.ok_or(Error::NotFound)?;
        if let Some(draft) = self.draft_named(&name) {
            return Ok(draft);
        }
        let found = self.committed(&name, asker).await?;
        Ok(self.backup_attributes(&found))
    }

    /// The complete backup of that name.
    ///
    /// # Errors
    /// [`Error::NotFound`] on the store's own word; [`Error::Archive`].
    pub(super) async fn committed(&self, name: &TreeName, asker: Option<&Asker>) -> Result<Arc<Committed>> {
        if let Some(known) = self.basebackups.slots.known(name).await {
            return Ok(known);
        }
        let summary = self
            .archive
            .summary(TreeKind::BaseBackup, name, self.prompt_patience());
        let summary = self.while_wanted(asker, summary).await??.ok_or(Error::NotFound)?;
        let found = self.basebackups.slots.insert(name, summary).await;
        found.map_err(|reason| self.archive.tree_damaged(name, "its summary", reason).into())
    }

    /// Every complete backup by name, when it was stored, and what there is to know of it or why that cannot be read.
    async fn all_committed(&self) -> Result<Vec<(TreeName, SystemTime, Result<Arc<Committed>>)>> {
        let trees = self
            .archive
            .trees(TreeKind::BaseBackup, self.prompt_patience())
            .await?;
        let asked = stream::iter(trees).map(|(name, stored)| async move {
            let backup = self.committed(&name, None).await;
            (name, stored, backup)
        });
        Ok(asked.buffered(READS).collect().await)
    }

    /// For what stands in the way of whoever creates a directory.
    fn prompt_patience(&self) -> Patience {
        Patience::for_at_most(self.options.deadline)
    }

    /// Of a backup's own directory: from the summary, so that `ls -l` does not read every manifest. As old as the
    /// backup's end.
    fn backup_attributes(&self, backup: &Committed) -> Attributes {
        Attributes {
            ino: self.inodes.number(Node::Tree(backup.node(0))),
            kind: Kind::Directory,
            bytes: 0,
            modified: backup.summary.backup.ended.at.into(),
            mode: backup.summary.mode as u16 & 0o7777,
            owner: None,
            kept: Kept::AWhile,
        }
    }

    /// Everything in `basebackups/`, without `.` and `..`.
    pub(super) async fn list_basebackups(&self) -> Result<Vec<(OsString, Attributes)>> {
        let mut found = self.list_drafts();
        for (name, stored, backup) in self.all_committed().await? {
            let attributes = match backup {
                // Gone since it was listed.
                Err(Error::NotFound) => continue,
                Err(Error::Archive(error)) if is_damage(&error) => self.damaged_attributes(error, stored),
                backup => self.backup_attributes(&*backup?),
            };
            found.push((OsString::from(name.as_str()), attributes));
        }
        match self.latest_attributes(None).await {
            Ok(latest) => found.push((LATEST.into(), latest)),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// A backup whose summary cannot be read has its name in the listing; whoever looks at it gets the error.
    fn damaged_attributes(&self, error: Arc<archive::Error>, stored: SystemTime) -> Attributes {
        let _ = self.noted::<()>("list basebackups", Err(Error::Archive(error)));
        Attributes {
            ino: self.inodes.fresh(),
            kind: Kind::Directory,
            bytes: 0,
            modified: stored,
            mode: 0o700,
            owner: None,
            kept: Kept::Never,
        }
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Archive`]; [`Error::Invalid`] for what is no link.
    pub async fn read_link(&self, ino: u64, asker: Option<&Asker>) -> Result<Bytes> {
        match self.node(ino)? {
            Node::Latest => Ok(self.latest(asker).await?.to_string().into()),
            Node::Tree(at) => self.read_tree_link(at, asker).await,
            Node::Draft(at) => self.read_draft_link(at),
            _ => Err(not_of_its_kind("a file")),
        }
    }

    /// Setting what is so already changes nothing, and `rsync -a` does it at every run. The time of the backup's own directory
    /// is that of its end, whatever it was copied from; so it is asked for in vain, and that is no error.
    pub(super) async fn set_in_backup(&self, at: TreeNode, change: Change) -> Result<()> {
        let shown = self.tree_attributes(at, None).await?;
        let same = |asked: Option<u32>, found: Option<u32>| asked.is_none() || asked == found;
        let unchanged = same(change.mode.map(|mode| mode & 0o7777), Some(shown.mode.into()))
            && same(change.uid, shown.owner.map(|owner| owner.uid))
            && same(change.gid, shown.owner.map(|owner| owner.gid))
            && (at.entry == 0
                || change
                    .modified
                    .is_none_or(|time| SystemTime::from(time) == shown.modified));
        if unchanged {
            return Ok(());
        }
        Err(self.refuse_entry(at).await)
    }

    /// Why an entry of a backup is not changed, for the caller and the log.
    pub(super) async fn refuse_entry(&self, at: TreeNode) -> Error {
        let path = match self.loaded(at.slot, None).await {
            Ok(loaded) => loaded.path(at.entry),
            Err(error) => return error,
        };
        self.refuse_in_backup(at, &path)
    }

    /// Why a name in a backup is not changed, for the caller and the log.
    pub(super) fn refuse_in_backup(&self, at: TreeNode, name: &OsStr) -> Error {
        let backup = self.basebackups.slots.of(at.slot);
        let refused = Error::Committed {
            name: name.to_string_lossy().into_owned(),
            backup: backup.map_or_else(String::new, |backup| backup.name.to_string()),
        };
        let _ = self.noted::<()>("refused", Err(refused.clone()));
        refused
    }
}

/// The kernel follows links by itself, and reads only what is one.
fn not_of_its_kind(name: &str) -> Error {
    Error::Invalid {
        name: name.into(),
        reason: "a link was taken for a file, or a file for a link",
    }
}

fn is_damage(error: &archive::Error) -> bool {
    matches!(error, archive::Error::TreeDamaged { .. })
}

/// Entries of a listing, numbered from `first_offset` on.
pub(super) fn numbered(entries: Vec<(OsString, Attributes)>, first_offset: u64) -> Vec<Entry> {
    let numbered = entries.into_iter().zip(first_offset + 1..);
    let entry = |((name, attributes), next_offset)| Entry {
        name,
        attributes,
        next_offset,
    };
    numbered.map(entry).collect()
}
