//! Files of relations: their names, and what the names say (`parse_filename_for_nontemp_relation` of `reinit.c`,
//! `relpath.c`).
//!
//! ```text
//! base/5/16384                              first file of a relation in database 5
//! base/5/16384.1                            the next one, a GiB (usually) further on
//! base/5/16384_fsm, 16384_vm, 16384_init    its other forks, each with files of its own
//! base/5/t3_16390                           a temporary relation of a session
//! global/1262                               of a relation that all databases share
//! pg_tblspc/16397/PG_15_202209061/5/16398   in a tablespace
//! ```
//! Every page of every fork has a checksum, if the cluster has them; the other files in these directories,
//! `pg_filenode.map`, `PG_VERSION`, `pg_internal.init` and `pg_control`, have no pages.

use std::collections::HashSet;

/// What a file of a relation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The data.
    Main,
    /// The map of free space.
    FreeSpace,
    /// The map of pages all of whose rows everybody sees.
    Visibility,
    /// What an unlogged relation is reset to.
    Init,
}

/// What the name of a relation's file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// Which relation of the directory; not 0.
    pub number: u32,
    /// Which fork.
    pub fork: Fork,
    /// Which file of the fork, from 0.
    pub segment: u32,
}

impl RelationFile {
    /// The number of the file's first page in the fork, which is mixed into the page's checksum. For as many blocks
    /// in a file as `pg_control` states.
    pub fn first_block(self, segment_blocks: u32) -> u32 {
        // As PostgreSQL counts; no fork has 2^32 pages.
        self.segment.wrapping_mul(segment_blocks)
    }
}

/// The relation's file with this path, relative to the data directory; `None` for temporary relations and all else.
pub fn relation_file(path: &[u8]) -> Option<RelationFile> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    Directory::of(&path[..slash])?;
    parse_name(&path[slash + 1..])
}

/// Directories in which relations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    Global,
    Database,
}

impl Directory {
    pub(super) fn of(path: &[u8]) -> Option<Self> {
        let mut parts = path.split(|byte| *byte == b'/');
        let all = [
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ];
        match all {
            [Some(b"global"), None, ..] => Some(Self::Global),
            [Some(b"base"), Some(oid), None, ..] if is_number(oid) => Some(Self::Database),
            [Some(b"pg_tblspc"), Some(space), Some(version), Some(oid), None]
                if is_number(space) && version.starts_with(b"PG_") && is_number(oid) =>
            {
                Some(Self::Database)
            }
            _ => None,
        }
    }
}

/// The unlogged relations of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unlogged {
    numbers: HashSet<u32>,
}

impl Unlogged {
    /// Those among the names in a directory, whose path is relative to the data directory: a relation with an init
    /// fork is unlogged.
    pub fn of_directory<'a>(path: &[u8], names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        if Directory::of(path).is_none() {
            return Self::default();
        }
        let init = |name| parse_name(name).filter(|file| file.fork == Fork::Init);
        Self {
            numbers: names
                .into_iter()
                .filter_map(init)
                .map(|file| file.number)
                .collect(),
        }
    }

    /// Is this a file that recovery makes anew from the init fork, and a backup leaves out?
    pub fn leaves_out(&self, name: &[u8]) -> bool {
        // Few relations are unlogged: most directories have none.
        !self.numbers.is_empty()
            && parse_name(name)
                .is_some_and(|file| file.fork != Fork::Init && self.numbers.contains(&file.number))
    }
}

/// `NUMBER`, `NUMBER_FORK`, each perhaps with `.SEGMENT`.
fn parse_name(name: &[u8]) -> Option<RelationFile> {
    let text = str::from_utf8(name).ok()?;
    let (stem, segment) = match text.split_once('.') {
        Some((stem, digits)) => (stem, number(digits)?),
        None => (text, 0),
    };
    let (digits, fork) = match stem.split_once('_') {
        Some((digits, fork)) => (digits, parse_fork(fork)?),
        None => (stem, Fork::Main),
    };
    let number = number(digits)?;
    Some(RelationFile {
        number,
        fork,
        segment,
    })
}

fn parse_fork(name: &str) -> Option<Fork> {
    match name {
        "fsm" => Some(Fork::FreeSpace),
        "vm" => Some(Fork::Visibility),
        "init" => Some(Fork::Init),
        _ => None,
    }
}

/// Not 0 and without zeros in front, as PostgreSQL writes them.
fn number(digits: &str) -> Option<u32> {
    let plain = is_number(digits.as_bytes()) && !digits.starts_with('0');
    plain.then(|| digits.parse().ok()).flatten()
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// `tBACKEND_NUMBER`, `tBACKEND_NUMBER_FORK`, each perhaps with `.SEGMENT` (`looks_like_temp_rel_name` of `fd.c`).
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let Some((backend, rest)) = str::from_utf8(name)
        .ok()
        .and_then(|text| text.strip_prefix('t')?.split_once('_'))
    else {
        return false;
    };
    is_number(backend.as_bytes()) && parse_name(rest.as_bytes()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read() {
        for (path, number, fork, segment) in [
            ("base/5/16384", 16384, Fork::Main, 0),
            ("base/5/16384.1", 16384, Fork::Main, 1),
            ("base/5/16384_fsm", 16384, Fork::FreeSpace, 0),
            ("base/5/16384_vm.12", 16384, Fork::Visibility, 12),
            ("base/5/4294967295_init", u32::MAX, Fork::Init, 0),
            ("global/1262", 1262, Fork::Main, 0),
            ("pg_tblspc/16397/PG_15_202209061/5/16398.2", 16398, Fork::Main, 2),
        ] {
            let file = RelationFile {
                number,
                fork,
                segment,
            };
            assert_eq!(relation_file(path.as_bytes()), Some(file), "{path}");
        }
    }

    #[test]
    fn names_that_are_no_relations() {
        for path in [
            "16384",
            "base/16384",
            "base/5/0",
            "base/5/016384",
            "base/5/4294967296",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/16384.01",
            "base/5/16384_",
            "base/5/16384_tmp",
            "base/5/16384.1_fsm",
            "base/5/16384.1.1",
            "base/5/+1",
            "base/5/t3_16390",
            "base/5/pg_filenode.map",
            "base/5/pg_internal.init",
            "base/5/PG_VERSION",
            "base/x/16384",
            "base/5/6/16384",
            "global/pg_control",
            "global/5/16384",
            "pg_tblspc/16397/16398",
            "pg_tblspc/16397/5/16398",
            "pg_tblspc/x/PG_15_202209061/5/16398",
            "pg_tblspc/16397/PG_15_202209061/16398",
            "pg_wal/1",
            "pg_xact/0000",
            "/base/5/1",
        ] {
            assert_eq!(relation_file(path.as_bytes()), None, "{path}");
        }
        assert_eq!(relation_file(b"base/5/\xFF"), None);
    }

    #[test]
    fn blocks_are_counted_through_the_files() {
        let file = relation_file(b"base/5/16384.3").unwrap();
        assert_eq!(file.first_block(131_072), 393_216);
        assert_eq!(relation_file(b"base/5/16384_vm").unwrap().first_block(131_072), 0);
    }

    #[test]
    fn unlogged_is_what_has_an_init_fork() {
        let names: [&[u8]; 4] = [b"16384", b"16384_init", b"16385", b"x_init"];
        let unlogged = Unlogged::of_directory(b"base/5", names);
        for (name, left_out) in [
            ("16384", true),
            ("16384.1", true),
            ("16384_fsm", true),
            ("16384_vm", true),
            ("16384_init", false),
            ("16384_init.1", false),
            ("16385", false),
            ("16384x", false),
            ("x", false),
        ] {
            assert_eq!(unlogged.leaves_out(name.as_bytes()), left_out, "{name}");
        }
        assert_eq!(Unlogged::of_directory(b"pg_stat", names), Unlogged::default());
    }

    #[test]
    fn temporary_relations() {
        for name in ["t3_16390", "t12_16390.1", "t3_16390_fsm", "t3_16390_vm.2"] {
            assert!(is_temporary(name.as_bytes()), "{name}");
        }
        for name in [
            "t3",
            "t_16390",
            "t3_",
            "3_16390",
            "t3_16390_x",
            "tx_16390",
            "t3_16390.",
            "T3_16390",
        ] {
            assert!(!is_temporary(name.as_bytes()), "{name}");
        }
    }
}
