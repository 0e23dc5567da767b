//! The judge of versions that are written as a directory, in `files/` or `dumps/`: whatever is in it belongs to it, and it is
//! whole when its writers have ended.

use async_trait::async_trait;

use crate::archive::tree::backup::Backup;
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::summary::Description;
use crate::archive::tree::version::Version;
use crate::archive::tree::{TreeKind, TreeName};
use crate::read::base::Candidates;

use super::tree;
use super::tree::judge::{Judge, Signs, TreeNames, Verdict, Written};
use super::tree::names::ROOT;

/// Judges a version.
#[derive(Debug)]
pub(crate) struct AnyFiles {
    pub(crate) kind: TreeKind,
    pub(crate) version: Version,
    /// The newest one that there was when it was begun.
    pub(crate) newest: Option<Version>,
}

#[async_trait]
impl Judge for AnyFiles {
    fn kind(&self) -> TreeKind {
        self.kind
    }

    fn candidates(&self) -> Candidates<'_> {
        Candidates::Versions(self.kind, &self.version.set)
    }

    /// The newest one is what the same content is found under.
    fn is_enough(&self, earlier: &TreeName) -> bool {
        self.newest.is_some() && Version::of(earlier) == self.newest
    }

    fn admit(&self, _tree: &TreeName, _names: &TreeNames, _place: (u32, &[u8])) -> Result<(), tree::Error> {
        Ok(())
    }

    fn is_last(&self, _from: (u32, &[u8]), _to: (u32, &[u8])) -> bool {
        false
    }

    /// Who syncs it must not be told that it is done while a file of it is being written.
    fn signs(&self, names: &TreeNames) -> Signs {
        Signs {
            begun: names.children(ROOT).is_ok_and(|children| !children.is_empty()),
            ending: None,
            claimed: false,
        }
    }

    async fn judge(&self, tree: Written<'_>) -> Result<Verdict, tree::Error> {
        if tree.names().children(ROOT)?.is_empty() {
            return Err(tree.refused("there is nothing in it"));
        }
        let ended = Ended {
            at: self.version.at,
            known_from: KnownFrom::Clock,
        };
        Ok(Verdict {
            description: Description {
                content: self.kind,
                began: tree.began(),
                method: tree.method(),
                plain_tar: true,
                backup: Backup::without_wal(self.version.set.to_string(), ended),
            },
            followed: Vec::new(),
        })
    }
}
