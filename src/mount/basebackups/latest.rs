//! `basebackups/LATEST`: a symbolic link to the newest backup that is complete with all its WAL.
//!
//! It may move at any moment, by another mount too, so what was found is used for one second: a path below it is looked
//! up anew for each of its parts. Of a backup whose WAL was found complete only the summary is asked for again, but for one
//! that awaits some of it: another server's may come.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::archive::tree::catalogue::BackupWal;
use crate::archive::tree::intact::SeenTrees;
use crate::archive::tree::{TreeId, TreeKind, TreeName};
use crate::mount::asker::Asker;
use crate::mount::common::Common;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind, Node};

use super::complete::Complete;
use super::slots::Committed;

/// How long the answer is used.
const KEPT: Duration = Duration::from_secs(1);

/// Answers the question, and what is remembered of it.
#[derive(Debug)]
pub(super) struct Latest {
    common: Arc<Common>,
    complete: Arc<Complete>,
    answered: Mutex<Option<(Instant, Option<TreeName>)>>,
    /// Backups whose WAL has been seen to be complete.
    whole: Mutex<HashSet<TreeId>>,
}

impl Latest {
    pub(super) fn new(common: Arc<Common>, complete: Arc<Complete>) -> Self {
        Self {
            common,
            complete,
            answered: Mutex::default(),
            whole: Mutex::default(),
        }
    }

    fn recent(&self) -> Option<Option<TreeName>> {
        let answered = self.answered.lock().expect("no panic while held");
        let (when, name) = answered.as_ref()?;
        (when.elapsed() < KEPT).then(|| name.clone())
    }

    /// A backup has become complete.
    pub(super) fn ask_again(&self) {
        *self.answered.lock().expect("no panic while held") = None;
    }

    fn note(&self, name: Option<TreeName>) {
        *self.answered.lock().expect("no panic while held") = Some((Instant::now(), name));
    }

    /// Name of the newest complete backup.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Archive`].
    pub(super) async fn name(&self, asker: Option<&Asker>) -> Result<TreeName> {
        let name = match self.recent() {
            Some(name) => name,
            None => {
                let found = self.common.while_wanted(asker, self.find()).await??;
                self.note(found.clone());
                found
            }
        };
        name.ok_or(Error::NotFound)
    }

    /// As [`crate::archive::Archive::latest`], with the summaries that are known. One that cannot be read is passed
    /// over: a link to an older backup serves better than none.
    async fn find(&self) -> Result<Option<TreeName>> {
        let (archive, patience) = (&self.common.archive, self.common.prompt_patience());
        let found = archive.found_in_backups(patience).await?;
        let backups = self.complete.by_age().await?;
        let newest_first = backups.iter().rev().collect();
        for backup in found.behind(newest_first, |backup| &backup.summary) {
            if backup.summary.backup.incremental_from.is_none()
                && self.has_its_parts(backup).await?
                && self.has_its_wal(backup).await?
            {
                return Ok(Some(backup.name.clone()));
            }
        }
        Ok(None)
    }

    /// An operator may have deleted them by hand.
    async fn has_its_parts(&self, backup: &Committed) -> Result<bool> {
        let (name, patience) = (&backup.name, self.common.prompt_patience());
        let archive = &self.common.archive;
        let seen = SeenTrees::default();
        let missing = archive.missing_of_tree(name, &backup.summary, &seen, patience);
        Ok(missing.await?.is_none())
    }

    async fn has_its_wal(&self, backup: &Committed) -> Result<bool> {
        let whole = || self.whole.lock().expect("no panic while held");
        if whole().contains(&backup.id) {
            return Ok(true);
        }
        let patience = self.common.prompt_patience();
        let wal = self.common.archive.backup_wal(&backup.summary, patience);
        let complete = wal.await? == BackupWal::Complete;
        if complete && !backup.summary.backup.may_lose_its_wal() {
            whole().insert(backup.id.clone());
        }
        Ok(complete)
    }

    /// Of the link.
    ///
    /// # Errors
    /// As [`Latest::name`].
    pub(super) async fn attributes(&self, asker: Option<&Asker>) -> Result<Attributes> {
        let name = self.name(asker).await?;
        let backup = self.complete.named(TreeKind::BaseBackup, &name, asker).await?;
        Ok(Attributes {
            ino: self.common.inodes.number(Node::Latest),
            kind: Kind::Symlink,
            bytes: name.as_str().len() as u64,
            modified: backup.summary.backup.ended.at.into(),
            mode: 0o777,
            owner: None,
            kept: Kept::Never,
        })
    }
}
