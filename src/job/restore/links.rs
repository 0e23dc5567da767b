//! What a backup has where PostgreSQL, or this restore, needs a directory or a file of its own.
//!
//! A copy made by hand may have links: `pg_wal` on a disk of its own, settings in /etc. What was behind them is not in the
//! backup, and a restored server must not work in the directories of the one it comes from. So:
//!
//! - what walfs itself writes in a data directory has its own names, which nothing of a backup has: it is left out;
//! - so has a running server, which writes `postmaster.pid` and the like for itself;
//! - at the top of a tablespace, whose place the archive names, there are only the directories of PostgreSQL's versions: a
//!   backup with something else there is refused;
//! - what is empty in every backup becomes a directory: `pg_wal`, `pg_replslot` and the like;
//! - `postgresql.auto.conf`, which is written anew, becomes a file;
//! - what holds data or steers the recovery is missing: the backup is refused before anything is touched;
//! - every other link is made as it was, and never followed.

use std::path::Path;

use crate::archive::tree::{Content, Entry, Tree};

use super::place::{LOST_AND_FOUND, MARK, NEW_CONTROL, NEW_MARK, NEW_PLACE_MARK, PLACE_MARK, START_LOCK};
use super::settings::NEW_AUTO;

/// Directories whose content no backup needs.
const EMPTY: [&str; 10] = [
    "pg_wal",
    "pg_wal/archive_status",
    "pg_wal/summaries",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// Directories with the data of the cluster: there is no link in them, and none in their place.
const FULL: [&str; 10] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_stat",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_xact",
];

/// Files that are read before the server recovers.
const FILES: [&str; 4] = ["PG_VERSION", "backup_label", "backup_manifest", "tablespace_map"];

/// Files that the restore writes itself, or removes.
const OWN: [&str; 3] = ["postgresql.auto.conf", "recovery.signal", "standby.signal"];

/// Files that a running server writes for itself, and no base backup has (`excludeFiles` of `basebackup.c`).
const SERVERS: [&str; 4] = [
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
];

/// What walfs leaves for a moment: files that are written before they take their name. Wherever a backup has such a name, the
/// restored server, or walfs, would write through it.
const PASSING: [&str; 4] = [NEW_AUTO, NEW_CONTROL, PLACE_MARK, NEW_PLACE_MARK];

/// What is to be done with something that a backup has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Restore it as it is.
    Keep,
    /// A directory is made in its place.
    Directory,
    /// It is left out, with what is in it, for this reason.
    LeaveOut(&'static str),
    /// It cannot be restored, for this reason.
    Refuse(&'static str),
}

/// Kinds of things in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A regular file.
    File,
}

/// What becomes of `path`, from the data directory.
pub(super) fn verdict(path: &[u8], kind: Kind) -> Verdict {
    let is = |names: &[&str]| names.iter().any(|name| name.as_bytes() == path);
    let in_data = FULL.iter().any(|name| {
        path.strip_prefix(name.as_bytes())
            .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
    });
    if let Some(reason) = left_out(path) {
        return Verdict::LeaveOut(reason);
    }
    match kind {
        _ if is(&[MARK, NEW_MARK]) => Verdict::Refuse("it has the name of the mark of an unfinished restore"),
        _ if is_stranger(path, kind) => Verdict::Refuse(
            "it is no content of a tablespace, at whose top PostgreSQL has only directories named PG_*",
        ),
        Kind::Link if is(&EMPTY) => Verdict::Directory,
        Kind::Link if is(&OWN) => Verdict::LeaveOut("a link in its place is not followed"),
        Kind::Link if in_data || is(&FILES) => {
            Verdict::Refuse("it is a symbolic link, and what it leads to is not in the backup")
        }
        Kind::Directory if is(&FILES) || is(&OWN) => Verdict::Refuse("it is a directory, not a file"),
        Kind::File if is(&EMPTY) || is(&FULL) => Verdict::Refuse("it is a file, not a directory"),
        _ => Verdict::Keep,
    }
}

/// Why a path is not restored whatever is there, if it is not.
fn left_out(path: &[u8]) -> Option<&'static str> {
    let mut names = path.split(|byte| *byte == b'/');
    let is_passing = |name: &[u8]| PASSING.iter().any(|passing| passing.as_bytes() == name);
    if names.any(is_passing) {
        return Some("walfs uses that name itself, for a moment");
    }
    let first = path.split(|byte| *byte == b'/').next().unwrap_or_default();
    if SERVERS.iter().any(|name| name.as_bytes() == first) {
        return Some("a running server writes it for itself");
    }
    if first == START_LOCK.as_bytes() {
        return Some("a server that waits for it would not start");
    }
    let (top, _) = in_tablespace(path)?;
    (top == LOST_AND_FOUND.as_bytes()).then_some("it was the file system's own")
}

/// The name at the top of a tablespace that a path goes through, and whether it ends there.
fn in_tablespace(path: &[u8]) -> Option<(&[u8], bool)> {
    let mut names = path.strip_prefix(b"pg_tblspc/")?.split(|byte| *byte == b'/');
    let oid = names.next()?;
    let top = names.next()?;
    (!oid.is_empty() && oid.iter().all(u8::is_ascii_digit)).then(|| (top, names.next().is_none()))
}

/// Is it, in a tablespace, not what PostgreSQL has there? It looks for nothing but the directory of its version
/// (`TABLESPACE_VERSION_DIRECTORY`, `PG_15_202209061` and the like), and whoever wrote the archive says where the tablespace is.
fn is_stranger(path: &[u8], kind: Kind) -> bool {
    in_tablespace(path)
        .is_some_and(|(top, is_end)| !top.starts_with(b"PG_") || (is_end && kind != Kind::Directory))
}

/// Is a path not restored, whatever is there? Its entry stays in the tree, in which files are counted.
pub(super) fn is_left_out(path: &[u8]) -> bool {
    left_out(path).is_some()
}

/// What is told of a path that is left out.
pub(super) fn told(path: &[u8], reason: &str) -> String {
    format!("{} of the backup is left out: {reason}.", shown(path))
}

/// Does the path, from the data directory, lead to what PostgreSQL itself keeps there?
pub(super) fn is_of_cluster(path: &Path) -> bool {
    let first = path.components().next();
    first.is_none_or(|first| {
        let name = first.as_os_str().as_encoded_bytes();
        name.starts_with(b"pg_") || FULL.iter().any(|own| own.as_bytes() == name)
    })
}

/// A file that cannot be restored, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Its path.
    pub path: String,
    /// Why not.
    pub reason: &'static str,
}

/// The tree as it is restored, and what the operator should know of it; `None`: as it is.
pub(super) fn settled(tree: &Tree) -> Result<Option<(Tree, Vec<String>)>, Refused> {
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    let mut changed = false;
    for entry in tree.entries() {
        match verdict(&entry.path, kind(entry)) {
            Verdict::Keep => entries.push(entry.clone()),
            Verdict::Directory => {
                warnings.push(format!(
                    "{} is a link to {} in the backup: a directory is made in its place.",
                    shown(&entry.path),
                    target(entry)
                ));
                entries.push(directory(entry, tree));
                changed = true;
            }
            Verdict::LeaveOut(reason) => {
                let above = entry.path.iter().rposition(|byte| *byte == b'/');
                // Of a directory it is said once.
                if !is_left_out(&entry.path[..above.unwrap_or_default()]) {
                    warnings.push(told(&entry.path, reason));
                }
                match entry.content {
                    Content::Symlink(_) => changed = true,
                    // Whatever has bytes stays, and is passed over: the tree's bytes are counted by it.
                    _ => entries.push(entry.clone()),
                }
            }
            Verdict::Refuse(reason) => {
                let path = shown(&entry.path);
                return Err(Refused { path, reason });
            }
        }
    }
    let tree = || Tree::new(tree.id.clone(), tree.parts.clone(), entries).expect("links hold nothing");
    Ok((changed || !warnings.is_empty()).then(|| (tree(), warnings)))
}

fn kind(entry: &Entry) -> Kind {
    match entry.content {
        Content::Directory => Kind::Directory,
        Content::Symlink(_) => Kind::Link,
        Content::File { .. } => Kind::File,
    }
}

/// With the mode of the data directory: a link has none.
fn directory(link: &Entry, tree: &Tree) -> Entry {
    let mode = tree.entry(0).map_or(0o700, |root| root.attributes.mode);
    let mut made = link.clone();
    made.attributes.mode = mode;
    made.content = Content::Directory;
    made
}

fn target(entry: &Entry) -> String {
    match &entry.content {
        Content::Symlink(to) => shown(to),
        _ => String::new(),
    }
}

/// For a message: on one line, without control characters.
fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::archive::tree::{Attributes, TreeId};

    fn tree(links: &[&str]) -> Tree {
        let entry = |path: &str, content| Entry {
            path: path.as_bytes().into(),
            attributes: Attributes {
                mode: 0o750,
                uid: 0,
                gid: 0,
                modified: Timestamp::UNIX_EPOCH,
            },
            content,
        };
        let link = |path: &&str| entry(path, Content::Symlink((*b"/etc").into()));
        let mut entries: Vec<Entry> = links.iter().map(link).collect();
        entries.push(entry("", Content::Directory));
        let directories = ["base", "base/5", "pg_tblspc"];
        let there = directories.iter().filter(|name| !links.contains(name));
        entries.extend(there.map(|name| entry(name, Content::Directory)));
        Tree::new(TreeId::fresh(&"monday".parse().unwrap()), Vec::new(), entries).unwrap()
    }

    #[test]
    fn a_link_is_kept_replaced_or_refused_by_its_name() {
        let of = |path: &str| verdict(path.as_bytes(), Kind::Link);
        for path in ["postgresql.conf", "log", "server.key", "baseline", "pg_hba.conf"] {
            assert_eq!(of(path), Verdict::Keep, "{path}");
        }
        for path in ["pg_wal", "pg_stat_tmp", "pg_wal/archive_status"] {
            assert_eq!(of(path), Verdict::Directory, "{path}");
        }
        for path in [
            "postgresql.auto.conf",
            "postgresql.auto.conf.walfs",
            "global/.walfs-pg_control",
            "x/.walfs-pg_control/y",
            "postmaster.pid",
            "postmaster.opts",
        ] {
            assert!(matches!(of(path), Verdict::LeaveOut(_)), "{path}");
        }
        for path in [
            "global",
            "global/pg_control",
            "base/5",
            "base/5/1259",
            "pg_tblspc",
            "pg_tblspc/16400",
            "pg_xact/0000",
            "pg_wal/000000010000000000000001",
            "backup_label",
            "tablespace_map",
            "walfs-restore.json",
        ] {
            assert!(matches!(of(path), Verdict::Refuse(_)), "{path}");
        }
    }

    #[test]
    fn what_is_no_link_must_be_what_it_should() {
        let refused = |path: &str, kind| matches!(verdict(path.as_bytes(), kind), Verdict::Refuse(_));
        assert!(refused("pg_wal", Kind::File) && refused("global", Kind::File));
        assert!(refused("backup_label", Kind::Directory) && refused("postgresql.auto.conf", Kind::Directory));
        assert!(!refused("postgresql.auto.conf", Kind::File) && !refused("pg_wal", Kind::Directory));
    }

    #[test]
    fn a_tablespace_holds_directories_of_versions() {
        let refused = |path: &str, kind| matches!(verdict(path.as_bytes(), kind), Verdict::Refuse(_));
        for path in [
            "pg_tblspc/7/authorized_keys",
            "pg_tblspc/7/x/y",
            "pg_tblspc/7/PG_15",
        ] {
            assert!(refused(path, Kind::File) && refused(path, Kind::Link), "{path}");
        }
        assert!(refused("pg_tblspc/7/x", Kind::Directory));
        let directory = verdict(b"pg_tblspc/7/lost+found", Kind::Directory);
        assert!(matches!(directory, Verdict::LeaveOut(_)));
        for (path, kind) in [
            ("pg_tblspc/7", Kind::Directory),
            ("pg_tblspc/7/PG_15_202209061", Kind::Directory),
            ("pg_tblspc/7/PG_15_202209061/5/1259", Kind::File),
            ("pg_tblspc/note", Kind::File),
        ] {
            assert_eq!(verdict(path.as_bytes(), kind), Verdict::Keep, "{path}");
        }
    }

    #[test]
    fn a_tree_is_settled_once() {
        assert_eq!(settled(&tree(&["log"])).unwrap(), None);
        let (tree_made, warnings) = settled(&tree(&["pg_wal", "postgresql.auto.conf"]))
            .unwrap()
            .unwrap();
        let number = tree_made.find(b"pg_wal").unwrap();
        let made = tree_made.entry(number).unwrap();
        assert_eq!(
            (&made.content, made.attributes.mode),
            (&Content::Directory, 0o750)
        );
        assert_eq!(tree_made.find(b"postgresql.auto.conf"), None);
        assert!(
            warnings.len() == 2 && warnings[0].contains("link to /etc"),
            "{warnings:?}"
        );
        let refused = settled(&tree(&["pg_tblspc"])).unwrap_err();
        assert_eq!(refused.path, "pg_tblspc");
    }
}
