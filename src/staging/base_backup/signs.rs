//! The names by which a base backup is known before it is complete, and where it may be.
//!
//! Only a tree's own directory can be a backup. One in a folder of another tree, `basebackups/host1/monday`, would be taken,
//! synced and verified by its tools, and never be complete (promise B9). So what only a backup's own directory has is not
//! taken below a directory that has none of it: the backup is refused at its first file. In a tree that is a backup itself
//! such files are data like others: somebody keeps a backup in a data directory.

use crate::archive::tree::TreeName;
use crate::staging::tree::Error;
use crate::staging::tree::judge::Signs;
use crate::staging::tree::names::{Kind, Names, ROOT};

use super::{MANIFEST, MANIFEST_TMP};

/// What PostgreSQL's tools begin a backup with, in a data directory's form or in tar files, and only its own directory has.
const FIRST: [&[u8]; 6] = [
    b"backup_label",
    b"base.tar",
    b"base.tar.gz",
    b"base.tar.lz4",
    b"base.tar.zst",
    b"base.tar.bz2",
];

/// What a data directory has.
const DATA: [&[u8]; 2] = [b"PG_VERSION", b"global"];

/// How far the writers of a backup are.
pub(super) fn of<F>(names: &Names<F>) -> Signs {
    let is_there = |name: &[u8]| names.child(ROOT, name).is_ok();
    let manifest = names.find(MANIFEST).map(|number| names.kind(number));
    Signs {
        begun: FIRST.into_iter().any(is_there),
        ending: is_there(MANIFEST_TMP).then_some("its backup_manifest has not got its name yet"),
        // Of whatever worth: then it should be a backup.
        claimed: matches!(manifest, Some(Ok(Kind::File(_)))),
    }
}

/// May a file of that name come into that directory?
///
/// # Errors
/// [`Error::NotTaken`].
pub(super) fn check_depth<F>(
    tree: &TreeName,
    names: &Names<F>,
    (directory, name): (u32, &[u8]),
) -> Result<(), Error> {
    let marks = || FIRST.into_iter().chain([MANIFEST, MANIFEST_TMP]);
    let is_backup = || marks().chain(DATA).any(|mark| names.child(ROOT, mark).is_ok());
    if directory == ROOT || marks().all(|mark| mark != name) || is_backup() {
        return Ok(());
    }
    let inside = names.path(directory).unwrap_or_default();
    let inside = String::from_utf8_lossy(&inside);
    let file = String::from_utf8_lossy(name);
    let hint = inside.replace('/', "-");
    Err(Error::NotTaken(format!(
        "{tree}/{inside}/{file} is not taken: a backup's own directory is basebackups/NAME, none deeper, and {tree} is no \
         backup itself\n\
         HINT: put it into basebackups/{tree}-{hint}"
    )))
}
