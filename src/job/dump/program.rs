//! The programs of PostgreSQL that dump: where they are, and in which version.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// Where distributions put each version (Debian; the packages of the PostgreSQL project for others), before the name of the
/// version and behind it.
const DIRECTORIES: [(&str, &str); 2] = [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")];

/// A program that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl Program {
    /// The program of that name for a server of that version: in `directory` if one is named; else of the same version, or
    /// else the oldest that is newer, from the search path or from where distributions have it.
    ///
    /// # Errors
    /// [`Error::NoProgram`].
    pub fn find(name: &'static str, server_major: u32, directory: Option<&Path>) -> Result<Self, Error> {
        let directories = match directory {
            Some(directory) => vec![directory.to_owned()],
            None => directories(),
        };
        let there = directories
            .iter()
            .filter_map(|directory| Self::at(directory.join(name)));
        let found: Vec<Self> = there.collect();
        let fits = found.iter().filter(|program| program.major >= server_major);
        // Of those that are the same the first.
        let best = fits.min_by_key(|program| program.major).cloned();
        best.ok_or(Error::NoProgram {
            name,
            server_major,
            found,
        })
    }

    fn at(path: PathBuf) -> Option<Self> {
        let told = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let major = major(&String::from_utf8_lossy(&told.stdout))?;
        Some(Self { path, major })
    }
}

/// Of `pg_dump (PostgreSQL) 15.8 (Debian 15.8-1)` 15; of `18beta1` 18.
fn major(told: &str) -> Option<u32> {
    let version = told.split_once("(PostgreSQL) ")?.1;
    let digits = version
        .split(|character: char| !character.is_ascii_digit())
        .next()?;
    digits.parse().ok()
}

/// Where programs may be: the search path first.
fn directories() -> Vec<PathBuf> {
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path)
        .filter(|path| path.is_absolute())
        .collect();
    for (above, prefix) in DIRECTORIES {
        let below = fs::read_dir(above).into_iter().flatten().flatten();
        let versions = below.filter(|entry| {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix(prefix));
            version.is_some_and(|version| version.parse::<u32>().is_ok())
        });
        let mut found: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
        found.sort();
        directories.append(&mut found);
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (told, expected) in [
            ("pg_dump (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n", Some(15)),
            ("pg_dumpall (PostgreSQL) 18beta1\n", Some(18)),
            ("pg_dump (EnterpriseDB) x", None),
            ("", None),
        ] {
            assert_eq!(major(told), expected, "{told}");
        }
    }
}
