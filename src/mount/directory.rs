//! Directories of the mount: opening, listing, and what may not be done to the names in them.

use std::ffi::OsStr;

use super::error::Error;
use super::fs::{Fs, Result, wal_name};
use super::handles::Handle;
use super::listing::{Listed, WalListing};
use super::node::{Attributes, Node, OwnFile, ROOT};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub attributes: Attributes,
    /// The offset to ask with for what follows it.
    pub next_offset: u64,
}

/// Offsets of the entries made here (`.`, `..`, fixed files) lie below those of the archive's listing.
const LISTING_BASE: u64 = 1 << 8;

impl Fs {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Archive`]: the store did not deliver what is to be listed.
    pub async fn open_directory(&self, ino: u64) -> Result<u64> {
        let wal = match self.node(ino)? {
            Node::Wal => {
                let listing = WalListing::open(self.archive.clone(), self.options.deadline).await;
                Some(self.noted("list wal", listing)?)
            }
            Node::Root | Node::Absent | Node::Own => None,
            _ => return Err(Error::NotDirectory),
        };
        Ok(self.handles.insert(Handle::Listing { ino, wal }))
    }

    /// Entries from `offset` on (0: the start): some of them, none at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them; never a list that is silently short.
    pub async fn read_directory(&self, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let handle = self.handles.get(handle)?;
        let Handle::Listing { ino, wal } = &*handle else {
            return Err(Error::NotDirectory);
        };
        // The archive's names come with the first answer: after one of `.` and `..` alone the kernel would ask for
        // names without attributes, and `ls -l` then for those of each of the first thousand files.
        let mut entries: Vec<Entry> = match usize::try_from(offset) {
            Ok(known) if offset < LISTING_BASE => self.fixed_entries(*ino)?.into_iter().skip(known).collect(),
            _ => Vec::new(),
        };
        if let Some(listing) = wal {
            entries.extend(
                self.listed_entries(listing, offset.saturating_sub(LISTING_BASE))
                    .await?,
            );
        }
        Ok(entries)
    }

    async fn listed_entries(&self, listing: &WalListing, offset: u64) -> Result<Vec<Entry>> {
        let listed = self.noted("list wal", listing.from(offset).await)?;
        let entry = |listed: &Listed| Entry {
            name: listed.name.to_string(),
            attributes: self.archived_attributes(listed.name, &listed.meta),
            next_offset: listed.next_offset + LISTING_BASE,
        };
        Ok(listed.iter().map(entry).collect())
    }

    fn fixed_entries(&self, ino: u64) -> Result<Vec<Entry>> {
        let children: &[(&str, Node)] = match self.node(ino)? {
            Node::Root => &[
                ("wal", Node::Wal),
                (".absent", Node::Absent),
                (".walfs", Node::Own),
            ],
            Node::Own => &[
                ("status.json", Node::OwnFile(OwnFile::Status)),
                ("version", Node::OwnFile(OwnFile::Version)),
            ],
            _ => &[],
        };
        let dots = [(".", self.node(ino)?), ("..", self.node(ROOT)?)];
        dots.iter()
            .chain(children)
            .enumerate()
            .map(|(index, (name, node))| {
                Ok(Entry {
                    name: (*name).to_owned(),
                    attributes: self.attributes(*node)?,
                    next_offset: index as u64 + 1,
                })
            })
            .collect()
    }

    /// Removes a name: only of a file that is being written under a temporary name.
    ///
    /// # Errors
    /// [`Error::Immutable`] for what is archived (contract B7), [`Error::NotFound`].
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        let what = || Error::Immutable {
            what: name.to_string_lossy().into_owned(),
        };
        if self.node(parent)? != Node::Wal {
            return Err(what());
        }
        if let Some(writing) = name.to_str().and_then(|name| self.writings.find(name)) {
            self.writings.hide(&writing);
            return Ok(());
        }
        Err(self.not_being_written(name))
    }

    /// What may be said of a name without asking the store, which would hold the directory: the kernel has just looked
    /// it up.
    pub(super) fn not_being_written(&self, name: &OsStr) -> Error {
        match wal_name(name) {
            Some(name) => Error::Immutable {
                what: name.to_string(),
            },
            None => Error::NotFound,
        }
    }
}
