//! A directory, and what lies below it, reached without following a single link (promise S6).
//!
//! Whoever writes or deletes in a directory that others filled, a data directory or a copy of one, must not end up
//! elsewhere because a name in it is a link. So the directory is held open, every path below it is walked one name at a time
//! with `O_NOFOLLOW`, and the last name is never followed either. Links in the path *of* the directory are the operator's
//! own and are followed once, when it is opened.
//!
//! Only regular files are opened: a FIFO, a socket or a device in a file's place is an error at once, not a wait.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};

/// What `mkfs` puts into the top of a file system, for root alone: nobody's file.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// What an open directory is opened with.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What every file is opened with.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// What a name in a directory stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, wherever it leads.
    Link,
    /// A FIFO, a socket or a device.
    Special,
}

/// A directory that is held open. Paths below it are relative, without `..`.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory. Links in `path` are followed: it is the operator's word.
    ///
    /// # Errors
    /// That of `open(2)`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let directory = rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
        let path = path.to_owned();
        Ok(Self { directory, path })
    }

    /// Opens a directory only to reach, or make, what is below it: that needs no permission to read it.
    ///
    /// # Errors
    /// That of `open(2)`.
    pub(crate) fn open_to_pass(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        let path = path.to_owned();
        Ok(Self { directory, path })
    }

    /// Its path, as it was named.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is now, without links: of the directory that is held open, whatever its name stands for by now.
    ///
    /// # Errors
    /// Those of `readlink(2)`.
    pub(crate) fn real(&self) -> io::Result<PathBuf> {
        fs::read_link(by_handle(self.directory.as_fd()))
    }

    /// Does a path lead to this very directory? Links are followed.
    ///
    /// # Errors
    /// Those of `stat(2)`, but for a path that leads nowhere.
    pub(crate) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let there = match fs::metadata(path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            found => found?,
        };
        let own = self.metadata(Path::new(""))?;
        Ok((own.dev(), own.ino()) == (there.dev(), there.ino()))
    }

    /// The directory that it is in: as the kernel knows it, not by its path. Only to reach what is below it.
    ///
    /// # Errors
    /// Those of `openat(2)`.
    pub(crate) fn above(&self) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, "..", flags, Mode::empty())?;
        let path = self.path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { directory, path })
    }

    /// The directory as a file: what locks or syncs it.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub(crate) fn file(&self) -> io::Result<File> {
        Ok(File::from(self.directory.try_clone()?))
    }

    /// Has all that was written to its file system made durable: one wait instead of one for each file. Since Linux 5.8 it
    /// tells of what could not be written (syncfs(2)).
    ///
    /// # Errors
    /// Those of `syncfs(2)`.
    pub(crate) fn sync_file_system(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.directory)?)
    }

    /// Bytes that this user may still write to its file system.
    ///
    /// # Errors
    /// Those of `fstatvfs(3)`.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// A directory below it.
    ///
    /// # Errors
    /// Those of `openat(2)`; a link in the way.
    pub(crate) fn directory(&self, inside: &Path) -> io::Result<Self> {
        let directory = self.walk(inside)?;
        let path = self.path.join(inside);
        Ok(Self { directory, path })
    }

    /// What is there, of a link the link itself.
    ///
    /// # Errors
    /// Those of `openat(2)`; a link in the way.
    pub(crate) fn metadata(&self, inside: &Path) -> io::Result<Metadata> {
        File::from(self.handle(inside)?).metadata()
    }

    /// What kind of thing is there; `None`: nothing.
    ///
    /// # Errors
    /// As [`Root::metadata`], but for `ENOENT`.
    pub(crate) fn kind(&self, inside: &Path) -> io::Result<Option<Kind>> {
        match self.metadata(inside) {
            Ok(found) => Ok(Some(kind_of(found.file_type()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// Those of `readlinkat(2)`; a link in the way.
    pub(crate) fn read_link(&self, inside: &Path) -> io::Result<PathBuf> {
        let (parent, name) = self.parent(inside)?;
        let to = rustix::fs::readlinkat(&parent, name, Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(to.as_bytes())))
    }

    /// The names in a directory with what they stand for, in order.
    ///
    /// # Errors
    /// Those of `openat(2)` and `getdents64(2)`; a link in the way.
    pub(crate) fn list(&self, inside: &Path) -> io::Result<Vec<(OsString, Kind)>> {
        let directory = self.walk(inside)?;
        // Its own path: what was opened, not what the name stands for by now.
        let mut found = Vec::new();
        for entry in fs::read_dir(by_handle(directory.as_fd()))? {
            let entry = entry?;
            found.push((entry.file_name(), kind_of(entry.file_type()?)));
        }
        found.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(found)
    }

    /// Opens a file to read.
    ///
    /// # Errors
    /// Those of `openat(2)`; a link in the way or in its place; no regular file.
    pub(crate) fn open_file(&self, inside: &Path) -> io::Result<File> {
        self.open_regular(inside, OFlags::RDONLY)
    }

    /// Opens a file that is there to write, without cutting it.
    ///
    /// # Errors
    /// As [`Root::open_file`].
    pub(crate) fn open_to_write(&self, inside: &Path) -> io::Result<File> {
        self.open_regular(inside, OFlags::WRONLY)
    }

    /// A file's content of at most `most` bytes.
    ///
    /// # Errors
    /// As [`Root::open_file`]; `InvalidData` if it is longer.
    pub(crate) fn read(&self, inside: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = self.open_file(inside)?;
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            let reason = format!("it has more than {most} bytes");
            return Err(io::Error::new(ErrorKind::InvalidData, reason));
        }
        Ok(bytes)
    }

    /// Makes a file anew, empty, with exactly this mode. What stood there goes; whoever has it open or has another name for it
    /// keeps it as it was.
    ///
    /// # Errors
    /// Those of `unlinkat(2)` and `openat(2)`, `EISDIR` for a directory in its place; a link in the way.
    pub(crate) fn create(&self, inside: &Path, mode: u32) -> io::Result<File> {
        self.remove_file(inside)?;
        self.create_new(inside, mode)
    }

    /// Makes a file where nothing is, empty, with exactly this mode.
    ///
    /// # Errors
    /// Those of `openat(2)`, `EEXIST` for whatever is there; a link in the way.
    pub(crate) fn create_new(&self, inside: &Path, mode: u32) -> io::Result<File> {
        let (parent, name) = self.parent(inside)?;
        let flags = FILE.union(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL);
        let file = File::from(rustix::fs::openat(&parent, name, flags, Mode::from(0o600))?);
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Makes a file anew, with this content and mode.
    ///
    /// # Errors
    /// As [`Root::create`]; those of `write(2)`.
    pub(crate) fn write(&self, inside: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.create(inside, mode)?.write_all(bytes)
    }

    /// Makes a directory and those above it that are missing, with exactly this mode. One that is there stays as it is.
    ///
    /// # Errors
    /// Those of `mkdirat(2)`; a link in the way or in its place.
    pub(crate) fn make_directory(&self, inside: &Path, mode: u32) -> io::Result<()> {
        let mut parent = self.directory.try_clone()?;
        for name in names(inside)? {
            match rustix::fs::mkdirat(&parent, name, Mode::from(0o700)) {
                Ok(()) => {
                    let made = enter(parent.as_fd(), name)?;
                    rustix::fs::fchmod(&made, Mode::from(mode))?;
                    parent = made;
                }
                Err(rustix::io::Errno::EXIST) => parent = enter(parent.as_fd(), name)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Makes a directory of which there was nothing, for its owner alone, and opens it. One with something in it was put in
    /// its place meanwhile, and is refused.
    ///
    /// # Errors
    /// Those of `mkdirat(2)`, `EEXIST` if the name is taken; a link in the way.
    pub(crate) fn make_new(&self, inside: &Path) -> io::Result<Self> {
        let (parent, name) = self.parent(inside)?;
        rustix::fs::mkdirat(&parent, name, Mode::from(0o700))?;
        let directory = enter(parent.as_fd(), name)?;
        let path = self.path.join(inside);
        let made = Self { directory, path };
        let top = Path::new("");
        if !made.list(top)?.is_empty() {
            return Err(io::Error::other("another directory was put in its place"));
        }
        Ok(made)
    }

    /// Makes a link where nothing is.
    ///
    /// # Errors
    /// Those of `symlinkat(2)`, `EEXIST` for whatever is there; a link in the way.
    pub(crate) fn link_new(&self, to: &Path, inside: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(inside)?;
        Ok(rustix::fs::symlinkat(to, &parent, name)?)
    }

    /// Makes a link anew; a file or link in its place goes.
    ///
    /// # Errors
    /// Those of `unlinkat(2)` and `symlinkat(2)`, `EISDIR` for a directory in its place; a link in the way.
    pub(crate) fn link(&self, to: &Path, inside: &Path) -> io::Result<()> {
        self.remove_file(inside)?;
        self.link_new(to, inside)
    }

    /// Gives something another name below the same directory. What has that name and is no directory goes.
    ///
    /// # Errors
    /// Those of `renameat(2)`; a link in the way.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from)?, self.parent(to)?);
        Ok(rustix::fs::renameat(
            &from_parent,
            from_name,
            &to_parent,
            to_name,
        )?)
    }

    /// Gives a file a second name below the same directory.
    ///
    /// # Errors
    /// Those of `linkat(2)`, `EEXIST` if the name is taken; a link in the way.
    pub(crate) fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from)?, self.parent(to)?);
        Ok(rustix::fs::linkat(
            &from_parent,
            from_name,
            &to_parent,
            to_name,
            AtFlags::empty(),
        )?)
    }

    /// Moves something to another directory, in the same file system. What has that name there and is no directory goes.
    ///
    /// # Errors
    /// Those of `renameat(2)`, `EXDEV` for another file system; a link in the way.
    pub(crate) fn move_to(&self, from: &Path, other: &Self, to: &Path) -> io::Result<()> {
        let ((from_parent, from_name), (to_parent, to_name)) = (self.parent(from)?, other.parent(to)?);
        Ok(rustix::fs::renameat(
            &from_parent,
            from_name,
            &to_parent,
            to_name,
        )?)
    }

    /// Removes a file or a link, not what it leads to. Says whether there was one.
    ///
    /// # Errors
    /// Those of `unlinkat(2)`, `EISDIR` for a directory; a link in the way.
    pub(crate) fn remove_file(&self, inside: &Path) -> io::Result<bool> {
        let (parent, name) = match self.parent(inside) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes whatever is there, a directory with all that is in it; links are removed, not followed.
    ///
    /// # Errors
    /// Those of `unlinkat(2)` and of reading a directory; a link in the way.
    pub(crate) fn remove_tree(&self, inside: &Path) -> io::Result<()> {
        if self.kind(inside)? != Some(Kind::Directory) {
            return self.remove_file(inside).map(drop);
        }
        let directory = self.directory(inside)?;
        for (name, _) in directory.list(Path::new(""))? {
            directory.remove_tree(Path::new(&name))?;
        }
        let (parent, name) = self.parent(inside)?;
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Sets the mode of a file or directory.
    ///
    /// # Errors
    /// Those of `fchmod(2)`; a link in the way or in its place.
    pub(crate) fn set_mode(&self, inside: &Path, mode: u32) -> io::Result<()> {
        let handle = self.handle(inside)?;
        if File::from(handle.try_clone()?).metadata()?.is_symlink() {
            return Err(followed(inside));
        }
        // Through the handle: its owner may not be allowed to open it.
        fs::set_permissions(by_handle(handle.as_fd()), Permissions::from_mode(mode))
    }

    /// Gives something to a user and a group, a link itself.
    ///
    /// # Errors
    /// Those of `fchownat(2)`; a link in the way.
    pub(crate) fn set_owner(&self, inside: &Path, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if names(inside)?.is_empty() {
            return Ok(rustix::fs::fchown(&self.directory, Some(uid), Some(gid))?);
        }
        let (parent, name) = self.parent(inside)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)?)
    }

    /// Sets when something was changed last, of a link its own time.
    ///
    /// # Errors
    /// Those of `utimensat(2)`; a link in the way.
    pub(crate) fn set_modified(&self, inside: &Path, modified: SystemTime) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT as _,
            },
            last_modification: timespec(modified),
        };
        if names(inside)?.is_empty() {
            return Ok(rustix::fs::futimens(&self.directory, &times)?);
        }
        let (parent, name) = self.parent(inside)?;
        Ok(rustix::fs::utimensat(
            &parent,
            name,
            &times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Makes durable which names a directory has.
    ///
    /// # Errors
    /// Those of `openat(2)` and `fsync(2)`; a link in the way.
    pub(crate) fn sync_directory(&self, inside: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.walk(inside)?)?)
    }

    fn open_regular(&self, inside: &Path, flags: OFlags) -> io::Result<File> {
        let (parent, name) = self.parent(inside)?;
        let file = match rustix::fs::openat(&parent, name, FILE.union(flags), Mode::empty()) {
            Err(rustix::io::Errno::LOOP) => return Err(followed(inside)),
            opened => File::from(opened?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        // Only opening was not to wait.
        rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
        Ok(file)
    }

    /// A handle that stands for whatever is there, without opening it.
    fn handle(&self, inside: &Path) -> io::Result<OwnedFd> {
        if names(inside)?.is_empty() {
            return self.directory.try_clone();
        }
        let (parent, name) = self.parent(inside)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, name, flags, Mode::empty())?)
    }

    /// The directory that a path's last name is in, and this name.
    fn parent<'a>(&self, inside: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name = names(inside)?.pop().ok_or(ErrorKind::InvalidInput)?;
        let parent = self.walk(inside.parent().unwrap_or(Path::new("")))?;
        Ok((parent, name))
    }

    fn walk(&self, inside: &Path) -> io::Result<OwnedFd> {
        let mut directory = self.directory.try_clone()?;
        for name in names(inside)? {
            directory = enter(directory.as_fd(), name)?;
        }
        Ok(directory)
    }
}

fn enter(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    rustix::fs::openat(directory, name, DIRECTORY, Mode::empty()).map_err(|error| {
        let is_link = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_symlink());
        if is_link {
            followed(Path::new(name))
        } else {
            error.into()
        }
    })
}

/// The names on a path, which leads down only.
fn names(inside: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in inside.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => {
                let reason = format!("{} leads out of the directory", inside.display());
                return Err(io::Error::new(ErrorKind::InvalidInput, reason));
            }
        }
    }
    Ok(names)
}

fn followed(inside: &Path) -> io::Error {
    io::Error::other(format!(
        "{} is a symbolic link, which is not followed",
        inside.display()
    ))
}

fn by_handle(handle: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// What the system calls it.
pub(crate) fn kind_of(kind: fs::FileType) -> Kind {
    match kind {
        _ if kind.is_file() => Kind::File,
        _ if kind.is_dir() => Kind::Directory,
        _ if kind.is_symlink() => Kind::Link,
        _ => Kind::Special,
    }
}

fn timespec(time: SystemTime) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    let (since, sign) = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since, 1),
        Err(before) => (before.duration(), -1),
    };
    let seconds = sign * i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let nanos = sign * i64::from(since.subsec_nanos());
    // Those behind the second count forwards, before 1970, too.
    Timespec {
        tv_sec: seconds.saturating_add(nanos.div_euclid(SECOND)),
        tv_nsec: nanos.rem_euclid(SECOND) as _,
    }
}

#[cfg(test)]
mod tests;
