//! `files/` and `dumps/`: versions as directories, `files/NAME/VERSION/`, and `files/NAME/LATEST`. Nothing is written here.
//!
//! A name is here as long as it has a version. What is *in* a version is what is in a backup, and is shown by the same code. The
//! store is asked at every opening of a directory and for every name that is not known; the versions that it named serve
//! for a second.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeKind};

use super::asker::Asker;
use super::basebackups::complete::{Complete, is_damage};
use super::common::Common;
use super::directory::{Entries, numbered};
use super::error::{Error, Result};
use super::node::{Attributes, Kept, Kind, Node};
use super::room::{Named, Room};

/// How long the versions serve that the store has named.
const KEPT: Duration = Duration::from_secs(1);

/// Versions, in the order of their names, and when the store named them.
type Listed = (Instant, Arc<Vec<Version>>);

/// `files/` or `dumps/`
#[derive(Debug)]
pub(super) struct Versions {
    kind: TreeKind,
    common: Arc<Common>,
    complete: Arc<Complete>,
    /// Names that were seen, by their numbers.
    sets: Mutex<Vec<SetName>>,
    listed: Mutex<Option<Listed>>,
}

impl Versions {
    /// Of a kind. `complete`: by which all complete trees are known.
    pub(super) fn new(kind: TreeKind, common: Arc<Common>, complete: Arc<Complete>) -> Self {
        Self {
            kind,
            common,
            complete,
            sets: Mutex::default(),
            listed: Mutex::default(),
        }
    }

    /// All versions.
    async fn list(&self, asker: Option<&Asker>) -> Result<Arc<Vec<Version>>> {
        let common = &self.common;
        let trees = common.archive.trees(self.kind, common.prompt_patience());
        let trees = common.while_wanted(asker, trees).await??;
        let versions = trees.iter().filter_map(|(name, _)| Version::of(name));
        let mut versions: Vec<Version> = versions.collect();
        versions.sort();
        let versions = Arc::new(versions);
        *self.listed.lock().expect("no panic while held") = Some((Instant::now(), versions.clone()));
        Ok(versions)
    }

    /// Those that the store named within the last second.
    fn recent(&self) -> Option<Arc<Vec<Version>>> {
        let listed = self.listed.lock().expect("no panic while held");
        let (when, versions) = listed.as_ref()?;
        (when.elapsed() < KEPT).then(|| versions.clone())
    }

    /// The versions of one name.
    async fn of(&self, set: &SetName, asker: Option<&Asker>) -> Result<Vec<Version>> {
        let of = |all: &[Version]| -> Vec<Version> {
            all.iter()
                .filter(|version| version.set == *set)
                .cloned()
                .collect()
        };
        let known = self.recent().map(|all| of(&all)).unwrap_or_default();
        match known.is_empty() {
            true => Ok(of(&self.list(asker).await?)),
            false => Ok(known),
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

    /// The directory of a name that has versions.
    fn directory(&self, set: &SetName) -> Attributes {
        self.common
            .directory(Node::VersionSet(self.kind, self.number(set)))
    }

    async fn version(&self, version: &Version, asker: Option<&Asker>) -> Result<Attributes> {
        let found = self.complete.named(self.kind, &version.tree(), asker).await?;
        Ok(self.complete.attributes(&found))
    }

    /// The newest version that can be read, and the link to it.
    async fn latest(&self, number: u32, asker: Option<&Asker>) -> Result<(Version, Attributes)> {
        let versions = self.of(&self.set(number)?, asker).await?;
        for version in versions.into_iter().rev() {
            match self.version(&version, asker).await {
                Ok(found) => {
                    let link = Attributes {
                        ino: self.common.inodes.number(Node::VersionsLatest(self.kind, number)),
                        kind: Kind::Symlink,
                        bytes: version.text().len() as u64,
                        mode: 0o777,
                        owner: None,
                        kept: Kept::Never,
                        ..found
                    };
                    return Ok((version, link));
                }
                Err(Error::NotFound) => {}
                Err(Error::Archive(error)) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::NotFound)
    }

    /// What is in the directory of a name. A version that cannot be read is named in the log and left out.
    async fn list_set(&self, number: u32) -> Result<Vec<(OsString, Attributes)>> {
        let set = self.set(number)?;
        let mut found = Vec::new();
        for version in self.list(None).await?.iter().filter(|version| version.set == set) {
            let attributes = self.version(version, None).await;
            match self.common.noted("list versions", attributes) {
                Ok(attributes) => found.push((version.text().into(), attributes)),
                Err(Error::NotFound) => {}
                Err(Error::Archive(error)) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match self.latest(number, None).await {
            Ok((_, link)) => found.push((LATEST.into(), link)),
            Err(Error::NotFound) => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }
}

#[async_trait]
impl Room for Versions {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        let name = name.to_str().ok_or(Error::NotFound)?;
        match parent {
            Node::Versions(_) => {
                let set: SetName = name.parse().map_err(|_| Error::NotFound)?;
                match self.of(&set, asker).await?.is_empty() {
                    true => Err(Error::NotFound),
                    false => Ok(self.directory(&set)),
                }
            }
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
            node => Ok(self.common.directory(node)),
        }
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let found: Vec<(OsString, Attributes)> = match node {
            Node::Versions(_) => {
                let versions = self.common.noted("list versions", self.list(None).await)?;
                let mut sets: Vec<&SetName> = versions.iter().map(|version| &version.set).collect();
                sets.dedup();
                let named = sets
                    .into_iter()
                    .map(|set| (set.as_str().into(), self.directory(set)));
                named.collect()
            }
            Node::VersionSet(_, number) => self.common.noted("list versions", self.list_set(number).await)?,
            _ => return Err(Error::NotDirectory),
        };
        Ok(Arc::new(numbered(found, 0)))
    }

    /// The directory that a directory is in.
    fn parent(&self, directory: Node) -> Result<Node> {
        Ok(match directory {
            Node::VersionSet(kind, _) => Node::Versions(kind),
            _ => Node::Root,
        })
    }

    async fn read_link(&self, node: Node, asker: Option<&Asker>) -> Result<Bytes> {
        match node {
            Node::VersionsLatest(_, number) => Ok(self.latest(number, asker).await?.0.text().into()),
            _ => Err(Error::wrong_kind("a file")),
        }
    }
}
