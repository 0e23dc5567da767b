//! The directory that is restored to: what is in it, and the mark of an unfinished restore.
//!
//! The mark is a file, written before anything else and removed when all but `global/pg_control` is in place and durable.
//! A data directory without that file is one that no server starts, so an interrupted restore is known by the mark, and by
//! nothing that could be taken for a cluster. With `pg_control` in place the mark means nothing: the restore was complete.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::archive::Archive;
use crate::beneath::{Kind, Root};
use crate::pg::SystemId;
use crate::pg::control::ControlFile;

/// Name of the mark.
pub(super) const MARK: &str = "walfs-restore.json";

/// Where the mark is written, before it takes its name: at every moment there is a whole one, or none.
pub(super) const NEW_MARK: &str = "walfs-restore.json.new";

/// What a file system has at its top: a mount point with nothing else is empty.
pub(super) use crate::beneath::LOST_AND_FOUND;

/// No mark and no `postmaster.pid` is longer, in bytes.
const LONGEST_NOTE: u64 = 1 << 20;

/// The control file, which is put in place last.
pub(super) const CONTROL: &str = "global/pg_control";

/// What an unfinished restore says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The archive that it restores from.
    pub archive_id: String,
    /// The backup.
    pub backup: String,
    /// The cluster, where the backup says it: as text, because JSON readers lose digits.
    pub system_identifier: Option<String>,
    /// Directories of tablespaces that it writes to.
    pub tablespaces: Vec<PathBuf>,
    /// The directory that `pg_wal` is a link to.
    #[serde(default)]
    pub waldir: Option<PathBuf>,
}

/// What a directory holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// There is none.
    Absent,
    /// Nothing.
    Nothing,
    /// A restore that was not finished.
    Unfinished(Mark),
    /// Something else.
    Files,
}

/// Looks what is there. Of a data directory, a `pg_wal` that is empty, or a link, is no content.
pub(super) fn look(directory: &Path) -> Result<Holds, Error> {
    let root = match Root::open(directory) {
        Ok(root) => root,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holds::Absent),
        Err(error) => return Err(Error::at("read", directory)(error)),
    };
    if is_empty(&root).map_err(Error::at("read", directory))? {
        return Ok(Holds::Nothing);
    }
    let mark = Path::new(MARK);
    let text = match root.read(mark, LONGEST_NOTE) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Holds::Files),
        Err(error) => return Err(Error::at("read", &directory.join(MARK))(error)),
        Ok(text) => text,
    };
    // Below a link there is nothing that this restore has made.
    if root.kind(Path::new(CONTROL)).is_ok_and(|found| found.is_some()) {
        return Ok(Holds::Files);
    }
    match serde_json::from_slice(&text) {
        Ok(mark) => Ok(Holds::Unfinished(mark)),
        Err(error) => Err(Error::at("read", &directory.join(MARK))(error.into())),
    }
}

fn is_empty(root: &Root) -> io::Result<bool> {
    for (name, kind) in root.list(Path::new(""))? {
        let is_nothing = match (name.to_str(), kind) {
            // A mark that was never finished is nothing yet.
            (Some(NEW_MARK), Kind::File) | (Some(LOST_AND_FOUND), Kind::Directory) => true,
            // Where it leads is looked at on its own.
            (Some("pg_wal"), Kind::Link) => true,
            (Some("pg_wal"), Kind::Directory) => {
                let inside = root.list(Path::new("pg_wal"))?;
                inside.iter().all(|(name, _)| name == LOST_AND_FOUND)
            }
            _ => false,
        };
        if !is_nothing {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Refuses a directory whose server runs.
pub(super) fn check_no_server(directory: &Path) -> Result<(), Error> {
    const PID: &str = "postmaster.pid";
    let read = Root::open(directory).and_then(|root| root.read(Path::new(PID), LONGEST_NOTE));
    let text = match read {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::at("read", &directory.join(PID))(error)),
    };
    // Lines: process, data directory, start time, port, socket directory (miscadmin.h).
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pid = lines
        .first()
        .and_then(|line| line.parse::<i32>().ok())
        .map_or(0, i32::abs);
    let socket = match (lines.get(3), lines.get(4)) {
        (Some(port), Some(directory)) => Some(Path::new(directory).join(format!(".s.PGSQL.{port}"))),
        _ => None,
    };
    // In another container its number means nothing here, but its socket may be seen.
    if is_alive(pid) || socket.is_some_and(|socket| answers(&socket)) {
        let directory = directory.to_owned();
        return Err(Error::ServerRuns { directory, pid });
    }
    Ok(())
}

/// Refuses a directory that the server of another data directory uses: it is behind one of that one's links. Servers are
/// known by their working directory, as far as this user may see it.
pub(super) fn check_not_used(directory: &Path, data: &Path) -> Result<(), Error> {
    let (Ok(real), Ok(processes)) = (directory.canonicalize(), fs::read_dir("/proc")) else {
        return Ok(());
    };
    let own = data.canonicalize().ok();
    for process in processes.flatten() {
        if fs::read(process.path().join("comm")).is_ok_and(|name| name.trim_ascii() != b"postgres") {
            continue;
        }
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
        let server = fs::read_link(process.path().join("cwd"));
        let (Some(pid), Ok(server)) = (pid, server) else {
            continue;
        };
        if own.as_ref() != Some(&server) && server.join(CONTROL).is_file() && uses(&server, &real) {
            let directory = directory.to_owned();
            return Err(Error::Used {
                directory,
                server,
                pid,
            });
        }
    }
    Ok(())
}

fn uses(server: &Path, directory: &Path) -> bool {
    let tablespaces = fs::read_dir(server.join("pg_tblspc"));
    let tablespaces = tablespaces.into_iter().flatten().flatten();
    let mut links = tablespaces
        .map(|entry| entry.path())
        .chain([server.join("pg_wal")]);
    links.any(|link| link.canonicalize().is_ok_and(|real| real == directory))
}

fn is_alive(pid: i32) -> bool {
    if pid <= 0 {
        return false;
    }
    // SAFETY: signal 0 is sent to nobody: only the permission is checked.
    let found = unsafe { libc::kill(pid, 0) };
    found == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

fn answers(socket: &Path) -> bool {
    fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket())
        && UnixStream::connect(socket).is_ok()
}

/// Refuses a directory in the archive's own, and one that the archive lies in: what is too much in it would be removed.
pub(super) fn check_outside(archive: &Archive, directory: &Path) -> Result<(), Error> {
    let Some(own) = archive.store().directory() else {
        return Ok(());
    };
    let (own_real, real) = (real(own), real(directory));
    if !own_real.starts_with(&real) && !real.starts_with(&own_real) {
        return Ok(());
    }
    Err(Error::InArchive {
        directory: directory.to_owned(),
        archive: own.to_owned(),
    })
}

/// Without links, as far as it exists.
pub(super) fn real(path: &Path) -> PathBuf {
    let above = existing(path);
    let resolved = above.canonicalize().unwrap_or_else(|_| above.to_owned());
    resolved.join(path.strip_prefix(above).unwrap_or(Path::new("")))
}

/// Refuses files that are not those of this cluster.
pub(super) fn check_same_cluster(directory: &Path, expected: SystemId) -> Result<(), Error> {
    let not = |reason: String| Error::NotACluster {
        directory: directory.to_owned(),
        reason,
    };
    let bytes = Root::open(directory).and_then(|root| root.read(Path::new(CONTROL), LONGEST_NOTE));
    let bytes = bytes.map_err(|error| not(format!("{CONTROL}: {error}")))?;
    let found = ControlFile::parse(&bytes)
        .map_err(|error| not(error.to_string()))?
        .system_id;
    if found == expected {
        return Ok(());
    }
    Err(Error::Foreign {
        directory: directory.to_owned(),
        found,
        expected,
    })
}

/// Makes a directory that only its owner may enter, and what is above it.
pub(super) fn make_directory(directory: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory);
    made.map_err(Error::at("create", directory))
}

impl Mark {
    /// Writes it, durably.
    pub(super) fn write(&self, data: &Root) -> Result<(), Error> {
        let (new, mark, top) = (Path::new(NEW_MARK), Path::new(MARK), Path::new(""));
        let text = serde_json::to_vec_pretty(self).expect("plain data becomes JSON");
        let written = data.create(new, 0o600).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written
            .and_then(|()| data.rename(new, mark))
            .and_then(|()| data.sync_directory(top))
            .map_err(Error::at("write", &data.path().join(MARK)))
    }
}

/// Refuses if the bytes that go to each place do not fit. Places in one file system are added up.
pub(super) fn check_room(needed: &[(&Path, u64)]) -> Result<(), Error> {
    let mut devices: Vec<(u64, &Path, u64)> = Vec::new();
    for (directory, bytes) in needed {
        let above = existing(directory);
        let device = fs::metadata(above).map_err(Error::at("look at", above))?.dev();
        match devices.iter_mut().find(|(known, ..)| *known == device) {
            Some((_, _, sum)) => *sum = sum.saturating_add(*bytes),
            None => devices.push((device, above, *bytes)),
        }
    }
    for (_, directory, needed_bytes) in devices {
        let free_bytes = free_bytes(directory)?;
        if free_bytes < needed_bytes {
            let directory = directory.to_owned();
            return Err(Error::NoRoom {
                directory,
                needed_bytes,
                free_bytes,
            });
        }
    }
    Ok(())
}

/// The directory, or the nearest one above it that exists.
pub(super) fn existing(directory: &Path) -> &Path {
    let exists = directory.ancestors().find(|above| above.exists());
    exists.unwrap_or(Path::new("."))
}

fn free_bytes(directory: &Path) -> Result<u64, Error> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())
        .map_err(|error| Error::at("look at", directory)(error.into()))?;
    // SAFETY: all-zero bytes are a valid `statvfs`: numbers only.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is terminated and `found` has room; both outlive the call.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut found) } != 0 {
        return Err(Error::at("look at", directory)(io::Error::last_os_error()));
    }
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Has all that was written to the file system of a directory made durable: one wait instead of one for each file.
/// Since Linux 5.8 it tells of what could not be written (syncfs(2)).
pub(super) fn sync_file_system(directory: &Path) -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let file = fs::File::open(directory).map_err(Error::at("open", directory))?;
    // SAFETY: the descriptor is open during the call.
    if unsafe { libc::syncfs(file.as_raw_fd()) } != 0 {
        return Err(Error::at("sync", directory)(io::Error::last_os_error()));
    }
    Ok(())
}

/// Whoever runs this.
pub(super) fn user() -> u32 {
    // SAFETY: geteuid only reads this process's credentials and cannot fail.
    unsafe { libc::geteuid() }
}
