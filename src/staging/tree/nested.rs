//! A backup in a folder of another tree, `basebackups/host1/monday`: refused at its first file.
//!
//! Only a tree's own directory can be a backup. One below would be taken, synced and verified by its tools, and never be
//! complete (promise B9). So what only a backup's own directory has is not taken below a directory that has none of it.
//! In a tree that is a backup itself such files are data like others: somebody keeps a backup in a data directory.

use super::names::ROOT;
use super::{Error, MANIFEST, MANIFEST_TMP, TreeDraft};

/// What only a backup's own directory has.
const MARKS: [&[u8]; 8] = [
    b"backup_label",
    MANIFEST,
    MANIFEST_TMP,
    b"base.tar",
    b"base.tar.gz",
    b"base.tar.lz4",
    b"base.tar.zst",
    b"base.tar.bz2",
];

impl TreeDraft {
    /// May a file of that name come into that directory?
    ///
    /// # Errors
    /// [`Error::TooDeep`].
    pub(super) fn check_depth(&self, directory: u32, name: &[u8]) -> Result<(), Error> {
        if directory == ROOT || !MARKS.contains(&name) || self.looks_like_a_backup() {
            return Ok(());
        }
        let inside = self.names().path(directory).unwrap_or_default();
        let inside = String::from_utf8_lossy(&inside);
        let file = String::from_utf8_lossy(name);
        Err(Error::TooDeep {
            name: self.name.clone(),
            path: format!("{}/{inside}/{file}", self.name),
            hint: format!("{}-{}", self.name, inside.replace('/', "-")),
        })
    }

    fn looks_like_a_backup(&self) -> bool {
        let names = self.names();
        let own = [&b"PG_VERSION"[..], b"global"];
        MARKS
            .iter()
            .chain(&own)
            .any(|mark| names.child(ROOT, mark).is_ok())
    }

    /// Is there what PostgreSQL's tools begin a backup with, in a data directory's form or in tar files?
    pub(super) fn was_begun_as_backup(&self) -> bool {
        let names = self.names();
        let of_tools = MARKS
            .iter()
            .filter(|mark| ![MANIFEST, MANIFEST_TMP].contains(mark));
        of_tools.into_iter().any(|mark| names.child(ROOT, mark).is_ok())
    }
}
