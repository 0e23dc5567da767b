//! What is there already: by content, never by time or size alone.
//!
//! A local file is read chunk by chunk, and its pages are compared with the hashes that were stored with the backup. What
//! differs or is missing is to be brought; what is in the directory and not in the backup is to go. An interrupted restore is continued
//! in the same way.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use tokio::runtime::Handle;

use super::content::Source;
use super::error::Error;
use super::links;
use super::place::{CONTROL, LOST_AND_FOUND, MARK, PLACE_MARK, START_LOCK};
use super::spot::{Base, Bases, Roots, Spot};
use crate::archive::tree::page_hashes::{PAGE_BYTES, PageHash, PageKey};
use crate::archive::tree::{Content, Tree};
use crate::beneath::{Kind, Root};
use crate::codec::FRAME_BYTES;
use crate::read::page_hashes::{FileHashes, PageHashReader};
use crate::read::tree::TreeReader;
use crate::read::tree::stored::StoredTree;

/// A file of the backup, and which bytes of it are not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileWork {
    /// Its number in the tree.
    pub entry: u32,
    /// Where it goes.
    pub spot: Spot,
    /// Its length, in bytes.
    pub bytes: u64,
    /// Bytes to be brought: ascending, apart from each other.
    pub missing: Vec<Range<u64>>,
}

/// All files of the backup but the control file, none of which is there.
pub(super) fn files(tree: &Tree, bases: &Bases) -> Vec<FileWork> {
    let mut files = Vec::new();
    for (entry, number) in tree.entries().iter().zip(0..) {
        let Content::File { bytes, .. } = entry.content else {
            continue;
        };
        let spot = bases.spot(&entry.path);
        if *entry.path == *CONTROL.as_bytes() || links::is_left_out(&entry.path) || bases.is_nested(&spot) {
            continue;
        }
        let whole = 0..bytes;
        files.push(FileWork {
            entry: number,
            spot,
            bytes,
            missing: if bytes > 0 { vec![whole] } else { vec![] },
        });
    }
    files
}

/// Which bytes of a file are not there as they should be. `expected` gives the hashes of a range's pages.
pub(super) fn missing<I: IntoIterator<Item = Option<PageHash>>>(
    roots: &Roots,
    work: &FileWork,
    key: PageKey,
    mut expected: impl FnMut(Range<u64>) -> Result<I, Error>,
) -> Result<Vec<Range<u64>>, Error> {
    let found = roots.metadata(&work.spot);
    if !found?.is_some_and(|found| found.is_file() && !is_shared(&found)) {
        return Ok(work.missing.clone());
    }
    let file = roots.on("read", &work.spot, Root::open_file)?;
    let mut room = vec![0; FRAME_BYTES];
    let mut missing: Vec<Range<u64>> = Vec::new();
    for start in (0..work.bytes).step_by(FRAME_BYTES) {
        let range = start..work.bytes.min(start + FRAME_BYTES as u64);
        let read = read_at_most(
            &file,
            &mut room[..(range.end - range.start) as usize],
            range.start,
        );
        let read = read.map_err(Error::at("read", &roots.bases.path(&work.spot)))?;
        let found = key.pages(&room[..read]).map(Some).chain(std::iter::repeat(None));
        for (page, (found, expected)) in (0..).zip(found.zip(expected(range.clone())?)) {
            let from = range.start + page * PAGE_BYTES;
            let to = range.end.min(from + PAGE_BYTES);
            if found.is_some() && found == expected {
                continue;
            }
            match missing.last_mut() {
                Some(last) if last.end == from => last.end = to,
                _ => missing.push(from..to),
            }
        }
    }
    Ok(missing)
}

/// Is there nothing in a file but what it shall have, and zeros where that is missing?
pub(super) fn is_begun(roots: &Roots, work: &FileWork) -> bool {
    let is_blank = |file: &File, range: &Range<u64>| {
        let mut room = vec![0; FRAME_BYTES];
        (range.start..range.end).step_by(FRAME_BYTES).all(|start| {
            let bytes = (range.end - start).min(FRAME_BYTES as u64) as usize;
            let read = read_at_most(file, &mut room[..bytes], start);
            read.is_ok_and(|read| room[..read].iter().all(|byte| *byte == 0))
        })
    };
    let opened = roots.on("read", &work.spot, Root::open_file);
    opened.is_ok_and(|file| {
        let is_longer = file.metadata().is_ok_and(|found| found.len() > work.bytes);
        !is_longer && work.missing.iter().all(|range| is_blank(&file, range))
    })
}

/// The hashes of some pages; `None` for those of which none is stored.
type Pages = Result<Vec<Option<PageHash>>, Error>;

/// What was stored of the backup's pages.
pub(super) struct Hashes<'a> {
    source: &'a Source,
    tree: StoredTree,
    reader: PageHashReader,
    runtime: Handle,
}

impl<'a> Hashes<'a> {
    pub(super) async fn new(source: &'a Source) -> Result<Self, Error> {
        let trees = TreeReader::alone(source.archive.clone());
        Ok(Self {
            source,
            tree: trees
                .open(&source.backup, &source.summary, source.patience)
                .await?,
            reader: PageHashReader::new(source.archive.clone()),
            runtime: Handle::current(),
        })
    }

    /// By what pages are hashed.
    pub(super) fn key(&self) -> PageKey {
        self.reader.key()
    }

    /// Of the ranges of one file, on a thread for blocking work. The file is looked for by its path: what a restore leaves out
    /// has no number in its tree.
    pub(super) fn of_file(&self, file: &FileWork) -> Result<impl FnMut(Range<u64>) -> Pages, Error> {
        let patience = self.source.patience;
        let path = &self.source.tree.entries()[file.entry as usize].path;
        let found = self.runtime.block_on(self.tree.find(path, patience))?;
        let stored = found.and_then(|found| found.file());
        let mut hashes = stored.map(|stored| FileHashes::new(&self.reader, &self.tree, stored));
        Ok(move |range: Range<u64>| {
            let Some(hashes) = &mut hashes else {
                return Ok(vec![
                    None;
                    (range.end - range.start).div_ceil(PAGE_BYTES) as usize
                ]);
            };
            let found = self.runtime.block_on(hashes.of_range(range, patience))?;
            Ok(found.into_iter().map(|page| page.map(|(hash, _)| hash)).collect())
        })
    }
}

/// As many bytes as there are, of so many as there is room for.
fn read_at_most(file: &File, room: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < room.len() {
        match file.read_at(&mut room[read..], at + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// What is below the directories, of tablespaces' the parts that are this cluster's, and not in the backup; directories
/// before what is in them, of which only the topmost is named.
pub(super) fn strangers(tree: &Tree, roots: &Roots) -> Result<Vec<Spot>, Error> {
    let mut search = Search {
        tree,
        roots,
        found: Vec::new(),
    };
    for (base, root) in roots.all() {
        let here = |below: &Path| Spot {
            base,
            below: below.to_owned(),
        };
        match base {
            Base::Data => search.walk(root, &here(Path::new("")), b"")?,
            Base::Wal => search.walk(root, &here(Path::new("")), b"pg_wal")?,
            // Other versions of PostgreSQL may have directories of their own beside.
            Base::Tablespace(number) => {
                let place = format!("pg_tblspc/{}", roots.bases.places[number].oid).into_bytes();
                for entry in tree.children(&place) {
                    let spot = roots.bases.spot(&entry.path);
                    if entry.content == Content::Directory && roots.kind(&spot)? == Some(Kind::Directory) {
                        let directory = roots.on("open", &spot, Root::directory)?;
                        search.walk(&directory, &spot, &entry.path)?;
                    }
                }
            }
        }
    }
    Ok(search.found)
}

struct Search<'a> {
    tree: &'a Tree,
    roots: &'a Roots,
    found: Vec<Spot>,
}

impl Search<'_> {
    /// Looks at a directory, which stands for `path` of the backup.
    fn walk(&mut self, directory: &Root, at: &Spot, path: &[u8]) -> Result<(), Error> {
        let names = directory.list(Path::new(""));
        for (name, kind) in names.map_err(Error::at("read", directory.path()))? {
            let below = [path, if path.is_empty() { b"" } else { b"/" }, name.as_bytes()].concat();
            let spot = Spot {
                base: at.base,
                below: at.below.join(&name),
            };
            match self.is_walked(directory, &spot, &below, kind)? {
                Some(true) => {
                    let inside = directory.directory(Path::new(&name));
                    let inside = inside.map_err(Error::at("open", &self.roots.bases.path(&spot)))?;
                    self.walk(&inside, &spot, &below)?;
                }
                Some(false) => {}
                None => self.found.push(spot),
            }
        }
        Ok(())
    }

    /// Does it stay, and is it to be looked into? `None`: a stranger.
    fn is_walked(
        &self,
        directory: &Root,
        spot: &Spot,
        path: &[u8],
        kind: Kind,
    ) -> Result<Option<bool>, Error> {
        let expected = self.tree.find(path).and_then(|number| self.tree.entry(number));
        let expected = expected.filter(|_| !links::is_left_out(path));
        let nested = |of: fn(&Path, &Path) -> bool| {
            let mut nested = self.roots.bases.nested();
            spot.base == Base::Data && nested.any(|nested| of(nested, &spot.below))
        };
        Ok(match expected.map(|entry| &entry.content) {
            _ if path == MARK.as_bytes()
                || is_place_mark(spot)
                || (path == START_LOCK.as_bytes() && kind == Kind::File)
                || is_own_link(&self.roots.bases, path, kind) =>
            {
                Some(false)
            }
            _ if kind == Kind::Directory
                && (is_lost_and_found(spot) || nested(|nested, at| nested == at)) =>
            {
                Some(false)
            }
            Some(Content::Directory) if kind == Kind::Directory => Some(true),
            // Of these each file is named: WAL may be among them.
            _ if kind == Kind::Directory && matches!(path, b"pg_wal" | b"pg_wal/archive_status") => {
                Some(true)
            }
            Some(Content::File { .. }) if kind == Kind::File => {
                let name = spot.below.file_name().unwrap_or_default();
                let found = directory.metadata(Path::new(name));
                found.is_ok_and(|found| !is_shared(&found)).then_some(false)
            }
            _ if kind == Kind::Directory && nested(|nested, at| nested.starts_with(at)) => Some(true),
            // Links are made anew.
            _ => None,
        })
    }
}

/// The link of a tablespace, which is made anew whatever it is, and that of the WAL.
fn is_own_link(bases: &Bases, path: &[u8], kind: Kind) -> bool {
    let is_place = |number: &[u8]| {
        let mut places = bases.places.iter();
        places.any(|place| place.oid.to_string().as_bytes() == number)
    };
    let is_own = match path.strip_prefix(b"pg_tblspc/") {
        Some(number) => is_place(number),
        None => path == b"pg_wal" && bases.wal.is_some(),
    };
    is_own && kind == Kind::Link
}

/// The restore's own, which comes and goes with it.
fn is_place_mark(spot: &Spot) -> bool {
    spot.base != Base::Data && spot.below == Path::new(PLACE_MARK)
}

/// A file system's own, where a directory is its mount point.
fn is_lost_and_found(spot: &Spot) -> bool {
    spot.below == Path::new(LOST_AND_FOUND) || spot.below == Path::new("pg_wal").join(LOST_AND_FOUND)
}

/// Has the file another name, too? Whoever has that name must keep what is in it: it is not written to but made anew.
fn is_shared(found: &Metadata) -> bool {
    found.nlink() > 1
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::job::restore::spot::Held;

    fn roots(directory: &Path) -> Roots {
        let bases = Bases {
            data: directory.to_owned(),
            wal: None,
            places: Vec::new(),
        };
        let data = Held::open(directory).unwrap();
        Roots::new(bases, vec![(Base::Data, data)])
    }

    fn work(name: &str, bytes: u64) -> FileWork {
        let whole = 0..bytes;
        FileWork {
            entry: 1,
            spot: Spot {
                base: Base::Data,
                below: name.into(),
            },
            bytes,
            missing: vec![whole],
        }
    }

    /// Some key for them.
    fn key() -> PageKey {
        PageKey::random().expect("there are random numbers")
    }

    /// The hashes of a range of a content.
    fn hashes(plain: &[u8], key: PageKey) -> impl FnMut(Range<u64>) -> Result<Vec<Option<PageHash>>, Error> {
        move |range| {
            let plain = &plain[range.start as usize..range.end as usize];
            Ok(key.pages(plain).map(Some).collect())
        }
    }

    #[test]
    fn only_what_differs_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1259");
        let plain: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 777) as u8).collect();
        let (work, roots, key) = (work("1259", 1_000_000), roots(dir.path()), key());
        let differing = |local: &[u8]| {
            fs::write(&path, local).unwrap();
            missing(&roots, &work, key, hashes(&plain, key)).unwrap()
        };
        assert_eq!(differing(&plain), []);
        let mut changed = plain.clone();
        changed[300_000] ^= 1;
        let page = 294_912..303_104;
        assert_eq!(differing(&changed), [page]);
        let cut = 598_016..1_000_000;
        assert_eq!(differing(&plain[..600_000]), [cut]);
        // A longer one is cut when it is opened for writing.
        assert_eq!(differing(&[&plain[..], b"more"].concat()), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(
            missing(&roots, &work, key, hashes(&plain, key)).unwrap(),
            std::slice::from_ref(&(0..1_000_000))
        );
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(
            missing(&roots, &work, key, hashes(&plain, key)).unwrap(),
            std::slice::from_ref(&(0..1_000_000))
        );
    }

    /// `cp -al` keeps a copy of a data directory by hard links: it must stay what it was.
    #[test]
    fn a_file_with_another_name_is_made_anew() {
        let place = tempfile::tempdir().unwrap();
        let (path, other) = (place.path().join("file"), place.path().join("kept"));
        fs::write(&path, [7; 1000]).unwrap();
        let plain = [7; 1000];
        let (work, roots, key) = (work("file", 1000), roots(place.path()), key());
        assert_eq!(missing(&roots, &work, key, hashes(&plain, key)).unwrap(), []);
        fs::hard_link(&path, &other).unwrap();
        assert_eq!(
            missing(&roots, &work, key, hashes(&plain, key)).unwrap(),
            work.missing
        );
    }
}
