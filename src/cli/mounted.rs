//! The way to the archive through a mount that runs (`--mount`): its daemon has its connections open, sends segments
//! ahead, and has fetched what is asked for next.
//!
//! The mount is the daemon's socket: the protocol is files, and each promise that `cp` gets is kept here too. Only a
//! mount that the user names is taken. An archive of the same spelling is not proof enough: `http://localhost:9000` is
//! another server in another container, and a segment that went there would count as archived. An archive of another
//! spelling is proof of the contrary, and an error, because one of the two that were named is wrong.
//!
//! Whatever else fails here is tried directly if an archive is named as well, because that gives the reason in words.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{self, Path, PathBuf};

use serde::Deserialize;

use crate::linux::kernel;
use crate::pg::WalName;
use crate::store::Location;

/// Bytes handed to the kernel at once: its own limit for a request.
const BLOCK_BYTES: usize = 1 << 20;

/// A mount of walfs.
#[derive(Debug)]
pub(super) struct Mounted {
    mountpoint: PathBuf,
}

impl Mounted {
    /// The mount at this directory.
    ///
    /// # Errors
    /// There is none of walfs; the file system that is there is not asked.
    pub(super) fn at(mountpoint: &Path) -> Result<Self, String> {
        let shown = mountpoint.display();
        let found =
            kernel::mount_at(mountpoint).map_err(|error| format!("cannot look at {shown}: {error}"))?;
        match found {
            Some(mount) if mount.is_walfs() => Ok(Self {
                mountpoint: mountpoint.to_owned(),
            }),
            _ => Err(format!(
                "walfs is not mounted at {shown}\nHINT: start it, or name the archive as well (--archive)"
            )),
        }
    }

    /// That it is a mount of that archive, as far as it says which one it shows.
    ///
    /// # Errors
    /// It shows another one, as a sentence.
    pub(super) fn check_shows(&self, archive: &str) -> Result<(), String> {
        let Some(Status { archive: shown, .. }) = self.status() else {
            return Ok(());
        };
        if Location::parse(archive).is_ok_and(|named| is_same(&named, &shown)) {
            return Ok(());
        }
        Err(format!(
            "{} shows the archive {shown}, not {archive}\n\
             HINT: give the mount of {archive}, or leave --mount or --archive away",
            self.mountpoint.display()
        ))
    }

    fn status(&self) -> Option<Status> {
        let text = fs::read(self.mountpoint.join(".walfs/mount.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Archives a file as `cp` would, and asks for the verdict on it.
    ///
    /// # Errors
    /// What the mount answered, as a sentence.
    pub(super) fn push(&self, path: &Path, name: WalName) -> Result<(), String> {
        let target = self.mountpoint.join("wal").join(name.to_string());
        let opened = File::open(path);
        let mut source = opened.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let mut archive = || {
            let mut options = OpenOptions::new();
            let mut archived = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&target)?;
            // Of an empty file the mount has nothing to say: nothing was written.
            match copy(&mut source, &mut archived)? {
                0 => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
                _ => archived.sync_all(),
            }
        };
        archive().map_err(|error| self.failed("archive", name, &error))
    }

    /// Writes an archived file to `target`. False: the store said that it does not exist.
    ///
    /// # Errors
    /// What the mount answered, as a sentence.
    pub(super) fn fetch(&self, name: WalName, target: &mut impl Write) -> Result<bool, String> {
        let archived = self.mountpoint.join("wal").join(name.to_string());
        let opened = match File::open(&archived) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.is_absent(name) {
                true => return Ok(false),
                // It may have come while the mount looked at what lies behind it.
                false => File::open(&archived),
            },
            opened => opened,
        };
        let fetched = opened.and_then(|mut archived| copy(&mut archived, target).map(|_| true));
        fetched.map_err(|error| self.failed("fetch", name, &error))
    }

    /// Is it proved that there is no such file?
    fn is_absent(&self, name: WalName) -> bool {
        fs::metadata(self.mountpoint.join(".absent").join(name.to_string())).is_ok()
    }

    fn failed(&self, what: &str, name: WalName, error: &io::Error) -> String {
        let mountpoint = self.mountpoint.display();
        let text = format!("cannot {what} {name} through {mountpoint}: {error}");
        if error.raw_os_error() == Some(libc::ENOTCONN) {
            return format!("{text}\nHINT: the walfs that served it has died: start `walfs mount` again");
        }
        // The daemon's own words, if they are about this file.
        let last = self.status().and_then(|status| status.last_error);
        match last.filter(|last| last.message.contains(&name.to_string())) {
            Some(last) => format!("{text}\n{}", last.message),
            None => format!("{text}\nHINT: the log of `walfs mount` says why"),
        }
    }
}

/// A directory may have several names, by links; the mount tells one of them.
fn is_same(named: &Location, shown: &str) -> bool {
    match named {
        Location::S3 { .. } => named.to_string() == shown,
        Location::Dir(directory) => {
            let same_text = path::absolute(directory).is_ok_and(|named| named == Path::new(shown));
            let real = |path: &Path| path.canonicalize().ok();
            same_text || real(directory).is_some_and(|named| real(Path::new(shown)) == Some(named))
        }
    }
}

/// What is read of `mount.json`.
#[derive(Debug, Deserialize)]
struct Status {
    archive: String,
    last_error: Option<LastError>,
}

/// The error that the daemon told last.
#[derive(Debug, Deserialize)]
struct LastError {
    message: String,
}

/// Not `io::copy`, which would hand it to the kernel in pieces of its own choice.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(bytes) => {
                to.write_all(&buffer[..bytes])?;
                copied += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
