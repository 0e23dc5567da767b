//! A tree being written through the mount, file by file, until it is complete.
//!
//! `pg_basebackup`, `cp -a`, `tar` and `rsync` want an ordinary directory: names that change, files written in any
//! order, modes and times set afterwards. So names are kept in memory ([`names`]), and of contents as little as can be:
//! small files go out together once they are closed (`bundle`), large ones slice by slice while they are written
//! (`large`). No write waits for the store, but when too much is on its way; and nothing waits for ever (`limits`).
//!
//! What that means for a writer:
//!
//! - **An error stays.** An upload that has failed for as long as the deadline fails the tree: every later `fsync`,
//!   `close`, `rename` and `create` in it says so, and it can never be completed (promise B2). Not every writer looks
//!   at `close`.
//! - **`fsync` of a file is no promise yet.** Nothing of an unfinished tree survives its daemon, so there is nothing to
//!   wait for: thousands of files are synced one by one at the end of `pg_basebackup`. Everything is durable when the
//!   tree is complete.
//! - **Complete** is a tree by the rename with which its writers end, or by `fsync` of its directory. Both wait until
//!   everything is stored (`commit`). Closing files completes nothing: that happens to the files of a killed writer as
//!   well.
//! - **What a tree is to be**, this room does not know: its `judge` says so, whom the one who begins it hands in.
//! - A complete tree does not change any more. Its draft can still be read by those who have its files open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::RwLock;
use tokio::time::Instant;

use crate::archive::Archive;
use crate::archive::tree::catalogue::{Begun, By};
use crate::archive::tree::{Attributes, TreeId, TreeName};
use crate::read::tree::TreeReader;

use super::Staging;

mod arrived;
mod bundle;
mod commit;
mod earlier;
mod error;
mod file;
mod finishing;
pub(crate) mod judge;
mod large;
mod limits;
pub mod names;
mod quiet;
pub(crate) mod reading_back;
mod recalled;
mod refusal;
mod sending;
#[cfg(test)]
pub(in crate::staging) mod tests;
mod writing;

use bundle::Queue;
pub use error::Error;
use file::DraftFile;
use judge::{Judge, TreeNames};
use large::Way;
use names::{Kind, NameError, Names, ROOT};
use sending::Sender;

/// How trees are written.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long an upload may take, and any operation; and how long the completing of a tree may get nowhere.
    pub deadline: Duration,
    /// How long completing a tree may take, even while it gets on; `None`: for as long as it takes.
    pub longest: Option<Duration>,
}

/// What `stat` tells of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its number in the tree.
    pub number: u32,
    /// What it is.
    pub kind: StatKind,
    /// Length of a file or of a link's target, in bytes; 0 for a directory.
    pub bytes: u64,
    /// Everything else.
    pub attributes: Attributes,
}

/// See [`Stat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A regular file.
    File,
}

/// An entry of a directory: its name, and what it is.
pub type Listed = (Box<[u8]>, Stat);

/// Attributes to be changed; those that are `None` stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last change.
    pub modified: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writing,
    Complete,
    Removed,
}

/// A tree being written.
#[derive(Debug)]
pub struct TreeDraft {
    name: TreeName,
    began: Timestamp,
    options: Options,
    judge: Arc<dyn Judge>,
    names: Mutex<TreeNames>,
    sender: Arc<Sender>,
    staging: Staging,
    queue: Mutex<Queue>,
    /// Held by whoever puts a bundle together.
    bundling: tokio::sync::Mutex<()>,
    /// Every change holds it shared, so that nothing changes while the tree is being completed.
    state: RwLock<State>,
    completing: AtomicBool,
    complete: AtomicBool,
    /// When something in it was changed, or a file closed that was written, for the last time.
    last_change: Mutex<Instant>,
    /// A file of it was closed by a process that was killed or failed.
    is_cut_off: AtomicBool,
    /// How often it was not completed though it was to be; locked while word of that is left.
    refusals: tokio::sync::Mutex<u32>,
}

impl TreeDraft {
    /// Begins a tree that is to be what its judge says. Earlier trees, of which it has what has not changed, are read by
    /// `trees`.
    ///
    /// # Errors
    /// [`Error::Archive`]: there is a complete one of that name, or the store does not answer.
    pub(crate) async fn begin(
        archive: Arc<Archive>,
        staging: Staging,
        name: TreeName,
        root: Attributes,
        options: Options,
        judge: Arc<dyn Judge>,
        trees: TreeReader,
    ) -> Result<Self, Error> {
        let begun = Begun::by_this_process(judge.kind(), By::Mount);
        let patience = crate::store::Patience::for_at_most(options.deadline);
        let id = TreeId::fresh(&name);
        archive.begin_tree(&id, &begun, patience).await?;
        Ok(Self {
            name,
            began: begun.at,
            names: Mutex::new(Names::new(root)),
            sender: Arc::new(Sender::new(archive, id, options.deadline, judge.clone(), trees)),
            last_change: Mutex::new(Instant::now()),
            is_cut_off: AtomicBool::new(false),
            options,
            judge,
            staging,
            queue: Mutex::default(),
            bundling: tokio::sync::Mutex::default(),
            state: RwLock::new(State::Writing),
            completing: AtomicBool::new(false),
            complete: AtomicBool::new(false),
            refusals: tokio::sync::Mutex::default(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &TreeName {
        &self.name
    }

    /// Has it been completed?
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// What a node is.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn stat(&self, number: u32) -> Result<Stat, Error> {
        Ok(stat(&self.names(), number)?)
    }

    /// The entry of a directory with that name.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn lookup(&self, directory: u32, name: &[u8]) -> Result<Stat, Error> {
        let names = self.names();
        Ok(stat(&names, names.child(directory, name)?)?)
    }

    /// All entries of a directory, by name.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn list(&self, directory: u32) -> Result<Vec<Listed>, Error> {
        let names = self.names();
        let children = names.children(directory)?;
        let listed = children
            .iter()
            .map(|(name, &number)| Ok((name.clone(), stat(&names, number)?)));
        listed.collect()
    }

    /// The directory that holds a node.
    pub fn parent(&self, number: u32) -> u32 {
        self.names().parent(number)
    }

    /// Where a link points to.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Invalid`].
    pub fn read_link(&self, number: u32) -> Result<Box<[u8]>, Error> {
        match self.names().kind(number)? {
            Kind::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::Invalid("it is no symbolic link")),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`Error::Name`], and why the tree cannot be written to; of files and links also [`Error::NotTaken`].
    pub async fn make_directory(
        &self,
        directory: u32,
        name: &[u8],
        attributes: Attributes,
    ) -> Result<Stat, Error> {
        self.add(directory, name, Kind::Directory(Default::default()), attributes)
            .await
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`TreeDraft::make_directory`].
    pub async fn make_link(
        &self,
        directory: u32,
        name: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> Result<Stat, Error> {
        self.add(directory, name, Kind::Symlink(target.into()), attributes)
            .await
    }

    async fn add(
        &self,
        directory: u32,
        name: &[u8],
        kind: Kind<Arc<DraftFile>>,
        attributes: Attributes,
    ) -> Result<Stat, Error> {
        let _turn = self.turn().await?;
        self.still_sound()?;
        let mut names = self.names();
        if !matches!(kind, Kind::Directory(_)) {
            self.judge.admit(&self.name, &names, (directory, name))?;
        }
        let number = names.add(directory, name, kind, attributes)?;
        Ok(stat(&names, number)?)
    }

    /// Sets mode, owner and time.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Complete`].
    pub async fn set_attributes(&self, number: u32, change: Change) -> Result<(), Error> {
        let _turn = self.turn().await?;
        let mut names = self.names();
        let attributes = names.attributes_mut(number)?;
        attributes.mode = change.mode.unwrap_or(attributes.mode) & 0o7777;
        attributes.uid = change.uid.unwrap_or(attributes.uid);
        attributes.gid = change.gid.unwrap_or(attributes.gid);
        attributes.modified = change.modified.unwrap_or(attributes.modified);
        Ok(())
    }

    /// Gives an entry another name, in place of what has it. The rename with which writers end the tree completes it, or
    /// fails.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Archive`], [`Error::Refused`], [`Error::Complete`], [`Error::NotTaken`].
    pub async fn rename(&self, from: (u32, &[u8]), to: (u32, &[u8]), replace: bool) -> Result<(), Error> {
        if self.judge.is_last(from, to) {
            return self.finish_by_rename(from, to, replace).await;
        }
        let turn = self.turn().await?;
        self.still_sound()?;
        self.judge.admit(&self.name, &self.names(), to)?;
        self.within(&turn, self.move_name(from, to, replace)).await
    }

    async fn move_name(&self, from: (u32, &[u8]), to: (u32, &[u8]), replace: bool) -> Result<(), Error> {
        let replaced = self.names().rename(from, to, replace)?;
        if let Some((_, Kind::File(file))) = replaced {
            file.forget(self.way()).await;
        }
        Ok(())
    }

    /// Takes a file's or link's name away.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Complete`].
    pub async fn unlink(&self, directory: u32, name: &[u8]) -> Result<(), Error> {
        let turn = self.turn().await?;
        let gone = self.names().unlink(directory, name)?;
        if let Some((_, Kind::File(file))) = gone {
            let forgotten = async {
                file.forget(self.way()).await;
                Ok(())
            };
            self.within(&turn, forgotten).await?;
        }
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Complete`].
    pub async fn remove_directory(&self, directory: u32, name: &[u8]) -> Result<(), Error> {
        let _turn = self.turn().await?;
        Ok(self.names().remove_directory(directory, name)?)
    }

    /// Says whether something has failed: at every `close`.
    ///
    /// # Errors
    /// [`Error::Archive`].
    pub fn still_sound(&self) -> Result<(), Error> {
        self.sender
            .failure()
            .map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Removes the tree and what has been stored of it. A complete one stays.
    ///
    /// # Errors
    /// [`Error::Complete`]; [`Error::Name`] if it is not empty; [`Error::Archive`].
    pub async fn remove(&self) -> Result<(), Error> {
        let began = Instant::now();
        let mut state = self.alone(began).await?;
        if !self.names().children(ROOT)?.is_empty() {
            return Err(NameError::NotEmpty.into());
        }
        let removed = async {
            self.sender.stop().await;
            let patience = self.sender.patience();
            let id = &self.sender.id;
            Ok(self.sender.archive.drop_unfinished(id, patience).await?)
        };
        self.while_it_gets_on(began, removed).await?;
        *state = State::Removed;
        Ok(())
    }

    fn is_completing(&self) -> bool {
        self.completing.load(Ordering::Acquire)
    }

    fn refused(&self, reason: impl Into<String>) -> Error {
        Error::Refused {
            name: self.name.clone(),
            reason: reason.into(),
        }
    }

    fn way(&self) -> Way<'_> {
        Way {
            staging: &self.staging,
            sender: &self.sender,
            path: None,
        }
    }

    fn names(&self) -> MutexGuard<'_, TreeNames> {
        self.names.lock().expect("no panic while held")
    }
}

fn check(state: State) -> Result<(), Error> {
    match state {
        State::Writing => Ok(()),
        State::Complete => Err(Error::Complete),
        State::Removed => Err(Error::Removed),
    }
}

fn file(names: &TreeNames, number: u32) -> Result<Arc<DraftFile>, NameError> {
    match names.kind(number)? {
        Kind::File(file) => Ok(file.clone()),
        Kind::Directory(_) => Err(NameError::IsDirectory),
        Kind::Symlink(_) => Err(NameError::NotFound),
    }
}

fn stat(names: &TreeNames, number: u32) -> Result<Stat, NameError> {
    let (kind, bytes) = match names.kind(number)? {
        Kind::Directory(_) => (StatKind::Directory, 0),
        Kind::Symlink(target) => (StatKind::Symlink, target.len() as u64),
        Kind::File(file) => (StatKind::File, file.bytes()),
    };
    Ok(Stat {
        number,
        kind,
        bytes,
        attributes: names.attributes(number)?,
    })
}
