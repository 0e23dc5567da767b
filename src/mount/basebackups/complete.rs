//! The complete backups, and versions of files, by name: what the store says of them, and how each is shown as a directory.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::SystemTime;

use futures::{StreamExt, stream};

use crate::archive;
use crate::archive::tree::{TreeKind, TreeName};
use crate::mount::asker::Asker;
use crate::mount::common::Common;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind, Node};

use super::slots::{Committed, Slots};

/// Summaries read at once for a listing.
const READS: usize = 8;

/// The complete backups, as this mount has seen them.
#[derive(Debug)]
pub(in crate::mount) struct Complete {
    common: Arc<Common>,
    slots: Slots,
}

impl Complete {
    pub(super) fn new(common: Arc<Common>) -> Self {
        Self {
            common,
            slots: Slots::default(),
        }
    }

    /// Gives numbers from this one on: what has a lower one was seen while the archive was open before.
    pub(in crate::mount) fn number_from(&self, first: u32) {
        self.slots.begin_at(first);
    }

    /// The number that the next one gets.
    pub(in crate::mount) fn next_number(&self) -> u32 {
        self.slots.next()
    }

    /// The one in a slot.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(in crate::mount) fn of(&self, slot: u32) -> Result<Arc<Committed>> {
        self.slots.of(slot).ok_or(Error::NotFound)
    }

    /// The one of that name, of that kind.
    ///
    /// # Errors
    /// [`Error::NotFound`] on the store's own word; [`Error::Archive`].
    pub(in crate::mount) async fn named(
        &self,
        kind: TreeKind,
        name: &TreeName,
        asker: Option<&Asker>,
    ) -> Result<Arc<Committed>> {
        if let Some(known) = self.slots.known(kind, name).await {
            return Ok(known);
        }
        let common = &self.common;
        let summary = common.archive.summary(kind, name, common.prompt_patience());
        let summary = common.while_wanted(asker, summary).await??;
        let found = self.slots.insert(name, summary.ok_or(Error::NotFound)?).await;
        found.map_err(|reason| common.archive.tree_damaged(name, "its summary", reason).into())
    }

    /// Every one by name, when it was stored, and what there is to know of it or why that cannot be read.
    async fn all(&self) -> Result<Vec<(TreeName, SystemTime, Result<Arc<Committed>>)>> {
        let trees = self
            .common
            .archive
            .trees(TreeKind::BaseBackup, self.common.prompt_patience())
            .await?;
        let asked = stream::iter(trees).map(|(name, stored)| async move {
            let backup = self.named(TreeKind::BaseBackup, &name, None).await;
            (name, stored, backup)
        });
        Ok(asked.buffered(READS).collect().await)
    }

    /// Those that can be read, the newest last.
    pub(super) async fn by_age(&self) -> Result<Vec<Arc<Committed>>> {
        let mut backups = Vec::new();
        for (_, _, backup) in self.all().await? {
            match backup {
                Ok(backup) => backups.push(backup),
                Err(Error::NotFound) => {}
                Err(Error::Archive(error)) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        backups.sort_by_key(|backup| backup.summary.age());
        Ok(backups)
    }

    /// Names and attributes of all.
    pub(super) async fn list(&self) -> Result<Vec<(OsString, Attributes)>> {
        let mut found = Vec::new();
        for (name, stored, backup) in self.all().await? {
            let attributes = match backup {
                // Gone since it was listed.
                Err(Error::NotFound) => continue,
                Err(Error::Archive(error)) if is_damage(&error) => self.damaged_attributes(error, stored),
                backup => self.attributes(&*backup?),
            };
            found.push((OsString::from(name.as_str()), attributes));
        }
        Ok(found)
    }

    /// Of a backup's own directory: from the summary, so that `ls -l` does not read every manifest. As old as the
    /// backup's end.
    pub(in crate::mount) fn attributes(&self, backup: &Committed) -> Attributes {
        Attributes {
            ino: self.common.inodes.number(Node::Tree(backup.node(0))),
            kind: Kind::Directory,
            bytes: 0,
            modified: backup.summary.backup.ended.at.into(),
            mode: backup.summary.mode as u16 & 0o7777,
            owner: None,
            kept: Kept::AWhile,
        }
    }

    /// A backup whose summary cannot be read has its name in the listing; a look at it brings the error.
    fn damaged_attributes(&self, error: Arc<archive::Error>, stored: SystemTime) -> Attributes {
        let _ = self
            .common
            .noted::<()>("list basebackups", Err(Error::Archive(error)));
        Attributes {
            ino: self.common.inodes.fresh(),
            kind: Kind::Directory,
            bytes: 0,
            modified: stored,
            mode: 0o700,
            owner: None,
            kept: Kept::Never,
        }
    }
}

/// Why a name in a complete backup is not changed, for the caller and the log.
pub(super) fn refusal(common: &Common, backup: &str, name: &OsStr) -> Error {
    let refused = Error::Committed {
        name: name.to_string_lossy().into_owned(),
        backup: backup.to_owned(),
    };
    let _ = common.noted::<()>("refused", Err(refused.clone()));
    refused
}

pub(in crate::mount) fn is_damage(error: &archive::Error) -> bool {
    matches!(error, archive::Error::TreeDamaged { .. })
}
