//! Which PostgreSQL servers there are: the system's, in Debian's layout, and those that `.ci/needs matrix` keeps in
//! the cache beside it. The tests use every one of them, and the newest where one is enough.

use std::fs;
use std::path::{Path, PathBuf};

use super::copiers::cache_dir;

/// A PostgreSQL that is installed here.
#[derive(Clone, Debug)]
pub struct Version {
    pub major: u32,
    pub bin: PathBuf,
}

/// Every server, oldest first, one of each major, the system's before the cache's; never none.
pub fn installed_versions() -> Vec<Version> {
    let system = servers_in(Path::new("/usr/lib/postgresql"), "");
    let cached = servers_in(&cache_dir(), "postgresql-");
    let mut found = [system, cached].concat();
    // Stable, so of two with one major the system's stays in front.
    found.sort_by_key(|version| version.major);
    found.dedup_by_key(|version| version.major);
    assert!(
        !found.is_empty(),
        "no PostgreSQL in /usr/lib/postgresql\nHINT: .ci/needs test installs it"
    );
    found
}

/// The newest of them.
pub fn newest() -> Version {
    installed_versions().pop().expect("never none")
}

/// The servers in folders named `prefix` and a major.
fn servers_in(place: &Path, prefix: &str) -> Vec<Version> {
    let folders = fs::read_dir(place).into_iter().flatten().flatten();
    let server = |folder: fs::DirEntry| {
        let major = folder.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
        // Without links: one in the cache leads out of a home directory, which user postgres may not enter.
        let bin = fs::canonicalize(folder.path().join("bin")).ok()?;
        bin.join("postgres").exists().then_some(Version { major, bin })
    };
    folders.filter_map(server).collect()
}
