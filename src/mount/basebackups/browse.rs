//! What is in a complete backup: directories, links and files as PostgreSQL had them, read-only.
//!
//! Everything but the bytes of files comes from the manifest, which is read once, so that neither `find` nor `ls -lR`
//! asks the store for anything. `pg_wal` shows, besides what the backup has in it, the archived segments that make it
//! consistent: a browsed backup is whole for every tool. These are the files of `wal/`, under other inode numbers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::archive;
use crate::archive::tree::{Content, Entry};
use crate::archive::wal::WalMeta;
use crate::pg::WalName;
use crate::store::Patience;

use super::super::asker::Asker;
use super::super::directory;
use super::super::error::Error;
use super::super::fs::{Fs, Result, wal_name};
use super::super::handles::Handle;
use super::super::node::{Attributes, Kept, Kind, Node, TreeNode};
use super::loaded::Loaded;
use super::slots::Committed;
use crate::linux::kernel::Owner;

/// Entries in one answer to the kernel, which asks with room for some tens to hundreds.
const ANSWER_ENTRIES: usize = 256;

/// Segments asked for at once.
const ASKED: usize = 8;

impl Fs {
    /// The tree of a slot, from memory or the store.
    pub(super) async fn loaded(&self, slot: u32, asker: Option<&Asker>) -> Result<Arc<Loaded>> {
        self.loaded_within(slot, asker, self.read_patience()).await
    }

    async fn loaded_within(
        &self,
        slot: u32,
        asker: Option<&Asker>,
        patience: Patience,
    ) -> Result<Arc<Loaded>> {
        let backup = self.basebackups.slots.of(slot).ok_or(Error::NotFound)?;
        let load = self.basebackups.trees.get(slot, self.load(backup, patience));
        Ok(self.while_wanted(asker, load).await??)
    }

    async fn load(
        &self,
        backup: Arc<Committed>,
        patience: Patience,
    ) -> std::result::Result<Loaded, archive::Error> {
        let name = backup.name.clone();
        let tree = self.archive.tree(&name, &backup.summary, patience);
        let loaded = Loaded::new(backup.clone(), tree.await?);
        loaded.map_err(|reason| self.archive.tree_damaged(&name, "its summary", reason))
    }

    pub(in super::super) async fn lookup_in_tree(
        &self,
        at: TreeNode,
        name: &OsStr,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        let loaded = self.loaded(at.slot, asker).await?;
        if let Some(number) = loaded.tree.child(at.entry, name.as_bytes()) {
            return self.entry_attributes(&loaded, number);
        }
        let Some(name @ WalName::Segment(segment)) = wal_name(name) else {
            return Err(Error::NotFound);
        };
        let elsewhere = loaded
            .segments()
            .find(|(_, found)| loaded.pg_wal == Some(at.entry) && segment == *found);
        let (number, _) = elsewhere.ok_or(Error::NotFound)?;
        let meta = self.known_meta(name, asker).await?;
        Ok(self.segment_attributes(&loaded, number, name, &meta))
    }

    pub(in super::super) async fn tree_attributes(
        &self,
        at: TreeNode,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        if at.entry == 0 {
            let backup = self.basebackups.slots.of(at.slot).ok_or(Error::NotFound)?;
            return Ok(self.backup_attributes(&backup));
        }
        let loaded = self.noted("look at a backup", self.loaded(at.slot, asker).await)?;
        match loaded.segment(at.entry) {
            Some(segment) => {
                let name = WalName::Segment(segment);
                let meta = self.known_meta(name, asker).await?;
                Ok(self.segment_attributes(&loaded, at.entry, name, &meta))
            }
            None => self.entry_attributes(&loaded, at.entry),
        }
    }

    fn entry_attributes(&self, loaded: &Loaded, number: u32) -> Result<Attributes> {
        let entry = loaded.entry(number)?;
        let attributes = entry.attributes;
        Ok(Attributes {
            ino: self.inodes.number(Node::Tree(loaded.backup.node(number))),
            kind: kind(entry),
            bytes: entry.bytes(),
            modified: attributes.modified.into(),
            mode: attributes.mode as u16,
            owner: Some(Owner {
                uid: attributes.uid,
                gid: attributes.gid,
            }),
            kept: Kept::Always,
        })
    }

    fn segment_attributes(&self, loaded: &Loaded, number: u32, name: WalName, meta: &WalMeta) -> Attributes {
        Attributes {
            ino: self.inodes.number(Node::Tree(loaded.backup.node(number))),
            ..self.archived_attributes(name, meta)
        }
    }

    /// Opens a file of a backup for reading.
    pub(in super::super) async fn open_in_tree(&self, at: TreeNode, asker: Option<&Asker>) -> Result<Handle> {
        let loaded = self.noted("open a backup", self.loaded(at.slot, asker).await)?;
        if let Some(segment) = loaded.segment(at.entry) {
            let name = WalName::Segment(segment);
            let bytes = self.known_meta(name, asker).await?.bytes;
            return Ok(Handle::Archived { name, bytes });
        }
        match loaded.entry(at.entry)?.content {
            Content::File { .. } => Ok(Handle::InTree {
                loaded,
                entry: at.entry,
            }),
            Content::Directory => Err(Error::IsDirectory),
            Content::Symlink(_) => Err(super::not_of_its_kind("a link")),
        }
    }

    pub(super) async fn read_tree_link(&self, at: TreeNode, asker: Option<&Asker>) -> Result<Bytes> {
        let loaded = self.noted("open a backup", self.loaded(at.slot, asker).await)?;
        match &loaded.entry(at.entry)?.content {
            Content::Symlink(target) => Ok(Bytes::copy_from_slice(target)),
            _ => Err(super::not_of_its_kind("a file")),
        }
    }

    /// Opens a directory of a backup, within the deadline of listings.
    pub(in super::super) async fn list_in_tree(&self, at: TreeNode) -> Result<TreeListing> {
        let loaded = self.loaded_within(at.slot, None, self.prompt_patience()).await;
        let loaded = self.noted("list a backup", loaded)?;
        if loaded.entry(at.entry)?.content != Content::Directory {
            return Err(Error::NotDirectory);
        }
        let segments = if loaded.pg_wal == Some(at.entry) {
            self.noted("list pg_wal", self.archived_segments(&loaded).await)?
        } else {
            Vec::new()
        };
        Ok(TreeListing {
            loaded,
            directory: at.entry,
            segments,
        })
    }

    /// The segments for `pg_wal` that are archived.
    async fn archived_segments(&self, loaded: &Loaded) -> Result<Vec<(OsString, Attributes)>> {
        let asked = stream::iter(loaded.segments()).map(|(number, segment)| async move {
            let name = WalName::Segment(segment);
            let meta = self.meta_for_listing(name).await?;
            Ok::<_, Error>(meta.map(|meta| {
                let attributes = self.segment_attributes(loaded, number, name, &meta);
                (OsString::from(name.to_string()), attributes)
            }))
        });
        let mut asked = asked.buffered(ASKED);
        let mut found = Vec::new();
        while let Some(segment) = asked.next().await {
            found.extend(segment?);
        }
        Ok(found)
    }

    async fn meta_for_listing(&self, name: WalName) -> Result<Option<WalMeta>> {
        if let Some(meta) = self.presence.meta(name).await {
            return Ok(Some(meta));
        }
        let meta = self.archive.wal_meta(name, self.prompt_patience()).await?;
        if let Some(meta) = meta {
            self.presence.found(name, meta).await;
        }
        Ok(meta)
    }

    /// The next entries of a directory of a backup, of which `offset` have been seen.
    pub(in super::super) fn listed_in_tree(
        &self,
        listing: &TreeListing,
        offset: u64,
    ) -> Result<Vec<directory::Entry>> {
        let TreeListing {
            loaded,
            directory,
            segments,
        } = listing;
        let children = loaded.tree.children(*directory);
        let seen = usize::try_from(offset).unwrap_or(usize::MAX);
        let own = children.iter().skip(seen).take(ANSWER_ENTRIES).map(|&number| {
            let name = loaded.entry(number)?.name().to_vec();
            Ok((OsString::from_vec(name), self.entry_attributes(loaded, number)?))
        });
        let mut entries = own.collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            let seen = seen.saturating_sub(children.len());
            entries.extend(segments.iter().skip(seen).take(ANSWER_ENTRIES).cloned());
        }
        Ok(super::numbered(entries, offset))
    }
}

/// An open directory of a backup.
#[derive(Debug)]
pub struct TreeListing {
    loaded: Arc<Loaded>,
    directory: u32,
    /// What `pg_wal` shows from elsewhere.
    segments: Vec<(OsString, Attributes)>,
}

fn kind(entry: &Entry) -> Kind {
    match entry.content {
        Content::Directory => Kind::Directory,
        Content::Symlink(_) => Kind::Symlink,
        Content::File { .. } => Kind::File,
    }
}
