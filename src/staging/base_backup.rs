//! Is a tree that was written through the mount a base backup, and all of it there? (promise B4)
//!
//! The judge of the trees in `basebackups/`, which [`super::tree`] asks by its [`Judge`]. PostgreSQL's own files say what
//! there should be, `backup_label`, `backup_manifest`, `global/pg_control`; without a manifest nobody knows:
//!
//! - `signs`: the names by which a backup is known before it is complete, and one in too deep a folder is refused;
//! - `recognise`: what the backup is, as in a data directory; `tar_backup`: in tar files;
//! - `tablespaces`, `links`: what links lead to is in the backup, or it is none;
//! - `verify`, `tar_verify`: the files are what the manifest says;
//! - `own_wal`: the WAL that it brings along is what is archived; `landmarks`: what is archived is its server's.

use async_trait::async_trait;

use crate::archive::tree::summary::Description;
use crate::archive::tree::{TreeKind, TreeName};

use crate::read::base::Candidates;

use super::tree;
use super::tree::judge::{Judge, Signs, TreeNames, Verdict, Written};
use super::tree::names::ROOT;

mod error;
mod landmarks;
mod links;
mod own_wal;
mod recognise;
mod signs;
mod tablespaces;
mod tar_backup;
mod tar_verify;
#[cfg(test)]
mod tests;
mod verify;

use error::Error;

/// PostgreSQL's manifest, while it is being written.
const MANIFEST_TMP: &[u8] = b"backup_manifest.tmp";

/// PostgreSQL's manifest.
const MANIFEST: &[u8] = b"backup_manifest";

/// Judges a base backup.
#[derive(Debug)]
pub(crate) struct BaseBackup {
    /// Path of its directory, as processes see it: by which a link that leads into it is known.
    pub(crate) directory: Vec<u8>,
}

#[async_trait]
impl Judge for BaseBackup {
    fn kind(&self) -> TreeKind {
        TreeKind::BaseBackup
    }

    fn candidates(&self) -> Candidates<'_> {
        Candidates::Backup(None)
    }

    /// Each backup is one.
    fn is_enough(&self, _earlier: &TreeName) -> bool {
        false
    }

    fn admit(&self, tree: &TreeName, names: &TreeNames, place: (u32, &[u8])) -> Result<(), tree::Error> {
        signs::check_depth(tree, names, place)
    }

    /// `pg_basebackup` ends with it.
    fn is_last(&self, from: (u32, &[u8]), to: (u32, &[u8])) -> bool {
        from == (ROOT, MANIFEST_TMP) && to == (ROOT, MANIFEST)
    }

    fn signs(&self, names: &TreeNames) -> Signs {
        signs::of(names)
    }

    async fn judge(&self, tree: Written<'_>) -> Result<Verdict, tree::Error> {
        let judged = Candidate(tree).verdict(&self.directory).await;
        judged.map_err(|error| match error {
            Error::Tree(error) => error,
            refused => tree.refused(refused.to_string()),
        })
    }
}

/// A tree that may be a base backup.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a>(Written<'a>);

impl Candidate<'_> {
    async fn verdict(self, directory: &[u8]) -> Result<Verdict, Error> {
        let mapped = tablespaces::mapped(&self.0.names(), directory).map_err(Error::NoBackup)?;
        let backup = self.recognise(&mapped).await?;
        Ok(Verdict {
            description: Description {
                content: TreeKind::BaseBackup,
                began: self.0.began(),
                method: self.0.method(),
                plain_tar: true,
                backup,
            },
            followed: mapped.into_iter().map(Into::into).collect(),
        })
    }
}
