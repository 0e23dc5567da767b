//! Directories of a cluster that PostgreSQL itself has made and cannot do without (`subdirs` of `initdb.c`, and those
//! below them).
//!
//! An administrator may have moved any of them to another disk, with a link in its place: PostgreSQL does not mind, and
//! its own base backup leaves it out with a warning. What stands beside them (`log`, scripts, dumps) it never reads.

use super::relation::Directory;

/// All but those of databases.
const FIXED: [&[u8]; 14] = [
    b"",
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_logical/mappings",
    b"pg_logical/snapshots",
    b"pg_multixact",
    b"pg_multixact/members",
    b"pg_multixact/offsets",
    b"pg_stat",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
];

/// Is this the path, relative to the data directory, of a directory that PostgreSQL needs?
pub fn is_postgresqls_own(path: &[u8]) -> bool {
    FIXED.contains(&path) || Directory::of(path).is_some() || is_tablespace(path)
}

/// `pg_tblspc/OID`, and `pg_tblspc/OID/PG_VERSION` in it.
fn is_tablespace(path: &[u8]) -> bool {
    let mut parts = path.split(|byte| *byte == b'/');
    let is_number = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    parts.next() == Some(b"pg_tblspc")
        && parts.next().is_some_and(is_number)
        && parts.next().is_none_or(|version| version.starts_with(b"PG_"))
        && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_needs() {
        for path in [
            "",
            "base",
            "base/5",
            "global",
            "pg_xact",
            "pg_multixact/members",
            "pg_tblspc/16400",
            "pg_tblspc/16400/PG_15_202209061",
            "pg_tblspc/16400/PG_15_202209061/5",
        ] {
            assert!(is_postgresqls_own(path.as_bytes()), "{path}");
        }
        for path in [
            "log",
            "base/x",
            "base/5/x",
            "pg_tblspc/x",
            "pg_tblspc/16400/y",
            "pg_tblspc/16400/PG_15_202209061/5/x",
            "archive",
        ] {
            assert!(!is_postgresqls_own(path.as_bytes()), "{path}");
        }
    }
}
