//! Brings a version of files back, into a directory that is new or empty, and nowhere else.
//!
//! A version is input: each path is walked from the directory by handle, no link is followed, and what is there already is an
//! error, never written over. Directories first, then what is in them, several files at once; then owner, mode and time, those
//! of directories last, because each name that is made in one changes its time.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::Version;
use crate::archive::tree::{Attributes, Content};
use crate::archive::{self, Archive};
use crate::beneath::Root;
use crate::job::progress::{Phase, Progress};
use crate::read::tree::TreeReader;
use crate::read::tree::stored::{Listed, StoredTree};
use crate::store::Patience;

/// Files that are written at once.
const AT_ONCE: usize = 8;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

/// What is all zeros becomes a hole, if it is so long and at such a multiple.
const HOLE_BYTES: usize = 4096;

/// Bits of a mode that mean something for an owner who may be another one here.
const SET_ID: u32 = 0o6000;

/// Mode of a file and a directory until they are done.
const PRIVATE: u32 = 0o600;
const PRIVATE_DIRECTORY: u32 = 0o700;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// Something is in the way.
    #[error(
        "{} is not empty, and nothing is written over what is there.\n\
         HINT: name a directory that is not there yet.",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// The directory, or something in it, cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was brought.
#[derive(Debug, Default)]
pub struct Restored {
    /// Files, of any kind but directories.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What has another owner than it had, because only root may give it away.
    pub other_owner: u64,
}

/// A version, and where it goes.
#[derive(Debug)]
pub struct Restore<'a> {
    /// The archive.
    pub archive: &'a Arc<Archive>,
    /// Which version.
    pub version: &'a Version,
    /// What there is to know of it.
    pub summary: &'a Summary,
    /// New or empty.
    pub directory: &'a Path,
    /// Who listens.
    pub progress: &'a Arc<dyn Progress>,
    /// For each request.
    pub patience: fn() -> Patience,
}

impl Restore<'_> {
    /// May it go there? Nothing is changed.
    ///
    /// # Errors
    /// [`Error::NotEmpty`], [`Error::Write`].
    pub fn check(&self) -> Result<(), Error> {
        let failed = |source| self.failed(b"", source);
        match Root::open(self.directory) {
            Ok(root) => match root.list(Path::new("")).map_err(failed)?.is_empty() {
                true => Ok(()),
                false => Err(Error::NotEmpty(self.directory.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.above().map_err(failed)?;
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Brings it.
    ///
    /// # Errors
    /// Any [`Error`]; what was written before stays.
    pub async fn run(&self) -> Result<Restored, Error> {
        self.check()?;
        let reader = TreeReader::alone(self.archive.clone());
        let name = self.version.tree();
        let tree = reader.open(&name, self.summary, (self.patience)()).await?;
        let root = self.open().map_err(|source| self.failed(b"", source))?;
        self.progress.phase(Phase::Restoring {
            bytes: self.summary.bytes,
        });
        let mut restored = Restored::default();
        let mut directories: Vec<(Box<[u8]>, Attributes)> = Vec::new();
        let numbers: Vec<u32> = (0..tree.entries()).collect();
        for numbers in numbers.chunks(AT_ONCE * 64) {
            let mut others = Vec::new();
            for number in numbers {
                let Some(found) = tree.entry(*number, (self.patience)()).await? else {
                    continue;
                };
                if found.entry().content != Content::Directory {
                    others.push(found);
                    continue;
                }
                let path = &found.entry().path;
                let made = root.make_directory(as_path(path), PRIVATE_DIRECTORY);
                made.map_err(|source| self.failed(path, source))?;
                directories.push((path.clone(), found.entry().attributes));
            }
            let brought = stream::iter(others).map(|found| self.bring((&reader, &tree), &root, found));
            let mut brought = brought.buffer_unordered(AT_ONCE);
            while let Some(one) = brought.try_next().await? {
                restored.files += 1;
                restored.bytes += one.bytes;
                restored.other_owner += one.other_owner;
            }
        }
        for (path, attributes) in directories.iter().rev() {
            let given = give(&root, path, *attributes);
            restored.other_owner += u64::from(!given.map_err(|source| self.failed(path, source))?);
        }
        self.progress.phase(Phase::Syncing);
        root.sync_file_system()
            .map_err(|source| self.failed(b"", source))?;
        Ok(restored)
    }

    async fn bring(
        &self,
        (reader, tree): (&TreeReader, &StoredTree),
        root: &Root,
        found: Listed,
    ) -> Result<Restored, Error> {
        let entry = found.entry();
        let failed = |source| self.failed(&entry.path, source);
        let path = as_path(&entry.path);
        if let Content::Symlink(target) = &entry.content {
            root.link_new(as_path(target), path).map_err(failed)?;
        }
        if let Some(stored) = found.file() {
            let file = root.create_new(path, PRIVATE).map_err(failed)?;
            file.set_len(stored.bytes).map_err(failed)?;
            let mut at = 0;
            while at < stored.bytes {
                let read = reader
                    .read(tree, &stored, at, READ_BYTES, (self.patience)())
                    .await;
                let read = read.map_err(|error| self.reading(&entry.path, &error))?;
                if read.is_empty() {
                    return Err(self.reading(&entry.path, &"it is shorter than its length"));
                }
                write_but_holes(&file, at, &read).map_err(failed)?;
                at += read.len() as u64;
                self.progress.advance(read.len() as u64);
            }
        }
        let is_given = give_entry(root, path, entry.attributes, &entry.content).map_err(failed)?;
        Ok(Restored {
            files: 1,
            bytes: found.file().map_or(0, |file| file.bytes),
            other_owner: u64::from(!is_given),
        })
    }

    /// Opens the directory, or makes it.
    fn open(&self) -> io::Result<Root> {
        match Root::open(self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (above, name) = self.above()?;
                above.make_new(Path::new(&name))
            }
            opened => opened,
        }
    }

    /// The directory in which it is to be made, and its name there.
    fn above(&self) -> io::Result<(Root, std::ffi::OsString)> {
        let name = self.directory.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let above = self.directory.parent().filter(|above| *above != Path::new(""));
        Ok((
            Root::open_to_pass(above.unwrap_or(Path::new(".")))?,
            name.to_owned(),
        ))
    }

    fn failed(&self, path: &[u8], source: io::Error) -> Error {
        let path = self.directory.join(as_path(path));
        Error::Write { path, source }
    }

    fn reading(&self, path: &[u8], reason: &dyn std::fmt::Display) -> Error {
        let what = String::from_utf8_lossy(path);
        let name = self.version.tree();
        Error::Archive(self.archive.tree_damaged(&name, &what, reason.to_string()))
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// What is zeros need not be written: the file has its length.
fn write_but_holes(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut from = 0;
    let is_hole = |chunk: &[u8]| chunk.iter().all(|byte| *byte == 0);
    for (number, chunk) in bytes.chunks(HOLE_BYTES).enumerate() {
        if is_hole(chunk) {
            let start = number * HOLE_BYTES;
            file.write_all_at(&bytes[from..start], at + from as u64)?;
            from = start + chunk.len();
        }
    }
    file.write_all_at(&bytes[from..], at + from as u64)
}

/// Owner, mode and time of a file or a link.
fn give_entry(root: &Root, path: &Path, attributes: Attributes, content: &Content) -> io::Result<bool> {
    match content {
        Content::Symlink(_) => {
            let is_given = give_owner(root, path, attributes)?;
            root.set_modified(path, attributes.modified.into())?;
            Ok(is_given)
        }
        _ => give(root, path.as_os_str().as_bytes(), attributes),
    }
}

/// Owner, mode and time. False if it keeps another owner: then nobody is to become that one by it.
fn give(root: &Root, path: &[u8], attributes: Attributes) -> io::Result<bool> {
    let path = as_path(path);
    let is_given = give_owner(root, path, attributes)?;
    let mode = match is_given {
        true => attributes.mode,
        false => attributes.mode & !SET_ID,
    };
    root.set_mode(path, mode)?;
    root.set_modified(path, attributes.modified.into())?;
    Ok(is_given)
}

fn give_owner(root: &Root, path: &Path, attributes: Attributes) -> io::Result<bool> {
    match root.set_owner(path, attributes.uid, attributes.gid) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_become_holes_and_nothing_else_changes() {
        let mut content = vec![0; 20 * HOLE_BYTES + 17];
        for at in [
            3,
            HOLE_BYTES + 1,
            5 * HOLE_BYTES,
            19 * HOLE_BYTES,
            20 * HOLE_BYTES + 16,
        ] {
            content[at] = 7;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(content.len() as u64).unwrap();
        for (number, piece) in content.chunks(3 * HOLE_BYTES + 5).enumerate() {
            write_but_holes(file.as_file(), (number * (3 * HOLE_BYTES + 5)) as u64, piece).unwrap();
        }
        assert_eq!(std::fs::read(file.path()).unwrap(), content);
    }
}
