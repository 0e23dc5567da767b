//! What a restored directory needs beside the backup's files: WAL; when all is there, links of tablespaces, settings,
//! attributes; and the control file, last.

use std::fs::{self, File, FileTimes};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::fill::write_durably;
use super::place::{self, CONTROL, MARK};
use super::settings::{Recovery, auto_conf};
use super::tablespaces::Place;
use super::{Owner, work};
use crate::archive::Archive;
use crate::archive::tree::{Attributes, Content, Entry};
use crate::cache::Cache;
use crate::long_write;
use crate::pg::tablespace_map::{self, Tablespace};
use crate::pg::{SegmentName, WalName, backup_manifest, control};
use crate::read::{PIECE_BYTES, Reader};
use crate::store::Patience;

/// What makes a server recover, or follow: there is at most one of them when all is done.
const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

/// Brings the segments that make the backup consistent, so that it needs no archive for that. They are marked as
/// archived, because they are.
pub(super) async fn bring_wal(
    archive: &Arc<Archive>,
    data: &Path,
    segments: &[SegmentName],
    segment_bytes: u64,
    patience: Patience,
) -> Result<(), Error> {
    let reader = Reader::new(archive.clone(), Cache::new(PIECE_BYTES), None);
    let pg_wal = data.join("pg_wal");
    let marks = pg_wal.join("archive_status");
    place::make_directory(&marks)?;
    for segment in segments {
        let path = pg_wal.join(segment.to_string());
        let file = Arc::new(File::create(&path).map_err(Error::at("write", &path))?);
        let mut at = 0;
        while at < segment_bytes {
            let name = WalName::Segment(*segment);
            let piece = reader
                .read(name, segment_bytes, at, PIECE_BYTES as usize, patience)
                .await;
            let piece = piece.map_err(|error| unreadable(&error, name))?;
            at += piece.len() as u64;
            // Not here: files are being fetched by the same task.
            let target = file.clone();
            let written = tokio::task::spawn_blocking(move || long_write::write_all(&target, &piece)).await;
            written
                .expect("writing does not panic")
                .map_err(Error::at("write", &path))?;
        }
        private(&path)?;
        let mark = marks.join(format!("{segment}.done"));
        fs::write(&mark, "").map_err(Error::at("write", &mark))?;
        private(&mark)?;
    }
    Ok(())
}

/// The reader's errors are shared; what they say is all that is needed.
fn unreadable(error: &crate::archive::Error, name: WalName) -> Error {
    Error::System {
        operation: "bring",
        path: PathBuf::from(name.to_string()),
        source: io::Error::other(error.to_string()),
    }
}

fn private(path: &Path) -> Result<(), Error> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(Error::at("set the mode of", path))
}

/// Makes the links of tablespaces, and has `tablespace_map` say the same, if the backup has one.
pub(super) fn link_tablespaces(data: &Path, places: &[Place]) -> Result<(), Error> {
    for place in places {
        let link = data.join("pg_tblspc").join(place.oid.to_string());
        place::remove_file(&link)?;
        symlink(&place.directory, &link).map_err(Error::at("create", &link))?;
    }
    let path = data.join("tablespace_map");
    let before = match fs::read(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::at("read", &path)(error)),
    };
    let tablespaces: Vec<Tablespace> = places
        .iter()
        .map(|place| Tablespace {
            oid: place.oid,
            location: place.directory.as_os_str().as_bytes().to_vec(),
        })
        .collect();
    let known = tablespace_map::parse(&before).is_ok_and(|known| known == tablespaces);
    if known {
        return Ok(());
    }
    let map = tablespace_map::write(&tablespaces);
    fs::write(&path, &map).map_err(Error::at("write", &path))?;
    describe(data, "tablespace_map", &map)
}

/// Writes the settings and the file that begins the recovery.
pub(super) fn write_settings(data: &Path, recovery: &Recovery) -> Result<(), Error> {
    let path = data.join("postgresql.auto.conf");
    let before = match fs::read(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(Error::at("read", &path)(error)),
    };
    fs::write(&path, auto_conf(&before, recovery)).map_err(Error::at("write", &path))?;
    private(&path)?;
    for signal in SIGNALS {
        place::remove_file(&data.join(signal))?;
    }
    let signal = data.join(recovery.signal_file());
    fs::write(&signal, "").map_err(Error::at("write", &signal))?;
    private(&signal)
}

/// Gives each file its mode and time, directories last.
pub(super) fn set_attributes(entries: &[(&Entry, PathBuf)], threads: usize) -> Result<(), Error> {
    let (directories, files): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter(|(entry, _)| !matches!(entry.content, Content::Symlink(_)))
        .partition(|(entry, _)| entry.content == Content::Directory);
    work::for_each(&files, threads, |(entry, path)| set(path, &entry.attributes))?;
    // The deepest first: a directory may forbid its owner to write.
    directories
        .iter()
        .rev()
        .try_for_each(|(entry, path)| set(path, &entry.attributes))
}

fn set(path: &Path, attributes: &Attributes) -> Result<(), Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        // The control file comes last; which signal there is has been decided here, whatever the backup had.
        Err(error) if error.kind() == ErrorKind::NotFound && (path.ends_with(CONTROL) || is_signal(path)) => {
            return Ok(());
        }
        Err(error) => return Err(Error::at("open", path)(error)),
    };
    let times = FileTimes::new().set_modified(SystemTime::from(attributes.modified));
    file.set_times(times)
        .map_err(Error::at("set the time of", path))?;
    let mode = fs::Permissions::from_mode(attributes.mode);
    file.set_permissions(mode)
        .map_err(Error::at("set the mode of", path))
}

fn is_signal(path: &Path) -> bool {
    SIGNALS.iter().any(|signal| path.ends_with(signal))
}

/// Gives everything in a directory to one owner, WAL and settings included.
pub(super) fn own_all(path: &Path, owner: Owner) -> Result<(), Error> {
    lchown(path, Some(owner.uid), Some(owner.gid)).map_err(Error::at("change the owner of", path))?;
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    let entries = fs::read_dir(path).map_err(Error::at("read", path))?;
    for entry in entries {
        own_all(&entry.map_err(Error::at("read", path))?.path(), owner)?;
    }
    Ok(())
}

/// Makes the control file one that no server starts from without the `backup_label`, if there is one.
pub(super) fn poison_control(data: &Path, bytes: &mut [u8]) -> Result<(), Error> {
    if !data.join("backup_label").exists() {
        return Ok(());
    }
    let path = data.join(CONTROL);
    control::poison(bytes).map_err(|error| Error::at("use", &path)(io::Error::other(error)))?;
    describe(data, CONTROL, bytes)
}

/// Puts the control file in place: from here on a server can start, and the mark means nothing.
pub(super) fn put_control(data: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> Result<(), Error> {
    write_durably(&data.join(CONTROL), bytes, mode, owner)?;
    place::remove_file(&data.join(MARK))?;
    place::sync_directory(data)
}

/// Has `backup_manifest` describe a file that differs from the backup's, so that `pg_verifybackup` looks for what was
/// restored. Its line keeps its place and algorithm; the checksum over all lines is made anew.
fn describe(data: &Path, file: &str, content: &[u8]) -> Result<(), Error> {
    let path = data.join("backup_manifest");
    let before = match fs::read(&path) {
        Ok(before) => before,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::at("read", &path)(error)),
    };
    match backup_manifest::describe(&before, file, content) {
        Some(after) => fs::write(&path, after).map_err(Error::at("write", &path)),
        None => Ok(()),
    }
}
