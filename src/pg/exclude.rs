//! What a base backup leaves out: the same as PostgreSQL's own (`sendDir` of `basebackup.c`, versions 13 to 18).
//!
//! | where | what | then |
//! |---|---|---|
//! | anywhere | `pgsql_tmp*`, `pg_internal.init*` | skipped: temporary files, a cache made anew |
//! | anywhere | `postmaster.pid`, `postmaster.opts`, `*.tmp` of two known files | skipped: of the running server |
//! | anywhere | `backup_label`, `tablespace_map`, `backup_manifest` | skipped: of the backup this cluster came from |
//! | anywhere | `.DS_Store` | skipped, as the later minor versions do |
//! | anywhere | `pg_replslot`, `pg_notify` and five more | kept as empty directories |
//! | the data directory | `pg_wal` | kept as a directory with [`wal_directories`], all empty |
//! | the data directory | [`SETTINGS_FOLDER`] | skipped: of the backup this cluster came from |
//! | the data directory | [`START_LOCK`] | skipped: of who waits to start the server |
//! | a tablespace | all but the directory of this version | skipped: of another cluster |
//! | a database | `t3_16390` and the like | skipped: temporary relations |
//! | a database | forks of unlogged relations but `_init` | skipped: see [`Unlogged`](super::relation::Unlogged) |
//! | `global` | `pg_control` | copied after all else |
//!
//! Sockets and pipes are skipped by PostgreSQL, too, and links outside of `pg_tblspc`; whoever walks the tree sees those.
//! PostgreSQL 13 and 14 also empty the directory of `stats_temp_directory`, if that is not the usual `pg_stat_tmp`:
//! what is in it is then copied here, and harms nothing.

use super::relation::{self, Directory};

/// What becomes of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied; a directory is walked.
    Copy,
    /// It is copied after all else: `global/pg_control`.
    CopyLast,
    /// An empty directory stands for it, with its permissions, even if it is a link.
    Empty,
    /// The backup has nothing of this name.
    Skip,
}

/// Their contents are removed or made anew at every start (`excludeDirContents`).
const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// Names left out anywhere (`excludeFiles`).
const SKIPPED: [&str; 8] = [
    ".DS_Store",
    "backup_label",
    "backup_manifest",
    "current_logfiles.tmp",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "tablespace_map",
];

/// Beginnings of names left out anywhere.
const SKIPPED_PREFIXES: [&str; 2] = ["pg_internal.init", "pgsql_tmp"];

/// The folder of a backup with the settings files that were not in the data directory, each under the path that it had on
/// the server's machine. PostgreSQL knows nothing of it.
pub const SETTINGS_FOLDER: &str = "walfs.settings";

/// The file in a data directory that a container makes and waits on: who stands beside it removes it once the server may start. As
/// TimescaleDB's image of PostgreSQL and its sidecar have it.
pub const START_LOCK: &str = "wale_init_lockfile";

/// The directories that a backup has in `pg_wal`, relative to the data directory: PostgreSQL 17 added one.
pub fn wal_directories(major_version: u32) -> &'static [&'static str] {
    if major_version < 17 {
        &["pg_wal/archive_status"]
    } else {
        &["pg_wal/archive_status", "pg_wal/summaries"]
    }
}

/// What becomes of `name` in the directory `parent`, a path relative to the data directory, empty for itself.
/// `tablespace_directory` is the one of this cluster in each tablespace, see
/// [`ControlFile::tablespace_directory`](super::control::ControlFile::tablespace_directory).
pub fn verdict(parent: &[u8], name: &[u8], tablespace_directory: &str) -> Verdict {
    let is = |known: &&str| known.as_bytes() == name;
    let begins = |known: &&str| name.starts_with(known.as_bytes());
    if SKIPPED.iter().any(is) || SKIPPED_PREFIXES.iter().any(begins) {
        return Verdict::Skip;
    }
    if EMPTIED.iter().any(is) {
        return Verdict::Empty;
    }
    match (parent, name) {
        (b"", b"pg_wal") => Verdict::Empty,
        (b"", name) if name == SETTINGS_FOLDER.as_bytes() || name == START_LOCK.as_bytes() => Verdict::Skip,
        (b"global", b"pg_control") => Verdict::CopyLast,
        _ if is_tablespace(parent) && !is(&tablespace_directory) => Verdict::Skip,
        _ if is_temporary(parent, name) => Verdict::Skip,
        _ => Verdict::Copy,
    }
}

/// `pg_tblspc/OID`.
fn is_tablespace(path: &[u8]) -> bool {
    let oid = path.strip_prefix(b"pg_tblspc/");
    oid.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
}

fn is_temporary(parent: &[u8], name: &[u8]) -> bool {
    relation::is_temporary(name) && Directory::of(parent) == Some(Directory::Database)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = "PG_15_202209061";

    fn of(path: &str) -> Verdict {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        verdict(parent.as_bytes(), name.as_bytes(), DIRECTORY)
    }

    #[test]
    fn copied() {
        for path in [
            "PG_VERSION",
            "base",
            "base/5",
            "base/5/16384",
            "base/5/16384_init",
            "base/5/pg_filenode.map",
            "global",
            "global/1262",
            "pg_xact/0000",
            "pg_tblspc",
            "pg_tblspc/16397",
            "pg_tblspc/16397/PG_15_202209061",
            "pg_tblspc/16397/PG_15_202209061/5/16398",
            "pg_logical/replorigin_checkpoint",
            "postgresql.auto.conf",
            "current_logfiles",
            "backup_label.old",
            "recovery.signal",
            "x/pg_wal",
            "x/pg_control",
            "t3_16390",
            "global/t3_16390",
        ] {
            assert_eq!(of(path), Verdict::Copy, "{path}");
        }
    }

    #[test]
    fn skipped() {
        for path in [
            "postmaster.pid",
            "postmaster.opts",
            "backup_label",
            "backup_manifest",
            "tablespace_map",
            "postgresql.auto.conf.tmp",
            "current_logfiles.tmp",
            "x/.DS_Store",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.123",
            "global/pg_internal.init",
            "base/pgsql_tmp",
            "base/pgsql_tmp/pgsql_tmp123.0",
            "base/5/t3_16390",
            "base/5/t3_16390_fsm.1",
            "walfs.settings",
            "wale_init_lockfile",
            "pg_tblspc/16397/PG_15_202209061/5/t3_16390",
            "pg_tblspc/16397/PG_15_202209061/pgsql_tmp",
            "pg_tblspc/16397/PG_14_202107181",
            "pg_tblspc/16397/lost+found",
        ] {
            assert_eq!(of(path), Verdict::Skip, "{path}");
        }
    }

    #[test]
    fn emptied() {
        for path in [
            "pg_wal",
            "pg_dynshmem",
            "pg_notify",
            "pg_replslot",
            "pg_serial",
            "pg_snapshots",
            "pg_stat_tmp",
            "pg_subtrans",
        ] {
            assert_eq!(of(path), Verdict::Empty, "{path}");
        }
        assert_eq!(wal_directories(16), ["pg_wal/archive_status"]);
        assert_eq!(wal_directories(17), ["pg_wal/archive_status", "pg_wal/summaries"]);
    }

    #[test]
    fn the_control_file_comes_last() {
        assert_eq!(of("global/pg_control"), Verdict::CopyLast);
    }
}
