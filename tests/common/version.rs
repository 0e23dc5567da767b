//! Which PostgreSQL servers there are: the system's, in Debian's layout, and those that `.ci/needs matrix` keeps in
//! the cache beside it. The tests use every one of them, and the newest where one is enough.
//!
//! Some of those in the cache are servers alone. Clients that serve an older server as well are taken from the newest
//! version that has them; tools that read files of their own major only are not.

use std::fs;
use std::path::{Path, PathBuf};

use super::copiers::cache_dir;

/// Where Debian has its servers.
const SYSTEM: &str = "/usr/lib/postgresql";

/// Clients that serve servers of their own major and of older ones.
const SERVE_OLDER: [&str; 6] = [
    "psql",
    "pgbench",
    "pg_basebackup",
    "pg_receivewal",
    "pg_verifybackup",
    "pg_amcheck",
];

/// A PostgreSQL that is installed here.
#[derive(Clone, Debug)]
pub struct Version {
    pub major: u32,
    /// Where its server is.
    pub bin: PathBuf,
}

impl Version {
    /// Whether it has its own clients and tools, not a server alone.
    pub fn has_tools(&self) -> bool {
        self.bin.join("psql").exists()
    }

    /// The major of the clients that are used with this server.
    pub fn clients(&self) -> u32 {
        if self.has_tools() {
            self.major
        } else {
            newest().major
        }
    }

    /// Where a program of this version is, or a client that does for it.
    #[track_caller]
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.bin.join(name);
        if own.exists() {
            return own;
        }
        assert!(
            SERVE_OLDER.contains(&name),
            "PostgreSQL {} is here without {name}, and another's does not do for it",
            self.major
        );
        newest().bin.join(name)
    }
}

/// Every server, oldest first, one of each major, the system's before the cache's, and of the cache's one with clients
/// before a server alone; never none.
pub fn installed_versions() -> Vec<Version> {
    let cached = |prefix| servers_in(&cache_dir(), prefix);
    let mut found = [
        servers_in(Path::new(SYSTEM), ""),
        cached("postgresql-"),
        cached("postgresql-server-"),
    ]
    .concat();
    // Stable, so of two with one major the first of these stays in front.
    found.sort_by_key(|version| version.major);
    found.dedup_by_key(|version| version.major);
    assert!(
        !found.is_empty(),
        "no PostgreSQL in /usr/lib/postgresql\nHINT: .ci/needs test installs it"
    );
    found
}

/// The newest that is whole: a server and its clients.
pub fn newest() -> Version {
    let mut whole = installed_versions().into_iter().filter(Version::has_tools);
    whole.next_back().expect("the system's own is whole")
}

/// The system's own; the oldest, if it has several.
pub fn of_the_system() -> Version {
    let own = servers_in(Path::new(SYSTEM), "").into_iter();
    own.min_by_key(|version| version.major)
        .expect("a PostgreSQL in /usr/lib/postgresql\nHINT: .ci/needs test installs it")
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
