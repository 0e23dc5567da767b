//! `basebackups/LATEST`: a symbolic link to the newest backup that is complete with all its WAL.
//!
//! It may move at any moment, by another mount too, so what was found is used for one second: a path below it is looked
//! up anew for each of its parts. Of a backup whose WAL was found complete only the summary is asked for again.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::archive::tree::catalogue::BackupWal;
use crate::archive::tree::{TreeId, TreeName};

use super::super::asker::Asker;
use super::super::error::Error;
use super::super::fs::{Fs, Result};
use super::super::node::{Attributes, Kept, Kind, Node};

/// How long the answer is used.
const KEPT: Duration = Duration::from_secs(1);

/// What is remembered of the question.
#[derive(Debug, Default)]
pub struct Latest {
    answered: Mutex<Option<(Instant, Option<TreeName>)>>,
    /// Backups whose WAL has been seen to be complete.
    whole: Mutex<HashSet<TreeId>>,
}

impl Latest {
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
}

impl Fs {
    /// Name of the newest complete backup.
    pub(super) async fn latest(&self, asker: Option<&Asker>) -> Result<TreeName> {
        let known = self.basebackups.latest.recent();
        let name = match known {
            Some(name) => name,
            None => {
                let found = self.while_wanted(asker, self.find_latest()).await??;
                self.basebackups.latest.note(found.clone());
                found
            }
        };
        name.ok_or(Error::NotFound)
    }

    /// As [`crate::archive::Archive::latest`], with the summaries that are known. One that cannot be read is passed
    /// over: a link to an older backup serves better than none.
    async fn find_latest(&self) -> Result<Option<TreeName>> {
        let mut backups = Vec::new();
        for (_, _, backup) in self.all_committed().await? {
            match backup {
                Ok(backup) => backups.push(backup),
                Err(Error::NotFound) => {}
                Err(Error::Archive(error)) if super::is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        backups.sort_by_key(|backup| backup.summary.age());
        for backup in backups.iter().rev() {
            if self.has_its_parts(backup).await? && self.has_its_wal(backup).await? {
                return Ok(Some(backup.name.clone()));
            }
        }
        Ok(None)
    }

    /// Somebody may have deleted them by hand.
    async fn has_its_parts(&self, backup: &super::Committed) -> Result<bool> {
        let (name, patience) = (&backup.name, self.prompt_patience());
        let missing = self.archive.missing_of_tree(name, &backup.summary, patience);
        Ok(missing.await?.is_none())
    }

    async fn has_its_wal(&self, backup: &super::Committed) -> Result<bool> {
        let whole = &self.basebackups.latest.whole;
        if whole.lock().expect("no panic while held").contains(&backup.id) {
            return Ok(true);
        }
        let wal = self.archive.backup_wal(&backup.summary, self.prompt_patience());
        let complete = wal.await? == BackupWal::Complete;
        if complete {
            whole
                .lock()
                .expect("no panic while held")
                .insert(backup.id.clone());
        }
        Ok(complete)
    }

    pub(in super::super) async fn latest_attributes(&self, asker: Option<&Asker>) -> Result<Attributes> {
        let name = self.latest(asker).await?;
        let backup = self.committed(&name, asker).await?;
        Ok(Attributes {
            ino: self.inodes.number(Node::Latest),
            kind: Kind::Symlink,
            bytes: name.as_str().len() as u64,
            modified: backup.summary.backup.ended.at.into(),
            mode: 0o777,
            owner: None,
            kept: Kept::Never,
        })
    }
}
