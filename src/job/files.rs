//! Stores a version of a directory with files (promise A5): what has changed since the newest version of the same name, found
//! by content, as of base backups; and nothing at all if nothing has.
//!
//! 1. The directory is listed (`walk`): no link is followed, and no other file system entered unless that is wanted.
//! 2. The version is begun ([`version`]), and builds on the newest one.
//! 3. Files are copied by the threads that copy a data directory ([`super::backup`]). Those that have changed meanwhile are
//!    read again, some times; those that change even then are named.
//! 4. The version is committed. If it is as the newest one is, down to attributes, what little of it was stored is deleted
//!    instead.

use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{Entry, Tree, TreeKind};

use super::backup::pack::{AtWork, Packers};
use super::backup::places::Places;
use super::backup::queue::Plan;
use super::backup::walk::Source;
use super::progress::{Phase, Progress};
use super::version::{self, Draft, Terms, Told, patience};

mod changed;
mod error;
mod list;
pub mod restore;
mod walk;

pub use error::Error;
pub use list::{Stored, find, versions};
pub use walk::LeftOut;

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
    /// How a version is stored.
    pub terms: Terms,
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
    let stored = store(
        archive,
        options,
        (options.terms.full, progress.clone()),
        interrupted.as_mut(),
    )
    .await?;
    match stored {
        Some(taken) => Ok(taken),
        // Something has changed, and it has to stand alone.
        None => {
            let stored = store(archive, options, (true, progress), interrupted).await?;
            Ok(stored.expect("what is whole is stored"))
        }
    }
}

/// Stores a version; `None`: nothing is stored, for it has changed and has to be `whole`.
async fn store(
    archive: &Arc<Archive>,
    options: &Options,
    (whole, progress): (bool, Arc<dyn Progress>),
    mut interrupted: Pin<&mut impl Future<Output = &'static str>>,
) -> Result<Option<Taken>, Error> {
    let mut taking = tokio::select! {
        begun = Taking::begin(archive, options, progress) => begun?,
        signal = &mut interrupted => return Err(version::Error::Interrupted(signal).into()),
    };
    let prepared = tokio::select! {
        prepared = taking.prepare(whole) => prepared,
        signal = &mut interrupted => Err(version::Error::Interrupted(signal).into()),
    };
    match prepared {
        Ok(Some(_)) if taking.draft.is_whole_due && taking.draft.base.is_some() => {
            taking.clean_up().await;
            Ok(None)
        }
        Ok(Some(tree)) => taking.commit(tree, interrupted).await.map(Some),
        Ok(None) => taking.unchanged().await.map(Some),
        Err(error) => {
            taking.clean_up().await;
            Err(error)
        }
    }
}

/// A version on its way.
struct Taking<'a> {
    archive: &'a Arc<Archive>,
    options: &'a Options,
    progress: Arc<dyn Progress>,
    draft: Draft<'a>,
    packers: Option<AtWork>,
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
        Ok(Self {
            archive,
            options,
            progress,
            draft: Draft::next(archive, TreeKind::Files, &options.set).await?,
            packers: None,
            nodes: Vec::new(),
            left_out: LeftOut::default(),
            unsteady: Vec::new(),
            read_bytes: 0,
            changed_bytes: 0,
        })
    }

    /// Everything but the commit; `None` if nothing has changed.
    async fn prepare(&mut self, whole: bool) -> Result<Option<Prepared>, Error> {
        let (directory, cross) = (self.options.directory.clone(), self.options.cross);
        let mut walked = blocking(move || walk::walk(&directory, cross)).await?;
        walked.give_to(self.options.terms.owner);
        self.left_out = walked.left_out;
        self.draft.begin(&self.options.terms, whole).await?;
        let (mut sources, is_plain) = (walked.sources, walked.links.is_empty());
        self.nodes = walked.links;
        // What has no content need not go into a part of its own once more.
        if self.draft.base.is_some() {
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
        let plan = Plan::new(places, sources).owned_by(self.options.terms.owner);
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
            self.draft.base.clone(),
            self.archive.form(),
            None,
            None,
            self.progress.clone(),
            self.archive.memory().packing.clone(),
        );
        let packers = Arc::new(packers);
        self.packers = Some(AtWork(packers.clone()));
        let never = std::future::pending();
        let Draft { uploads, id, .. } = &mut self.draft;
        uploads
            .copy(self.archive, id, &packers, self.options.jobs, never)
            .await?;
        Ok(packers.plan.clone())
    }

    /// Reads those files again that have changed since they were opened. Was that none?
    async fn read_again(&mut self, mut plan: Arc<Plan>) -> Result<bool, Error> {
        for round in 0.. {
            let collected = &self.draft.uploads.collected;
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
                .for_each(|source| self.draft.uploads.collected.forget(&source.path));
            plan = self.copy(plan.places.clone(), changed).await?;
        }
        unreachable!("the last round returns")
    }

    /// The tree of what was copied; `None` if the newest version is the same.
    async fn tree(&mut self, is_plain: bool) -> Result<Option<Prepared>, Error> {
        self.draft.uploads.collected.sort();
        let collected = std::mem::take(&mut self.draft.uploads.collected);
        (self.read_bytes, self.changed_bytes) = (collected.read_bytes, collected.changed_bytes);
        let is_kept = !collected.has_parts();
        let (tree, is_whole) = collected
            .into_tree(self.draft.id.clone(), std::mem::take(&mut self.nodes))
            .map_err(version::Error::from)?;
        if is_kept
            && let Some(newest) = self.draft.newest_version()
            && newest.has_entries_of(&tree, patience).await?
        {
            return Ok(None);
        }
        Ok(Some(Prepared {
            tree: Arc::new(tree),
            is_plain: is_plain && is_whole && self.draft.base.is_none(),
        }))
    }

    /// Makes the version exist.
    async fn commit(
        mut self,
        Prepared { tree, is_plain }: Prepared,
        interrupted: impl Future<Output = &'static str>,
    ) -> Result<Taken, Error> {
        let mut taken = self.described();
        drop(self.packers);
        let told = Told {
            label: self.options.directory.display().to_string(),
            is_plain,
            dump_hash: None,
            plain_file: false,
        };
        taken.summary = Some(self.draft.commit((tree, told), interrupted).await?);
        Ok(taken)
    }

    /// Nothing has changed: what was stored goes.
    async fn unchanged(mut self) -> Result<Taken, Error> {
        let mut taken = self.described();
        if let Some(same) = taken.base.clone() {
            taken.version = same;
        }
        self.clean_up().await;
        Ok(taken)
    }

    fn described(&mut self) -> Taken {
        Taken {
            version: self.draft.version.clone(),
            base: self.draft.base_version(),
            summary: None,
            read_bytes: self.read_bytes,
            changed_bytes: self.changed_bytes,
            left_out: std::mem::take(&mut self.left_out),
            unsteady: std::mem::take(&mut self.unsteady),
        }
    }

    /// Ends the threads, and deletes what is stored.
    async fn clean_up(self) {
        drop(self.packers);
        self.draft.clean_up().await;
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
