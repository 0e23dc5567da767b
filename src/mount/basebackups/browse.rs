//! What is in a complete backup: directories, links and files as PostgreSQL had them, read-only.
//!
//! Everything but the bytes of files comes from the manifest, which is read once, so that neither `find` nor `ls -lR`
//! asks the store for anything. `pg_wal` shows, besides what the backup has in it, the archived segments that make it
//! consistent: a browsed backup is whole for every tool. These are the files of `wal/`, under other inode numbers.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::archive;
use crate::archive::tree::{Content, Entry};
use crate::archive::wal::WalMeta;
use crate::linux::kernel::Owner;
use crate::mount::asker::Asker;
use crate::mount::common::Common;
use crate::mount::directory::{self, Entries, HELD_ENTRIES, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Inodes, Kept, Kind, Node, TreeNode};
use crate::mount::room::{AnyFile, FilesOf, Named, OpenFile, Opening, Room};
use crate::mount::wal::archived::{Archived, wal_name};
use crate::pg::WalName;
use crate::staging::tree::Change;
use crate::store::Patience;

use super::complete::{Complete, refusal};
use super::loaded::{Loaded, Trees};
use super::slots::Committed;

/// Segments asked for at once.
const ASKED: usize = 8;

/// What is in complete backups.
#[derive(Debug)]
pub(super) struct Browser {
    common: Arc<Common>,
    archived: Arc<Archived>,
    complete: Arc<Complete>,
    trees: Trees,
}

impl Browser {
    pub(super) fn new(common: Arc<Common>, archived: Arc<Archived>, complete: Arc<Complete>) -> Self {
        Self {
            trees: Trees::new(common.archive.memory().manifest_bytes),
            common,
            archived,
            complete,
        }
    }

    /// The tree of a slot, from memory or the store.
    async fn loaded(&self, slot: u32, asker: Option<&Asker>) -> Result<Arc<Loaded>> {
        self.loaded_within(slot, asker, self.common.read_patience()).await
    }

    async fn loaded_within(
        &self,
        slot: u32,
        asker: Option<&Asker>,
        patience: Patience,
    ) -> Result<Arc<Loaded>> {
        let load = self.load(self.complete.of(slot)?, patience);
        let load = self.trees.get(slot, load);
        Ok(self.common.while_wanted(asker, load).await??)
    }

    async fn load(
        &self,
        backup: Arc<Committed>,
        patience: Patience,
    ) -> std::result::Result<Loaded, archive::Error> {
        let (archive, name) = (&self.common.archive, backup.name.clone());
        let tree = archive.tree(&name, &backup.summary, patience).await?;
        let loaded = Loaded::new(backup, tree);
        loaded.map_err(|reason| archive.tree_damaged(&name, "its summary", reason))
    }

    async fn attributes(&self, at: TreeNode, asker: Option<&Asker>) -> Result<Attributes> {
        if at.entry == 0 {
            return Ok(self.complete.attributes(&*self.complete.of(at.slot)?));
        }
        let loaded = self.loaded(at.slot, asker).await;
        let loaded = self.common.noted("look at a backup", loaded)?;
        match loaded.segment(at.entry) {
            Some(segment) => {
                let name = WalName::Segment(segment);
                let meta = self.archived.known_meta(name, asker).await?;
                Ok(self.segment_attributes(&loaded, at.entry, name, &meta))
            }
            None => entry_attributes(&self.common.inodes, &loaded, at.entry),
        }
    }

    fn segment_attributes(&self, loaded: &Loaded, number: u32, name: WalName, meta: &WalMeta) -> Attributes {
        Attributes {
            ino: self.common.inodes.number(Node::Tree(loaded.backup.node(number))),
            ..self.archived.attributes(name, meta)
        }
    }

    /// The segments for `pg_wal` that are archived.
    async fn archived_segments(&self, loaded: &Loaded) -> Result<Vec<(OsString, Attributes)>> {
        let asked = stream::iter(loaded.segments()).map(|(number, segment)| async move {
            let name = WalName::Segment(segment);
            let meta = self.archived.meta_for_listing(name).await?;
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

    /// Why an entry of a backup is not changed, for the caller and the log.
    async fn refuse_entry(&self, at: TreeNode) -> Error {
        match self.loaded(at.slot, None).await {
            Ok(loaded) => refuse(&self.common, &loaded, at.entry),
            Err(error) => error,
        }
    }
}

/// The place in a backup of a node of this room.
fn place(node: Node) -> Result<TreeNode> {
    match node {
        Node::Tree(at) => Ok(at),
        _ => Err(Error::NotFound),
    }
}

#[async_trait]
impl Room for Browser {
    async fn lookup(&self, (parent, name): Named<'_>, asker: Option<&Asker>) -> Result<Attributes> {
        let at = place(parent)?;
        let loaded = self.loaded(at.slot, asker).await?;
        if let Some(number) = loaded.tree.child(at.entry, name.as_bytes()) {
            return entry_attributes(&self.common.inodes, &loaded, number);
        }
        let Some(name @ WalName::Segment(segment)) = wal_name(name) else {
            return Err(Error::NotFound);
        };
        let elsewhere = loaded
            .segments()
            .find(|(_, found)| loaded.pg_wal == Some(at.entry) && segment == *found);
        let (number, _) = elsewhere.ok_or(Error::NotFound)?;
        let meta = self.archived.known_meta(name, asker).await?;
        Ok(self.segment_attributes(&loaded, number, name, &meta))
    }

    async fn getattr(&self, node: Node, asker: Option<&Asker>) -> Result<Attributes> {
        self.attributes(place(node)?, asker).await
    }

    /// Opens a file for reading.
    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        let at = place(node)?;
        if opening == Opening::Replace {
            return Err(self.refuse_entry(at).await);
        }
        let loaded = self.loaded(at.slot, asker).await;
        let loaded = self.common.noted("open a backup", loaded)?;
        if let Some(segment) = loaded.segment(at.entry) {
            return self.archived.open(WalName::Segment(segment), asker).await;
        }
        match loaded.entry(at.entry)?.content {
            Content::File { .. } => Ok(Arc::new(OpenEntry {
                common: self.common.clone(),
                loaded,
                entry: at.entry,
            })),
            Content::Directory => Err(Error::IsDirectory),
            Content::Symlink(_) => Err(Error::wrong_kind("a link")),
        }
    }

    /// Opens a directory, within the deadline of listings.
    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let (at, common) = (place(node)?, &self.common);
        let loaded = self.loaded_within(at.slot, None, common.prompt_patience());
        let loaded = common.noted("list a backup", loaded.await)?;
        if loaded.entry(at.entry)?.content != Content::Directory {
            return Err(Error::NotDirectory);
        }
        let segments = match loaded.pg_wal == Some(at.entry) {
            true => common.noted("list pg_wal", self.archived_segments(&loaded).await)?,
            false => Vec::new(),
        };
        Ok(Arc::new(OpenTree {
            common: common.clone(),
            loaded,
            directory: at.entry,
            segments,
        }))
    }

    fn refuse_change(&self, (parent, name): Named<'_>) -> Error {
        let backup = place(parent).and_then(|at| self.complete.of(at.slot));
        let backup = backup.map_or_else(|_| String::new(), |backup| backup.name.to_string());
        refusal(&self.common, &backup, name)
    }

    async fn truncate(&self, node: Node, _bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        Err(self.refuse_entry(place(node)?).await)
    }

    /// Setting what is so already changes nothing, and `rsync -a` does it at every run. The time of the backup's own
    /// directory is that of its end, whatever it was copied from; so it is asked for in vain, and that is no error.
    async fn set_attributes(&self, node: Node, change: Change) -> Result<()> {
        let at = place(node)?;
        let shown = self.attributes(at, None).await?;
        let same = |asked: Option<u32>, found: Option<u32>| asked.is_none() || asked == found;
        let unchanged = same(change.mode.map(|mode| mode & 0o7777), Some(shown.mode.into()))
            && same(change.uid, shown.owner.map(|owner| owner.uid))
            && same(change.gid, shown.owner.map(|owner| owner.gid))
            && (at.entry == 0
                || change
                    .modified
                    .is_none_or(|time| SystemTime::from(time) == shown.modified));
        if unchanged {
            return Ok(());
        }
        Err(self.refuse_entry(at).await)
    }

    async fn read_link(&self, node: Node, asker: Option<&Asker>) -> Result<Bytes> {
        let at = place(node)?;
        let loaded = self.loaded(at.slot, asker).await;
        let loaded = self.common.noted("open a backup", loaded)?;
        match &loaded.entry(at.entry)?.content {
            Content::Symlink(target) => Ok(Bytes::copy_from_slice(target)),
            _ => Err(Error::wrong_kind("a file")),
        }
    }
}

/// A file of a complete backup that is open for reading. The backup is kept in memory meanwhile.
#[derive(Debug)]
struct OpenEntry {
    common: Arc<Common>,
    loaded: Arc<Loaded>,
    entry: u32,
}

#[async_trait]
impl OpenFile for OpenEntry {
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let (trees, patience) = (self.common.reader.trees(), self.common.read_patience());
        let read = trees.read(&self.loaded.tree, self.entry, offset, bytes, patience);
        self.common.read(asker, read).await
    }

    async fn write(
        &self,
        _offset: u64,
        _data: &Bytes,
        _files: FilesOf,
        _asker: Option<&Asker>,
    ) -> Result<()> {
        Err(refuse(&self.common, &self.loaded, self.entry))
    }

    async fn truncate(&self, _bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        Err(refuse(&self.common, &self.loaded, self.entry))
    }

    fn may_be_kept(&self) -> bool {
        true
    }
}

/// An open directory of a backup.
#[derive(Debug)]
struct OpenTree {
    common: Arc<Common>,
    loaded: Arc<Loaded>,
    directory: u32,
    /// What `pg_wal` shows from elsewhere.
    segments: Vec<(OsString, Attributes)>,
}

#[async_trait]
impl Entries for OpenTree {
    async fn from(&self, offset: u64) -> Result<Vec<directory::Entry>> {
        let children = self.loaded.tree.children(self.directory);
        let seen = usize::try_from(offset).unwrap_or(usize::MAX);
        let own = children.iter().skip(seen).take(HELD_ENTRIES).map(|&number| {
            let name = self.loaded.entry(number)?.name().to_vec();
            let attributes = entry_attributes(&self.common.inodes, &self.loaded, number)?;
            Ok((OsString::from_vec(name), attributes))
        });
        let mut entries = own.collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            let seen = seen.saturating_sub(children.len());
            entries.extend(self.segments.iter().skip(seen).take(HELD_ENTRIES).cloned());
        }
        Ok(numbered(entries, offset))
    }
}

fn refuse(common: &Common, loaded: &Loaded, entry: u32) -> Error {
    refusal(common, loaded.backup.name.as_str(), &loaded.path(entry))
}

fn entry_attributes(inodes: &Inodes, loaded: &Loaded, number: u32) -> Result<Attributes> {
    let entry = loaded.entry(number)?;
    let attributes = entry.attributes;
    Ok(Attributes {
        ino: inodes.number(Node::Tree(loaded.backup.node(number))),
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

fn kind(entry: &Entry) -> Kind {
    match entry.content {
        Content::Directory => Kind::Directory,
        Content::Symlink(_) => Kind::Symlink,
        Content::File { .. } => Kind::File,
    }
}
