//! `files/` and `dumps/`: versions of what is stored again and again under one name.
//!
//! - What `walfs dump` and `walfs files` store is shown as a directory for each name, `files/NAME/VERSION/`, with
//!   `files/NAME/LATEST`.
//! - What was written as one file is shown as that file: `dumps/NAME` is the newest version, `dumps/NAME@VERSION` each of them.
//!   Writing `dumps/NAME` makes the next one: see [`writing`].
//! - What is written as a directory, `files/NAME/`, shows what is in it, and no versions, while it is written: see [`directory`].
//!   Then it is a version as those of `walfs files` are.
//!
//! A name is here as long as it has a version. What is *in* a version is what is in a backup, and is shown by the same code. The
//! store is asked at every opening of a directory and for every name that is not known; the versions that it named serve
//! for a second.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;

use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeKind};
use crate::linux::kernel::Owner;
use crate::staging::tree::Change;

use super::asker::Asker;
use super::basebackups::Basebackups;
use super::basebackups::complete::Complete;
use super::basebackups::drafting::Drafting;
use super::common::Common;
use super::directory::{Entries, numbered};
use super::error::{Error, Result};
use super::node::{Attributes, Node, TreeNode};
use super::room::{AnyFile, Making, Named, Opening, Room};

mod directory;
mod listed;
mod newest;
mod shown;
mod writing;

use directory::root_of;
use listed::Listed;
use newest::OpenNewest;
use writing::OpenPlain;

/// The one file of a plain version, as the number of an entry in its tree: behind the directory itself.
const THE_FILE: u32 = 1;

/// Mode of a plain file: it has all that its owner may read.
const PLAIN_MODE: u16 = 0o600;

/// `files/` or `dumps/`
#[derive(Debug)]
pub(super) struct Versions {
    kind: TreeKind,
    common: Arc<Common>,
    complete: Arc<Complete>,
    /// What shows complete trees.
    browser: Arc<dyn Room>,
    /// What takes those that are written as a directory.
    drafting: Arc<Drafting>,
    /// Held while one is begun: of two that make something in one directory, one must see the other's.
    beginning: tokio::sync::Mutex<()>,
    listed: Listed,
    /// Names that were seen, by their numbers.
    sets: Mutex<Vec<SetName>>,
    /// Of a name, by its number, the plain file that was opened last to be written.
    written: Mutex<HashMap<u32, Weak<OpenPlain>>>,
}

impl Versions {
    /// Of a kind. `trees`: by which all trees are known, shown and written.
    pub(super) fn new(kind: TreeKind, common: Arc<Common>, trees: &Basebackups) -> Self {
        let complete = trees.complete();
        Self {
            kind,
            listed: Listed::new(kind, common.clone(), complete.clone()),
            common,
            complete,
            browser: trees.browser(),
            drafting: trees.drafting(),
            beginning: tokio::sync::Mutex::default(),
            sets: Mutex::default(),
            written: Mutex::default(),
        }
    }

    fn number(&self, set: &SetName) -> u32 {
        let mut sets = self.sets.lock().expect("no panic while held");
        let known = sets.iter().position(|known| known == set);
        known.unwrap_or_else(|| {
            sets.push(set.clone());
            sets.len() - 1
        }) as u32
    }

    fn set(&self, number: u32) -> Result<SetName> {
        let sets = self.sets.lock().expect("no panic while held");
        sets.get(number as usize).cloned().ok_or(Error::NotFound)
    }

    /// A name that is written as a plain file.
    fn writable_name(&self, name: &OsStr) -> Result<SetName> {
        let text = name.to_string_lossy();
        let set: std::result::Result<SetName, _> = text.parse();
        let refused = match set {
            Ok(set) => return Ok(set),
            Err(_) if text.starts_with('.') => Error::TemporaryName {
                name: text.into_owned(),
            },
            Err(reason) => Error::BadSetName(reason),
        };
        self.common.noted("create", Err(refused))
    }

    /// Opens the next version of a plain file to be written.
    fn open_to_write(
        self: &Arc<Self>,
        number: u32,
        node: Node,
        is_truncated: bool,
        asker: Option<&Asker>,
    ) -> Result<AnyFile> {
        self.common.gates_open()?;
        let opened = OpenPlain::new(
            self.clone(),
            self.set(number)?,
            self.common.inodes.number(node),
            is_truncated,
            asker,
        );
        let opened = Arc::new(opened);
        self.common.plain_writes.fetch_add(1, Ordering::Relaxed);
        let mut written = self.written.lock().expect("no panic while held");
        written.retain(|_, file| file.strong_count() > 0);
        written.insert(number, Arc::downgrade(&opened));
        Ok(opened)
    }

    /// What is being written under a name that has no version, for who has it open and looks at it.
    fn being_written(&self, number: u32) -> Option<Attributes> {
        let written = self.written.lock().expect("no panic while held");
        let file = written.get(&number)?.upgrade()?;
        Some(Attributes {
            modified: std::time::SystemTime::now(),
            mode: PLAIN_MODE,
            ..self.common.file(Node::Plain(self.kind, number), file.bytes()?)
        })
    }
}

#[async_trait]
impl Room for Arc<Versions> {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        let name = name.to_str().ok_or(Error::NotFound)?;
        match parent {
            Node::Versions(_) => self.find(name, asker).await,
            home if let Some(found) = self.written_in(home, name.as_ref()).await? => Ok(found),
            Node::VersionSet(_, number) if name == LATEST => Ok(self.latest(number, asker).await?.1),
            Node::VersionSet(_, number) => {
                let set = self.set(number)?;
                let tree = format!("{set}@{name}").parse();
                let version = tree.ok().and_then(|tree| Version::of(&tree));
                self.version(&version.ok_or(Error::NotFound)?, asker).await
            }
            _ => Err(Error::NotDirectory),
        }
    }

    async fn getattr(&self, node: Node, asker: Option<&Asker>) -> Result<Attributes> {
        match node {
            Node::VersionsLatest(_, number) => Ok(self.latest(number, asker).await?.1),
            Node::Plain(_, number) => self.being_written(number).ok_or(Error::Stale),
            Node::Newest(_, slot) => Ok(self.newest_file(&*self.complete.of(slot)?)),
            home if self.drafting.is_at_home(home) => self.drafting.at_home(home),
            node => Ok(self.common.directory(node)),
        }
    }

    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        match (node, opening) {
            (Node::Newest(_, slot), Opening::Read) => {
                let entry = THE_FILE;
                let file = Node::Tree(TreeNode { slot, entry });
                let opened = self.browser.open(file, opening, asker).await?;
                Ok(Arc::new(OpenNewest(opened)))
            }
            (Node::Newest(_, slot), _) => {
                let version = Version::of(&self.complete.of(slot)?.name).ok_or(Error::Stale)?;
                let number = self.number(&version.set);
                self.open_to_write(number, node, opening == Opening::Replace, asker)
            }
            // Who has its number has it open to write.
            (Node::Plain(_, number), _) => {
                self.open_to_write(number, node, opening == Opening::Replace, asker)
            }
            _ => Err(Error::IsDirectory),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let found = match node {
            home if self.drafting.is_at_home(home) => return self.drafting.open_directory(home).await,
            Node::Versions(_) => self.list_all().await,
            Node::VersionSet(_, number) => self.list_set(number).await,
            _ => return Err(Error::NotDirectory),
        };
        Ok(Arc::new(numbered(self.common.noted("list versions", found)?, 0)))
    }

    /// Who fills the directory of a name sees no versions there: they are not in what it writes.
    async fn open_directory_for(&self, node: Node, asker: Option<&Asker>) -> Result<Arc<dyn Entries>> {
        let Node::VersionSet(kind, number) = node else {
            return self.open_directory(node).await;
        };
        let mount = self.common.options.mountpoint.join(kind.folder());
        let home = mount.join(self.set(number)?.as_str());
        match asker.is_some_and(|asker| asker.fills(&home)) && !self.drafting.is_at_home(node) {
            true => Ok(Arc::new(Vec::new())),
            false => self.open_directory(node).await,
        }
    }

    /// The directory that a directory is in.
    fn parent(&self, directory: Node) -> Result<Node> {
        Ok(match directory {
            Node::VersionSet(kind, _) => Node::Versions(kind),
            _ => Node::Root,
        })
    }

    fn refuse_change(&self, (_, name): Named<'_>) -> Error {
        let refused = Error::Version {
            name: name.to_string_lossy().into_owned(),
        };
        self.common.note("refused", &refused);
        refused
    }

    /// Begins a plain file, or a file of a directory.
    async fn create(
        &self,
        at: Named<'_>,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<(Attributes, AnyFile)> {
        self.common.gates_open()?;
        if let (Node::VersionSet(..), _) = at {
            self.begin_at_home(at.0, root_of(making.owner), asker).await?;
            return self.drafting.create(at, making, asker).await;
        }
        let number = self.number(&self.writable_name(at.1)?);
        let node = Node::Plain(self.kind, number);
        let opened = self.open_to_write(number, node, true, asker)?;
        let attributes = self.being_written(number).ok_or(Error::Stale)?;
        Ok((attributes, opened))
    }

    async fn make_directory(
        &self,
        at: Named<'_>,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        self.common.gates_open()?;
        if let (Node::VersionSet(..), _) = at {
            self.begin_at_home(at.0, root_of(making.owner), asker).await?;
            return self.drafting.make_directory(at, making, asker).await;
        }
        self.make_home(at.1, making, asker).await
    }

    async fn make_link(&self, at: Named<'_>, target: &OsStr, making: Making) -> Result<Attributes> {
        let (Node::VersionSet(..), _) = at else {
            return Err(self.refuse_change(at));
        };
        self.common.gates_open()?;
        self.begin_at_home(at.0, root_of(making.owner), None).await?;
        self.drafting.make_link(at, target, making).await
    }

    async fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        replace: bool,
        asker: Option<&Asker>,
    ) -> Result<()> {
        match self.written_in(from.0, from.1).await? {
            Some(_) => self.drafting.rename(from, to, replace, asker).await,
            None => Err(self.refuse_change(from)),
        }
    }

    async fn unlink(&self, at: Named<'_>) -> Result<()> {
        match self.written_in(at.0, at.1).await? {
            Some(_) => self.drafting.unlink(at).await,
            None => Err(self.refuse_change(at)),
        }
    }

    /// Right below, that of a directory which is being written gives it up; it must be empty.
    async fn remove_directory(&self, at: Named<'_>) -> Result<()> {
        if let Node::Versions(_) = at.0 {
            let home = self.home(at.1).filter(|home| self.drafting.is_at_home(*home));
            let home = home.ok_or_else(|| self.refuse_change(at))?;
            return self.drafting.remove_version(home).await;
        }
        match self.written_in(at.0, at.1).await? {
            Some(_) => self.drafting.remove_directory(at).await,
            None => Err(self.refuse_change(at)),
        }
    }

    /// Of a plain file `cp -p`, `rsync` and `install` set them, before or after they close it, and must not fail; it is its
    /// bytes, and has the mode of a dump.
    async fn set_attributes(&self, node: Node, change: Change) -> Result<()> {
        match node {
            Node::VersionSet(..) => {
                self.common.gates_open()?;
                self.begin_at_home(node, root_of(Owner::of_this_process()), None)
                    .await?;
                self.drafting.set_attributes(node, change).await
            }
            _ => Ok(()),
        }
    }

    /// That of a directory which is being written completes it.
    async fn sync_directory(&self, node: Node) -> Result<()> {
        if !self.drafting.is_at_home(node) {
            return Ok(());
        }
        let synced = self.drafting.sync_directory(node).await;
        self.listed.forget();
        synced
    }

    async fn read_link(&self, node: Node, asker: Option<&Asker>) -> Result<Bytes> {
        match node {
            Node::VersionsLatest(_, number) => Ok(self.latest(number, asker).await?.0.text().into()),
            _ => Err(Error::wrong_kind("a file")),
        }
    }
}
