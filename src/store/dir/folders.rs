//! The folders that belong to every archive, of which each may be a disk of its own.
//!
//! A disk that is not mounted leaves an empty folder: nothing in it is proved absent, and nothing may be archived into it. So
//! each folder has a mark, a file with the archive's id, and is held open from the opening of the archive on. As long
//! as it is held its device number cannot become that of another disk; so its path is compared with it before anything
//! is said to be absent, or is stored.
//!
//! A copy of an archive out of a bucket has no marks. Then a folder counts that has something in it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::{Claim, Stage};
use super::{Error, ErrorKind, Key, Root, TEMP_DIR, identity, write};
use crate::beneath;

/// The mark's name in a folder.
pub(super) const MARK: &str = ".archive_id";

/// Longest mark, in bytes; it has 33.
const MARK_BYTES: u64 = 1 << 10;

/// What is missing or wrong with a folder.
const GONE: &str = "this part of the archive is gone, and with it the proof of what it does not hold\n\
                    HINT: is its disk mounted? Was it moved?";

impl Root {
    /// See [`super::Backend::prepare`].
    pub(super) fn prepare(&self, folder: &Key, claim: &Claim) -> Result<(), Error> {
        self.check("prepare")?;
        let path = self.file(folder);
        let failed = |error: io::Error| self.write_error("prepare", &path, &error);
        if claim.stage != Stage::Opened {
            self.make_durable(&path).map_err(failed)?;
        }
        let held = match self.below.directory(Path::new(folder.as_str())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if claim.needed {
                    Err(refused(&path, GONE))
                } else {
                    Ok(())
                };
            }
            opened => opened.map_err(failed)?,
        };
        self.check_mark(&held, claim)?;
        self.sweep(&path.join(TEMP_DIR));
        self.folders.lock().expect("no panic inside").insert(path, held);
        Ok(())
    }

    fn check_mark(&self, held: &beneath::Root, claim: &Claim) -> Result<(), Error> {
        let failed = |error: io::Error| self.write_error("prepare", held.path(), &error);
        let found = match held.read(Path::new(MARK), MARK_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(failed)?),
        };
        match (found, claim.stage) {
            (Some(found), _) if found.trim_ascii() == claim.archive_id.as_bytes() => Ok(()),
            (Some(_), Stage::Making) => Ok(()),
            (None, Stage::Making) | (_, Stage::Made) => self.write_mark(held, claim).map_err(failed),
            (Some(found), Stage::Opened) => {
                let message = format!(
                    "it belongs to another archive: its {MARK} says {:?}, walfs.json {:?}\n\
                     HINT: is the right disk mounted there?",
                    String::from_utf8_lossy(&found).trim(),
                    claim.archive_id
                );
                Err(refused(held.path(), &message))
            }
            (None, Stage::Opened) if is_empty(held.path()).map_err(failed)? => {
                let twin = claim.twin.as_ref().filter(|twin| self.holds_something(twin));
                let hint = match twin {
                    _ if claim.needed => {
                        "Otherwise bring back what it held, from a copy of the archive".to_owned()
                    }
                    Some(twin) => format!(
                        "Something is in {twin}, so it was not empty: bring back what it held, from a copy of the archive"
                    ),
                    None => {
                        "If it shall be empty, in a copy of an archive without backups, remove it".to_owned()
                    }
                };
                let message = format!("it is empty, and has no {MARK}\nHINT: is its disk mounted? {hint}");
                Err(refused(held.path(), &message))
            }
            (None, Stage::Opened) => Ok(()),
        }
    }

    /// Is there anything in a folder, beside its mark? A doubt counts.
    fn holds_something(&self, folder: &Key) -> bool {
        let mut found = match self.below.list(Path::new(folder.as_str())) {
            Err(error) => return error.kind() != io::ErrorKind::NotFound,
            Ok(found) => found.into_iter(),
        };
        found.any(|(name, _)| name != MARK)
    }

    fn write_mark(&self, held: &beneath::Root, claim: &Claim) -> io::Result<()> {
        let mark = Path::new(MARK);
        held.write(mark, format!("{}\n", claim.archive_id).as_bytes(), 0o600)?;
        if let Some((user, group)) = self.owner {
            held.set_owner(mark, user, group)?;
        }
        held.open_file(mark)?.sync_all()?;
        held.sync_directory(Path::new(""))
    }

    /// Is the folder that a file belongs into still the one that was opened, if it is one of the archive's?
    pub(super) fn check_folder(&self, operation: &'static str, file: &Path) -> Result<(), Error> {
        let Some(folder) = self.folder_of(file) else {
            return Ok(());
        };
        let folders = self.folders.lock().expect("no panic inside");
        let Some(held) = folders.get(&folder) else {
            return Ok(());
        };
        let now = fs::symlink_metadata(&folder).map(|now| identity(&now));
        if now.is_ok_and(|now| {
            held.metadata(Path::new(""))
                .is_ok_and(|held| identity(&held) == now)
        }) {
            return Ok(());
        }
        let kind = ErrorKind::Transient;
        Err(Error::new(kind, operation, folder.display().to_string(), GONE))
    }

    /// The same for each folder that keys with this prefix may be in.
    pub(super) fn check_folders_of(&self, prefix: &str) -> Result<(), Error> {
        let held: Vec<PathBuf> = {
            let folders = self.folders.lock().expect("no panic inside");
            folders.keys().cloned().collect()
        };
        let may_hold = |folder: &PathBuf| {
            let under = format!("{}/", self.inside(folder).display());
            under.starts_with(prefix) || prefix.starts_with(&under)
        };
        held.into_iter()
            .filter(may_hold)
            .try_for_each(|folder| self.check_folder("list", &folder))
    }

    /// The folder right below the root that a path is in, or is.
    fn folder_of(&self, file: &Path) -> Option<PathBuf> {
        let below = file.strip_prefix(&self.path).ok()?;
        Some(self.path.join(below.components().next()?))
    }

    /// The folder that a path is in, if it is a disk of its own; or the root.
    pub(super) fn disk_of(&self, file: &Path) -> PathBuf {
        let device = |held: &beneath::Root| held.metadata(Path::new("")).map(|held| held.dev()).ok();
        let folders = self.folders.lock().expect("no panic inside");
        let folder = self.folder_of(file).filter(|folder| {
            let held = folders.get(folder);
            held.is_some_and(|held| device(held) != device(&self.below))
        });
        folder.unwrap_or_else(|| self.path.clone())
    }

    /// Is it one of the archive's folders?
    pub(super) fn is_folder(&self, path: &Path) -> bool {
        self.folders.lock().expect("no panic inside").contains_key(path)
    }

    /// Makes a directory below the root, and every one above it, exist and be durable. Somebody else may have made
    /// one and not fsynced it yet, so each is done once a process.
    pub(super) fn make_durable(&self, dir: &Path) -> io::Result<()> {
        if dir == self.path || self.durable.lock().expect("no panic inside").contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().expect("below the root");
        self.make_durable(parent)?;
        write::make_dir(dir)?;
        // A link in its place is refused: what is written would lie elsewhere.
        self.below.directory(self.inside(dir))?;
        self.give_to_owner(dir)?;
        super::sync_dir(parent)?;
        self.durable
            .lock()
            .expect("no panic inside")
            .insert(dir.to_owned());
        Ok(())
    }
}

fn refused(folder: &Path, message: &str) -> Error {
    Error::new(
        ErrorKind::Permanent,
        "prepare",
        folder.display().to_string(),
        message,
    )
}

fn is_empty(folder: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(folder)?.next().is_none())
}
