//! Folders in `wal/` that a copier makes for what is on its way.
//!
//! `rsync --delay-updates` makes `.~tmp~` in the directory that it copies to, moves each file there when it has come, and
//! renames all of them at its end; `--partial-dir` does the same under another name. When the folder cannot be made it
//! throws the file away and exits with 0, so the folder must be there. It is a place for temporary files that is kept in
//! memory, and nothing in it is ever archived: only `rsync` may make one (or somebody of whom nothing can be seen), no
//! file can be created in it, and the only ones that may be moved to it, under their final names, are temporary files of
//! `wal/` itself. So `cp` into such a folder fails, as does `rsync -R`.

use std::ffi::{OsStr, OsString};
use std::sync::Mutex;

use crate::pg;

use super::asker::Asker;
use super::error::Error;
use super::fs::{Fs, Result, wal_name};
use super::node::{Attributes, Node};

/// Names that folders have had; a copier uses one or two.
const NAMES: usize = 256;

/// A directory that files are written in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `wal/` itself.
    Wal,
    /// The folder of this name in it.
    Folder(String),
}

impl Place {
    /// The name by which a file being written here is found.
    pub(super) fn key(&self, name: &str) -> String {
        match self {
            Self::Wal => name.to_owned(),
            Self::Folder(folder) => format!("{folder}/{name}"),
        }
    }

    /// Why a name is not given to a file here.
    pub(super) fn refusal(&self, name: &OsStr) -> Error {
        Error::BadName {
            name: self.key(&name.to_string_lossy()),
            reason: "only what lies in wal/ itself is archived".into(),
        }
    }
}

/// All names that folders have or had: their numbers stay the same.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<Vec<Folder>>);

#[derive(Debug)]
struct Folder {
    name: String,
    is_there: bool,
}

impl Folders {
    fn number(&self, name: &str) -> Option<u32> {
        let folders = self.0.lock().expect("no panic while held");
        let at = folders
            .iter()
            .position(|folder| folder.is_there && folder.name == name)?;
        Some(at as u32)
    }

    fn name(&self, number: u32) -> Option<String> {
        let folders = self.0.lock().expect("no panic while held");
        let folder = folders.get(number as usize).filter(|folder| folder.is_there)?;
        Some(folder.name.clone())
    }

    /// Its number; `None` if there were too many.
    fn make(&self, name: &str) -> Option<u32> {
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

    fn remove(&self, number: u32) {
        let mut folders = self.0.lock().expect("no panic while held");
        if let Some(folder) = folders.get_mut(number as usize) {
            folder.is_there = false;
        }
    }
}

impl Fs {
    /// Where files are written in this directory; `None` elsewhere.
    pub(super) fn place(&self, directory: u64) -> Option<Place> {
        match self.node(directory).ok()? {
            Node::Wal => Some(Place::Wal),
            Node::Folder(number) => self.folders.name(number).map(Place::Folder),
            _ => None,
        }
    }

    /// The folder of this name in `wal/`.
    pub(super) fn folder(&self, name: &OsStr) -> Option<Node> {
        self.folders.number(name.to_str()?).map(Node::Folder)
    }

    /// Attributes of a folder, while it is there.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn folder_attributes(&self, number: u32) -> Result<Attributes> {
        self.folders.name(number).ok_or(Error::NotFound)?;
        self.attributes(Node::Folder(number))
    }

    /// Finds a file in a folder.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn lookup_in_folder(&self, directory: u64, name: &OsStr) -> Result<Attributes> {
        let place = self.place(directory).ok_or(Error::NotFound)?;
        let found = name
            .to_str()
            .and_then(|name| self.writings.find(&place.key(name)));
        found
            .map(|writing| self.writing_attributes(&writing))
            .ok_or(Error::NotFound)
    }

    /// Makes a folder in `wal/`.
    ///
    /// # Errors
    /// [`Error::Immutable`] for anybody who is seen to be no `rsync`, and for names of files; [`Error::Exists`].
    pub(super) fn make_folder(&self, name: &OsStr, asker: Option<&Asker>) -> Result<Attributes> {
        let refused = || Error::Immutable {
            what: name.to_string_lossy().into_owned(),
        };
        let text = name.to_str().ok_or_else(refused)?;
        if self.folder(name).is_some() {
            return Err(Error::Exists);
        }
        let is_of_a_file = wal_name(name).is_some() || pg::staging_target(text).is_some();
        let is_rsync = asker.is_none_or(|asker| asker.program().is_none_or(|program| program == "rsync"));
        if is_of_a_file || !is_rsync {
            return Err(refused());
        }
        let number = self.folders.make(text).ok_or_else(refused)?;
        self.folder_attributes(number)
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// [`Error::Immutable`] for everything else, [`Error::NotEmpty`].
    pub(super) fn remove_folder(&self, name: &OsStr) -> Result<()> {
        let Some(Node::Folder(number)) = self.folder(name) else {
            return Err(self.not_being_written(name));
        };
        if !self.names_in_folder(number).is_empty() {
            return Err(Error::NotEmpty);
        }
        self.folders.remove(number);
        Ok(())
    }

    /// What lies in a folder.
    pub(super) fn list_folder(&self, number: u32) -> Vec<(OsString, Attributes)> {
        self.names_in_folder(number)
            .into_iter()
            .filter_map(|(name, key)| {
                let writing = self.writings.find(&key)?;
                Some((name.into(), self.writing_attributes(&writing)))
            })
            .collect()
    }

    /// Their names, and the keys of these.
    fn names_in_folder(&self, number: u32) -> Vec<(String, String)> {
        let Some(folder) = self.folders.name(number) else {
            return Vec::new();
        };
        let inside = Place::Folder(folder).key("");
        let named = self.writings.named(&inside);
        named
            .into_iter()
            .map(|key| (key[inside.len()..].to_owned(), key))
            .collect()
    }
}
