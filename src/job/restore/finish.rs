//! What a restored directory needs beside the backup's files: WAL; when all is there, links of tablespaces, settings,
//! attributes; and the control file, last.

use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::error::Error;
use super::place::{CONTROL, LOST_AND_FOUND, MARK, NEW_CONTROL, PLACE_MARK};
use super::spot::{Base, Roots, Spot};
use super::{Owner, links, work};
use crate::archive::Archive;
use crate::archive::tree::{Attributes, Content, Entry, Tree};
use crate::beneath::{Kind, Root};
use crate::cache::Cache;
use crate::long_write;
use crate::pg::tablespace_map::{self, Tablespace};
use crate::pg::{SegmentName, WalName, backup_manifest, control};
use crate::read::{PIECE_BYTES, Reader};
use crate::store::Patience;

/// No settings file or tablespace map is longer, in bytes.
pub(super) const LONGEST_TEXT: u64 = 16 << 20;

/// What is restored of a mode. PostgreSQL sets no other bits, and an archive shall make no program that runs as its owner.
pub(super) const PERMISSIONS: u32 = 0o777;

/// What makes a server recover, or follow: there is at most one of them when all is done.
pub(super) const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

/// No `backup_manifest` that is changed is longer, in bytes: some millions of files.
const LONGEST_MANIFEST: u64 = 1 << 30;

/// Whom the files are for: their owner alone, or his group to read as well (`initdb --allow-group-access`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// 0700 and 0600.
    Owner,
    /// 0750 and 0640.
    Group,
}

impl Access {
    /// As PostgreSQL does (`GetDataDirectoryCreatePerm` of file_perm.c), from the mode of a directory of the cluster.
    pub(super) fn of(directory: u32) -> Self {
        match directory & 0o050 {
            0o050 => Self::Group,
            _ => Self::Owner,
        }
    }

    /// Of the backup: its top may have been made by a tool for itself alone, what is in it was not.
    pub(super) fn of_tree(tree: &Tree) -> Self {
        let of = |path: &[u8]| {
            let entry = tree.find(path).and_then(|number| tree.entry(number));
            entry.map_or(Self::Owner, |entry| Self::of(entry.attributes.mode))
        };
        match (of(b""), of(b"global")) {
            (Self::Owner, Self::Owner) => Self::Owner,
            _ => Self::Group,
        }
    }

    /// The mode of a directory.
    pub(super) fn directory(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Group => 0o750,
        }
    }

    /// The mode of a file.
    pub(super) fn file(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o640,
        }
    }
}

/// Brings the segments that make the backup consistent, so that it needs no archive for that. They are marked as
/// archived, because they are.
pub(super) async fn bring_wal(
    archive: &Arc<Archive>,
    roots: &Roots,
    segments: &[SegmentName],
    segment_bytes: u64,
    access: Access,
    patience: Patience,
) -> Result<(), Error> {
    let reader = Reader::new(archive.clone(), Cache::new(PIECE_BYTES), None);
    let spot = |path: String| roots.bases.spot(path.as_bytes());
    let make = |root: &Root, below: &Path| root.make_directory(below, access.directory());
    for directory in ["pg_wal", "pg_wal/archive_status"] {
        roots.on("create", &spot(directory.into()), make)?;
    }
    for segment in segments {
        let file = spot(format!("pg_wal/{segment}"));
        let opened = roots.on("write", &file, |root, below| root.create(below, access.file()))?;
        let opened = Arc::new(opened);
        let mut at = 0;
        while at < segment_bytes {
            let name = WalName::Segment(*segment);
            let piece = reader
                .read(name, segment_bytes, at, PIECE_BYTES as usize, patience)
                .await;
            let piece = piece.map_err(|error| Error::unreadable(&error, name))?;
            at += piece.len() as u64;
            // Not here: files are being fetched by the same task.
            let target = opened.clone();
            let written = tokio::task::spawn_blocking(move || long_write::write_all(&target, &piece)).await;
            written
                .expect("writing does not panic")
                .map_err(Error::at("write", &roots.bases.path(&file)))?;
        }
        let mark = spot(format!("pg_wal/archive_status/{segment}.done"));
        roots.on("write", &mark, |root, below| {
            root.write(below, b"", access.file())
        })?;
    }
    Ok(())
}

/// Makes the links of tablespaces and of the WAL, and has `tablespace_map` say the same, if the backup has one.
pub(super) fn link_elsewhere(roots: &Roots, access: Access) -> Result<(), Error> {
    let (bases, in_data) = (&roots.bases, |path: &str| Spot {
        base: Base::Data,
        below: path.into(),
    });
    let home = in_data("pg_tblspc");
    roots.on("create", &home, |root, below| {
        root.make_directory(below, access.directory())
    })?;
    for place in &bases.places {
        let link = in_data(&format!("pg_tblspc/{}", place.oid));
        roots.on("create", &link, |root, below| root.link(&place.directory, below))?;
    }
    if let Some(waldir) = &bases.wal {
        link_wal(roots, waldir, &in_data("pg_wal"))?;
    }
    let map = in_data("tablespace_map");
    let Some(before) = roots.read(&map, LONGEST_TEXT)? else {
        return Ok(());
    };
    let tablespaces: Vec<Tablespace> = bases
        .places
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
    let after = tablespace_map::write(&tablespaces);
    roots.on("write", &map, |root, below| {
        root.write(below, &after, access.file())
    })?;
    describe(roots, access, "tablespace_map", &after)
}

/// A link that leads there already stays.
fn link_wal(roots: &Roots, waldir: &Path, link: &Spot) -> Result<(), Error> {
    roots.on("create", link, |root, below| match root.read_link(below) {
        Ok(to) if root.path().join(&to) == waldir => Ok(()),
        _ => root.link(waldir, below),
    })
}

/// Gives each file its mode and time, directories last.
pub(super) fn set_attributes(roots: &Roots, entries: &[(&Entry, Spot)], threads: usize) -> Result<(), Error> {
    let (directories, files): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter(|(entry, _)| !matches!(entry.content, Content::Symlink(_)))
        .partition(|(entry, _)| entry.content == Content::Directory);
    work::for_each(&files, threads, |(entry, spot)| {
        set(roots, spot, &entry.attributes)
    })?;
    // The deepest first: a directory may forbid its owner to write.
    directories
        .iter()
        .rev()
        .try_for_each(|(entry, spot)| set(roots, spot, &entry.attributes))
}

fn set(roots: &Roots, spot: &Spot, attributes: &Attributes) -> Result<(), Error> {
    let modified = SystemTime::from(attributes.modified);
    let timed = roots.on("set the time of", spot, |root, below| {
        match root.set_modified(below, modified) {
            // The control file comes last; which signal there is has been decided here, whatever the backup had.
            Err(error) if error.kind() == ErrorKind::NotFound && comes_otherwise(below) => Ok(false),
            set => set.map(|()| true),
        }
    });
    match timed? {
        true => roots.on("set the mode of", spot, |root, below| {
            root.set_mode(below, attributes.mode & PERMISSIONS)
        }),
        false => Ok(()),
    }
}

/// The top of the cluster and what was written beside the tar files are for whom the rest is for: a server starts from no
/// other modes of its data directory than these two.
pub(super) fn set_access(roots: &Roots, access: Access) -> Result<(), Error> {
    let set = |path: &[u8], mode: u32| {
        let spot = roots.bases.spot(path);
        match roots.kind(&spot)? {
            Some(_) => roots.on("set the mode of", &spot, |root, below| root.set_mode(below, mode)),
            None => Ok(()),
        }
    };
    set(b"", access.directory())?;
    set(b"pg_wal", access.directory())?;
    let pg_wal = roots.bases.spot(b"pg_wal");
    if roots.kind(&pg_wal)? != Some(Kind::Directory) {
        return set(b"backup_manifest", access.file());
    }
    for (name, kind) in roots.on("read", &pg_wal, Root::list)? {
        if kind == Kind::File {
            set(&[b"pg_wal/", name.as_bytes()].concat(), access.file())?;
        }
    }
    set(b"backup_manifest", access.file())
}

fn comes_otherwise(below: &Path) -> bool {
    below == Path::new(CONTROL) || SIGNALS.iter().any(|signal| below == Path::new(signal))
}

/// Gives all that was restored to one owner, WAL and settings included. Of a tablespace's directory that is what the backup
/// has there, if `tree` tells it: another version of PostgreSQL may have its own beside.
pub(super) fn own_all(roots: &Roots, tree: Option<&Tree>, owner: Owner) -> Result<(), Error> {
    for (base, root) in roots.all() {
        let top = Path::new("");
        root.set_owner(top, owner.uid, owner.gid)
            .map_err(Error::at("change the owner of", root.path()))?;
        for (name, kind) in root.list(top).map_err(Error::at("read", root.path()))? {
            let is_own = match (base, tree) {
                (Base::Tablespace(number), Some(tree)) => {
                    let oid = roots.bases.places[number].oid;
                    let path = [format!("pg_tblspc/{oid}/").as_bytes(), name.as_bytes()].concat();
                    tree.find(&path).is_some() && !links::is_left_out(&path)
                }
                _ => !(name == LOST_AND_FOUND && kind == Kind::Directory),
            };
            if is_own {
                own(root, Path::new(&name), kind, owner)
                    .map_err(Error::at("change the owner of", &root.path().join(&name)))?;
            }
        }
    }
    Ok(())
}

fn own(root: &Root, below: &Path, kind: Kind, owner: Owner) -> io::Result<()> {
    root.set_owner(below, owner.uid, owner.gid)?;
    if kind != Kind::Directory {
        return Ok(());
    }
    let directory = root.directory(below)?;
    for (name, kind) in directory.list(Path::new(""))? {
        if name != LOST_AND_FOUND {
            own(&directory, Path::new(&name), kind, owner)?;
        }
    }
    Ok(())
}

/// Makes the control file one that no server starts from without the `backup_label`, if there is one.
pub(super) fn poison_control(roots: &Roots, bytes: &mut [u8], access: Access) -> Result<(), Error> {
    if roots.kind(&roots.bases.spot(b"backup_label"))?.is_none() {
        return Ok(());
    }
    let path = roots.bases.data.join(CONTROL);
    control::poison(bytes).map_err(|error| Error::at("use", &path)(io::Error::other(error)))?;
    describe(roots, access, CONTROL, bytes)
}

/// Puts the control file in place: from here on a server can start, and the marks mean nothing.
pub(super) fn put_control(roots: &Roots, bytes: &[u8], mode: u32, owner: Option<Owner>) -> Result<(), Error> {
    let (new, control) = (Path::new("global").join(NEW_CONTROL), Path::new(CONTROL));
    let spot = roots.bases.spot(CONTROL.as_bytes());
    roots.on("write", &spot, |root, _| {
        let mut file = root.create(&new, mode)?;
        file.write_all(bytes)?;
        if let Some(Owner { uid, gid }) = owner {
            root.set_owner(&new, uid, gid)?;
        }
        file.sync_all()?;
        root.rename(&new, control)?;
        root.sync_directory(Path::new("global"))
    })?;
    // Those elsewhere first: as long as there is one, this one says whose they are.
    for root in roots.outside() {
        root.remove_file(Path::new(PLACE_MARK))
            .and_then(|_| root.sync_directory(Path::new("")))
            .map_err(Error::at("remove", &root.path().join(PLACE_MARK)))?;
    }
    let mark = roots.bases.spot(MARK.as_bytes());
    roots.on("remove", &mark, |root, below| {
        root.remove_file(below)?;
        root.sync_directory(Path::new(""))
    })
}

/// Has `backup_manifest` describe a file that differs from the backup's, so that `pg_verifybackup` looks for what was
/// restored. Its line keeps its place and algorithm; the checksum over all lines is made anew.
pub(super) fn describe(roots: &Roots, access: Access, file: &str, content: &[u8]) -> Result<(), Error> {
    let manifest = roots.bases.spot(b"backup_manifest");
    let Some(before) = roots.read(&manifest, LONGEST_MANIFEST)? else {
        return Ok(());
    };
    match backup_manifest::describe(&before, file, content) {
        Some(after) => roots.on("write", &manifest, |root, below| {
            root.write(below, &after, access.file())
        }),
        None => Ok(()),
    }
}
