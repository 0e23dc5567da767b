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
use std::ffi::{OsStr, OsString};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeKind, TreeName};
use crate::linux::kernel::Owner;
use crate::staging::tree::Change;

use super::asker::Asker;
use super::basebackups::Basebackups;
use super::basebackups::complete::Complete;
use super::basebackups::drafting::Drafting;
use super::basebackups::slots::Committed;
use super::common::Common;
use super::directory::{Entries, numbered};
use super::error::{Error, Result};
use super::node::{Attributes, Kept, Kind, Node};
use super::room::{AnyFile, Making, Named, Opening, Room};

mod directory;
mod listed;
mod newest;
mod writing;

use directory::root_of;
use listed::{Listed, readable};
use newest::OpenNewest;
use writing::OpenPlain;

/// Summaries read at once for a listing.
const READS: usize = 8;

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

    /// A name, as its newest version is: a file, or the directory of its versions.
    async fn shown(
        &self,
        set: &SetName,
        versions: Vec<Version>,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let number = self.number(set);
        let home = Node::VersionSet(self.kind, number);
        if self.drafting.is_at_home(home) {
            return self.drafting.at_home(home);
        }
        let newest = readable(self.listed.newest(versions, asker).await)?;
        Ok(match newest {
            Some((_, newest)) if newest.summary.backup.plain_file => {
                self.plain(&newest, Node::Plain(self.kind, number))
            }
            _ => self.common.directory(home),
        })
    }

    /// A plain file, all of which its summary tells.
    fn plain(&self, version: &Committed, node: Node) -> Attributes {
        Attributes {
            modified: version.summary.backup.ended.at.into(),
            mode: PLAIN_MODE,
            ..self.common.file(node, version.summary.bytes)
        }
    }

    /// A version right below, `NAME@VERSION`: of a plain file.
    fn beside(&self, version: &Committed) -> Option<Attributes> {
        let node = Node::Tree(version.node(THE_FILE));
        let is_plain = version.summary.backup.plain_file;
        is_plain.then(|| self.plain(version, node))
    }

    /// What is found under a name right below.
    async fn find(&self, name: &str, asker: Option<&Asker>) -> Result<Attributes> {
        let version = name.parse::<TreeName>().ok();
        if let Some(version) = version.as_ref().and_then(Version::of) {
            let found = self.listed.version(&version, asker).await?;
            return self.beside(&found).ok_or(Error::NotFound);
        }
        let set: SetName = name.parse().map_err(|_| Error::NotFound)?;
        let versions = self.listed.of(&set, asker).await?;
        let home = Node::VersionSet(self.kind, self.number(&set));
        match versions.is_empty() && !self.drafting.is_at_home(home) {
            true => Err(Error::NotFound),
            false => self.shown(&set, versions, asker).await,
        }
    }

    async fn version(&self, version: &Version, asker: Option<&Asker>) -> Result<Attributes> {
        let found = self.listed.version(version, asker).await?;
        Ok(self.complete.attributes(&found))
    }

    /// The newest version that can be read, and the link to it.
    async fn latest(&self, number: u32, asker: Option<&Asker>) -> Result<(Version, Attributes)> {
        let versions = self.listed.of(&self.set(number)?, asker).await?;
        let (version, found) = self.listed.newest(versions, asker).await?;
        let link = Attributes {
            ino: self.common.inodes.number(Node::VersionsLatest(self.kind, number)),
            kind: Kind::Symlink,
            bytes: version.text().len() as u64,
            mode: 0o777,
            owner: None,
            kept: Kept::Never,
            ..self.complete.attributes(&found)
        };
        Ok((version, link))
    }

    /// The newest version of a plain file.
    async fn newest(&self, number: u32, asker: Option<&Asker>) -> Result<Arc<Committed>> {
        let versions = self.listed.of(&self.set(number)?, asker).await?;
        Ok(self.listed.newest(versions, asker).await?.1)
    }

    /// All names, and the versions of plain files.
    async fn list_all(&self) -> Result<Vec<(OsString, Attributes)>> {
        let versions = self.listed.all(None).await?;
        let sets: Vec<Vec<Version>> = versions
            .chunk_by(|one, next| one.set == next.set)
            .map(<[Version]>::to_vec)
            .collect();
        let listed = stream::iter(sets).map(|of_set| self.list_name(of_set));
        let listed: Vec<Vec<_>> = listed.buffered(READS).try_collect().await?;
        let mut listed: Vec<(OsString, Attributes)> = listed.into_iter().flatten().collect();
        listed.extend(self.list_homes(&versions));
        Ok(listed)
    }

    /// Directories that are being written, and have no version.
    fn list_homes(&self, versions: &[Version]) -> Vec<(OsString, Attributes)> {
        let homes = self.drafting.homes().into_iter();
        let named = homes.filter_map(|home| match home {
            Node::VersionSet(kind, number) if kind == self.kind => {
                let set = self.set(number).ok()?;
                let has_versions = versions.iter().any(|version| version.set == set);
                let attributes = self.drafting.at_home(home).ok()?;
                (!has_versions).then(|| (set.as_str().into(), attributes))
            }
            _ => None,
        });
        named.collect()
    }

    /// A name, and its versions that are plain files. One that cannot be read is named in the log and left out.
    async fn list_name(&self, versions: Vec<Version>) -> Result<Vec<(OsString, Attributes)>> {
        let Some(set) = versions.first().map(|version| version.set.clone()) else {
            return Ok(Vec::new());
        };
        let shown = self.shown(&set, versions.clone(), None).await?;
        let is_plain = !shown.is_directory();
        let mut found = vec![(OsString::from(set.as_str()), shown)];
        for version in versions.iter().filter(|_| is_plain) {
            let known = self.listed.version(version, None).await;
            let known = readable(self.common.noted("list versions", known))?;
            if let Some(attributes) = known.and_then(|known| self.beside(&known)) {
                found.push((version.tree().as_str().into(), attributes));
            }
        }
        Ok(found)
    }

    /// What is in the directory of a name. A version that cannot be read is named in the log and left out.
    async fn list_set(&self, number: u32) -> Result<Vec<(OsString, Attributes)>> {
        let set = self.set(number)?;
        let mut found = Vec::new();
        for version in self
            .listed
            .all(None)
            .await?
            .iter()
            .filter(|version| version.set == set)
        {
            let attributes = self.version(version, None).await;
            if let Some(attributes) = readable(self.common.noted("list versions", attributes))? {
                found.push((version.text().into(), attributes));
            }
        }
        if let Some((_, link)) = readable(self.latest(number, None).await)? {
            found.push((LATEST.into(), link));
        }
        Ok(found)
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
        is_truncated: bool,
        asker: Option<&Asker>,
    ) -> Result<AnyFile> {
        self.common.gates_open()?;
        let node = Node::Plain(self.kind, number);
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

    /// What is being written under a name, for who has it open and looks at it.
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
            Node::Plain(_, number) => match self.being_written(number) {
                Some(written) => Ok(written),
                None => Ok(self.plain(&*self.newest(number, asker).await?, node)),
            },
            home if self.drafting.is_at_home(home) => self.drafting.at_home(home),
            node => Ok(self.common.directory(node)),
        }
    }

    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        let Node::Plain(_, number) = node else {
            return Err(Error::IsDirectory);
        };
        match opening {
            Opening::Read => {
                let newest = self.newest(number, asker).await?;
                let node = Node::Tree(newest.node(THE_FILE));
                let opened = self.browser.open(node, opening, asker).await?;
                Ok(Arc::new(OpenNewest(opened)))
            }
            Opening::Write | Opening::Replace => {
                self.open_to_write(number, opening == Opening::Replace, asker)
            }
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
        let opened = self.open_to_write(number, true, asker)?;
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
            Node::Plain(..) => Ok(()),
            Node::VersionSet(..) => {
                self.common.gates_open()?;
                self.begin_at_home(node, root_of(Owner::of_this_process()), None)
                    .await?;
                self.drafting.set_attributes(node, change).await
            }
            _ => Err(self.refuse_change((node, OsStr::new("a directory of the mount")))),
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
