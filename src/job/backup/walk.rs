//! What belongs to a backup: a data directory listed while its server goes on, by the rules of [`exclude`].
//!
//! A path in the tree is also the path in the data directory: tablespaces and a moved `pg_wal` are reached through
//! their links, and become directories. Files that vanish on the way have been dropped by the server, and recovery
//! knows; nothing else may be missing.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Error;
use crate::archive::tree::Attributes;
use crate::pg::exclude::{self, Verdict};
use crate::pg::relation::Unlogged;

/// Something to be copied.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// From the data directory, components divided by `/`; empty for itself.
    pub(super) path: Box<[u8]>,
    pub(super) attributes: Attributes,
    /// Length of a file when it was listed; `None` for a directory.
    pub(super) bytes: Option<u64>,
}

/// A data directory, listed.
#[derive(Debug)]
pub(super) struct Walked {
    /// Directories in path order, then files in path order.
    pub(super) sources: Vec<Source>,
    /// Its control file, which is copied last.
    pub(super) control: Source,
}

/// Where in the file system a path of the tree is.
pub(super) fn real(root: &Path, path: &[u8]) -> PathBuf {
    root.join(Path::new(std::ffi::OsStr::from_bytes(path)))
}

/// Lists what a base backup of PostgreSQL `major` copies from the data directory `root`.
pub(super) fn walk(root: &Path, major: u32, tablespace_directory: &str) -> Result<Walked, Error> {
    let mut walk = Walk {
        root,
        major,
        tablespace_directory,
        sources: Vec::new(),
        control: None,
        to_list: Vec::new(),
    };
    walk.directory(Vec::new(), &stat(root)?);
    while let Some(path) = walk.to_list.pop() {
        walk.list(&path)?;
    }
    let mut sources = walk.sources;
    sources.sort_by(|left, right| {
        let key = |source: &Source| source.bytes.is_some();
        key(left)
            .cmp(&key(right))
            .then_with(|| left.path.cmp(&right.path))
    });
    let control = walk.control.ok_or_else(|| Error::Read {
        path: root.join("global/pg_control"),
        source: io::ErrorKind::NotFound.into(),
    })?;
    Ok(Walked { sources, control })
}

struct Walk<'a> {
    root: &'a Path,
    major: u32,
    tablespace_directory: &'a str,
    sources: Vec<Source>,
    control: Option<Source>,
    to_list: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn list(&mut self, parent: &[u8]) -> Result<(), Error> {
        let real_parent = real(self.root, parent);
        let names = match names(&real_parent) {
            Ok(names) => names,
            // A database that was dropped; the data directory itself cannot be.
            Err(error) if is_gone(&error) && !parent.is_empty() => return Ok(()),
            Err(source) => {
                return Err(Error::Read {
                    path: real_parent,
                    source,
                });
            }
        };
        let unlogged = Unlogged::of_directory(parent, names.iter().map(Vec::as_slice));
        for name in &names {
            if !unlogged.leaves_out(name) {
                self.member(parent, name)?;
            }
        }
        Ok(())
    }

    fn member(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Error> {
        let path = if parent.is_empty() {
            name.to_vec()
        } else {
            [parent, b"/", name].concat()
        };
        match exclude::verdict(parent, name, self.tablespace_directory) {
            Verdict::Skip => Ok(()),
            Verdict::Empty => self.emptied(path),
            verdict => self.copied(parent, path, verdict),
        }
    }

    /// A directory whose contents are not copied; it may be a link to one.
    fn emptied(&mut self, path: Vec<u8>) -> Result<(), Error> {
        let metadata = stat(&real(self.root, &path))?;
        if !metadata.is_dir() {
            return Ok(());
        }
        if path == b"pg_wal" {
            for inner in exclude::wal_directories(self.major) {
                self.push(inner.as_bytes().to_vec(), &metadata, None);
            }
        }
        self.push(path, &metadata, None);
        Ok(())
    }

    fn copied(&mut self, parent: &[u8], path: Vec<u8>, verdict: Verdict) -> Result<(), Error> {
        let real = real(self.root, &path);
        let metadata = match fs::symlink_metadata(&real) {
            Ok(metadata) => metadata,
            Err(error) if is_gone(&error) => return Ok(()),
            Err(source) => return Err(Error::Read { path: real, source }),
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(path, &metadata);
        } else if kind.is_file() && verdict == Verdict::CopyLast {
            self.control = Some(source(path, &metadata, Some(metadata.len())));
        } else if kind.is_file() {
            self.push(path, &metadata, Some(metadata.len()));
        } else if kind.is_symlink() && parent == b"pg_tblspc" {
            self.directory(path, &stat(&real)?);
        } else {
            tracing::warn!(
                "{} is left out, as PostgreSQL does: it is neither a file nor a directory",
                real.display()
            );
        }
        Ok(())
    }

    fn directory(&mut self, path: Vec<u8>, metadata: &Metadata) {
        self.push(path.clone(), metadata, None);
        self.to_list.push(path);
    }

    fn push(&mut self, path: Vec<u8>, metadata: &Metadata, bytes: Option<u64>) {
        self.sources.push(source(path, metadata, bytes));
    }
}

fn source(path: Vec<u8>, metadata: &Metadata, bytes: Option<u64>) -> Source {
    Source {
        path: path.into(),
        attributes: attributes(metadata),
        bytes,
    }
}

/// What a tree keeps of a file.
pub(super) fn attributes(metadata: &Metadata) -> Attributes {
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

fn names(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(directory)?;
    entries.map(|entry| Ok(entry?.file_name().into_vec())).collect()
}

fn stat(path: &Path) -> Result<Metadata, Error> {
    fs::metadata(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Was it removed since it was listed?
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
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
            "base/pgsql_tmp/x",
        ];
        for file in files {
            fs::write(data.join(file), "x").unwrap();
        }
        let odd = [&b"base/5/\xff"[..]].concat();
        fs::write(real(&data, &odd), "x").unwrap();
        let _socket = UnixListener::bind(data.join("socket")).unwrap();
        let walked = walk(&data, 15, "PG_15_202209061").unwrap();
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
                "pg_tblspc/16400/PG_15_202209061/5/16401"
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
                "pg_wal",
                "pg_wal/archive_status"
            ]
        );
        assert_eq!(&*walked.control.path, b"global/pg_control");
    }
}
