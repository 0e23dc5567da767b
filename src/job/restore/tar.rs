//! Backups that are kept as tar files: `base.tar`, `<oid>.tar`, `pg_wal.tar`, plain or compressed, and `backup_manifest`, as
//! `pg_basebackup -Ft` wrote them. Their content is not known before it is unpacked, so nothing can be compared: an
//! interrupted restore begins anew.

use std::ffi::OsStr;
use std::fs::{self, FileTimes, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::content::Source;
use super::error::Error;
use super::place::CONTROL;
use super::tablespaces::{Place, destination};
use crate::archive::tree::{Content, Entry};

/// How a tar file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Lz4,
    Zstd,
}

/// A file of the backup, and what is in it: paths below this one of the data directory.
#[derive(Debug, Clone)]
struct Volume {
    entry: Entry,
    below: &'static str,
    oid: Option<String>,
    packing: Packing,
}

/// Unpacks all tar files. Returns the control file, which is not written.
pub(super) async fn unpack(source: &Source, data: &Path, places: &[Place]) -> Result<Vec<u8>, Error> {
    let mut control = None;
    for entry in source.tree.entries() {
        let Content::File { .. } = entry.content else {
            continue;
        };
        if entry.name() == b"backup_manifest" {
            let text = source.small("backup_manifest").await?.unwrap_or_default();
            let path = data.join("backup_manifest");
            fs::write(&path, text).map_err(Error::at("write", &path))?;
            continue;
        }
        let Some(volume) = volume(entry) else { continue };
        let (stream, data, places) = (source.stream(entry), data.to_owned(), places.to_vec());
        let name = String::from_utf8_lossy(&volume.entry.path).into_owned();
        let unpacked = tokio::task::spawn_blocking(move || unpack_one(&volume, stream, &data, &places)).await;
        let unpacked = unpacked.expect("unpacking does not panic");
        control = unpacked.map_err(|error| told(source, &name, error))?.or(control);
    }
    control.ok_or_else(|| content(source, "base.tar", format!("{CONTROL} is not in it")))
}

fn volume(entry: &Entry) -> Option<Volume> {
    let name = str::from_utf8(&entry.path).ok()?;
    let (stem, rest) = name.split_once(".tar")?;
    let packing = match rest {
        "" => Packing::Plain,
        ".gz" => Packing::Gzip,
        ".lz4" => Packing::Lz4,
        ".zst" => Packing::Zstd,
        _ => return None,
    };
    let oid = stem
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| stem.to_owned());
    Some(Volume {
        entry: entry.clone(),
        below: if stem == "pg_wal" { "pg_wal/" } else { "" },
        oid,
        packing,
    })
}

/// The error behind the ones it came through.
fn told(source: &Source, name: &str, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => match error.into_inner().map(|inner| inner.downcast::<io::Error>()) {
            Some(Ok(inner)) => told(source, name, *inner),
            Some(Err(inner)) => content(source, name, inner.to_string()),
            None => content(source, name, "it is no whole tar file".into()),
        },
    }
}

fn content(source: &Source, file: &str, reason: String) -> Error {
    Error::Content {
        backup: source.backup.clone(),
        file: file.to_owned(),
        reason,
    }
}

fn unpack_one(
    volume: &Volume,
    stream: impl Read,
    data: &Path,
    places: &[Place],
) -> io::Result<Option<Vec<u8>>> {
    let plain: Box<dyn Read> = match volume.packing {
        Packing::Plain => Box::new(stream),
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(stream)),
        Packing::Lz4 => Box::new(lzzzz::lz4f::ReadDecompressor::new(stream).map_err(io::Error::other)?),
        Packing::Zstd => Box::new(zstd::Decoder::new(stream)?),
    };
    let mut control = None;
    let mut archive = tar::Archive::new(plain);
    for member in archive.entries()? {
        let mut member = member?;
        let Some(path) = place_of(volume, &member.path_bytes())? else {
            continue;
        };
        if path == CONTROL.as_bytes() {
            let mut bytes = Vec::new();
            member.read_to_end(&mut bytes)?;
            control = Some(bytes);
            continue;
        }
        put(&mut member, &path, data, places)?;
    }
    // What follows the end of a tar stream is padding; reading it proves that nothing is cut.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(control)
}

/// The member's path in the data directory; `None` for the directory itself.
fn place_of(volume: &Volume, path: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let path = path.strip_prefix(b"./").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    if path.is_empty() || path == b"." {
        return Ok(None);
    }
    let sane = path
        .split(|byte| *byte == b'/')
        .all(|part| !matches!(part, b"" | b"." | b".."));
    if !sane {
        let reason = format!(
            "{:?} in it leads out of the directory",
            String::from_utf8_lossy(path)
        );
        return Err(io::Error::other(reason));
    }
    Ok(Some(match &volume.oid {
        Some(oid) => [b"pg_tblspc/", oid.as_bytes(), b"/", path].concat(),
        None => [volume.below.as_bytes(), path].concat(),
    }))
}

fn put<R: Read>(
    member: &mut tar::Entry<'_, R>,
    path: &[u8],
    data: &Path,
    places: &[Place],
) -> io::Result<()> {
    let to = destination(data, places, path);
    let is_place = places.iter().any(|place| place.directory == to);
    let header = member.header();
    let mode = header.mode()? & 0o7777;
    match header.entry_type() {
        // Links of tablespaces are made at the end, by where they are restored to.
        _ if is_place => Ok(()),
        tar::EntryType::Directory => make_directory(&to, mode),
        tar::EntryType::Symlink => {
            let link = member.link_name_bytes().unwrap_or_default().into_owned();
            Ok(symlink(OsStr::from_bytes(&link), &to).map_err(Error::at("create", &to))?)
        }
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(header.mtime()?);
            write(member, &to, mode, modified)
        }
        kind => Err(io::Error::other(format!("{to:?} in it is of the kind {kind:?}"))),
    }
}

fn make_directory(to: &PathBuf, mode: u32) -> io::Result<()> {
    if !to.is_dir() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(to);
        made.map_err(Error::at("create", to))?;
    }
    Ok(
        fs::set_permissions(to, fs::Permissions::from_mode(mode))
            .map_err(Error::at("set the mode of", to))?,
    )
}

fn write(member: &mut impl Read, to: &Path, mode: u32, modified: SystemTime) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .map_err(Error::at("write", to))?;
    // A read error is the backup's, a write error this file's; both come out of this.
    io::copy(member, &mut file)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .and_then(|()| file.set_times(FileTimes::new().set_modified(modified)))
        .map_err(Error::at("write", to))?;
    Ok(())
}
