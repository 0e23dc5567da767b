//! Where the backup is: below a mount of walfs, and nowhere else.
//!
//! Links in what the operator names are followed once. Then the mount's own directory is opened, and everything below it
//! by handle, without following a link. That it is a mount of walfs is what the kernel says, not what lies in it.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::{Error, at};
use crate::archive::tree::{BASEBACKUPS, LATEST};
use crate::archive::wal::Compared;
use crate::beneath::{Kind, Root};
use crate::linux::kernel;
use crate::pg::{SegmentName, WalName};

/// Longest file of `wal/` that is read here: a `.backup` file has some hundred bytes.
const HISTORY_BYTES: u64 = 1 << 20;

/// Bytes that are compared at once.
const COMPARED_BYTES: u64 = 1 << 20;

/// A backup's directory in a mount, and that mount.
#[derive(Debug)]
pub(super) struct Place {
    mount: Root,
    /// The backup's own directory.
    pub(super) backup: Root,
}

impl Place {
    /// The backup that is named.
    ///
    /// # Errors
    /// [`Error::NotInMount`], [`Error::Latest`].
    pub(super) fn find(named: &Path) -> Result<Self, Error> {
        let path = || named.to_owned();
        if named.file_name().is_some_and(|name| name == LATEST) {
            return Err(Error::Latest { path: path() });
        }
        let found = Self::open(named).ok().flatten();
        found.ok_or_else(|| Error::NotInMount { path: path() })
    }

    fn open(named: &Path) -> io::Result<Option<Self>> {
        let real = named.canonicalize()?;
        let (Some(name), Some(backups)) = (real.file_name(), real.parent()) else {
            return Ok(None);
        };
        let Some(mountpoint) = backups.parent().filter(|_| backups.ends_with(BASEBACKUPS)) else {
            return Ok(None);
        };
        let Some(mounted) = kernel::mount_at(mountpoint)?.filter(kernel::Mount::is_walfs) else {
            return Ok(None);
        };
        let mount = Root::open(mountpoint)?;
        let inside = Path::new(BASEBACKUPS).join(name);
        let backup = mount.directory(&inside)?;
        // Nor may something else be mounted at one of these two.
        let device = libc::makedev(mounted.device.major, mounted.device.minor);
        let served =
            backup.metadata(Path::new(""))?.dev() == device && mount.metadata(Path::new(""))?.dev() == device;
        Ok(served.then_some(Self { mount, backup }))
    }

    /// The path of something in the backup, for people.
    pub(super) fn shown(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.backup.path().join(inside)
    }

    /// What kind of thing there is in the backup.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn kind(&self, inside: impl AsRef<Path>) -> Result<Option<Kind>, Error> {
        let inside = inside.as_ref();
        self.backup
            .kind(inside)
            .map_err(at("look at", &self.shown(inside)))
    }

    /// Is that archived, says the store?
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn is_archived(&self, name: WalName) -> Result<bool, Error> {
        let inside = wal_path(name);
        let kind = self.mount.kind(&inside);
        Ok(kind
            .map_err(at("look at", &self.mount.path().join(&inside)))?
            .is_some())
    }

    /// Content of a small file in `wal/`; `None` if the store says that there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn archived(&self, name: WalName) -> Result<Option<Vec<u8>>, Error> {
        let inside = wal_path(name);
        match self.mount.read(&inside, HISTORY_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &self.mount.path().join(&inside))(error)),
        }
    }

    /// Bytes of an archived segment; `None` if the store says that there is none.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn read_archived(
        &self,
        segment: SegmentName,
        bytes: Range<u64>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let name = WalName::Segment(segment);
        let Some(file) = self.open_archived(name)? else {
            return Ok(None);
        };
        let mut content = vec![0; (bytes.end - bytes.start) as usize];
        let read = file.read_exact_at(&mut content, bytes.start);
        read.map_err(at("read", &self.mount.path().join(wal_path(name))))?;
        Ok(Some(content))
    }

    /// Compares the first `most` bytes of a file of the backup with what is archived under a name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn compare(&self, inside: &Path, name: WalName, most: u64) -> Result<Compared, Error> {
        let Some(mut archived) = self.open_archived(name)? else {
            return Ok(Compared::Absent);
        };
        let (there, here) = (self.mount.path().join(wal_path(name)), self.shown(inside));
        let (unread, own_unread) = (at("read", &there), at("read", &here));
        let mut own = self.backup.open_file(inside).map_err(&own_unread)?.take(most);
        loop {
            let mut here = Vec::new();
            let read = own.by_ref().take(COMPARED_BYTES).read_to_end(&mut here);
            if read.map_err(&own_unread)? == 0 {
                return Ok(Compared::Same);
            }
            let mut there = Vec::new();
            let read = archived.by_ref().take(here.len() as u64).read_to_end(&mut there);
            read.map_err(&unread)?;
            if here != there {
                return Ok(Compared::Other);
            }
        }
    }

    fn open_archived(&self, name: WalName) -> Result<Option<File>, Error> {
        let inside = wal_path(name);
        match self.mount.open_file(&inside) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &self.mount.path().join(&inside))(error)),
        }
    }
}

fn wal_path(name: WalName) -> PathBuf {
    Path::new("wal").join(name.to_string())
}
