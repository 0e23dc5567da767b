//! Directories of the mount: opening, listing, and what may not be done to the names in them.

use std::ffi::{OsStr, OsString};

use super::basebackups;
use super::error::Error;
use super::fs::{Fs, Result, wal_name};
use super::handles::{Handle, Listing};
use super::listing::{Listed, WalListing};
use super::node::{Attributes, Node, OwnFile, ROOT, TreeNode};

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: OsString,
    /// Its attributes.
    pub attributes: Attributes,
    /// The offset to ask with for what follows it.
    pub next_offset: u64,
}

/// Offsets of the entries made here (`.`, `..`, fixed files) lie below those of the archive's listing.
const LISTING_BASE: u64 = 1 << 8;

/// Entries of a listing that is held whole in one answer: the kernel asks with room for some tens to hundreds.
const HELD_ENTRIES: usize = 256;

impl Fs {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; [`Error::Archive`]: the store did not deliver what is to be listed.
    pub async fn open_directory(&self, ino: u64) -> Result<u64> {
        let listing = match self.node(ino)? {
            Node::Wal => {
                let listing = WalListing::open(self.archive.clone(), self.options.deadline);
                let listed = tokio::try_join!(listing, self.list_received());
                let (listing, received) = self.noted("list wal", listed)?;
                Listing::Wal(listing, received)
            }
            Node::Basebackups => {
                let entries = self.noted("list basebackups", self.list_basebackups().await)?;
                Listing::Held(basebackups::numbered(entries, LISTING_BASE))
            }
            Node::Tree(at) => Listing::Tree(self.list_in_tree(at).await?),
            Node::Draft(at) => {
                let listed = self.list_in_draft(at)?;
                Listing::Draft(at, basebackups::numbered(listed, LISTING_BASE))
            }
            Node::Folder(number) => {
                Listing::Held(basebackups::numbered(self.list_folder(number), LISTING_BASE))
            }
            Node::Root | Node::Absent | Node::Own => Listing::Fixed,
            _ => return Err(Error::NotDirectory),
        };
        Ok(self.handles.insert(Handle::Listing { ino, listing }))
    }

    /// Entries from `offset` on (0: the start): some of them, none at the end.
    ///
    /// # Errors
    /// [`Error::Archive`]: the store did not deliver them; never a list that is silently short.
    pub async fn read_directory(&self, handle: u64, offset: u64) -> Result<Vec<Entry>> {
        let handle = self.handles.get(handle)?;
        let Handle::Listing { ino, listing } = &*handle else {
            return Err(Error::NotDirectory);
        };
        // The archive's names come with the first answer: after one of `.` and `..` alone the kernel would ask for
        // names without attributes, and `ls -l` then for those of each of the first thousand files.
        let mut entries: Vec<Entry> = match usize::try_from(offset) {
            Ok(known) if offset < LISTING_BASE => {
                self.fixed_entries(*ino).await?.into_iter().skip(known).collect()
            }
            _ => Vec::new(),
        };
        let seen = offset.saturating_sub(LISTING_BASE);
        match listing {
            Listing::Fixed => {}
            Listing::Wal(_, received) if Self::is_beyond_archived(offset) => {
                entries.extend(Self::received_from(received, offset));
            }
            Listing::Wal(listing, received) => {
                let archived = self.listed_entries(listing, seen).await?;
                match archived.is_empty() {
                    true => entries.extend(Self::received_from(received, 0)),
                    false => entries.extend(archived),
                }
            }
            Listing::Held(held) => {
                entries.extend(held.iter().skip(seen as usize).take(HELD_ENTRIES).cloned())
            }
            Listing::Draft(at, names) => {
                let names = names.iter().skip(seen as usize);
                let named = names.filter_map(|named| self.as_it_is_now(*at, named));
                entries.extend(named.take(HELD_ENTRIES));
            }
            Listing::Tree(listing) => {
                let mut listed = self.listed_in_tree(listing, seen)?;
                listed
                    .iter_mut()
                    .for_each(|entry| entry.next_offset += LISTING_BASE);
                entries.extend(listed);
            }
        }
        Ok(entries)
    }

    /// An entry of a draft's directory, unless it has gone since that was opened. The kernel keeps what it is told here of
    /// a draft: what was true before would be taken for true from now on.
    fn as_it_is_now(&self, directory: TreeNode, opened: &Entry) -> Option<Entry> {
        let attributes = self.lookup_in_draft(directory, &opened.name).ok()?;
        Some(Entry {
            attributes,
            ..opened.clone()
        })
    }

    async fn listed_entries(&self, listing: &WalListing, offset: u64) -> Result<Vec<Entry>> {
        let listed = self.noted("list wal", listing.from(offset).await)?;
        let entry = |listed: &Listed| Entry {
            name: listed.name.to_string().into(),
            attributes: self.archived_attributes(listed.name, &listed.meta),
            next_offset: listed.next_offset + LISTING_BASE,
        };
        Ok(listed.iter().map(entry).collect())
    }

    async fn fixed_entries(&self, ino: u64) -> Result<Vec<Entry>> {
        let children: &[(&str, Node)] = match self.node(ino)? {
            Node::Root => &[
                ("wal", Node::Wal),
                ("basebackups", Node::Basebackups),
                (".absent", Node::Absent),
                (".walfs", Node::Own),
            ],
            Node::Own => &[
                ("status.json", Node::OwnFile(OwnFile::Status)),
                ("version", Node::OwnFile(OwnFile::Version)),
            ],
            _ => &[],
        };
        let node = self.node(ino)?;
        let above = match node {
            Node::Draft(at) => self.draft_parent(at)?,
            Node::Folder(_) => Node::Wal,
            _ => self.node(ROOT)?,
        };
        let dots = [(".", node), ("..", above)];
        let mut entries = Vec::new();
        for (name, node) in dots.iter().chain(children) {
            let attributes = match node {
                Node::Tree(at) => self.tree_attributes(*at, None).await?,
                Node::Draft(at) => self.draft_attributes(*at)?,
                node => self.attributes(*node)?,
            };
            entries.push((OsString::from(name), attributes));
        }
        Ok(basebackups::numbered(entries, 0))
    }

    /// Removes a name: only of a file that is being written under a temporary name.
    ///
    /// # Errors
    /// [`Error::Immutable`] for what is archived (promise B7), [`Error::NotFound`].
    pub async fn unlink(&self, parent: u64, name: &OsStr) -> Result<()> {
        if let Node::Draft(at) = self.node(parent)? {
            return self.unlink_in_draft(at, name).await;
        }
        let place = self
            .place(parent)
            .ok_or_else(|| self.refuse_change(parent, name))?;
        let found = name
            .to_str()
            .and_then(|name| self.writings.find(&place.key(name)));
        if let Some(writing) = found {
            if Self::is_kept_in_part(&writing).await {
                return Err(self.not_being_written(name));
            }
            self.writings.hide(&writing);
            return Ok(());
        }
        Err(self.not_being_written(name))
    }

    /// Why a name is not made, removed or renamed in a directory that is not written to.
    pub fn refuse_change(&self, parent: u64, name: &OsStr) -> Error {
        match self.node(parent) {
            Ok(Node::Tree(at)) => self.refuse_in_backup(at, name),
            _ => Error::Immutable {
                what: name.to_string_lossy().into_owned(),
            },
        }
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
