//! What is there already: by content, never by time or size alone.
//!
//! A local file is read chunk by chunk and compared with the hashes that were stored with the backup. What differs or is
//! missing is to be brought; what is in the directory and not in the backup is to go. An interrupted restore is continued
//! in the same way.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::Error;
use super::place::{CONTROL, MARK};
use super::tablespaces::Place;
use crate::archive::tree::chunks::{self, ChunkHash};
use crate::archive::tree::{Content, Tree};
use crate::codec::FRAME_BYTES;

/// A file of the backup, and which bytes of it are not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileWork {
    /// Its number in the tree.
    pub entry: u32,
    /// Where it goes.
    pub path: PathBuf,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Its hashes, by their places in the list of all.
    pub hashes: Range<usize>,
    /// Bytes to be brought: ascending, apart from each other.
    pub missing: Vec<Range<u64>>,
}

/// All files of the backup but the control file, none of which is there.
pub(super) fn files(tree: &Tree, destination: impl Fn(&[u8]) -> PathBuf) -> Vec<FileWork> {
    let mut files = Vec::new();
    let mut hashes = 0;
    for (entry, number) in tree.entries().iter().zip(0..) {
        let Content::File { bytes, .. } = entry.content else {
            continue;
        };
        let first = hashes;
        hashes += chunks::count(bytes) as usize;
        if *entry.path == *CONTROL.as_bytes() {
            continue;
        }
        let whole = 0..bytes;
        files.push(FileWork {
            entry: number,
            path: destination(&entry.path),
            bytes,
            hashes: first..hashes,
            missing: if bytes > 0 { vec![whole] } else { vec![] },
        });
    }
    files
}

/// Which bytes of a file are not there as they should be.
pub(super) fn missing(work: &FileWork, hashes: &[ChunkHash]) -> Result<Vec<Range<u64>>, Error> {
    let is_file = fs::symlink_metadata(&work.path).is_ok_and(|found| found.is_file() && !is_shared(&found));
    if !is_file {
        return Ok(work.missing.clone());
    }
    let file = File::open(&work.path).map_err(Error::at("read", &work.path))?;
    let mut room = vec![0; FRAME_BYTES];
    let mut missing: Vec<Range<u64>> = Vec::new();
    for (index, hash) in (0..).zip(&hashes[work.hashes.clone()]) {
        let range = chunks::range(index, work.bytes);
        let chunk = &mut room[..(range.end - range.start) as usize];
        match file.read_exact_at(chunk, range.start) {
            Ok(()) if ChunkHash::of(chunk) == *hash => continue,
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(Error::at("read", &work.path)(error));
            }
            _ => {}
        }
        match missing.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => missing.push(range),
        }
    }
    Ok(missing)
}

/// What is below the data directory, or below the tablespaces' parts of it, and not in the backup; directories before
/// what is in them, of which only the topmost is named.
pub(super) fn strangers(tree: &Tree, data: &Path, places: &[Place]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    walk(tree, data, b"", &mut found)?;
    // Links of tablespaces are made anew, whatever they are.
    let links: Vec<PathBuf> = places
        .iter()
        .map(|place| data.join("pg_tblspc").join(place.oid.to_string()))
        .collect();
    found.retain(|path| !(links.contains(path) && path.is_symlink()));
    for place in places {
        // Other versions of PostgreSQL may have directories of their own beside.
        let root = format!("pg_tblspc/{}", place.oid).into_bytes();
        let number = tree.find(&root).unwrap_or_default();
        for child in tree.children(number) {
            let Some(entry) = tree.entry(*child) else { continue };
            let below = place.directory.join(OsStr::from_bytes(entry.name()));
            if entry.content == Content::Directory && below.is_dir() {
                walk(tree, &below, &entry.path, &mut found)?;
            }
        }
    }
    Ok(found)
}

fn walk(tree: &Tree, directory: &Path, path: &[u8], found: &mut Vec<PathBuf>) -> Result<(), Error> {
    let entries = fs::read_dir(directory).map_err(Error::at("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(Error::at("read", directory))?;
        let (name, local) = (entry.file_name(), entry.path());
        let below = [path, if path.is_empty() { b"" } else { b"/" }, name.as_bytes()].concat();
        let kind = entry.file_type().map_err(Error::at("look at", &local))?;
        if below == MARK.as_bytes() {
            continue;
        }
        let expected = tree.find(&below).and_then(|number| tree.entry(number));
        match expected.map(|entry| &entry.content) {
            Some(Content::Directory) if kind.is_dir() => walk(tree, &local, &below, found)?,
            Some(Content::File { .. }) if kind.is_file() => {
                if entry.metadata().is_ok_and(|found| is_shared(&found)) {
                    found.push(local);
                }
            }
            // Links are made anew.
            _ => found.push(local),
        }
    }
    Ok(())
}

/// Has the file another name, too? Whoever has that name must keep what is in it: it is not written to but made anew.
fn is_shared(found: &fs::Metadata) -> bool {
    found.nlink() > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(path: PathBuf, bytes: u64) -> FileWork {
        let hashes = 0..chunks::count(bytes) as usize;
        let whole = 0..bytes;
        FileWork {
            entry: 1,
            path,
            bytes,
            hashes,
            missing: vec![whole],
        }
    }

    #[test]
    fn only_what_differs_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1259");
        let plain: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 777) as u8).collect();
        let (hashes, work) = (chunks::of(&plain), work(path.clone(), 1_000_000));
        let differing = |local: &[u8]| {
            fs::write(&path, local).unwrap();
            missing(&work, &hashes).unwrap()
        };
        assert_eq!(differing(&plain), []);
        let mut changed = plain.clone();
        changed[300_000] ^= 1;
        assert_eq!(differing(&changed), [chunks::range(1, 1_000_000)]);
        let cut = chunks::range(2, 1_000_000).start..1_000_000;
        assert_eq!(differing(&plain[..600_000]), [cut]);
        // A longer one is cut when it is opened for writing.
        assert_eq!(differing(&[&plain[..], b"more"].concat()), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(
            missing(&work, &hashes).unwrap(),
            std::slice::from_ref(&(0..1_000_000))
        );
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(
            missing(&work, &hashes).unwrap(),
            std::slice::from_ref(&(0..1_000_000))
        );
    }

    /// `cp -al` keeps a copy of a data directory by hard links: it must stay what it was.
    #[test]
    fn a_file_with_another_name_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("file"), place.path().join("kept"));
        fs::write(&path, [7; 1000]).unwrap();
        let hashes = chunks::of(&[7; 1000]);
        let work = work(path.clone(), 1000);
        assert_eq!(missing(&work, &hashes).unwrap(), []);
        fs::hard_link(&path, &other).unwrap();
        assert_eq!(missing(&work, &hashes).unwrap(), work.missing);
    }
}
