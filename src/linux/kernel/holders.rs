//! Who keeps a mount busy: processes with an open file or their working directory in it, and mounts on top of it.
//!
//! Reads links in `/proc` as text and so never touches the mount. Processes that this user may not look at, and files
//! that are only mapped, are not seen.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::process;
use super::table::mounts;

/// Enough to know what to stop.
const MOST: usize = 8;

/// One user of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// Its id.
        pid: u32,
        /// Its name, at most 15 bytes.
        command: String,
        /// What it has there.
        uses: PathBuf,
    },
    /// A mount inside the mount.
    Mount {
        /// Where.
        mountpoint: PathBuf,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command, uses } => write!(out, "{command}[{pid}] ({})", uses.display()),
            Self::Mount { mountpoint } => write!(out, "the mount on {mountpoint:?}"),
        }
    }
}

/// For a message.
pub(super) fn list(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "somebody this user cannot see".into();
    }
    holders
        .iter()
        .map(Holder::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Who holds the mount at `path`; at most eight, one use of each.
pub(super) fn holders(path: &Path) -> Vec<Holder> {
    let inner = mounts().unwrap_or_default().into_iter().filter_map(|mount| {
        let inside = mount.mountpoint != path && mount.mountpoint.starts_with(path);
        inside.then_some(Holder::Mount {
            mountpoint: mount.mountpoint,
        })
    });
    inner
        .chain(process::all().filter_map(|pid| holder(pid, path)))
        .take(MOST)
        .collect()
}

fn holder(pid: u32, path: &Path) -> Option<Holder> {
    let place = PathBuf::from(format!("/proc/{pid}"));
    let uses = links(&place).find(|link| link.starts_with(path))?;
    Some(Holder::Process {
        pid,
        command: process::name(pid).unwrap_or_default(),
        uses,
    })
}

fn links(place: &Path) -> impl Iterator<Item = PathBuf> {
    let single = ["cwd", "root", "exe"].map(|name| place.join(name)).into_iter();
    let files = fs::read_dir(place.join("fd")).into_iter().flatten();
    let files = files.filter_map(|entry: io::Result<fs::DirEntry>| Some(entry.ok()?.path()));
    single.chain(files).filter_map(|link| fs::read_link(link).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn process_is_found_by_its_working_directory_and_by_a_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap();
        assert_eq!(holders(&path), []);
        let mut child = Command::new("cat")
            .current_dir(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let found = holders(&path);
        let file = fs::File::create(path.join("open")).unwrap();
        let with_file = holders(&path);
        drop(file);
        child.kill().unwrap();
        child.wait().unwrap();
        // Between fork and exec a child of another test may hold a copy of anything; only look for our own.
        assert!(found.iter().any(|holder| *holder
            == Holder::Process {
                pid: child.id(),
                command: "cat".into(),
                uses: path.clone()
            }));
        assert!(with_file.iter().any(|holder| matches!(holder,
            Holder::Process { pid, uses, .. } if *pid == std::process::id() && *uses == path.join("open"))));
    }

    #[test]
    fn nobody_visible_is_said_so() {
        assert!(list(&[]).contains("cannot see"));
        let holder = Holder::Process {
            pid: 7,
            command: "cp".into(),
            uses: "/m/wal/x".into(),
        };
        assert_eq!(list(&[holder]), "cp[7] (/m/wal/x)");
    }
}
