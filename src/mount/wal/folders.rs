//! Folders in `wal/` that a copier makes for what is on its way.
//!
//! `rsync --delay-updates` makes `.~tmp~` in the directory that it copies to, moves each file there when it has come, and
//! renames all of them at its end; `--partial-dir` does the same under another name. When the folder cannot be made it
//! throws the file away and exits with 0, so the folder must be there. It is a place for temporary files that is kept in
//! memory, and nothing in it is ever archived: only `rsync` may make one (or a process of which nothing can be seen), no
//! file can be created in it, and the only ones that may be moved to it, under their final names, are temporary files of
//! `wal/` itself. So `cp` into such a folder fails, as does `rsync -R`.

use std::ffi::OsStr;
use std::sync::Mutex;

use crate::mount::asker::Asker;
use crate::mount::error::{Error, Result};
use crate::mount::node::Node;
use crate::pg;

use super::archived::{not_being_written, wal_name};
use super::writing::{Place, Writings};

/// Names that folders have had; a copier uses one or two.
const NAMES: usize = 256;

/// All names that folders have or had: their numbers stay the same.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<Vec<Folder>>);

#[derive(Debug)]
struct Folder {
    name: String,
    is_there: bool,
}

impl Folders {
    /// The number of the folder of this name in `wal/`.
    pub(super) fn number(&self, name: &OsStr) -> Option<u32> {
        let folders = self.0.lock().expect("no panic while held");
        let at = folders
            .iter()
            .position(|folder| folder.is_there && name == folder.name.as_str())?;
        Some(at as u32)
    }

    pub(super) fn name(&self, number: u32) -> Option<String> {
        let folders = self.0.lock().expect("no panic while held");
        let folder = folders.get(number as usize).filter(|folder| folder.is_there)?;
        Some(folder.name.clone())
    }

    /// Where files are written in this directory; `None` elsewhere.
    pub(super) fn place(&self, directory: Node) -> Option<Place> {
        match directory {
            Node::Wal => Some(Place::Wal),
            Node::Folder(number) => self.name(number).map(Place::Folder),
            _ => None,
        }
    }

    /// Makes a folder in `wal/`; gives its number.
    ///
    /// # Errors
    /// [`Error::Immutable`] for a process that is seen to be no `rsync`, and for names of files; [`Error::Exists`].
    pub(super) fn make(&self, name: &OsStr, asker: Option<&Asker>) -> Result<u32> {
        let refused = || Error::immutable(name);
        let text = name.to_str().ok_or_else(refused)?;
        if self.number(name).is_some() {
            return Err(Error::Exists);
        }
        let is_of_a_file = wal_name(name).is_some() || pg::staging_target(text).is_some();
        let is_rsync = asker.is_none_or(|asker| asker.program().is_none_or(|program| program == "rsync"));
        if is_of_a_file || !is_rsync {
            return Err(refused());
        }
        self.number_for(text).ok_or_else(refused)
    }

    /// `None` if there were too many.
    fn number_for(&self, name: &str) -> Option<u32> {
        let mut folders = self.0.lock().expect("no panic while held");
        let at = match folders.iter().position(|folder| folder.name == name) {
            Some(known) => known,
            None if folders.len() == NAMES => return None,
            None => {
                let name = name.to_owned();
                folders.push(Folder {
                    name,
                    is_there: false,
                });
                folders.len() - 1
            }
        };
        folders[at].is_there = true;
        Some(at as u32)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// [`Error::Immutable`] for everything else, [`Error::NotEmpty`].
    pub(super) fn remove(&self, name: &OsStr, writings: &Writings) -> Result<()> {
        let number = self.number(name).ok_or_else(|| not_being_written(name))?;
        if !self.content(number, writings).is_empty() {
            return Err(Error::NotEmpty);
        }
        let mut folders = self.0.lock().expect("no panic while held");
        if let Some(folder) = folders.get_mut(number as usize) {
            folder.is_there = false;
        }
        Ok(())
    }

    /// The names in a folder, and the keys of these.
    pub(super) fn content(&self, number: u32, writings: &Writings) -> Vec<(String, String)> {
        let Some(folder) = self.name(number) else {
            return Vec::new();
        };
        let inside = Place::Folder(folder).key("");
        let named = writings.named(&inside);
        named
            .into_iter()
            .map(|key| (key[inside.len()..].to_owned(), key))
            .collect()
    }
}
