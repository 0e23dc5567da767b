//! What is shown: names as their newest version is, versions beside plain files or in the directory of their name.

use std::ffi::OsString;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::tree::version::{SetName, Version};
use crate::archive::tree::{LATEST, TreeName};
use crate::mount::asker::Asker;
use crate::mount::basebackups::slots::Committed;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind, Node};

use super::listed::readable;
use super::{PLAIN_MODE, THE_FILE, Versions};

/// Summaries read at once for a listing.
const READS: usize = 8;

impl Versions {
    /// A name, as its newest version is: a file, or the directory of its versions.
    pub(super) async fn shown(
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
            Some((_, newest)) if newest.summary.backup.plain_file => self.newest_file(&newest),
            _ => self.common.directory(home),
        })
    }

    /// A plain file as it is in its newest version.
    pub(super) fn newest_file(&self, version: &Committed) -> Attributes {
        let slot = version.node(THE_FILE).slot;
        self.plain(version, Node::Newest(self.kind, slot))
    }

    /// A plain file, all of which its summary tells.
    pub(super) fn plain(&self, version: &Committed, node: Node) -> Attributes {
        Attributes {
            modified: version.summary.backup.ended.at.into(),
            mode: PLAIN_MODE,
            ..self.common.file(node, version.summary.bytes)
        }
    }

    /// A version right below, `NAME@VERSION`: of a plain file.
    pub(super) fn beside(&self, version: &Committed) -> Option<Attributes> {
        let node = Node::Tree(version.node(THE_FILE));
        let is_plain = version.summary.backup.plain_file;
        is_plain.then(|| self.plain(version, node))
    }

    /// What is found under a name right below.
    pub(super) async fn find(&self, name: &str, asker: Option<&Asker>) -> Result<Attributes> {
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

    pub(super) async fn version(&self, version: &Version, asker: Option<&Asker>) -> Result<Attributes> {
        let found = self.listed.version(version, asker).await?;
        Ok(self.complete.attributes(&found))
    }

    /// The newest version that can be read, and the link to it.
    pub(super) async fn latest(&self, number: u32, asker: Option<&Asker>) -> Result<(Version, Attributes)> {
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

    /// All names, and the versions of plain files.
    pub(super) async fn list_all(&self) -> Result<Vec<(OsString, Attributes)>> {
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
    pub(super) fn list_homes(&self, versions: &[Version]) -> Vec<(OsString, Attributes)> {
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
    pub(super) async fn list_name(&self, versions: Vec<Version>) -> Result<Vec<(OsString, Attributes)>> {
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
    pub(super) async fn list_set(&self, number: u32) -> Result<Vec<(OsString, Attributes)>> {
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
}
