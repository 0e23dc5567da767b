//! Versions that are written as a directory.
//!
//! The directory of a name, `files/NAME/`, is where the next one is written: making something in it, or changing its mode, owner or
//! time, begins a draft, from nothing. Until that is complete it is what the directory lists; the versions before are found by their
//! names, and are not listed: whoever copies a directory and removes what is not in its source (`rsync --delete`) shall not
//! meet them.

use std::ffi::OsStr;

use jiff::Timestamp;

use crate::archive::tree;
use crate::archive::tree::version::{SetName, Version};
use crate::linux::kernel::Owner;
use crate::mount::asker::Asker;
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Node};
use crate::mount::room::{Making, Room};
use crate::staging::version::AnyFiles;

use super::Versions;

/// Mode of the directory of a version that nobody has given one.
const MODE: u32 = 0o700;

/// Attributes of the directory of a version that begins with something in it.
pub(super) fn root_of(owner: Owner) -> tree::Attributes {
    of(Making { mode: MODE, owner })
}

fn of(making: Making) -> tree::Attributes {
    tree::Attributes {
        mode: making.mode & 0o7777,
        uid: making.owner.uid,
        gid: making.owner.gid,
        modified: Timestamp::now(),
    }
}

impl Versions {
    /// What is written under that name in a directory, if one is written there.
    pub(super) async fn written_in(&self, home: Node, name: &OsStr) -> Result<Option<Attributes>> {
        if !self.drafting.is_at_home(home) {
            return Ok(None);
        }
        match self.drafting.lookup((home, name), None).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.errno() == libc::ENOENT => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory of a name.
    pub(super) fn home(&self, name: &OsStr) -> Option<Node> {
        let set: SetName = name.to_str()?.parse().ok()?;
        Some(Node::VersionSet(self.kind, self.number(&set)))
    }

    /// Makes the directory of a name that has no version.
    pub(super) async fn make_home(
        &self,
        name: &OsStr,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let set = self.writable_name(name)?;
        let home = Node::VersionSet(self.kind, self.number(&set));
        if self.drafting.is_at_home(home) || !self.listed.of(&set, asker).await?.is_empty() {
            return Err(Error::Exists);
        }
        self.begin_at_home(home, of(making), asker).await?;
        self.drafting.at_home(home)
    }

    /// Begins the next version in a directory, unless one is being written there.
    pub(super) async fn begin_at_home(
        &self,
        home: Node,
        root: tree::Attributes,
        asker: Option<&Asker>,
    ) -> Result<()> {
        let _alone = self.beginning.lock().await;
        let Node::VersionSet(_, number) = home else {
            return Err(Error::NotDirectory);
        };
        if self.drafting.takes_more(home).await {
            return Ok(());
        }
        self.listed.forget();
        let set = self.set(number)?;
        let newest = self.listed.of(&set, asker).await?.pop();
        let at = set.next(newest.iter().map(|version| version.at), Timestamp::now());
        let judge = AnyFiles {
            kind: self.kind,
            version: Version::of(&set.version(at)).ok_or(Error::Clock)?,
            newest,
        };
        self.drafting.begin_version(home, judge, root).await
    }
}
