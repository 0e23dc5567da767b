//! Backups that are kept as tar files: `base.tar`, `<oid>.tar`, `pg_wal.tar`, plain or compressed, and `backup_manifest`, as
//! `pg_basebackup -Ft` wrote them. Their content is not known before it is unpacked, so nothing can be compared: an
//! interrupted restore begins anew.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::content::Source;
use super::error::Error;
use super::finish::{Access, PERMISSIONS};
use super::links::{self, Kind, Verdict};
use super::place::CONTROL;
use super::spot::{Roots, Spot};
use crate::archive::tree::{Content, Entry};
use crate::beneath::{self, Root};
use crate::pg::TarPacking;
use crate::pg::control::CONTROL_FILE_BYTES;
use crate::pg::tablespace_map::{self, Tablespace};

/// `backup_label` and `tablespace_map` are the first members of `base.tar` (`basebackup.c`).
const HEAD_MEMBERS: usize = 2;

/// No tablespace map is longer, in bytes.
const LONGEST_MAP: u64 = 1 << 20;

/// Members of a tar file that are left out and named.
const TOLD: usize = 8;

/// The end of the year 9999, in seconds: no file is younger.
const LATEST_SECONDS: u64 = 253_402_300_799;

/// A file of the backup, and what is in it: paths below this one of the data directory.
#[derive(Debug, Clone)]
struct Volume {
    entry: Entry,
    below: &'static str,
    oid: Option<String>,
    packing: TarPacking,
}

/// What is known when all is unpacked.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The control file, which is not written.
    pub control: Vec<u8>,
    /// Whom the cluster's files are for.
    pub access: Access,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// Unpacks all tar files.
pub(super) async fn unpack(source: &Source, roots: &Arc<Roots>) -> Result<Unpacked, Error> {
    let mut all = Members::default();
    for entry in source.tree.entries() {
        let Content::File { .. } = entry.content else {
            continue;
        };
        let (stream, roots) = (source.stream(entry), roots.clone());
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let unpacking: Box<dyn FnOnce() -> io::Result<Members> + Send> = match volume(entry) {
            Some(volume) => Box::new(move || unpack_one(&volume, stream, &roots)),
            None if entry.name() == b"backup_manifest" => Box::new(move || put_manifest(stream, &roots)),
            None => continue,
        };
        let unpacked = tokio::task::spawn_blocking(unpacking).await;
        let unpacked = unpacked.expect("unpacking does not panic");
        let members = unpacked.map_err(|error| told(source, &name, error))?;
        all.control = members.control.or(all.control);
        all.access = members.access.or(all.access);
        all.left_out.extend(members.left_out);
    }
    let missing = || content(source, "base.tar", format!("{CONTROL} is not in it"));
    Ok(Unpacked {
        control: all.control.ok_or_else(missing)?,
        access: all.access.unwrap_or(Access::Owner),
        warnings: all.left_out,
    })
}

/// What a tar file had that is not only written.
#[derive(Debug, Default)]
struct Members {
    control: Option<Vec<u8>>,
    access: Option<Access>,
    /// What was left out, in words: the first of it.
    left_out: Vec<String>,
}

fn put_manifest(mut stream: impl Read, roots: &Roots) -> io::Result<Members> {
    let spot = roots.bases.spot(b"backup_manifest");
    let mut file = roots.on("write", &spot, |root, below| root.create(below, 0o600))?;
    io::copy(&mut stream, &mut file)?;
    Ok(Members::default())
}

/// Where the tablespaces were, by the head of `base.tar`.
pub(super) async fn tablespaces(source: &Source) -> Result<Vec<Tablespace>, Error> {
    let volumes = source.tree.entries().iter().filter_map(volume);
    let base = volumes
        .into_iter()
        .find(|volume| volume.entry.path.starts_with(b"base.tar"));
    let Some(base) = base else {
        return Ok(Vec::new());
    };
    let name = String::from_utf8_lossy(&base.entry.path).into_owned();
    let stream = source.stream(&base.entry);
    let read = tokio::task::spawn_blocking(move || map_of(&base, stream)).await;
    let read = read.expect("reading does not panic");
    let map = read.map_err(|error| told(source, &name, error))?;
    tablespace_map::parse(&map).map_err(|error| content(source, &name, error.to_string()))
}

/// The tablespace map, empty if there is none.
fn map_of(base: &Volume, stream: impl Read + 'static) -> io::Result<Vec<u8>> {
    let mut archive = tar::Archive::new(base.packing.unpacking(stream)?);
    for member in archive.entries()?.raw(true).take(HEAD_MEMBERS) {
        let member = member?;
        if *member.path_bytes() == *b"tablespace_map" {
            return bounded(member, LONGEST_MAP);
        }
    }
    Ok(Vec::new())
}

/// All of a member, if it is no longer than it can be.
fn bounded(mut member: tar::Entry<'_, impl Read>, most: u64) -> io::Result<Vec<u8>> {
    let bytes = member.size();
    if bytes > most {
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let reason = format!("{path:?} in it has {bytes} bytes, expected at most {most}");
        return Err(io::Error::other(reason));
    }
    let mut content = Vec::new();
    member.read_to_end(&mut content)?;
    Ok(content)
}

fn volume(entry: &Entry) -> Option<Volume> {
    let name = str::from_utf8(&entry.path).ok()?;
    let named = |packing: TarPacking| Some((name.strip_suffix(packing.suffix())?, packing));
    let (stem, packing) = TarPacking::ALL.into_iter().find_map(named)?;
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

fn unpack_one(volume: &Volume, stream: impl Read + 'static, roots: &Roots) -> io::Result<Members> {
    let mut members = Members::default();
    let mut archive = tar::Archive::new(volume.packing.unpacking(stream)?);
    // As they are: the headers of other tars, for long names or holes, state lengths of their own.
    for member in archive.entries()?.raw(true) {
        let mut member = member?;
        let Some(path) = place_of(volume, &member.path_bytes())? else {
            continue;
        };
        if path == b"global" {
            members.access = Some(Access::of(member.header().mode()?));
        }
        if path == CONTROL.as_bytes() {
            members.control = Some(bounded(member, CONTROL_FILE_BYTES as u64)?);
            continue;
        }
        if let Some(told) = put(&mut member, &path, roots)?
            && members.left_out.len() < TOLD
        {
            members.left_out.push(told);
        }
    }
    // What follows the end of a tar stream is padding; reading it proves that nothing is cut.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(members)
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

/// Says what is left out.
fn put<R: Read>(member: &mut tar::Entry<'_, R>, path: &[u8], roots: &Roots) -> io::Result<Option<String>> {
    let spot = roots.bases.spot(path);
    // Links of tablespaces are made at the end, by where they are restored to.
    if spot.below.as_os_str().is_empty() {
        return Ok(None);
    }
    let mode = member.header().mode()? & PERMISSIONS;
    let shown = || String::from_utf8_lossy(path).into_owned();
    let kind = match member.header().entry_type() {
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Link,
        tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File,
        other => {
            let reason = format!(
                "{:?} in it is of the kind {other:?}, as pg_basebackup writes none",
                shown()
            );
            return Err(io::Error::other(reason));
        }
    };
    let verdict = links::verdict(path, kind);
    if let Verdict::LeaveOut(reason) = verdict {
        return Ok(Some(links::told(path, reason)));
    }
    if !is_in_a_directory(roots, &spot) {
        let reason = format!("{:?} in it is in no directory that it has before", shown());
        return Err(io::Error::other(reason));
    }
    let done = match (verdict, kind) {
        (Verdict::Refuse(reason), _) => Err(io::Error::other(format!("{:?} in it: {reason}", shown()))),
        (Verdict::Directory, _) => make_directory(roots, &spot, 0o700),
        (_, Kind::Directory) => make_directory(roots, &spot, mode),
        (_, Kind::Link) => {
            let to = member.link_name_bytes().unwrap_or_default().into_owned();
            let to = Path::new(OsStr::from_bytes(&to));
            Ok(roots.on("create", &spot, |root, below| root.link(to, below))?)
        }
        (_, Kind::File) => write(member, roots, &spot, mode),
    };
    done.map(|()| None)
}

/// One behind a link is none.
fn is_in_a_directory(roots: &Roots, spot: &Spot) -> bool {
    let parent = Spot {
        base: spot.base,
        below: spot.below.parent().unwrap_or(Path::new("")).to_owned(),
    };
    roots
        .kind(&parent)
        .is_ok_and(|kind| kind == Some(beneath::Kind::Directory))
}

fn make_directory(roots: &Roots, spot: &Spot, mode: u32) -> io::Result<()> {
    roots.on("create", spot, |root, below| root.make_directory(below, 0o700))?;
    Ok(roots.on("set the mode of", spot, |root, below| root.set_mode(below, mode))?)
}

fn write<R: Read>(member: &mut tar::Entry<'_, R>, roots: &Roots, spot: &Spot, mode: u32) -> io::Result<()> {
    let seconds = member.header().mtime()?.min(LATEST_SECONDS);
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let mut file = roots.on("write", spot, |root: &Root, below| root.create(below, mode))?;
    // A read error is the backup's, a write error this file's; both come out of this.
    io::copy(member, &mut file)?;
    Ok(roots.on("set the time of", spot, |root, below| {
        root.set_modified(below, modified)
    })?)
}
