//! What is in a complete backup: directories, links and files as PostgreSQL had them, read-only.
//!
//! Everything but the bytes of files comes from the manifest, of which only what is looked at is read; that of a small
//! backup is one object of a few hundred KiB. `pg_wal` shows, besides what the backup has in it, the archived segments that make it
//! consistent: a browsed backup is whole for every tool. These are the files of `wal/`, under other inode numbers.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::archive::tree::{Content, Entry, below};
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
use crate::read::tree::stored::{Listed, StoredFile};
use crate::staging::tree::Change;
use crate::store::Patience;

use super::complete::{Complete, refusal};
use super::loaded::{Loaded, Trees};

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
            trees: Trees::new(common.archive.memory().index_bytes),
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
        let open = Loaded::open(self.complete.of(slot)?, self.common.reader.trees(), patience);
        let open = self.trees.get(slot, open);
        Ok(self.common.while_wanted(asker, open).await??)
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
            None => {
                let entry = self.entry(&loaded, at.entry, asker).await?;
                Ok(entry_attributes(&self.common.inodes, &loaded, &entry))
            }
        }
    }

    /// An entry of an open backup.
    async fn entry(&self, loaded: &Loaded, number: u32, asker: Option<&Asker>) -> Result<Listed> {
        let entry = loaded.entry(number, self.common.read_patience());
        let entry = self.common.while_wanted(asker, entry).await;
        self.common.noted("look at a backup", entry.flatten())
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
            Ok(loaded) => {
                let path = loaded.path(at.entry, self.common.prompt_patience()).await;
                refusal(&self.common, loaded.backup.name.as_str(), &path)
            }
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
        let directory = self.entry(&loaded, at.entry, asker).await?;
        let path = below(&directory.entry().path, name.as_bytes());
        let found = loaded.tree.find(&path, self.common.read_patience());
        let found = self.common.while_wanted(asker, found).await;
        let found = self
            .common
            .noted("look at a backup", found.and_then(|found| Ok(found?)))?;
        if let Some(entry) = found {
            return Ok(entry_attributes(&self.common.inodes, &loaded, &entry));
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
        let entry = self.entry(&loaded, at.entry, asker).await?;
        match (&entry.entry().content, entry.file()) {
            (_, Some(file)) => Ok(Arc::new(OpenEntry {
                common: self.common.clone(),
                loaded,
                file,
            })),
            (Content::Directory, _) => Err(Error::IsDirectory),
            _ => Err(Error::wrong_kind("a link")),
        }
    }

    /// Opens a directory, within the deadline of listings.
    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let (at, common) = (place(node)?, &self.common);
        let patience = common.prompt_patience();
        let loaded = self.loaded_within(at.slot, None, patience).await;
        let loaded = common.noted("list a backup", loaded)?;
        let directory = common.noted("list a backup", loaded.entry(at.entry, patience).await)?;
        if directory.entry().content != Content::Directory {
            return Err(Error::NotDirectory);
        }
        let path = directory.entry().path.clone();
        let first = loaded.tree.first_child(&path, patience).await;
        let first = common.noted("list a backup", first.map_err(Error::from))?;
        let segments = match loaded.pg_wal == Some(at.entry) {
            true => common.noted("list pg_wal", self.archived_segments(&loaded).await)?,
            false => Vec::new(),
        };
        Ok(Arc::new(OpenTree {
            common: common.clone(),
            loaded,
            path,
            first,
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
        match &self.entry(&loaded, at.entry, asker).await?.entry().content {
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
    file: StoredFile,
}

impl OpenEntry {
    fn refuse(&self) -> Error {
        let path = OsStr::from_bytes(&self.file.path);
        refusal(&self.common, self.loaded.backup.name.as_str(), path)
    }
}

#[async_trait]
impl OpenFile for OpenEntry {
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let (trees, patience) = (self.common.reader.trees(), self.common.read_patience());
        let read = trees.read(&self.loaded.tree, &self.file, offset, bytes, patience);
        self.common.read(asker, read).await
    }

    async fn write(
        &self,
        _offset: u64,
        _data: &Bytes,
        _files: FilesOf,
        _asker: Option<&Asker>,
    ) -> Result<()> {
        Err(self.refuse())
    }

    async fn truncate(&self, _bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        Err(self.refuse())
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
    path: Box<[u8]>,
    /// Number of the first entry in it, if there is one.
    first: u32,
    /// What `pg_wal` shows from elsewhere, before all others.
    segments: Vec<(OsString, Attributes)>,
}

#[async_trait]
impl Entries for OpenTree {
    async fn from(&self, offset: u64) -> Result<Vec<directory::Entry>> {
        let seen = usize::try_from(offset).unwrap_or(usize::MAX);
        let segments = self.segments.iter().skip(seen).take(HELD_ENTRIES).cloned();
        let mut entries: Vec<_> = segments.collect();
        if entries.is_empty() {
            let seen = u32::try_from(seen - self.segments.len()).unwrap_or(u32::MAX);
            let from = self.first.saturating_add(seen);
            let children = self
                .loaded
                .tree
                .children(&self.path, from, self.common.prompt_patience());
            let children = children.await.map_err(Error::from);
            let children = self.common.noted("list a backup", children)?.into_iter();
            entries.extend(children.take(HELD_ENTRIES).map(|child| {
                let name = child.entry().name().to_vec();
                let attributes = entry_attributes(&self.common.inodes, &self.loaded, &child);
                (OsString::from_vec(name), attributes)
            }));
        }
        Ok(numbered(entries, offset))
    }
}

fn entry_attributes(inodes: &Inodes, loaded: &Loaded, listed: &Listed) -> Attributes {
    let (number, entry) = (listed.number(), listed.entry());
    let attributes = entry.attributes;
    Attributes {
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
    }
}

fn kind(entry: &Entry) -> Kind {
    match entry.content {
        Content::Directory => Kind::Directory,
        Content::Symlink(_) => Kind::Symlink,
        Content::File { .. } => Kind::File,
    }
}
