//! Finishing a backup that was copied into the mount by hand, between `pg_backup_start` and `pg_backup_stop`.
//!
//! Everything is done through the directory, as its user could: what a base backup leaves out is removed, the end of the
//! backup is read from its `.backup` file in `wal/`, every file is read and summed up, and `backup_manifest` is written
//! and renamed, which is what commits a backup. So nothing is promised here that the mount does not keep; and as the mount
//! compares the manifest with the bytes that it has stored, what is summed up here is proved to be these.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::pg::backup_manifest::{Checksum, FileLine, Manifest, ManifestVersion, WalRange, Writer};
use crate::pg::control::{ControlError, ControlFile};
use crate::pg::label::{BackupFrom, BackupLabel, LabelError};
use crate::pg::{Lsn, WalName, backup_history, label};

/// How often `wal/` is looked at for the end of the backup.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Threads that read: the mount answers several at a time.
const READERS: usize = 4;

/// What is not of a backup, though a copy of a data directory brings it.
const LEFT_OUT: [&str; 2] = ["postmaster.pid", "postmaster.opts"];

/// What every data directory has: a copy without one of them is not whole.
const REQUIRED: [&str; 6] = [
    "PG_VERSION",
    "base",
    "global/pg_filenode.map",
    "global/pg_control",
    "pg_wal",
    "pg_xact",
];

/// How a backup is finished.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the backup ended, if it is known: the result of `pg_backup_stop`. A backup of a standby needs it.
    pub stop_lsn: Option<Lsn>,
    /// How long to wait for the backup's `.backup` file in `wal/`.
    pub wal_timeout: Duration,
}

/// What was finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Files in the backup.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were removed because no backup has them.
    pub removed: usize,
    /// The WAL that makes it consistent.
    pub wal: WalRange,
}

/// Why a backup was not finished. It stays as it is, and can be finished later.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no directory of a backup in a mount of walfs.
    #[error(
        "{} is not a backup in a mount of walfs.\n\
         HINT: name the directory itself, /mnt/walfs/basebackups/monday for example.", .path.display()
    )]
    NotInMount {
        /// What was named.
        path: PathBuf,
    },
    /// It has a manifest, and is not what that says.
    #[error(
        "{} is not complete, and is not what its backup_manifest says: {source}\n\
         HINT: `walfs backup-list` and the log of walfs mount say which file is wrong; bring it again, then finish again.",
        .path.display()
    )]
    Refused {
        /// The backup.
        path: PathBuf,
        /// What the mount answered.
        source: io::Error,
    },
    /// It has a manifest that was not accepted.
    #[error(
        "{} is whole: what wrote it knows which files the backup has, and its rename was refused.\n\
         HINT: the log of walfs mount has the reason. If this command wrote it, remove it and try again; if \
         pg_basebackup did, take a new backup.", .path.display()
    )]
    OtherManifest {
        /// The manifest.
        path: PathBuf,
    },
    /// A part of every data directory is not there.
    #[error(
        "{} is not a whole data directory: it has no {missing}.\n\
         HINT: copy all of it, between pg_backup_start and pg_backup_stop.", .path.display()
    )]
    NotWhole {
        /// The backup.
        path: PathBuf,
        /// What it lacks.
        missing: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {what} {}: {source}{hint}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The backup label is none.
    #[error(
        "{} cannot be used: {source}\n\
         HINT: it must be, byte for byte, what pg_backup_stop returned as labelfile.", .path.display()
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LabelError,
    },
    /// The control file is none.
    #[error("{} cannot be used: {source}{}", .path.display(), torn_hint(source))]
    Control {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ControlError,
    },
    /// A tablespace's files are not in the backup.
    #[error(
        "{} is a link: the files of this tablespace are not in the backup.\n\
         HINT: put them where the link is: rm {0}, mkdir {0}, then cp -a the tablespace's directory/. into it.",
        .path.display()
    )]
    Tablespace {
        /// The link.
        path: PathBuf,
    },
    /// Nobody has said where the backup ended.
    #[error(
        "{name} is not in the archive: where the backup ended is not known.\n\
         HINT: pg_backup_stop makes PostgreSQL archive it; see pg_stat_archiver. A backup of a standby has none: give \
         --stop-lsn, the lsn that pg_backup_stop returned."
    )]
    NoEnd {
        /// The `.backup` file.
        name: WalName,
    },
    /// The `.backup` file is another backup's, or none.
    #[error("{name} does not tell where this backup ended: {reason}.")]
    End {
        /// The `.backup` file.
        name: WalName,
        /// What is wrong with it.
        reason: String,
    },
}

/// What has a format of its own tells what to do about it.
fn torn_hint(error: &ControlError) -> &'static str {
    match error {
        ControlError::Checksum { .. } | ControlError::Length { .. } | ControlError::Field { .. } => {
            "\nHINT: it may have been copied while it was written; copy it again, and finish again."
        }
        ControlError::TooOld { .. }
        | ControlError::Format { .. }
        | ControlError::ByteOrder
        | ControlError::Layout => "",
    }
}

fn io_error(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Io {
        what,
        path: path.to_owned(),
        source,
        hint: "",
    }
}

/// Finishes the backup in `directory`, which must be in a mount of walfs. `None`: it had a manifest, and is complete by
/// that.
///
/// # Errors
/// Any [`Error`].
pub fn finish(directory: &Path, options: &Options) -> Result<Option<Finished>, Error> {
    let wal = mounted_wal(directory)?;
    if directory.join("backup_manifest").exists() {
        return complete_as_it_is(directory).map(|()| None);
    }
    check_whole(directory)?;
    let label = read_label(directory)?;
    let control = read_control(directory)?;
    let removed = leave_out(directory)?;
    let stop = stop_lsn(&wal, &label, &control, options)?;
    let range = WalRange {
        timeline: label.start_timeline(),
        start: label.start_lsn,
        end: stop,
    };
    let files = sum_up(directory, list(directory)?)?;
    write_manifest(directory, &control, &files, range)?;
    Ok(Some(Finished {
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        removed,
        wal: range,
    }))
}

/// A copy of a whole backup, with its manifest: the mount completes it when its directory is synced, if all is there. One
/// that is complete stays so.
fn complete_as_it_is(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|source| Error::Refused {
        path: directory.to_owned(),
        source,
    })
}

/// The mount's `wal/`.
fn mounted_wal(directory: &Path) -> Result<PathBuf, Error> {
    let not_in_mount = || Error::NotInMount {
        path: directory.to_owned(),
    };
    let directory = directory.canonicalize().map_err(|_| not_in_mount())?;
    let backups = directory
        .parent()
        .filter(|parent| parent.ends_with("basebackups"));
    let mount = backups.and_then(Path::parent).ok_or_else(not_in_mount)?;
    let served = mount.join(".walfs/version").is_file() && directory.is_dir();
    served.then(|| mount.join("wal")).ok_or_else(not_in_mount)
}

/// A manifest that somebody finished writing knows the files better than we do, and was refused for a reason.
fn check_whole(directory: &Path) -> Result<(), Error> {
    let path = directory.join("backup_manifest.tmp");
    if fs::read(&path).is_ok_and(|text| Manifest::parse(&text).is_ok()) {
        return Err(Error::OtherManifest { path });
    }
    match REQUIRED.iter().find(|name| !directory.join(name).exists()) {
        Some(missing) => Err(Error::NotWhole {
            path: directory.to_owned(),
            missing,
        }),
        None => Ok(()),
    }
}

fn read_label(directory: &Path) -> Result<BackupLabel, Error> {
    let path = directory.join("backup_label");
    let bytes = fs::read(&path).map_err(|source| Error::Io {
        what: "read",
        path: path.clone(),
        source,
        hint: "\nHINT: write into it what pg_backup_stop returned as labelfile (and spcmapfile into tablespace_map).",
    })?;
    label::parse(&bytes).map_err(|source| Error::Label { path, source })
}

fn read_control(directory: &Path) -> Result<ControlFile, Error> {
    let path = directory.join("global/pg_control");
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    ControlFile::parse(&bytes).map_err(|source| Error::Control { path, source })
}

/// Removes what the copy brought and a backup must not have: a running server's lock file, and its WAL, which is in the
/// archive and may be half-written here.
fn leave_out(directory: &Path) -> Result<usize, Error> {
    let mut gone: Vec<PathBuf> = LEFT_OUT.iter().map(|name| directory.join(name)).collect();
    for folder in ["pg_wal", "pg_wal/archive_status"] {
        let folder = directory.join(folder);
        let entries = fs::read_dir(&folder).map_err(io_error("list", &folder))?;
        for entry in entries {
            let entry = entry.map_err(io_error("list", &folder))?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                gone.push(entry.path());
            }
        }
    }
    let mut removed = 0;
    for path in gone {
        match fs::remove_file(&path) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("remove", &path)(error)),
        }
    }
    Ok(removed)
}

fn stop_lsn(wal: &Path, label: &BackupLabel, control: &ControlFile, options: &Options) -> Result<Lsn, Error> {
    if let Some(stop) = options.stop_lsn {
        return Ok(stop);
    }
    let offset = (label.start_lsn.0 % control.segment_size.bytes()) as u32;
    let name = WalName::Backup(label.start_file, offset);
    // A standby leaves none behind: waiting would be in vain.
    let patience = if label.from == BackupFrom::Standby {
        Duration::ZERO
    } else {
        options.wal_timeout
    };
    let until = Instant::now() + patience;
    let path = wal.join(name.to_string());
    let bytes = loop {
        match fs::read(&path) {
            Ok(bytes) => break bytes,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("read", &path)(error));
            }
            Err(_) if Instant::now() >= until => return Err(Error::NoEnd { name }),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    };
    let wrong = |reason: String| Error::End { name, reason };
    let history = backup_history::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    if history.start_lsn != label.start_lsn || history.stop_timeline != label.start_timeline() {
        return Err(wrong(
            "it is of another backup, or the timeline changed meanwhile".into(),
        ));
    }
    Ok(history.stop_lsn)
}

/// A file of the backup.
#[derive(Debug)]
struct Summed {
    /// From the directory, in bytes.
    path: OsString,
    bytes: u64,
    modified: SystemTime,
    crc32c: u32,
}

/// Every regular file that a manifest names, by its path from the directory, in order.
fn list(directory: &Path) -> Result<Vec<OsString>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let path = directory.join(&folder);
        for entry in fs::read_dir(&path).map_err(io_error("list", &path))? {
            let entry = entry.map_err(io_error("list", &path))?;
            let kind = entry.file_type().map_err(io_error("look at", &entry.path()))?;
            let inside = folder.join(entry.file_name());
            if kind.is_symlink() && folder == Path::new("pg_tblspc") {
                return Err(Error::Tablespace { path: entry.path() });
            } else if kind.is_dir() {
                folders.push(inside);
            } else if kind.is_file() {
                found.push(inside.into_os_string());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Reads all of them, several at a time.
fn sum_up(directory: &Path, paths: Vec<OsString>) -> Result<Vec<Summed>, Error> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(paths.len()));
    thread::scope(|scope| {
        let work = || -> Result<(), Error> {
            let mut buffer = vec![0; 1 << 20];
            while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                let summed = sum_up_one(directory, path, &mut buffer)?;
                done.lock().expect("no panic while held").push(summed);
            }
            Ok(())
        };
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(work)).collect();
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().expect("reading does not panic"))
    })?;
    let mut files = done.into_inner().expect("no panic while held");
    files.sort_by(|left: &Summed, right| left.path.cmp(&right.path));
    Ok(files)
}

fn sum_up_one(directory: &Path, inside: &OsStr, buffer: &mut [u8]) -> Result<Summed, Error> {
    let path = directory.join(inside);
    let failed = io_error("read", &path);
    let mut file = File::open(&path).map_err(&failed)?;
    let modified = file
        .metadata()
        .and_then(|meta| meta.modified())
        .map_err(&failed)?;
    let (mut bytes, mut crc32c) = (0, 0);
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(read) => {
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Summed {
        path: OsString::from_vec(inside.as_bytes().to_vec()),
        bytes,
        modified,
        crc32c,
    })
}

fn write_manifest(
    directory: &Path,
    control: &ControlFile,
    files: &[Summed],
    wal: WalRange,
) -> Result<(), Error> {
    let major = control.major_version().unwrap_or(0);
    let mut writer = Writer::new(ManifestVersion::of_postgres(major, control.system_id));
    let (temporary, last) = (
        directory.join("backup_manifest.tmp"),
        directory.join("backup_manifest"),
    );
    let write = || -> io::Result<()> {
        let mut out = File::create(&temporary)?;
        for file in files {
            writer.file(&FileLine {
                path: file.path.as_bytes(),
                bytes: file.bytes,
                modified: file.modified,
                checksum: Some(&Checksum::crc32c(file.crc32c)),
            });
            out.write_all(&writer.take())?;
        }
        out.write_all(&writer.finish(&[wal]))?;
        out.sync_all()
    };
    write().map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, &last).map_err(|source| Error::Io {
        what: "commit",
        path: last,
        source,
        hint: "\nHINT: the log of walfs mount has the reason.",
    })
}
