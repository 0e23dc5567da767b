//! Stores a version of a directory with files (promise A5): what has changed since the newest version of the same name, found
//! by content, as of base backups; and nothing at all if nothing has.
//!
//! 1. The directory is listed (`walk`): no link is followed, and no other file system entered unless that is wanted.
//! 2. The tree is begun, and what killed runs have left is swept. The newest version is what this one builds on.
//! 3. Files are copied by the threads that copy a data directory ([`super::backup`]). Those that have changed meanwhile are
//!    read again, some times; those that change even then are named.
//! 4. All parts arrive, with them what tells them apart; then the version is committed. If it is as the newest one is, down to
//!    attributes, what little of it was stored is deleted instead.
//!
//! However this ends before the commit, what is stored is deleted; if walfs is killed, the next sweep does that.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;

use crate::archive::tree::backup::Backup;
use crate::archive::tree::catalogue::{Begun, By};
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::summary::{Description, Method, Summary};
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{Entry, Tree, TreeId, TreeKind};
use crate::archive::{self, Archive};
use crate::read::base::{Base, Candidates};
use crate::read::tree::TreeReader;
use crate::store::Patience;

use super::backup::pack::{AtWork, Packers};
use super::backup::places::Places;
use super::backup::queue::Plan;
use super::backup::uploads::Uploads;
use super::backup::walk::Source;
use super::progress::{Phase, Progress};
use super::sweep::sweep;

mod changed;
mod error;
mod list;
pub mod restore;
mod walk;

pub use error::Error;
pub use list::{Stored, find, versions};
pub use walk::LeftOut;

/// How long the store may be away before a run gives up.
const STORE_PATIENCE: Duration = Duration::from_secs(15 * 60);

/// How long cleaning up after a failure may take. What is left then is swept by the next run.
const CLEANING: Duration = Duration::from_secs(20);

/// How often files are read again that have changed while they were read.
const READ_AGAIN: usize = 3;

/// What is to be stored, and how.
#[derive(Debug)]
pub struct Options {
    /// The name that it has versions of.
    pub set: SetName,
    /// The directory.
    pub directory: PathBuf,
    /// Enter other file systems below it?
    pub cross: bool,
    /// Threads that read and pack.
    pub jobs: usize,
}

/// What came of it.
#[derive(Debug)]
pub struct Taken {
    /// The version that has the files: a new one, or the one since which nothing has changed.
    pub version: Version,
    /// The earlier one that it was compared with.
    pub base: Option<Version>,
    /// Of a new one what there is to know of it; `None`: nothing has changed.
    pub summary: Option<Summary>,
    /// Bytes of files that were read.
    pub read_bytes: u64,
    /// Of these, bytes that the version before does not have.
    pub changed_bytes: u64,
    /// What is not in it.
    pub left_out: LeftOut,
    /// Files that went on changing while they were read: what is stored of them may be of several moments.
    pub unsteady: Vec<String>,
}

/// Stores a version, unless `interrupted` ends first with the name of a signal.
///
/// # Errors
/// Any [`Error`]; nothing of the version is kept then.
pub async fn take(
    archive: &Arc<Archive>,
    options: &Options,
    progress: Arc<dyn Progress>,
    interrupted: impl Future<Output = &'static str>,
) -> Result<Taken, Error> {
    let mut interrupted = pin!(interrupted);
    let mut taking = tokio::select! {
        begun = Taking::begin(archive, options, progress) => begun?,
        signal = &mut interrupted => return Err(Error::Interrupted(signal)),
    };
    let prepared = tokio::select! {
        prepared = taking.prepare() => prepared,
        signal = &mut interrupted => Err(Error::Interrupted(signal)),
    };
    match prepared {
        Ok(Some(tree)) => taking.commit(tree, interrupted).await,
        Ok(None) => taking.unchanged().await,
        Err(error) => {
            taking.clean_up().await;
            Err(error)
        }
    }
}

fn patience() -> Patience {
    Patience::for_at_most(STORE_PATIENCE)
}

/// A version on its way.
struct Taking<'a> {
    archive: &'a Arc<Archive>,
    options: &'a Options,
    progress: Arc<dyn Progress>,
    began: Timestamp,
    version: Version,
    id: TreeId,
    base: Option<Arc<Base>>,
    packers: Option<AtWork>,
    uploads: Uploads,
    /// What is in the tree and is not copied: directories, links, empty files.
    nodes: Vec<Entry>,
    left_out: LeftOut,
    unsteady: Vec<String>,
    read_bytes: u64,
    changed_bytes: u64,
}

/// A tree whose parts are stored or on their way, and whether these are it as a tar tool would unpack them.
struct Prepared {
    tree: Arc<Tree>,
    is_plain: bool,
}

impl<'a> Taking<'a> {
    async fn begin(
        archive: &'a Arc<Archive>,
        options: &'a Options,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, Error> {
        check_apart(archive, &options.directory)?;
        let there = archive.trees(TreeKind::Files, patience()).await?;
        let there = there.iter().filter_map(|(name, _)| Version::of(name));
        let there = there.filter(|version| version.set == options.set);
        let began = Timestamp::now();
        let at = options.set.next(there.map(|version| version.at), began);
        let name = options.set.version(at);
        Ok(Self {
            archive,
            options,
            progress,
            began,
            version: Version::of(&name).ok_or(Error::Clock(at))?,
            id: TreeId::fresh(&name),
            base: None,
            packers: None,
            uploads: Uploads::default(),
            nodes: Vec::new(),
            left_out: LeftOut::default(),
            unsteady: Vec::new(),
            read_bytes: 0,
            changed_bytes: 0,
        })
    }

    /// Everything but the commit; `None` if nothing has changed.
    async fn prepare(&mut self) -> Result<Option<Prepared>, Error> {
        let (directory, cross) = (self.options.directory.clone(), self.options.cross);
        let walked = blocking(move || walk::walk(&directory, cross)).await?;
        self.left_out = walked.left_out;
        let begun = Begun::by_this_process(TreeKind::Files, By::Backup);
        self.archive.begin_tree(&self.id, &begun, patience()).await?;
        if let Err(error) = sweep(self.archive, patience()).await {
            tracing::warn!("what killed runs have left is not removed, the next one will try: {error}");
        }
        let reader = TreeReader::alone(self.archive.clone());
        let candidates = Candidates::Files(&self.options.set);
        self.base = Base::choose(self.archive, &reader, &self.id, candidates, patience).await?;
        let (mut sources, is_plain) = (walked.sources, walked.links.is_empty());
        self.nodes = walked.links;
        // What has no content need not go into a part of its own once more.
        if self.base.is_some() {
            let (empty, rest) = sources.into_iter().partition(walk::is_empty);
            sources = rest;
            let empty: Vec<Source> = empty;
            self.nodes.extend(empty.iter().map(walk::node));
        } else {
            let directories = sources.iter().filter(|source| source.bytes.is_none());
            self.nodes.extend(directories.map(walk::node));
        }
        let places = self.copy(walked.places.into(), sources).await?;
        let is_read_once = self.read_again(places).await?;
        self.tree(is_plain && is_read_once).await
    }

    /// Copies files. The last parts are on their way then.
    async fn copy(&mut self, places: Arc<Places>, sources: Vec<Source>) -> Result<Arc<Plan>, Error> {
        let plan = Plan::new(places, sources);
        self.progress.phase(Phase::Copying {
            files: plan.files,
            bytes: plan.bytes,
        });
        let first_volume = self
            .packers
            .as_ref()
            .map_or(0, |packers| packers.0.queue.next_volume());
        let packers = Packers::new(
            (plan, first_volume),
            self.base.clone(),
            self.archive.compression(),
            None,
            None,
            self.progress.clone(),
            self.archive.memory().packing.clone(),
        );
        let packers = Arc::new(packers);
        self.packers = Some(AtWork(packers.clone()));
        let never = std::future::pending();
        self.uploads
            .copy(self.archive, &self.id, &packers, self.options.jobs, never)
            .await?;
        Ok(packers.plan.clone())
    }

    /// Reads those files again that have changed since they were opened. Was that none?
    async fn read_again(&mut self, mut plan: Arc<Plan>) -> Result<bool, Error> {
        for round in 0.. {
            let collected = &self.uploads.collected;
            let files = collected.files().map(|(path, bytes, attributes)| Source {
                path: path.into(),
                attributes,
                bytes: Some(bytes),
            });
            let (files, looked): (Vec<Source>, _) = (files.collect(), plan.clone());
            let changed = blocking(move || changed::since_opened(&looked.places, files)).await?;
            if changed.is_empty() {
                return Ok(round == 0);
            }
            if round == READ_AGAIN {
                let named = changed
                    .iter()
                    .map(|source| String::from_utf8_lossy(&source.path).into_owned());
                self.unsteady = named.collect();
                self.unsteady.sort();
                return Ok(false);
            }
            changed
                .iter()
                .for_each(|source| self.uploads.collected.forget(&source.path));
            plan = self.copy(plan.places.clone(), changed).await?;
        }
        unreachable!("the last round returns")
    }

    /// The tree of what was copied; `None` if the base is the same.
    async fn tree(&mut self, is_plain: bool) -> Result<Option<Prepared>, Error> {
        self.uploads.collected.sort();
        let collected = std::mem::take(&mut self.uploads.collected);
        (self.read_bytes, self.changed_bytes) = (collected.read_bytes, collected.changed_bytes);
        let is_kept = !collected.has_parts();
        let (tree, is_whole) = collected.into_tree(self.id.clone(), std::mem::take(&mut self.nodes))?;
        if is_kept
            && let Some(base) = &self.base
            && base.has_entries_of(&tree, patience).await?
        {
            return Ok(None);
        }
        Ok(Some(Prepared {
            tree: Arc::new(tree),
            is_plain: is_plain && is_whole && self.base.is_none(),
        }))
    }

    /// Makes the version exist. As of a backup, a request that is broken off may be done all the same: so a signal waits for
    /// its outcome, and as long as that is not known nothing is deleted.
    async fn commit(
        mut self,
        Prepared { tree, is_plain }: Prepared,
        interrupted: impl Future<Output = &'static str>,
    ) -> Result<Taken, Error> {
        let mut interrupted = pin!(interrupted);
        let stored_at = OnceLock::new();
        let stored = {
            let stored = async {
                let inventory = self
                    .uploads
                    .store_inventory(self.archive, &tree, &stored_at)
                    .await?;
                self.archive
                    .check_parts(&tree.id.name(), &tree.parts, patience())
                    .await?;
                Ok::<_, Error>(inventory)
            };
            tokio::select! {
                stored = stored => stored,
                signal = &mut interrupted => Err(Error::Interrupted(signal)),
            }
        };
        let inventory = match stored {
            Ok(inventory) => inventory,
            Err(error) => {
                self.clean_up().await;
                return Err(error);
            }
        };
        let label = self.options.directory.display().to_string();
        let ended = Ended {
            at: self.version.at,
            known_from: KnownFrom::Clock,
        };
        let description = Description {
            content: TreeKind::Files,
            began: self.began,
            method: Method::Walfs,
            plain_tar: is_plain,
            backup: Backup::without_wal(label, ended),
        };
        let outcome = {
            let committing = self.archive.commit_stored(inventory, description, patience());
            let mut committing = pin!(committing);
            tokio::select! {
                outcome = &mut committing => outcome,
                signal = interrupted => match tokio::time::timeout(CLEANING, &mut committing).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Error::InterruptedLast(signal)),
                },
            }
        };
        match outcome {
            Ok(summary) => Ok(self.taken(Some(summary))),
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

    /// Nothing has changed: what was stored goes.
    async fn unchanged(mut self) -> Result<Taken, Error> {
        let taken = self.taken_of_base();
        self.clean_up().await;
        Ok(taken)
    }

    fn taken_of_base(&mut self) -> Taken {
        if let Some(same) = self.base_version() {
            self.version = same;
        }
        self.described(None)
    }

    fn taken(mut self, summary: Option<Summary>) -> Taken {
        self.described(summary)
    }

    fn described(&mut self, summary: Option<Summary>) -> Taken {
        Taken {
            version: self.version.clone(),
            base: self.base_version(),
            summary,
            read_bytes: self.read_bytes,
            changed_bytes: self.changed_bytes,
            left_out: std::mem::take(&mut self.left_out),
            unsteady: std::mem::take(&mut self.unsteady),
        }
    }

    fn base_version(&self) -> Option<Version> {
        self.base.as_ref().and_then(|base| Version::of(base.name()))
    }

    /// Cleans up, for a while.
    async fn clean_up(self) {
        let _ = tokio::time::timeout(CLEANING, self.delete()).await;
    }

    /// Ends the threads, and deletes what is stored.
    async fn delete(self) {
        drop(self.packers);
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

/// A directory with the archive in it would be stored in itself, again and again.
fn check_apart(archive: &Archive, directory: &Path) -> Result<(), Error> {
    let Ok(place) = Path::new(&archive.place()).canonicalize() else {
        return Ok(());
    };
    let real = directory
        .canonicalize()
        .map_err(|source| Error::read(directory, source))?;
    match place.starts_with(&real) || real.starts_with(&place) {
        true => Err(Error::Inside {
            place,
            directory: real,
        }),
        false => Ok(()),
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading does not panic")
}
