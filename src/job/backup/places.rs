//! Where a tree's paths really are: in the data directory, or behind a link in it that is followed on purpose.
//!
//! Links are followed when the directory is listed, and noted here; nothing else follows one. What is opened later is
//! opened by the handles kept here ([`Root`]): a name that has become a link since, or a FIFO, is an error, not a way out.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::beneath::Root;

/// A data directory and the places that its links lead to.
#[derive(Debug)]
pub(in crate::job) struct Places {
    data: Root,
    /// Whose it is.
    owner: u32,
    /// Directories behind links, by their path in the tree: tablespaces and those that somebody has moved.
    directories: BTreeMap<Box<[u8]>, Root>,
    /// Files behind links, and from outside of the data directory.
    files: BTreeMap<Box<[u8]>, PathBuf>,
}

impl Places {
    /// Of the data directory `root`, which is `owner`'s.
    pub(in crate::job) fn of(root: &Path, owner: u32) -> io::Result<Self> {
        Ok(Self {
            data: Root::open(root)?,
            owner,
            directories: BTreeMap::new(),
            files: BTreeMap::new(),
        })
    }

    /// From here on `path` stands for the directory `target`.
    pub(super) fn follow_directory(&mut self, path: &[u8], target: &Path) -> io::Result<()> {
        self.directories.insert(path.into(), Root::open(target)?);
        Ok(())
    }

    /// From here on `path` stands for the file `target`, a path without links.
    pub(super) fn follow_file(&mut self, path: &[u8], target: PathBuf) {
        self.files.insert(path.into(), target);
    }

    /// Opens a directory of the tree.
    pub(in crate::job) fn directory(&self, path: &[u8]) -> io::Result<Root> {
        let (root, inside) = self.locate(path);
        root.directory(inside)
    }

    /// Opens a file of the tree to read.
    pub(super) fn open(&self, path: &[u8]) -> io::Result<File> {
        if let Some(target) = self.files.get(path) {
            let file = open_target(target)?;
            let may = self.may_follow(target, &file.metadata()?);
            return may.then_some(file).ok_or(io::ErrorKind::PermissionDenied.into());
        }
        let (root, inside) = self.locate(path);
        root.open_file(inside)
    }

    /// What is there now, of a link the link itself.
    pub(in crate::job) fn metadata(&self, path: &[u8]) -> io::Result<Metadata> {
        let (root, inside) = self.locate(path);
        root.metadata(inside)
    }

    /// Where in the file system a path of the tree is, for people and for following a link.
    pub(in crate::job) fn real(&self, path: &[u8]) -> PathBuf {
        let (root, inside) = self.locate(path);
        self.files
            .get(path)
            .cloned()
            .unwrap_or_else(|| root.path().join(inside))
    }

    /// May what is at `target`, a path without links, be read for the owner of the data directory? Whoever may put a
    /// link into it must not have root read for them what they could not: a file of their own, or one that everybody can
    /// get at; of directories only their own.
    pub(super) fn may_follow(&self, target: &Path, found: &Metadata) -> bool {
        // SAFETY: a system call without arguments.
        let is_root = unsafe { libc::geteuid() } == 0;
        let is_open = |path: &Path| {
            let above = std::fs::metadata(path);
            above.is_ok_and(|above| above.uid() == self.owner || above.mode() & 0o001 != 0)
        };
        !is_root
            || found.uid() == self.owner
            || (found.is_file() && found.mode() & 0o004 != 0 && target.ancestors().skip(1).all(is_open))
    }

    /// The directory that holds a path, and the rest of the path.
    fn locate<'a>(&self, path: &'a [u8]) -> (&Root, &'a Path) {
        let ends = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
        let ends = std::iter::once(path.len()).chain(ends.map(|(at, _)| at));
        for end in ends {
            if let Some(root) = self.directories.get(&path[..end]) {
                return (root, as_path(path.get(end + 1..).unwrap_or_default()));
            }
        }
        (&self.data, as_path(path))
    }
}

/// Opens a file at a path without links.
pub(super) fn open_target(target: &Path) -> io::Result<File> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    Root::open(target.parent().unwrap_or(Path::new("/")))?.open_file(Path::new(name))
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn root_reads_for_the_owner_only_what_they_can() {
        let root = tempfile::tempdir().unwrap();
        let closed = root.path().join("closed");
        fs::create_dir(&closed).unwrap();
        for file in ["open", "own", "closed/open", "secret"] {
            fs::write(root.path().join(file), "x").unwrap();
        }
        let mode = |path: &Path, mode| {
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(mode);
            fs::set_permissions(path, mode).unwrap();
        };
        mode(root.path(), 0o755);
        mode(&closed, 0o700);
        mode(&root.path().join("secret"), 0o600);
        let me = fs::metadata(root.path()).unwrap().uid();
        let may = |owner: u32, path: &str| {
            let path = root.path().join(path).canonicalize().unwrap();
            let places = Places::of(root.path(), owner).unwrap();
            places.may_follow(&path, &fs::metadata(&path).unwrap())
        };
        assert!(may(me, "secret") && may(me, "closed") && may(me, "closed/open"));
        if me == 0 {
            // Somebody else's data directory.
            assert!(may(65534, "open"));
            assert!(!may(65534, "secret") && !may(65534, "closed") && !may(65534, "closed/open"));
        }
    }

    #[test]
    fn links_are_followed_where_they_were_noted_and_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let (data, disk) = (root.path().join("data"), root.path().join("disk"));
        fs::create_dir_all(data.join("base/5")).unwrap();
        fs::create_dir_all(disk.join("7/deep")).unwrap();
        fs::write(data.join("base/5/1"), "here").unwrap();
        fs::write(disk.join("7/1"), "there").unwrap();
        fs::write(disk.join("7/deep/1"), "deep").unwrap();
        fs::write(disk.join("alone"), "alone").unwrap();
        symlink(disk.join("7"), data.join("base/7")).unwrap();
        symlink(disk.join("7"), data.join("base/8")).unwrap();
        symlink(disk.join("alone"), data.join("base/5/2")).unwrap();
        symlink("/etc/passwd", data.join("base/5/3")).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            data.join("base/5/4"),
            rustix::fs::Mode::from(0o600),
        )
        .unwrap();
        let mut places = Places::of(&data, fs::metadata(&data).unwrap().uid()).unwrap();
        places.follow_directory(b"base/7", &disk.join("7")).unwrap();
        places.follow_file(b"base/5/2", disk.join("alone"));
        let read = |path: &str| {
            let mut text = String::new();
            let read = places
                .open(path.as_bytes())
                .and_then(|mut file| file.read_to_string(&mut text));
            read.map(|_| text).ok()
        };
        assert_eq!(read("base/5/1").as_deref(), Some("here"));
        assert_eq!(read("base/7/1").as_deref(), Some("there"));
        assert_eq!(read("base/7/deep/1").as_deref(), Some("deep"));
        assert_eq!(read("base/5/2").as_deref(), Some("alone"));
        for path in ["base/8/1", "base/5/3", "base/5/4", "base/7"] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(places.real(b"base/7/1"), disk.join("7/1"));
        assert_eq!(places.real(b"base/5/1"), data.join("base/5/1"));
        assert!(places.directory(b"base/8").is_err() && places.directory(b"base/7/deep").is_ok());
    }
}
