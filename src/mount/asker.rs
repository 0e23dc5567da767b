//! What can be known of the process behind a FUSE request.
//!
//! The kernel gives the number of the asking *thread*: 0 if it lives in another pid namespace, a worker's on some
//! kernels (6.3 to 6.5.2 at exit), possibly another's by the time we look. So everything here is a hint, read from
//! `/proc` when asked for, `None` or `false` when unknown; nothing may rest on it alone that decides whether bytes are
//! safe. Nothing here touches the mount: paths are compared as text, and only files on other file systems are asked for
//! their size. A server that looked at a file in its own mount would wait for itself.

mod command;
mod fills;
mod seen;
mod source;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::ahead::{Identity, Origin};

use crate::linux::kernel::{FS_TYPE, field, read_mounts};
use crate::linux::process::{self, Stat, Status};

use super::node::OWN_BITS;
pub use seen::Seen;
pub use source::CopiedFile;

/// How far a program that an archive command has started may be from the archiver.
const ANCESTORS: usize = 8;

/// What of an inode number is the archive's own; above it stands which archive of the mount it is.
const OWN_NUMBER: u64 = (1 << OWN_BITS) - 1;

/// What a process seems to want of a file in the mount, by its command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// A known copier whose target the file is.
    Writes,
    /// Signs of writing to it, and none of reading.
    SeemsToWrite,
    /// A known copier that reads it, all of it and at once.
    Reads,
    /// Nothing can be said.
    Unknown,
}

/// A thread that asked the file system for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    pid: u32,
    place: PathBuf,
}

impl Asker {
    /// The thread with this number, as a FUSE request gives it; `None` for 0, which means unknown.
    pub fn of(pid: u32) -> Option<Self> {
        (pid != 0).then(|| Self {
            pid,
            place: PathBuf::from(format!("/proc/{pid}")),
        })
    }

    /// Is it being killed, or failing? Then a flush comes from the kernel closing its files, and what it wrote may be half. A
    /// process that ends by itself, with exit code 0, is done with its files, though it leaves their closing to the kernel.
    pub fn is_dying(&self) -> Option<bool> {
        self.stat().map(|stat| stat.is_exiting() && !stat.is_succeeding())
    }

    /// The process the thread belongs to.
    pub fn tgid(&self) -> Option<u32> {
        self.status().map(|status| status.tgid)
    }

    /// The process that started it, or inherited it.
    pub fn parent(&self) -> Option<u32> {
        self.stat().map(|stat| stat.parent).filter(|pid| *pid != 0)
    }

    /// Will nobody ever look at the answer? So it is when the thread is gone, a zombie or exiting, or when a signal
    /// that ends it waits for it to come back from the kernel. A wait on its behalf may then be cut short.
    pub fn doomed(&self) -> bool {
        match self.stat() {
            Some(stat) if stat.is_over() || stat.is_exiting() => true,
            Some(_) => self.status().is_some_and(|status| status.is_ending()),
            None => !process::is_alive(self.pid),
        }
    }

    /// What the process seems to want of the file `name` in the directory `dir` of the mount. `mountpoint` is
    /// absolute, without symbolic links.
    pub fn intent(&self, mountpoint: &Path, dir: &str, name: &str) -> Intent {
        let target = mountpoint.join(dir).join(name);
        let Ok(arguments) = fs::read(self.place.join("cmdline")) else {
            return Intent::Unknown;
        };
        // Of a more privileged process it is hidden: then only what is named from the root is known.
        let directory = fs::read_link(self.place.join("cwd")).unwrap_or_default();
        command::intent(&command::split(&arguments), &directory, &target)
    }

    /// Its command line, and the directory that this is relative to.
    fn evidence(&self) -> io::Result<(Vec<u8>, PathBuf)> {
        let arguments = fs::read(self.place.join("cmdline"))?;
        Ok((arguments, fs::read_link(self.place.join("cwd"))?))
    }

    /// Does it list this directory of the mount only to fill it? `directory` is absolute, without symbolic links.
    pub fn fills(&self, directory: &Path) -> bool {
        let arguments = fs::read(self.place.join("cmdline"));
        arguments.is_ok_and(|arguments| fills::fills(&command::split(&arguments), directory))
    }

    /// Is it impossible to see what it is?
    pub fn is_hidden(&self) -> bool {
        self.evidence().is_err()
    }

    /// The number that the kernel gave.
    pub fn thread(&self) -> u32 {
        self.pid
    }

    /// The bare name of the program that it runs, if that can be seen.
    pub fn program(&self) -> Option<String> {
        let arguments = fs::read(self.place.join("cmdline")).ok()?;
        let program = command::program_of(&command::split(&arguments))?;
        Some(String::from_utf8_lossy(program).into_owned())
    }

    /// The regular file called `name` that the process has open for reading only, if there is exactly one: the file
    /// that a copier is copying. Files on a FUSE file system do not count.
    pub fn source(&self, name: &str) -> Option<CopiedFile> {
        self.only_source(name, CopiedFile::open)
    }

    /// Where that file lies, for the process, and which file it is.
    pub fn origin(&self, name: &str) -> Option<Origin> {
        self.only_source(name, |link| {
            let meta = fs::metadata(link).ok().filter(fs::Metadata::is_file)?;
            Some(Origin {
                path: fs::read_link(link).ok()?,
                identity: Identity::from(&meta),
            })
        })
    }

    /// What `look` makes of the link to that file in `/proc`.
    fn only_source<T>(&self, name: &str, look: impl Fn(&Path) -> Option<T>) -> Option<T> {
        let mounts = read_mounts(&self.place.join("mountinfo")).ok()?;
        let safe = |id: u64| {
            mounts
                .iter()
                .any(|mount| mount.id == id && !mount.fs_type.starts_with("fuse"))
        };
        let entries = fs::read_dir(self.place.join("fd")).ok()?;
        let mut sources = entries.filter_map(|entry| {
            let number = entry.ok()?.file_name();
            let link = self.place.join("fd").join(&number);
            let info = fs::read_to_string(self.place.join("fdinfo").join(&number)).ok()?;
            let is_source = fs::read_link(&link).ok()?.file_name()? == name;
            (is_source && is_for_reading(&info)? && safe(field(&info, "mnt_id:")?.parse().ok()?))
                .then(|| look(&link))?
        });
        let source = sources.next()?;
        sources.next().is_none().then_some(source)
    }

    /// Has its process a descriptor by which it can write to the file with this inode number in an archive of a mount of
    /// walfs? What it is closing is none any more. `false` if that cannot be seen.
    pub fn can_write(&self, ino: u64) -> bool {
        let Ok(mounts) = read_mounts(&self.place.join("mountinfo")) else {
            return false;
        };
        let is_ours = |id: u64| {
            let mut mounts = mounts.iter();
            mounts.any(|mount| mount.id == id && mount.fs_type == FS_TYPE)
        };
        let infos = fs::read_dir(self.place.join("fdinfo")).into_iter().flatten();
        let mut infos = infos.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
        infos.any(|info| {
            let number = |name: &str| field(&info, name).and_then(|text| text.parse::<u64>().ok());
            number("ino:").map(|number| number & OWN_NUMBER) == Some(ino)
                && is_for_reading(&info) == Some(false)
                && number("mnt_id:").is_some_and(is_ours)
        })
    }

    /// Does it work for the archiver of a PostgreSQL server, on this file? That process is told by the title that the
    /// server gives it, see `command::is_archiver`. What it has started, and maybe a script beneath, has the file's name
    /// on its command line; an archive module is the archiver itself, which has it in its title.
    pub fn is_archiving(&self, name: &str) -> bool {
        let parents = std::iter::successors(Some(self.clone()), |asker| asker.parent().and_then(Self::of));
        let lines: Vec<String> = parents
            .take(ANCESTORS)
            .map(|asker| asker.command_line())
            .collect();
        let is_module = lines
            .first()
            .is_some_and(|own| command::is_archiver(own) && own.contains(name));
        is_module
            || lines
                .windows(2)
                .any(|lines| command::is_archiver(&lines[1]) && lines[0].contains(name))
    }

    fn command_line(&self) -> String {
        let line = fs::read(self.place.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    }

    fn stat(&self) -> Option<Stat> {
        Stat::parse(&fs::read(self.place.join("stat")).ok()?)
    }

    fn status(&self) -> Option<Status> {
        Status::parse(&String::from_utf8_lossy(
            &fs::read(self.place.join("status")).ok()?,
        ))
    }
}

/// Does the kernel show which file a descriptor is of? Linux 5.14 and later.
pub fn fdinfo_shows_inodes() -> bool {
    let own = fs::read_to_string("/proc/self/fdinfo/0");
    own.is_ok_and(|info| field(&info, "ino:").is_some())
}

/// By the octal `flags` of a `fdinfo` file.
fn is_for_reading(info: &str) -> Option<bool> {
    let flags = i32::from_str_radix(field(info, "flags:")?, 8).ok()?;
    Some(flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_PATH == 0)
}

#[cfg(test)]
mod tests;
