//! Tablespaces that `pg_basebackup -T` has mapped into the backup's own directory.
//!
//! Where a data directory has a link, `pg_tblspc/<oid>`, a stored tree has the tablespace itself: it is one thing, and
//! its manifest names the files so. A link that leads out of the tree leads to files that are not in the backup.

use crate::archive::tree::backup;
use crate::pg::tablespace_map;
use crate::staging::tree::judge::Followed;
use crate::staging::tree::names::{Kind, Names, ROOT};

const PG_TBLSPC: &[u8] = b"pg_tblspc";

/// A tablespace whose link is to be replaced by its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) oid: u32,
    /// Path of its directory in the tree.
    pub(super) directory: Vec<u8>,
}

impl From<Mapped> for Followed {
    fn from(Mapped { oid, directory }: Mapped) -> Self {
        Self {
            link: format!("pg_tblspc/{oid}").into_bytes(),
            directory,
        }
    }
}

/// The links in `pg_tblspc` of a tree that processes see at `at`.
///
/// # Errors
/// Why one of them cannot be followed, and what to do instead.
pub(super) fn mapped<F>(names: &Names<F>, at: &[u8]) -> Result<Vec<Mapped>, String> {
    let Some(entries) = entries(names) else {
        return Ok(Vec::new());
    };
    let links = entries.filter_map(|(oid, number)| match names.kind(number) {
        Ok(Kind::Symlink(target)) => Some((oid, target)),
        _ => None,
    });
    links
        .map(|(oid, target)| match inside(names, at, target) {
            Some(directory) => Ok(Mapped { oid, directory }),
            None => Err(outside(oid, target, at)),
        })
        .collect()
}

/// All tablespaces, by number.
pub(super) fn all<F>(names: &Names<F>) -> Vec<u32> {
    let mut found: Vec<u32> = entries(names)
        .map(|entries| entries.map(|(oid, _)| oid).collect())
        .unwrap_or_default();
    found.sort_unstable();
    found
}

/// Where a path of the manifest is now, before the directories are moved.
pub(super) fn resolve(mapped: &[Mapped], path: &[u8]) -> Vec<u8> {
    let moved = mapped.iter().find_map(|Mapped { oid, directory }| {
        let link = format!("pg_tblspc/{oid}/");
        let rest = path.strip_prefix(link.as_bytes())?;
        Some([directory, &b"/"[..], rest].concat())
    });
    moved.unwrap_or_else(|| path.to_vec())
}

/// What is known of the tablespaces that are there; the place of one that the map does not name is empty.
///
/// # Errors
/// That one which the map names is not there.
pub(super) fn described(
    found: &[u32],
    map: &[tablespace_map::Tablespace],
) -> Result<Vec<backup::Tablespace>, String> {
    if let Some(missing) = map.iter().find(|known| !found.contains(&known.oid)) {
        let oid = missing.oid;
        return Err(format!(
            "tablespace {oid}, which tablespace_map names, is not there"
        ));
    }
    let location = |oid| map.iter().find(|known| known.oid == oid);
    let described = |&oid| backup::Tablespace {
        oid,
        location: location(oid).map_or(String::new(), |known| {
            String::from_utf8_lossy(&known.location).into_owned()
        }),
    };
    Ok(found.iter().map(described).collect())
}

fn entries<F>(names: &Names<F>) -> Option<impl Iterator<Item = (u32, u32)>> {
    let home = names.child(ROOT, PG_TBLSPC).ok()?;
    let entries = names.children(home).ok()?.iter();
    Some(entries.filter_map(|(name, &number)| Some((str::from_utf8(name).ok()?.parse().ok()?, number))))
}

/// The path in the tree that a link leads to, if that is a directory there.
fn inside<F>(names: &Names<F>, at: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let rest = target.strip_prefix(at)?.strip_prefix(b"/")?;
    let components = rest
        .split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let path = components.collect::<Vec<_>>().join(&b'/');
    let number = names.find(&path)?;
    (number != ROOT && names.children(number).is_ok()).then_some(path)
}

fn outside(oid: u32, target: &[u8], at: &[u8]) -> String {
    let (target, at) = (String::from_utf8_lossy(target), String::from_utf8_lossy(at));
    format!(
        "pg_tblspc/{oid} is a link to {target}, which is not in the backup's own directory.\n\
         HINT: pg_basebackup --tablespace-mapping=OLDDIR={at}/tablespaces/{oid}, with OLDDIR as the server has it"
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::archive::tree::Attributes;

    const AT: &[u8] = b"/mnt/walfs/basebackups/monday";

    fn tree(target: &str) -> Names<()> {
        let attributes = Attributes {
            mode: 0o700,
            uid: 0,
            gid: 0,
            modified: Timestamp::UNIX_EPOCH,
        };
        let mut names = Names::new(attributes);
        let directory = || Kind::Directory(Default::default());
        let home = names.add(ROOT, PG_TBLSPC, directory(), attributes).unwrap();
        let mine = names.add(ROOT, b"ts", directory(), attributes).unwrap();
        names.add(mine, b"PG_15", Kind::File(()), attributes).unwrap();
        let link = Kind::Symlink(target.as_bytes().into());
        names.add(home, b"16384", link, attributes).unwrap();
        names
    }

    #[test]
    fn a_tablespace_in_the_tree_comes_home() {
        let mut names = tree("/mnt/walfs/basebackups/monday/ts");
        let mapped = mapped(&names, AT).unwrap();
        assert_eq!(resolve(&mapped, b"pg_tblspc/16384/PG_15"), b"ts/PG_15");
        assert_eq!(resolve(&mapped, b"pg_tblspc/163845"), b"pg_tblspc/163845");
        for mapped in mapped {
            let Followed { link, directory } = mapped.into();
            names.follow_link(&link, &directory).unwrap();
        }
        assert!(names.find(b"pg_tblspc/16384/PG_15").is_some() && names.find(b"ts").is_none());
        assert_eq!(all(&names), [16384]);
    }

    #[test]
    fn one_elsewhere_is_refused() {
        for target in [
            "/srv/ts",
            "/mnt/walfs/basebackups/monday",
            "/mnt/walfs/basebackups/monday2/ts",
        ] {
            let error = mapped(&tree(target), AT).unwrap_err();
            assert!(
                error.contains("16384") && error.contains("--tablespace-mapping"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_map_tells_places_and_what_is_missing() {
        let map = tablespace_map::parse(b"16384 /srv/fast\n").unwrap();
        let all = described(&[16384, 16385], &map).unwrap();
        let known: Vec<_> = all
            .iter()
            .map(|known| (known.oid, known.location.as_str()))
            .collect();
        assert_eq!(known, [(16384, "/srv/fast"), (16385, "")]);
        let refused = described(&[16385], &map).unwrap_err();
        assert!(refused.contains("16384"), "{refused}");
    }
}
