//! How a file comes into the archive's directory: whole, durable, and never over another one unasked.
//!
//! 1. a temporary file under `.tmp/` is written and fsynced;
//! 2. it is linked to its final name, which fails if there is one, or renamed over it;
//! 3. the final name's directory is fsynced, and so were, once a process, all directories above it.
//!
//! A crash leaves a temporary file, or a finished object with a second name under `.tmp/`: [`Root::sweep`] removes
//! both a day later.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Error, Key, PutMode, Root, sync_dir};
use crate::long_write;

/// Age at which a temporary file has no living owner.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// A file that is removed with its value.
#[derive(Debug)]
pub(super) struct Temp {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Drop for Temp {
    fn drop(&mut self) {
        // After a rename it is not there. Any other failure leaves it to the sweep.
        let _ = fs::remove_file(&self.path);
    }
}

impl Root {
    pub(super) fn put(&self, key: &Key, body: &[u8], mode: PutMode) -> Result<(), Error> {
        self.check("put")?;
        let temp = self
            .temp(key)
            .map_err(|error| self.write_error("put", &self.temp_dir(key), &error))?;
        long_write::write_all(&temp.file, body)
            .map_err(|error| self.write_error("put", &temp.path, &error))?;
        self.publish(temp, key, mode)
    }

    /// See [`super::Backend::settle`].
    pub(super) fn settle(&self, key: &Key) -> Result<(), Error> {
        let path = self.file(key);
        let parent = path.parent().expect("a key is below the root");
        let settle = || self.open_object(key)?.sync_all().and_then(|()| sync_dir(parent));
        settle().map_err(|error| self.read_error("settle", &path, &error))
    }

    /// A new temporary file for an object, readable by its owner only.
    pub(super) fn temp(&self, key: &Key) -> io::Result<Temp> {
        let folder = self.temp_dir(key);
        self.make_durable(&folder)?;
        let path = folder.join(temp_name("tmp"));
        let open = || self.below.create(self.inside(&path), 0o600);
        let file = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody tidied up `.tmp` while we ran.
                self.forget_durable();
                self.make_durable(&folder)?;
                open()?
            }
            opened => opened?,
        };
        if let Some((user, group)) = self.owner {
            fchown(&file, Some(user), Some(group))?;
        }
        Ok(Temp { file, path })
    }

    /// Gives a written file its final name.
    pub(super) fn publish(&self, temp: Temp, key: &Key, mode: PutMode) -> Result<(), Error> {
        let path = self.file(key);
        self.check_folder("put", &path)?;
        let parent = path.parent().expect("a key is below the root");
        let publish = || -> io::Result<()> {
            temp.file.sync_all()?;
            let outcome = self.give_name(&temp.path, &path, parent, mode);
            // Also if the name was taken: its owner may have died between link and fsync, and our caller may find
            // the content the same and call it archived.
            sync_dir(parent)?;
            outcome
        };
        publish().map_err(|error| self.publish_error(&path, &error))?;
        // The path led elsewhere meanwhile? Then the file may be on the wrong disk.
        self.check("put").and_then(|()| self.check_folder("put", &path))
    }

    fn give_name(&self, from: &Path, to: &Path, parent: &Path, mode: PutMode) -> io::Result<()> {
        let (inside, final_name) = (self.inside(from), self.inside(to));
        let name = || match mode {
            PutMode::IfAbsent => self.below.hard_link(inside, final_name),
            PutMode::Overwrite => self.below.rename(inside, final_name),
        };
        self.make_durable(parent)?;
        match name() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // An empty directory was removed since we made it.
                self.forget_durable();
                self.make_durable(parent)?;
                name()
            }
            outcome => outcome,
        }
    }

    /// A directory that root has made in somebody else's archive is theirs.
    pub(super) fn give_to_owner(&self, dir: &Path) -> io::Result<()> {
        match self.owner {
            Some((user, group)) if fs::symlink_metadata(dir)?.uid() == 0 => {
                std::os::unix::fs::lchown(dir, Some(user), Some(group))
            }
            _ => Ok(()),
        }
    }

    /// A directory that was durable is not there: then nothing is known of any.
    pub(super) fn forget_durable(&self) {
        self.durable.lock().expect("no panic inside").clear();
    }

    /// Removes what crashed processes left under `.tmp/`: only names of our own making. Failure is no harm.
    pub(super) fn sweep(&self, folder: &Path) {
        let folder = self.inside(folder);
        for (name, _) in self.below.list(folder).unwrap_or_default() {
            let inside = folder.join(&name);
            let is_leftover = self.below.metadata(&inside).is_ok_and(|found| is_old(&found));
            if is_leftover && name.to_str().is_some_and(is_temp_name) {
                match self.below.remove_tree(&inside) {
                    Ok(()) => tracing::info!("removed a leftover of a crash: {}", inside.display()),
                    Err(error) => {
                        tracing::debug!("{}: a leftover of a crash stays: {error}", inside.display());
                    }
                }
            }
        }
    }
}

/// `walfs-0123456789abcdef.tmp`
pub(super) fn temp_name(extension: &str) -> String {
    format!("walfs-{:016x}.{extension}", fastrand::u64(..))
}

fn is_temp_name(name: &str) -> bool {
    let hex = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let stem = name.strip_suffix(".tmp").or_else(|| name.strip_suffix(".upload"));
    stem.and_then(|stem| stem.strip_prefix("walfs-")).is_some_and(hex)
}

fn is_old(found: &fs::Metadata) -> bool {
    let modified = found.modified();
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > LEFTOVER_AGE))
}

/// Makes one directory; one that is there is fine.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        // A link to one is none.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            match fs::symlink_metadata(path)?.is_dir() {
                true => Ok(()),
                false => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            }
        }
        made => made,
    }
}

/// Makes the archive's own directory, durably. What is above it must be there: a mount point whose disk is missing has
/// no such directory, and an archive made under it would hide the real one.
pub(super) fn make_root(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    path.parent().map_or(Ok(()), sync_dir)
}
