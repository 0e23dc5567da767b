//! Is this a directory to mount on? Clears away a dead mount of walfs, and nothing else.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::liveness::{Liveness, probe};
use super::table::{Spot, look, passed_descriptor};
use super::unmount::detach;
use super::{Error, Owner};

/// How long a server that is there already may take to answer: it does so in microseconds unless it hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// More dead mounts on top of each other than a restart in a loop has ever left.
const MOST_LAYERS: usize = 64;

/// A directory that is ready to be mounted on.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Absolute and without symbolic links; `/dev/fd/N` as it was given.
    pub mountpoint: PathBuf,
    /// How many dead mounts of walfs were taken away.
    pub cleaned: usize,
    /// Sentences for the log: what will work but is not safe.
    pub warnings: Vec<String>,
}

/// Looks at the mount point before mounting. A mount of walfs whose server is dead is taken away, with a line in the
/// log; anything else that is mounted there is left alone. `owner` is the user who archives.
///
/// # Errors
/// [`Error::Missing`], [`Error::NotADirectory`], [`Error::NotEmpty`], [`Error::AlreadyMounted`],
/// [`Error::OtherFileSystem`], [`Error::Fusermount`], [`Error::System`].
pub fn prepare(mountpoint: &Path, owner: Owner) -> Result<Prepared, Error> {
    if passed_descriptor(mountpoint).is_some() {
        return Ok(Prepared {
            mountpoint: mountpoint.to_owned(),
            cleaned: 0,
            warnings: Vec::new(),
        });
    }
    let mut cleaned = 0;
    let mut spot = examine(mountpoint)?;
    while spot.is_mount_point() && cleaned < MOST_LAYERS {
        clear(spot)?;
        cleaned += 1;
        spot = examine(mountpoint)?;
    }
    refuse_content(&spot.path)?;
    let warnings = writable_bare(&spot.path, owner)?.into_iter().collect();
    Ok(Prepared {
        mountpoint: spot.path,
        cleaned,
        warnings,
    })
}

fn examine(mountpoint: &Path) -> Result<Spot, Error> {
    look(mountpoint).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing {
            path: mountpoint.to_owned(),
        },
        io::ErrorKind::NotADirectory => Error::NotADirectory {
            path: mountpoint.to_owned(),
        },
        _ => Error::at("look at", mountpoint, source),
    })
}

/// Takes away what is mounted at the spot if it is a dead walfs.
fn clear(spot: Spot) -> Result<(), Error> {
    let Spot {
        ref path, ref mount, ..
    } = spot;
    let from = mount.source.clone();
    if !mount.is_walfs() {
        return Err(Error::OtherFileSystem {
            path: path.clone(),
            fs_type: mount.fs_type.clone(),
            from,
        });
    }
    match probe(&spot, ANSWER).map_err(|source| Error::at("ask the mount at", path, source))? {
        Liveness::Dead => {}
        Liveness::Alive => {
            return Err(Error::AlreadyMounted {
                path: path.clone(),
                from,
                answers: true,
            });
        }
        Liveness::Silent | Liveness::Unknown => {
            return Err(Error::AlreadyMounted {
                path: path.clone(),
                from,
                answers: false,
            });
        }
    }
    tracing::warn!(mountpoint = %path.display(), source = %from.display(), "taking away a dead mount of walfs");
    let path = path.clone();
    drop(spot);
    detach(&path)
}

/// W9: what lies in the bare directory would be hidden by the mount, and may be WAL that `cp` put there while walfs
/// was not mounted: hiding it would lose it.
fn refuse_content(path: &Path) -> Result<(), Error> {
    let listing = fs::read_dir(path).map_err(|source| Error::at("list", path, source))?;
    let names: Result<Vec<String>, io::Error> = listing
        .take(4)
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect();
    let mut entries = names.map_err(|source| Error::at("list", path, source))?;
    if entries.is_empty() {
        return Ok(());
    }
    entries.sort();
    if entries.len() > 3 {
        entries[3] = "...".into();
    }
    Err(Error::NotEmpty {
        path: path.to_owned(),
        entries,
    })
}

/// W9: can the archiving user write into the bare directory, so that a copy would land there while walfs is away?
fn writable_bare(path: &Path, owner: Owner) -> Result<Option<String>, Error> {
    let found = fs::metadata(path).map_err(|source| Error::at("look at", path, source))?;
    if !may_write(
        found.mode(),
        Owner {
            uid: found.uid(),
            gid: found.gid(),
        },
        owner,
    ) {
        return Ok(None);
    }
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let hint = if root {
        format!("chown root:root {path:?} && chmod 0555 {path:?}")
    } else {
        "fusermount3 asks for a directory that its user can write; start walfs as root with --user, on a directory of \
         root's with mode 0555, to be safe from that"
            .into()
    };
    Ok(Some(format!(
        "the bare mount point {path:?} can be written by user {}: while walfs is not mounted, a copy into it would \
         succeed and archive nothing. HINT: {hint}",
        owner.uid
    )))
}

/// By the mode alone. Root writes anywhere, but PostgreSQL never runs as root: a mount for root is one for others too,
/// who then must not be able to write. Supplementary groups count as others' do: a directory a group can write is one
/// too many.
fn may_write(mode: u32, directory: Owner, user: Owner) -> bool {
    let owner_writes =
        mode & 0o200 != 0 && directory.uid != 0 && (directory.uid == user.uid || user.uid == 0);
    let group_writes = mode & 0o020 != 0 && (directory.gid != 0 || user.gid == 0);
    owner_writes || group_writes || mode & 0o002 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Owner = Owner { uid: 0, gid: 0 };
    const POSTGRES: Owner = Owner { uid: 26, gid: 27 };
    const OTHER: Owner = Owner { uid: 1000, gid: 1000 };

    #[test]
    fn who_may_write_the_bare_directory() {
        assert!(!may_write(0o755, ROOT, POSTGRES));
        assert!(!may_write(0o755, ROOT, ROOT));
        assert!(!may_write(0o555, POSTGRES, POSTGRES));
        assert!(!may_write(0o755, OTHER, POSTGRES));
        assert!(may_write(0o755, POSTGRES, POSTGRES));
        assert!(may_write(0o755, POSTGRES, ROOT));
        assert!(may_write(0o775, OTHER, POSTGRES));
        assert!(may_write(0o777, ROOT, POSTGRES));
        assert!(may_write(0o1777, ROOT, POSTGRES));
    }

    #[test]
    fn missing_and_file_are_told_apart() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("gone");
        assert!(matches!(prepare(&path, ROOT), Err(Error::Missing { .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(prepare(&path, ROOT), Err(Error::NotADirectory { .. })));
    }

    #[test]
    fn content_is_named_up_to_three() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a"), "").unwrap();
        let error = prepare(place.path(), ROOT).unwrap_err().to_string();
        assert!(error.contains("it has a;") && error.contains("HINT"), "{error}");
        for name in ["b", "c", "d", "e"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let error = prepare(place.path(), ROOT).unwrap_err().to_string();
        assert!(error.contains(", ...;"), "{error}");
    }

    #[test]
    fn link_to_a_directory_is_followed() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", place.path().join("link")).unwrap();
        let prepared = prepare(&place.path().join("link"), ROOT).unwrap();
        assert_eq!(
            prepared.mountpoint,
            place.path().canonicalize().unwrap().join("real")
        );
        assert_eq!(prepared.cleaned, 0);
    }

    #[test]
    fn passed_descriptor_needs_nothing() {
        let prepared = prepare(Path::new("/dev/fd/77"), ROOT).unwrap();
        assert_eq!(prepared.mountpoint, Path::new("/dev/fd/77"));
    }
}
