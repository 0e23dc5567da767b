//! A second archive elsewhere (promise K8): what the other one has and this one has not, by their names.
//!
//! First a look at both: is it the same cluster, has anything the same name and other bytes, how much is missing. Nothing is
//! touched before. Then WAL in the order of its names, so that the copy has no hole that the original has not; then backups,
//! the oldest first: parts, manifest, and when all of them are seen there, the summary. Each object is proved before it is put,
//! and put only where there is none. So it may end at any moment, and goes on when run again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt, stream};
use serde::Serialize;

use super::amount::Amount;
use super::progress::{Phase, Progress};
use crate::archive::object::{Folder, Object};
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{Part, TREES, TreeKind, TreeName};
use crate::archive::wal::Committed;
use crate::archive::{Archive, Error};
use crate::pg::SystemId;
use crate::read::tree::TreeReader;
use crate::store::{ErrorKind, Key, Meta, Patience};

mod backups;
mod look;
mod pages;
mod source;
mod wal;

use pages::Pages;
use source::Unfit;

/// Objects fetched, and parts stored, at once; how much memory they take is the archive's to say.
const AT_ONCE: usize = 8;

/// Conflicts, and damaged objects, that are named; the others are counted.
const MOST_NAMED: usize = 1000;

/// What is copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Only look.
    pub dry_run: bool,
    /// Compare the hashes of all that both have, and not only where lengths do not tell.
    pub compare: bool,
}

/// Why nothing is copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// What an archive, or its store, says.
    #[error(transparent)]
    Archive(#[from] Error),
    /// The archives are not of one cluster (promise W5).
    #[error(
        "{to} holds the WAL of system identifier {found}, and {from} that of {expected}.\n\
         HINT: a copy of each cluster's archive needs a place of its own."
    )]
    OtherCluster {
        /// The original.
        from: String,
        /// Its cluster.
        expected: SystemId,
        /// The copy.
        to: String,
        /// Its cluster.
        found: SystemId,
    },
    /// The copy has other bytes under a name of the original (promise W4).
    #[error(
        "{to} has other bytes than {from} under {}. Nothing was copied.\n\
         HINT: another server archives into one of them, or an object is damaged: `walfs verify` tells which. The copy's own \
         damaged objects are copied anew once they are moved away.",
        names(.keys, .more)
    )]
    Conflict {
        /// The original.
        from: String,
        /// The copy.
        to: String,
        /// Keys of the objects: the first of them.
        keys: Vec<String>,
        /// How many more.
        more: u64,
    },
}

fn names(keys: &[String], more: &u64) -> String {
    let named: Vec<&str> = keys.iter().take(10).map(String::as_str).collect();
    let more = more + (keys.len() - named.len()) as u64;
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Is all of the original in the copy now, or would be?
    pub is_complete: bool,
    /// What was stored, or would be.
    pub copied: Amount,
    /// What was there already.
    pub present: Amount,
    /// Backups that were copied, or would be.
    pub backups: Vec<String>,
    /// What was not copied, and why: by key, or by the name of a backup.
    pub failed: BTreeMap<String, String>,
    /// How many more.
    pub more_failed: u64,
    /// Incomplete backups, which are never copied.
    pub left_out: Vec<String>,
}

/// Both archives, and what was found so far.
struct Copying<'a> {
    from: &'a Arc<Archive>,
    to: &'a Arc<Archive>,
    trees: TreeReader,
    progress: &'a Arc<dyn Progress>,
    wait: Duration,
    options: Options,
    /// Backups of the original, the oldest first.
    backups: Vec<(TreeName, Summary)>,
    report: Report,
    conflicts: Vec<String>,
    more_conflicts: u64,
}

/// Copies what `to` lacks of `from`. Both share one memory. `progress` is told of stored bytes.
///
/// # Errors
/// [`CopyError`]. What of the original is damaged is no error: it is in the report, and the rest is copied.
pub async fn copy(
    from: &Arc<Archive>,
    to: &Arc<Archive>,
    options: Options,
    progress: &Arc<dyn Progress>,
    wait: Duration,
) -> Result<Report, CopyError> {
    progress.phase(Phase::Listing);
    let mut copying = Copying {
        from,
        to,
        trees: TreeReader::alone(from.clone()),
        progress,
        wait,
        options,
        backups: Vec::new(),
        report: Report::default(),
        conflicts: Vec::new(),
        more_conflicts: 0,
    };
    copying.check_cluster().await?;
    copying.look().boxed().await?;
    if !copying.conflicts.is_empty() {
        return Err(CopyError::Conflict {
            from: from.place(),
            to: to.place(),
            keys: copying.conflicts,
            more: copying.more_conflicts,
        });
    }
    if !options.dry_run {
        let Amount { objects, bytes } = std::mem::take(&mut copying.report.copied);
        progress.phase(Phase::Copying {
            files: objects,
            bytes,
        });
        to.adopt_cluster(from, copying.patience()).await?;
        copying.copy_wal(Folder::Wal).boxed().await?;
        copying.copy_wal(Folder::Receiving).boxed().await?;
        copying.copy_words().boxed().await?;
        copying.copy_backups().boxed().await?;
    }
    copying.report.is_complete = copying.report.failed.is_empty();
    Ok(copying.report)
}

impl Copying<'_> {
    fn patience(&self) -> Patience {
        Patience::for_at_most(self.wait)
    }

    async fn check_cluster(&self) -> Result<(), CopyError> {
        let own = self.from.cluster(self.patience()).await?;
        let there = self.to.cluster(self.patience()).await?;
        match (own, there) {
            (Some(own), Some(there)) if own.system_id != there.system_id => Err(CopyError::OtherCluster {
                from: self.from.place(),
                expected: own.system_id,
                to: self.to.place(),
                found: there.system_id,
            }),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, what: impl Into<String>, why: impl Into<String>) {
        match self.report.failed.len() < MOST_NAMED {
            true => drop(self.report.failed.insert(what.into(), why.into())),
            false => self.report.more_failed += 1,
        }
    }

    fn committed(&mut self, committed: Committed, bytes: u64) {
        match committed {
            Committed::Stored => self.report.copied.add(bytes),
            Committed::AlreadyThere => self.report.present.add(bytes),
        }
        self.progress.advance(bytes);
    }
}
