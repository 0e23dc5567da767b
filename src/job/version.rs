//! A version on its way, of whatever kind: what all runs have in common that store something again and again under one name.
//!
//! 1. The name gets its next version. The tree is begun, and what killed runs have left is swept. The newest version is what
//!    this one builds on.
//! 2. Whoever makes it has its parts stored (`Draft::uploads`).
//! 3. All parts arrive, with them what tells them apart; then the version is committed.
//!
//! However this ends before the commit, what is stored is deleted; if walfs is killed, the next sweep does that.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::archive::tree::backup::Backup;
use crate::archive::tree::catalogue::{Begun, By};
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::summary::{Description, Inventory, Method, Summary};
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{Tree, TreeError, TreeId, TreeKind, TreeName};
use crate::archive::{self, Archive};
use crate::codec::ContentHash;
use crate::read::base::{Base, Candidates};
use crate::read::tree::TreeReader;
use crate::store::Patience;

use super::backup;
use super::backup::uploads::Uploads;
use super::sweep::sweep;

mod terms;

pub use terms::Terms;
pub(super) use terms::owned;

/// How long the store may be away before a run gives up.
const STORE_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long cleaning up after a failure may take. What is left then is swept by the next run.
const CLEANING: Duration = Duration::from_secs(20);

/// What can go wrong with a version of any kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Archive(archive::Error),
    /// Another run was quicker by less than a second.
    #[error(
        "another run has just stored version {0}; nothing of this one is kept.\nHINT: run it again, if that is not enough."
    )]
    Raced(TreeName),
    /// What packs and stores.
    #[error(transparent)]
    Copy(backup::Error),
    /// What was stored is no tree: a bug, but better said than stored.
    #[error("what was stored does not fit together: {0}")]
    Tree(#[from] TreeError),
    /// A time that no version can have.
    #[error("{0} is no time that a version can have.\nHINT: set the clock of this host.")]
    Clock(Timestamp),
    /// Somebody wants it to end.
    #[error("stopped by {0}; nothing of the version is kept")]
    Interrupted(&'static str),
    /// The same while it was being completed.
    #[error(
        "stopped by {signal} while the version was being completed, and the store has not answered.\n\
         HINT: `walfs {list}` shows whether it is complete."
    )]
    InterruptedLast {
        /// By what.
        signal: &'static str,
        /// The command that lists versions of its kind.
        list: &'static str,
    },
}

impl Error {
    /// The signal that has ended it, if one has.
    pub fn signal(&self) -> Option<&'static str> {
        match self {
            Self::Interrupted(signal) | Self::InterruptedLast { signal, .. } => Some(signal),
            _ => None,
        }
    }
}

impl From<archive::Error> for Error {
    fn from(error: archive::Error) -> Self {
        match error {
            archive::Error::TreeExists { name, .. } => Self::Raced(name),
            other => Self::Archive(other),
        }
    }
}

impl From<backup::Error> for Error {
    fn from(error: backup::Error) -> Self {
        match error {
            backup::Error::Archive(error) => error.into(),
            other => Self::Copy(other),
        }
    }
}

/// For each request.
pub(super) fn patience() -> Patience {
    Patience::for_at_most(STORE_PATIENCE)
}

/// A version on its way.
pub(super) struct Draft<'a> {
    archive: &'a Arc<Archive>,
    kind: TreeKind,
    began: Timestamp,
    pub(super) version: Version,
    /// When the newest one is of that there was.
    newest: Option<Timestamp>,
    pub(super) id: TreeId,
    pub(super) base: Option<Arc<Base>>,
    /// Has it to stand alone, if it stores anything?
    pub(super) is_whole_due: bool,
    pub(super) uploads: Uploads,
}

/// What a version is to say of itself.
pub(super) struct Told {
    /// Of what it is one.
    pub(super) label: String,
    /// Are its own parts it as a tar tool would unpack them?
    pub(super) is_plain: bool,
    /// See [`Backup::dump_hash`].
    pub(super) dump_hash: Option<ContentHash>,
    /// See [`Backup::plain_file`].
    pub(super) plain_file: bool,
}

impl<'a> Draft<'a> {
    /// The next version of a name. Nothing is stored yet.
    pub(super) async fn next(
        archive: &'a Arc<Archive>,
        kind: TreeKind,
        set: &SetName,
    ) -> Result<Self, Error> {
        let there = archive.trees(kind, patience()).await?;
        let there = there.iter().filter_map(|(name, _)| Version::of(name));
        let there = there.filter(|version| version.set == *set);
        let began = Timestamp::now();
        let newest = there.map(|version| version.at).max();
        let at = set.next(newest.into_iter(), began);
        let name = set.version(at);
        Ok(Self {
            archive,
            kind,
            began,
            version: Version::of(&name).ok_or(Error::Clock(at))?,
            newest,
            id: TreeId::fresh(&name),
            base: None,
            is_whole_due: false,
            uploads: Uploads::default(),
        })
    }

    /// Begins the tree, sweeps what killed runs have left, and finds what it builds on; nothing, if it is to be whole.
    pub(super) async fn begin(&mut self, terms: &Terms, whole: bool) -> Result<(), Error> {
        self.begin_tree().await?;
        if let Err(error) = sweep(self.archive, patience()).await {
            tracing::warn!("what killed runs have left is not removed, the next one will try: {error}");
        }
        if whole {
            return Ok(());
        }
        self.is_whole_due = terms.has_limits() && self.is_due(terms).await?;
        self.find_base().await
    }

    /// Begins the tree beside others, without a sweep, for which a mount has its time, and finds what it builds on.
    pub(super) async fn begin_beside_others(&mut self) -> Result<(), Error> {
        self.begin_tree().await?;
        self.find_base().await
    }

    async fn begin_tree(&self) -> Result<(), Error> {
        let begun = Begun::by_this_process(self.kind, By::Backup);
        Ok(self.archive.begin_tree(&self.id, &begun, patience()).await?)
    }

    async fn find_base(&mut self) -> Result<(), Error> {
        let reader = TreeReader::alone(self.archive.clone());
        let candidates = Candidates::Versions(self.kind, &self.version.set);
        self.base = Base::choose(self.archive, &reader, &self.id, candidates, patience).await?;
        Ok(())
    }

    async fn is_due(&self, terms: &Terms) -> Result<bool, Error> {
        let there = self.archive.summaries(self.kind, patience()).await?;
        let mut versions: Vec<(Timestamp, bool)> = there
            .iter()
            .filter_map(|(name, summary)| {
                let version = Version::of(name).filter(|version| version.set == self.version.set)?;
                Some((version.at, !summary.as_ref().ok()?.builds_on.is_empty()))
            })
            .collect();
        versions.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        Ok(terms.is_due(versions.into_iter(), self.version.at))
    }

    /// By what the same content is known, if it would be the newest version's: of a file written by somebody, or of a dump.
    pub(super) fn newest_hash(&self, plain_file: bool) -> Option<ContentHash> {
        self.newest_version().and_then(|base| base.dump_hash(plain_file))
    }

    /// What it builds on, if that is the newest version: only then can it be said that nothing has changed.
    pub(super) fn newest_version(&self) -> Option<&Base> {
        let base = self.base_version();
        let is_newest = base.is_some_and(|base| Some(base.at) == self.newest);
        self.base.as_deref().filter(|_| is_newest)
    }

    /// The version that it builds on.
    pub(super) fn base_version(&self) -> Option<Version> {
        self.base.as_ref().and_then(|base| Version::of(base.name()))
    }

    /// Makes the version exist. As of a backup, a request that is broken off may be done all the same: so a signal waits for
    /// its outcome, and as long as that is not known nothing is deleted.
    pub(super) async fn commit(
        mut self,
        (tree, told): (Arc<Tree>, Told),
        interrupted: impl Future<Output = &'static str>,
    ) -> Result<Summary, Error> {
        let mut interrupted = pin!(interrupted);
        let stored = tokio::select! {
            stored = self.arrive(&tree) => stored,
            signal = &mut interrupted => Err(Error::Interrupted(signal)),
        };
        let inventory = match stored {
            Ok(inventory) => inventory,
            Err(error) => {
                self.clean_up().await;
                return Err(error);
            }
        };
        let description = self.description(told);
        let outcome = {
            let committing = self.archive.commit_stored(inventory, description, patience());
            let mut committing = pin!(committing);
            tokio::select! {
                outcome = &mut committing => outcome,
                signal = interrupted => match tokio::time::timeout(CLEANING, &mut committing).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Error::InterruptedLast { signal, list: list(self.kind) }),
                },
            }
        };
        match outcome {
            Ok(summary) => Ok(summary),
            Err(error) => {
                if matches!(
                    error,
                    archive::Error::TreeExists { .. }
                        | archive::Error::TreeRemoved { .. }
                        | archive::Error::TreeNamePruned { .. }
                ) {
                    self.clean_up().await;
                }
                Err(error.into())
            }
        }
    }

    /// Waits for all parts, with them what tells them apart.
    async fn arrive(&mut self, tree: &Arc<Tree>) -> Result<Inventory, Error> {
        let stored_at = OnceLock::new();
        let inventory = self
            .uploads
            .store_inventory(self.archive, tree, &stored_at)
            .await?;
        self.archive
            .check_parts(&tree.id.name(), &tree.parts, patience())
            .await?;
        Ok(inventory)
    }

    fn description(&self, told: Told) -> Description {
        let ended = Ended {
            at: self.version.at,
            known_from: KnownFrom::Clock,
        };
        Description {
            content: self.kind,
            began: self.began,
            method: Method::Walfs,
            plain_tar: told.is_plain,
            backup: Backup {
                dump_hash: told.dump_hash,
                plain_file: told.plain_file,
                ..Backup::without_wal(told.label, ended)
            },
        }
    }

    /// Deletes what is stored, for a while. What makes parts must have ended.
    pub(super) async fn clean_up(self) {
        let _ = tokio::time::timeout(CLEANING, self.delete()).await;
    }

    async fn delete(self) {
        if !self.uploads.settle().await {
            tracing::warn!(
                "what was stored is not deleted, for some of it is still on its way; the next run will"
            );
            return;
        }
        let patience = Patience::for_at_most(CLEANING);
        if let Err(error) = self.archive.drop_unfinished(&self.id, patience).await {
            tracing::warn!("what was stored is not deleted, the next run will: {error}");
        }
    }
}

/// The command that lists versions of a kind.
fn list(kind: TreeKind) -> &'static str {
    match kind {
        TreeKind::BaseBackup => "backup-list",
        TreeKind::Files => "files-list",
        TreeKind::Dump => "dump-list",
    }
}
