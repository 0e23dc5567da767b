//! What belongs to a backup: a data directory listed while its server goes on, by the rules of [`exclude`].
//!
//! A path in the tree is also the path in the data directory. Where PostgreSQL needs what a link leads to, the link is
//! followed ([`Places`]) and becomes a real directory or file: tablespaces, a moved `pg_wal`, a database or a single
//! relation on another disk, settings and certificates. Other links are left out, and noted. Files that vanish on the
//! way have been dropped by the server, and recovery knows; nothing else may be missing.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Error;
use super::places::Places;
use crate::archive::tree::backup::Link;
use crate::archive::tree::{Attributes, Content, Entry};
use crate::beneath::Root;
use crate::pg::directories::is_postgresqls_own;
use crate::pg::exclude::{self, Verdict};
use crate::pg::relation::Unlogged;

/// Something to be copied.
#[derive(Debug, Clone)]
pub(in crate::job) struct Source {
    /// From the data directory, components divided by `/`; empty for itself.
    pub(in crate::job) path: Box<[u8]>,
    pub(in crate::job) attributes: Attributes,
    /// Length of a file when it was listed; `None` for a directory.
    pub(in crate::job) bytes: Option<u64>,
}

impl Source {
    /// A directory, as the tree has it.
    pub(in crate::job) fn directory(&self) -> Entry {
        Entry {
            path: self.path.clone(),
            attributes: self.attributes,
            content: Content::Directory,
        }
    }
}

/// Whose files are listed, and by what rules.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// The server's data directory.
    pub(super) root: PathBuf,
    /// Its major version.
    pub(super) major: u32,
    /// The directory of this cluster in each tablespace.
    pub(super) tablespace_directory: String,
    /// Where the server writes its log, absolute or from the data directory.
    pub(super) log_directory: PathBuf,
    /// Its settings files, absolute.
    pub(super) settings: Vec<PathBuf>,
}

/// A data directory, listed.
#[derive(Debug)]
pub(super) struct Walked {
    /// As [`in_order`] has them.
    pub(super) sources: Vec<Source>,
    /// Its control file, which is copied last.
    pub(super) control: Source,
    /// Where all of it is.
    pub(super) places: Places,
    /// Links that were followed or left out, but for those of tablespaces.
    pub(super) links: Vec<Link>,
}

/// Lists what a base backup of PostgreSQL copies.
pub(super) fn walk(rules: &Rules) -> Result<Walked, Error> {
    let root = &rules.root;
    let opened = fs::metadata(root).and_then(|top| Ok((Places::of(root, top.uid())?, top)));
    let (places, top) = opened.map_err(|source| unreadable(root, source))?;
    let mut walk = Walk {
        rules,
        places,
        sources: Vec::new(),
        control: None,
        links: Vec::new(),
        to_list: Vec::new(),
        emptied: tablespaces_inside(root),
    };
    walk.directory(Vec::new(), &top);
    while let Some(path) = walk.to_list.pop() {
        walk.list(&path)?;
    }
    in_order(&mut walk.sources);
    let control = walk
        .control
        .ok_or_else(|| unreadable(&root.join("global/pg_control"), io::ErrorKind::NotFound.into()))?;
    Ok(Walked {
        sources: walk.sources,
        control,
        places: walk.places,
        links: walk.links,
    })
}

/// Directories in path order, then files in path order.
pub(in crate::job) fn in_order(sources: &mut [Source]) {
    sources.sort_by(|left, right| {
        let key = |source: &Source| source.bytes.is_some();
        key(left)
            .cmp(&key(right))
            .then_with(|| left.path.cmp(&right.path))
    });
}

struct Walk<'a> {
    rules: &'a Rules,
    places: Places,
    sources: Vec<Source>,
    control: Option<Source>,
    links: Vec<Link>,
    to_list: Vec<Vec<u8>>,
    /// Directories whose contents are copied as a tablespace's.
    emptied: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn list(&mut self, parent: &[u8]) -> Result<(), Error> {
        let listed = self.places.directory(parent).and_then(|directory| {
            let names = directory.list(Path::new(""))?.into_iter();
            Ok((
                names.map(|(name, _)| name.into_vec()).collect::<Vec<_>>(),
                directory,
            ))
        });
        let (names, directory) = match listed {
            Ok(listed) => listed,
            // A database that was dropped; the data directory itself cannot be.
            Err(error) if is_gone(&error) && !parent.is_empty() => return Ok(()),
            Err(source) => return Err(unreadable(&self.places.real(parent), source)),
        };
        let unlogged = Unlogged::of_directory(parent, names.iter().map(Vec::as_slice));
        for name in &names {
            if !unlogged.leaves_out(name) {
                self.member(parent, name, &directory)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, parent: &[u8], name: &[u8], directory: &Root) -> Result<(), Error> {
        let path = if parent.is_empty() {
            name.to_vec()
        } else {
            [parent, b"/", name].concat()
        };
        match exclude::verdict(parent, name, &self.rules.tablespace_directory) {
            Verdict::Skip => Ok(()),
            Verdict::Empty => self.emptied(path),
            Verdict::Copy | Verdict::CopyLast => self.copied(path, name, directory),
        }
    }

    /// A directory whose contents are not copied; it may be a link to one, or to where one will be.
    fn emptied(&mut self, path: Vec<u8>) -> Result<(), Error> {
        let real = self.places.real(&path);
        let metadata = match fs::metadata(&real) {
            Err(error) if is_gone(&error) && path != b"pg_wal" => fs::metadata(&self.rules.root),
            found => found,
        };
        let metadata = metadata.map_err(|source| unreadable(&real, source))?;
        if !metadata.is_dir() {
            return Ok(());
        }
        if path == b"pg_wal" {
            for inner in exclude::wal_directories(self.rules.major) {
                self.push(inner.as_bytes().to_vec(), &metadata, None);
            }
        }
        self.push(path, &metadata, None);
        Ok(())
    }

    fn copied(&mut self, path: Vec<u8>, name: &[u8], directory: &Root) -> Result<(), Error> {
        let metadata = match directory.metadata(Path::new(std::ffi::OsStr::from_bytes(name))) {
            Ok(metadata) => metadata,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(source) => return Err(unreadable(&self.places.real(&path), source)),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(path, &metadata);
        } else if kind.is_file() {
            self.file(path, &metadata);
        } else if kind.is_symlink() {
            self.link(path)?;
        } else {
            tracing::warn!(
                "{} is left out, as PostgreSQL does: it is neither a file nor a directory",
                self.places.real(&path).display()
            );
        }
        Ok(())
    }

    /// Follows a link that PostgreSQL follows, and notes it.
    fn link(&mut self, path: Vec<u8>) -> Result<(), Error> {
        let real = self.places.real(&path);
        let found = fs::canonicalize(&real).and_then(|target| Ok((fs::metadata(&target)?, target)));
        let (metadata, target) = match found {
            Ok(found) => found,
            Err(_) if fs::symlink_metadata(&real).is_err_and(|error| is_gone(&error)) => return Ok(()),
            Err(source) if self.is_needed(&path) => return Err(Error::Link { path: real, source }),
            Err(_) => {
                self.note(&path, &real, Fate::Dangling);
                return Ok(());
            }
        };
        let may = self.places.may_follow(&target, &metadata);
        if metadata.is_dir() && may && self.is_needed(&path) {
            let followed = self.places.follow_directory(&path, &target);
            followed.map_err(|source| unreadable(&target, source))?;
            if !path.starts_with(b"pg_tblspc/") || path[b"pg_tblspc/".len()..].contains(&b'/') {
                self.note(&path, &target, Fate::Followed);
            }
            self.directory(path, &metadata);
        } else if metadata.is_file() && may {
            self.note(&path, &target, Fate::Followed);
            self.places.follow_file(&path, target);
            self.file(path, &metadata);
        } else if !may && self.is_needed(&path) {
            return Err(Error::Link {
                path: real,
                source: io::ErrorKind::PermissionDenied.into(),
            });
        } else if !self.is_log(&real, &target) {
            self.note(&path, &target, Fate::LeftOut);
        }
        Ok(())
    }

    /// Cannot the server do without what has this path?
    fn is_needed(&self, path: &[u8]) -> bool {
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let in_its_own = slash.is_some_and(|slash| is_postgresqls_own(&path[..slash]));
        let real = self.places.real(path);
        let has_settings = |file: &PathBuf| file.starts_with(&real);
        in_its_own
            || is_postgresqls_own(path)
            || path == b"PG_VERSION"
            || self.rules.settings.iter().any(has_settings)
    }

    fn is_log(&self, real: &Path, target: &Path) -> bool {
        let log = self.rules.root.join(&self.rules.log_directory);
        log == real || log == target
    }

    fn note(&mut self, path: &[u8], target: &Path, fate: Fate) {
        let (path, target) = (
            String::from_utf8_lossy(path).into_owned(),
            target.display().to_string(),
        );
        match fate {
            Fate::Followed => tracing::info!("{path} is a link: {target} is in the backup in its place"),
            Fate::LeftOut => tracing::warn!(
                "{path} is left out: it is a link to {target}, which PostgreSQL does not need. HINT: a directory in \
                 its place would be in the backup"
            ),
            Fate::Dangling => tracing::warn!("{path} is left out: it is a link to what is not there"),
        }
        self.links.push(Link {
            path,
            target,
            followed: matches!(fate, Fate::Followed),
        });
    }

    fn file(&mut self, path: Vec<u8>, metadata: &Metadata) {
        let bytes = Some(metadata.len());
        if path == b"global/pg_control" {
            self.control = Some(source(path, metadata, bytes));
        } else {
            self.push(path, metadata, bytes);
        }
    }

    fn directory(&mut self, path: Vec<u8>, metadata: &Metadata) {
        self.push(path.clone(), metadata, None);
        if !self.emptied.contains(&path) {
            self.to_list.push(path);
        }
    }

    fn push(&mut self, path: Vec<u8>, metadata: &Metadata, bytes: Option<u64>) {
        self.sources.push(source(path, metadata, bytes));
    }
}

/// Directories of the data directory in which tablespaces are, so that nothing is copied twice; PostgreSQL warns of such a
/// place, and has them empty in its own backups, too.
fn tablespaces_inside(root: &Path) -> Vec<Vec<u8>> {
    let Ok(real) = root.canonicalize() else {
        return Vec::new();
    };
    let links = fs::read_dir(root.join("pg_tblspc"))
        .into_iter()
        .flatten()
        .flatten();
    let inside = links.filter_map(|link| {
        let number: u32 = link.file_name().to_str()?.parse().ok()?;
        let target = link.path().canonicalize().ok()?;
        let inside = target.strip_prefix(&real).ok()?.as_os_str().as_bytes().to_vec();
        (number > 0 && !is_postgresqls_own(&inside)).then_some(inside)
    });
    inside.collect()
}

/// What becomes of a link.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Followed,
    LeftOut,
    Dangling,
}

pub(in crate::job) fn source(path: Vec<u8>, metadata: &Metadata, bytes: Option<u64>) -> Source {
    Source {
        path: path.into(),
        attributes: attributes(metadata),
        bytes,
    }
}

/// What a tree keeps of a file.
pub(in crate::job) fn attributes(metadata: &Metadata) -> Attributes {
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| Timestamp::try_from(time).ok());
    Attributes {
        mode: metadata.permissions().mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified: modified.unwrap_or(Timestamp::UNIX_EPOCH),
    }
}

/// Was it removed since it was listed?
pub(in crate::job) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::read(path, source)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_postgresql_copies_is_listed_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let (data, outside) = (root.path().join("data"), root.path().join("space"));
        for directory in ["base/5", "global", "pg_tblspc", "pg_notify", "base/pgsql_tmp"] {
            fs::create_dir_all(data.join(directory)).unwrap();
        }
        fs::create_dir_all(outside.join("PG_15_202209061/5")).unwrap();
        fs::create_dir_all(outside.join("PG_14_202107181")).unwrap();
        fs::create_dir_all(root.path().join("wal")).unwrap();
        symlink(&outside, data.join("pg_tblspc/16400")).unwrap();
        fs::create_dir_all(data.join("space/PG_15_202209061/5")).unwrap();
        symlink(data.join("space"), data.join("pg_tblspc/16500")).unwrap();
        symlink(root.path().join("wal"), data.join("pg_wal")).unwrap();
        symlink("/etc", data.join("elsewhere")).unwrap();
        let files = [
            "PG_VERSION",
            "global/pg_control",
            "base/5/1249",
            "base/5/16390",
            "base/5/16390_init",
            "base/5/t3_16400",
            "postmaster.pid",
            "pg_notify/0000",
            "pg_wal/000000010000000000000001",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "space/PG_15_202209061/5/16501",
            "base/pgsql_tmp/x",
        ];
        for file in files {
            fs::write(data.join(file), "x").unwrap();
        }
        let odd = [&b"base/5/\xff"[..]].concat();
        fs::write(data.join(std::ffi::OsStr::from_bytes(&odd)), "x").unwrap();
        let _socket = UnixListener::bind(data.join("socket")).unwrap();
        let walked = walk(&Rules {
            root: data.clone(),
            major: 15,
            tablespace_directory: "PG_15_202209061".into(),
            log_directory: "elsewhere".into(),
            settings: vec![],
        })
        .unwrap();
        let paths = |files: bool| -> Vec<String> {
            let chosen = walked
                .sources
                .iter()
                .filter(|source| source.bytes.is_some() == files);
            chosen
                .map(|source| source.path.escape_ascii().to_string())
                .collect()
        };
        assert_eq!(
            paths(true),
            [
                "PG_VERSION",
                "base/5/1249",
                "base/5/16390_init",
                "base/5/\\xff",
                "pg_tblspc/16400/PG_15_202209061/5/16401",
                "pg_tblspc/16500/PG_15_202209061/5/16501"
            ]
        );
        assert_eq!(
            paths(false),
            [
                "",
                "base",
                "base/5",
                "global",
                "pg_notify",
                "pg_tblspc",
                "pg_tblspc/16400",
                "pg_tblspc/16400/PG_15_202209061",
                "pg_tblspc/16400/PG_15_202209061/5",
                "pg_tblspc/16500",
                "pg_tblspc/16500/PG_15_202209061",
                "pg_tblspc/16500/PG_15_202209061/5",
                "pg_wal",
                "pg_wal/archive_status",
                "space"
            ]
        );
        assert_eq!(&*walked.control.path, b"global/pg_control");
    }
}
