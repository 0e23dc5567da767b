//! The directory that PostgreSQL archives from, and what waits there.
//!
//! A file with a `.ready` mark is finished: PostgreSQL has written and fsynced all of it before it makes the mark
//! (`XLogWrite` in xlog.c), and changes it no more. It recycles a segment, by giving its file another name, only after
//! the mark has become `.done`. So a file whose mark and inode are the same after it was read as before is what the
//! archiver will bring.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::pg::{SegmentName, WalName};

/// Names taken from one look at the directory: PostgreSQL's archiver does the same (`NUM_FILES_PER_DIRECTORY_SCAN` in
/// pgarch.c), so that a backlog of a hundred thousand is not listed for every file.
const NAMES: usize = 64;

/// A file that a copier has open, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its path, for the process that has it open.
    pub path: PathBuf,
    /// Which file it is, whatever its path.
    pub identity: Identity,
}

/// Device and inode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for Identity {
    fn from(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

/// A `pg_wal`. Its functions wait for the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PgWal(PathBuf);

/// Which file, as it was at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    identity: Identity,
    pub(super) bytes: u64,
    modified: SystemTime,
}

impl Version {
    fn of(meta: &Metadata) -> io::Result<Self> {
        Ok(Self {
            identity: Identity::from(meta),
            bytes: meta.len(),
            modified: meta.modified()?,
        })
    }
}

/// A finished segment, opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) version: Version,
}

impl PgWal {
    /// The directory the copier of `name` reads from, if that can be seen: `given`, or else where its file lies.
    ///
    /// `Err` if a directory was given and the file that is being copied is another one: this is not the `pg_wal` of
    /// the server that archives here.
    pub(super) fn of(
        given: Option<&Path>,
        name: WalName,
        origin: Option<&Origin>,
    ) -> Result<Option<Self>, PathBuf> {
        let Some(directory) = given.or_else(|| origin?.path.parent()) else {
            return Ok(None);
        };
        let found = Self(directory.to_owned());
        let there = fs::metadata(found.file(name));
        let is_the_same =
            |origin: &Origin| there.is_ok_and(|there| Identity::from(&there) == origin.identity);
        match (origin, given) {
            (Some(origin), _) if is_the_same(origin) => Ok(Some(found)),
            (Some(_), Some(given)) => Err(given.to_owned()),
            (Some(_), None) => Ok(None),
            // Nothing is seen of the copier (it lives in another pid namespace): the word of who gave it must do.
            (None, _) => Ok(Some(found)),
        }
    }

    /// Does PostgreSQL want this file archived?
    pub(super) fn is_ready(&self, name: WalName) -> bool {
        self.marks().join(format!("{name}.ready")).exists()
    }

    /// The next segments after `name` that wait, oldest first as the archiver takes them (`ready_file_comparator` in
    /// pgarch.c).
    pub(super) fn ready_after(&self, name: SegmentName) -> io::Result<BTreeSet<SegmentName>> {
        let mut next = BTreeSet::new();
        for entry in fs::read_dir(self.marks())? {
            let mark = entry?.file_name();
            let segment = mark.to_str().and_then(|mark| mark.strip_suffix(".ready"));
            let segment = segment.and_then(|name| name.parse::<SegmentName>().ok());
            next.extend(segment.filter(|segment| *segment > name));
            if next.len() > NAMES {
                next.pop_last();
            }
        }
        Ok(next)
    }

    /// Opens a segment that waits.
    pub(super) fn open(&self, name: SegmentName) -> io::Result<Opened> {
        let file = File::open(self.file(WalName::Segment(name)))?;
        let version = Version::of(&file.metadata()?)?;
        Ok(Opened { file, version })
    }

    /// What lies there under the name of a segment.
    pub(super) fn version(&self, name: SegmentName) -> io::Result<Version> {
        Version::of(&fs::metadata(self.file(WalName::Segment(name)))?)
    }

    /// Is what was opened still the finished segment of that name, unchanged?
    pub(super) fn still_has(&self, name: SegmentName, opened: &Opened) -> bool {
        self.has(name, opened.version) && self.is_ready(WalName::Segment(name))
    }

    /// Does it have that file under the name of a segment, unchanged?
    pub(super) fn has(&self, name: SegmentName, version: Version) -> bool {
        self.version(name).is_ok_and(|found| found == version)
    }

    fn file(&self, name: WalName) -> PathBuf {
        self.0.join(name.to_string())
    }

    fn marks(&self) -> PathBuf {
        self.0.join("archive_status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> SegmentName {
        format!("00000001{number:016X}").parse().unwrap()
    }

    fn pg_wal(marks: &[String]) -> (tempfile::TempDir, PgWal) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("archive_status")).unwrap();
        let pg_wal = PgWal(directory.path().to_owned());
        for mark in marks {
            fs::write(pg_wal.marks().join(mark), "").unwrap();
        }
        (directory, pg_wal)
    }

    #[test]
    fn the_oldest_segments_that_wait_are_next() {
        let mut marks: Vec<String> = (1..=200)
            .map(|number| format!("{}.ready", name(number)))
            .collect();
        marks.extend([
            "00000002.history.ready".into(),
            format!("{}.partial.ready", name(6)),
        ]);
        marks[6] = format!("{}.done", name(7));
        let (_directory, pg_wal) = pg_wal(&marks);
        let next: Vec<SegmentName> = pg_wal.ready_after(name(5)).unwrap().into_iter().collect();
        assert_eq!(next.len(), NAMES);
        assert_eq!(next[..3], [name(6), name(8), name(9)]);
    }

    #[test]
    fn a_segment_that_lost_its_mark_or_its_file_is_another_one() {
        let mark = format!("{}.ready", name(1));
        let (directory, pg_wal) = pg_wal(std::slice::from_ref(&mark));
        let path = directory.path().join(name(1).to_string());
        fs::write(&path, "content").unwrap();
        let opened = pg_wal.open(name(1)).unwrap();
        assert!(pg_wal.still_has(name(1), &opened));
        fs::rename(pg_wal.marks().join(&mark), directory.path().join("away")).unwrap();
        assert!(!pg_wal.still_has(name(1), &opened));
        fs::rename(directory.path().join("away"), pg_wal.marks().join(&mark)).unwrap();
        assert!(pg_wal.still_has(name(1), &opened));
        fs::write(directory.path().join("other"), "content").unwrap();
        fs::rename(directory.path().join("other"), &path).unwrap();
        assert!(!pg_wal.still_has(name(1), &opened));
    }

    #[test]
    fn the_directory_is_the_one_the_copied_file_lies_in() {
        let (directory, _) = pg_wal(&[]);
        let (elsewhere, _) = pg_wal(&[]);
        let path = directory.path().join(name(1).to_string());
        fs::write(&path, "content").unwrap();
        let segment = WalName::Segment(name(1));
        let identity = Identity::from(&fs::metadata(&path).unwrap());
        let origin = Some(Origin { path, identity });
        let found = |given, origin: &Option<Origin>| PgWal::of(given, segment, origin.as_ref());
        assert!(found(None, &None).unwrap().is_none());
        for given in [None, Some(directory.path())] {
            assert_eq!(found(given, &origin).unwrap().unwrap().0, directory.path());
        }
        assert_eq!(
            found(Some(elsewhere.path()), &origin).unwrap_err(),
            elsewhere.path()
        );
        fs::remove_file(&origin.as_ref().unwrap().path).unwrap();
        assert!(found(None, &origin).unwrap().is_none());
    }
}
