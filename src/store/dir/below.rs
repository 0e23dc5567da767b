//! Folders right below a directory, for who looks for archives in them. No link is followed (promise S6), and what walfs has
//! mounted there is not looked into: it may be the very mount that asks.

use std::io;
use std::path::{Path, PathBuf};

use super::{Error, Key, Root};
use crate::beneath::{Kind, LOST_AND_FOUND};
use crate::linux::kernel;

impl Root {
    /// See [`super::Backend::folders`].
    pub(super) fn folders(&self) -> Result<Vec<String>, Error> {
        let failed = |error: io::Error| self.write_error("list", &self.path, &error);
        let held = self.below.list(Path::new("")).map_err(failed)?;
        self.check("list")?;
        let mounts = self.own_mounts().map_err(failed)?;
        let folders = held.into_iter().filter(|(_, kind)| *kind == Kind::Directory);
        let names = folders.filter_map(|(name, _)| name.into_string().ok());
        Ok(names
            .filter(|name| name != LOST_AND_FOUND && Key::parse(name).is_some())
            .filter(|name| !mounts.iter().any(|mount| mount.ends_with(name)))
            .collect())
    }

    /// See [`super::Backend::has_below`].
    pub(super) fn has_below(&self, folder: &str, marker: &Key) -> Result<bool, Error> {
        let path = self.path.join(folder);
        let failed = |error: io::Error| self.write_error("head", &path, &error);
        if Key::parse(folder).is_none() || self.own_mounts().map_err(failed)?.contains(&path) {
            return Ok(false);
        }
        let kind = self.below.kind(&Path::new(folder).join(marker.as_str()));
        self.check("head")?;
        match kind {
            Ok(kind) => Ok(kind == Some(Kind::File)),
            // The folder is a link, or no folder.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ELOOP | libc::ENOTDIR | libc::ENOENT)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// What walfs has mounted right below this directory.
    fn own_mounts(&self) -> io::Result<Vec<PathBuf>> {
        let real = self.below.real()?;
        let mounts = kernel::mounts()?.into_iter().filter(kernel::Mount::is_walfs);
        let below = mounts.filter_map(|mount| {
            let name = mount.mountpoint.strip_prefix(&real).ok()?.to_owned();
            (name.components().count() == 1).then(|| self.path.join(name))
        });
        Ok(below.collect())
    }
}
