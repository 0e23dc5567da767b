//! Writing base backups: what processes do in a directory that they have made in `basebackups/`. A version that is written as a
//! directory, in `files/NAME/`, is a draft, too: see [`versions`].
//!
//! The rules are those of [`crate::staging::tree`], what makes a backup those of [`crate::staging::base_backup`]; here they
//! get inode numbers and open files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use crate::archive;
use crate::archive::tree::{self, TreeName};
use crate::linux::kernel::Owner;
use crate::mount::asker::{Asker, Seen};
use crate::mount::common::Common;
use crate::mount::directory::{Entries, Entry, HELD_ENTRIES, numbered};
use crate::mount::error::{Error, Result};
use crate::mount::node::{Attributes, Kept, Kind, Node, TreeNode};
use crate::mount::room::{AnyFile, FilesOf, Making, Named, OpenFile, Opening, Room};
use crate::staging::base_backup::BaseBackup;
use crate::staging::tree::judge::Judge;
use crate::staging::tree::names::ROOT;
use crate::staging::tree::{Change, Options, Stat, StatKind, TreeDraft};
use crate::store::{self, GRACE};

use super::drafts::Drafts;
use super::latest::Latest;

mod versions;

/// The backups that are being written through this mount.
#[derive(Debug)]
pub(in crate::mount) struct Drafting {
    common: Arc<Common>,
    drafts: Drafts,
    latest: Arc<Latest>,
}

impl Drafting {
    pub(super) fn new(common: Arc<Common>, latest: Arc<Latest>) -> Self {
        Self {
            common,
            drafts: Drafts::default(),
            latest,
        }
    }

    /// The draft that a node is in, and where.
    fn draft(&self, node: Node) -> Result<(Arc<TreeDraft>, TreeNode)> {
        let at = self.place(node)?;
        Ok((self.drafts.of(at.slot).ok_or(Error::Stale)?, at))
    }

    /// The place of a node in a draft.
    fn place(&self, node: Node) -> Result<TreeNode> {
        match node {
            Node::Draft(at) => Ok(at),
            home => {
                let slot = self.drafts.shown_in(home).ok_or(Error::NotFound)?;
                Ok(TreeNode { slot, entry: ROOT })
            }
        }
    }

    fn attributes(&self, node: Node) -> Result<Attributes> {
        let (draft, at) = self.draft(node)?;
        Ok(self.shown(at, &draft, &draft.stat(at.entry)?))
    }

    /// The one of that name, as a directory.
    pub(super) fn named(&self, name: &TreeName) -> Option<Attributes> {
        self.attributes(root(self.drafts.find(name)?)).ok()
    }

    /// Was anything written here?
    pub(super) fn is_used(&self) -> bool {
        self.drafts.is_used()
    }

    /// Names and attributes of all.
    pub(super) fn list_all(&self) -> Vec<(OsString, Attributes)> {
        let named = self.drafts.list().into_iter();
        let shown = named.filter_map(|(name, slot)| {
            let attributes = self.attributes(root(slot)).ok()?;
            Some((OsString::from(name.as_str()), attributes))
        });
        shown.collect()
    }

    /// An entry of the draft that `beside` is in too.
    fn shown(&self, beside: TreeNode, draft: &TreeDraft, stat: &Stat) -> Attributes {
        let at = TreeNode {
            entry: stat.number,
            ..beside
        };
        let home = self.drafts.home(at.slot);
        let own = home.filter(|_| at.entry == ROOT).unwrap_or(Node::Draft(at));
        Attributes {
            ino: self.common.inodes.number(own),
            kind: match stat.kind {
                StatKind::Directory => Kind::Directory,
                StatKind::Symlink => Kind::Symlink,
                StatKind::File => Kind::File,
            },
            bytes: stat.bytes,
            modified: stat.attributes.modified.into(),
            mode: stat.attributes.mode as u16,
            owner: Some(Owner {
                uid: stat.attributes.uid,
                gid: stat.attributes.gid,
            }),
            kept: match home {
                Some(_) if at.entry == ROOT => Kept::Never,
                // Under these names there will be nothing when the version is complete, and something else in the next one.
                Some(_) if draft.parent(at.entry) == ROOT => Kept::Attributes,
                _ => kept(stat),
            },
        }
    }

    fn find(&self, directory: Node, name: &OsStr) -> Result<Attributes> {
        let (draft, at) = self.draft(directory)?;
        Ok(self.shown(at, &draft, &draft.lookup(at.entry, name.as_bytes())?))
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadBackupName`], [`Error::Draft`], [`Error::ReadOnly`].
    pub(super) async fn begin(&self, name: &OsStr, making: Making) -> Result<Attributes> {
        self.common.gates_open()?;
        let deadline = self.common.options.deadline;
        let begun = timeout(deadline + GRACE, self.begin_draft(name, making)).await;
        let begun = begun.unwrap_or_else(|_| Err(self.late_beginning(name)));
        self.common.noted("begin a backup", begun)
    }

    fn late_beginning(&self, name: &OsStr) -> Error {
        let (place, deadline) = (self.common.archive.place(), self.common.options.deadline);
        let target = format!("backup {} in {place}", name.to_string_lossy());
        let late = store::Error::late("begin", target, deadline, "the store does not answer");
        archive::Error::from(late).into()
    }

    async fn begin_draft(&self, name: &OsStr, making: Making) -> Result<Attributes> {
        let text = name.to_string_lossy();
        let name: TreeName = text
            .parse()
            .map_err(|reason: tree::TreeNameError| Error::BadBackupName(reason))?;
        let _alone = self.drafts.beginning.lock().await;
        if self.drafts.find(&name).is_some() {
            return Err(Error::Exists);
        }
        let mountpoint = &self.common.options.mountpoint;
        let directory = mountpoint.join(tree::BASEBACKUPS).join(name.as_str());
        let judge = Arc::new(BaseBackup {
            directory: directory.into_os_string().into_vec(),
        });
        let draft = self.begin_tree(name, attributes(making), judge).await?;
        self.attributes(root(self.drafts.insert(draft, None)))
    }

    async fn begin_tree(
        &self,
        name: TreeName,
        root: tree::Attributes,
        judge: Arc<dyn Judge>,
    ) -> Result<TreeDraft> {
        let wanted = &self.common.options;
        let options = Options {
            deadline: wanted.deadline,
            longest: wanted.longest,
        };
        let (archive, staging) = (self.common.archive.clone(), self.common.staging.clone());
        let trees = self.common.reader.trees().clone();
        Ok(TreeDraft::begin(archive, staging, name, root, options, judge, trees).await?)
    }

    /// Removes a backup that is not complete, with all that is stored of it.
    ///
    /// # Errors
    /// [`Error::Draft`]; [`Error::Immutable`] for what is complete, or no backup.
    pub(super) async fn remove(&self, name: &OsStr) -> Result<()> {
        let name = name.to_str().and_then(|name| name.parse().ok());
        let slot = name.and_then(|name| self.drafts.find(&name));
        self.remove_slot(slot.ok_or_else(|| Error::immutable("a complete backup"))?)
            .await
    }

    async fn remove_slot(&self, slot: u32) -> Result<()> {
        let removed = self.draft(root(slot))?.0.remove().await;
        self.common
            .noted("remove a backup", removed.map_err(Error::from))?;
        self.drafts.removed(slot);
        Ok(())
    }

    /// `pg_basebackup --waldir` into the mount would leave the backup without the WAL that it has brought along.
    fn check_link(&self, parent: Node, name: &OsStr, target: &OsStr) -> Result<()> {
        let mountpoint = &self.common.options.mountpoint;
        let is_here = !mountpoint.as_os_str().is_empty() && Path::new(target).starts_with(mountpoint);
        let is_at_root = matches!(parent, Node::Draft(TreeNode { entry: ROOT, .. }));
        if is_at_root && name == "pg_wal" && is_here {
            return Err(Error::Invalid {
                name: name.to_string_lossy().into_owned(),
                reason: "WAL beside its backup would not be in it\nHINT: run pg_basebackup without --waldir",
            });
        }
        Ok(())
    }

    fn opened(&self, at: TreeNode, draft: Arc<TreeDraft>, to_write: bool) -> OpenDraft {
        OpenDraft {
            common: self.common.clone(),
            draft,
            entry: at.entry,
            to_write,
            ends_when_quiet: self.drafts.home(at.slot).is_some(),
        }
    }

    fn note_completion(&self, at: TreeNode, draft: &TreeDraft) {
        if draft.is_complete() {
            self.drafts.completed(at.slot);
            self.latest.ask_again();
        }
    }
}

#[async_trait]
impl Room for Arc<Drafting> {
    async fn lookup(&self, (parent, name): Named<'_>, _asker: Option<&Asker>) -> Result<Attributes> {
        self.find(parent, name)
    }

    async fn getattr(&self, node: Node, _asker: Option<&Asker>) -> Result<Attributes> {
        self.attributes(node)
    }

    async fn open(&self, node: Node, opening: Opening, asker: Option<&Asker>) -> Result<AnyFile> {
        let (draft, at) = self.draft(node)?;
        let to_write = opening != Opening::Read;
        draft.open(at.entry, to_write)?;
        let open = self.opened(at, draft, to_write);
        if opening == Opening::Replace
            && let Err(error) = open.truncate(0, asker).await
        {
            open.release().await;
            return Err(error);
        }
        Ok(Arc::new(open))
    }

    async fn open_directory(&self, node: Node) -> Result<Arc<dyn Entries>> {
        let (draft, at) = self.draft(node)?;
        let listed = draft.list(at.entry)?.into_iter();
        let shown =
            listed.map(|(name, stat)| (OsString::from_vec(name.into_vec()), self.shown(at, &draft, &stat)));
        Ok(Arc::new(OpenDirectory {
            drafting: self.clone(),
            directory: node,
            opened: numbered(shown, 0),
        }))
    }

    fn parent(&self, directory: Node) -> Result<Node> {
        let (draft, at) = self.draft(directory)?;
        let entry = draft.parent(at.entry);
        Ok(match (at.entry, entry, self.drafts.home(at.slot)) {
            (ROOT, _, None) => Node::Basebackups,
            (_, ROOT, Some(home)) => home,
            _ => Node::Draft(TreeNode { entry, ..at }),
        })
    }

    async fn create(
        &self,
        (parent, name): Named<'_>,
        making: Making,
        _asker: Option<&Asker>,
    ) -> Result<(Attributes, AnyFile)> {
        self.common.gates_open()?;
        let (draft, at) = self.draft(parent)?;
        let made = draft.create(at.entry, name.as_bytes(), attributes(making)).await;
        let made = self.common.noted("create", made.map_err(Error::from))?;
        let shown = self.shown(at, &draft, &made);
        let place = TreeNode {
            entry: made.number,
            ..at
        };
        Ok((shown, Arc::new(self.opened(place, draft, true))))
    }

    async fn make_directory(
        &self,
        (parent, name): Named<'_>,
        making: Making,
        _asker: Option<&Asker>,
    ) -> Result<Attributes> {
        self.common.gates_open()?;
        let (draft, at) = self.draft(parent)?;
        let made = draft.make_directory(at.entry, name.as_bytes(), attributes(making));
        Ok(self.shown(at, &draft, &made.await?))
    }

    async fn make_link(
        &self,
        (parent, name): Named<'_>,
        target: &OsStr,
        making: Making,
    ) -> Result<Attributes> {
        self.common.gates_open()?;
        self.common.noted("link", self.check_link(parent, name, target))?;
        let (draft, at) = self.draft(parent)?;
        let made = draft.make_link(at.entry, name.as_bytes(), target.as_bytes(), attributes(making));
        Ok(self.shown(at, &draft, &made.await?))
    }

    /// PostgreSQL's rename of its manifest completes the backup.
    async fn rename(
        &self,
        from: Named<'_>,
        to: Named<'_>,
        replace: bool,
        _asker: Option<&Asker>,
    ) -> Result<()> {
        let new_at = self.place(to.0).map_err(|_| Error::OtherTree)?;
        if self.place(from.0)?.slot != new_at.slot {
            return Err(Error::OtherTree);
        }
        let (draft, at) = self.draft(from.0)?;
        let (old, new) = ((at.entry, from.1.as_bytes()), (new_at.entry, to.1.as_bytes()));
        let renamed = draft.rename(old, new, replace).await;
        self.note_completion(at, &draft);
        self.common.noted("rename", renamed.map_err(Error::from))
    }

    async fn unlink(&self, (parent, name): Named<'_>) -> Result<()> {
        let (draft, at) = self.draft(parent)?;
        Ok(draft.unlink(at.entry, name.as_bytes()).await?)
    }

    async fn remove_directory(&self, (parent, name): Named<'_>) -> Result<()> {
        let (draft, at) = self.draft(parent)?;
        Ok(draft.remove_directory(at.entry, name.as_bytes()).await?)
    }

    async fn truncate(&self, node: Node, bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        let (draft, at) = self.draft(node)?;
        Ok(draft.truncate(at.entry, bytes).await?)
    }

    async fn set_attributes(&self, node: Node, change: Change) -> Result<()> {
        let (draft, at) = self.draft(node)?;
        Ok(draft.set_attributes(at.entry, change).await?)
    }

    async fn read_link(&self, node: Node, _asker: Option<&Asker>) -> Result<Bytes> {
        let (draft, at) = self.draft(node)?;
        Ok(draft.read_link(at.entry)?.into_vec().into())
    }

    /// That of a backup completes it, if it is whole.
    async fn sync_directory(&self, node: Node) -> Result<()> {
        let (draft, at) = self.draft(node)?;
        let synced = draft.sync(at.entry).await;
        self.note_completion(at, &draft);
        self.common.noted("fsync", synced.map_err(Error::from))
    }
}

/// Names and attributes in a draft change by requests of this mount alone, and the kernel knows what those change. So it
/// may keep them: otherwise it asks for each directory of a path each time that the path is walked, which was three
/// quarters of what `pg_basebackup` asked for. But when the draft is complete, its own name becomes that of the complete
/// backup, and links to tablespaces have become directories.
fn kept(stat: &Stat) -> Kept {
    match stat.kind {
        StatKind::Directory if stat.number == ROOT => Kept::Attributes,
        StatKind::Symlink => Kept::Attributes,
        StatKind::Directory | StatKind::File => Kept::Always,
    }
}

/// The directory of a draft.
fn root(slot: u32) -> Node {
    Node::Draft(TreeNode { slot, entry: ROOT })
}

fn attributes(making: Making) -> tree::Attributes {
    tree::Attributes {
        mode: making.mode & 0o7777,
        uid: making.owner.uid,
        gid: making.owner.gid,
        modified: jiff::Timestamp::now(),
    }
}

/// A file of a draft that is open.
#[derive(Debug)]
struct OpenDraft {
    common: Arc<Common>,
    draft: Arc<TreeDraft>,
    entry: u32,
    to_write: bool,
    /// Is it taken for whole when nothing happens in it any more? Then it matters who closes its files.
    ends_when_quiet: bool,
}

#[async_trait]
impl OpenFile for OpenDraft {
    async fn read(&self, offset: u64, bytes: usize, asker: Option<&Asker>) -> Result<Bytes> {
        let read = self.draft.read(self.entry, offset, bytes);
        Ok(self.common.while_wanted(asker, read).await??.into())
    }

    async fn write(&self, offset: u64, data: &Bytes, _files: FilesOf, _asker: Option<&Asker>) -> Result<()> {
        let written = self.draft.write(self.entry, offset, data).await;
        self.common.noted("write", written.map_err(Error::from))
    }

    async fn truncate(&self, bytes: u64, _asker: Option<&Asker>) -> Result<()> {
        Ok(self.draft.truncate(self.entry, bytes).await?)
    }

    /// There is nothing to settle; says what has failed the backup meanwhile.
    async fn flush(&self, _files: FilesOf, asker: Option<&Asker>) -> Result<()> {
        if self.ends_when_quiet && self.to_write && !Seen::lives(asker).await {
            self.draft.cut_off();
        }
        Ok(self.draft.still_sound()?)
    }

    async fn fsync(&self, _asker: Option<&Asker>) -> Result<()> {
        Ok(self.draft.still_sound()?)
    }

    async fn release(&self) {
        self.draft.close(self.entry, self.to_write).await;
    }

    fn is_close_a_statement(&self) -> bool {
        self.to_write
    }
}

/// An open directory of a draft: the names that were in it then, as they are now.
#[derive(Debug)]
struct OpenDirectory {
    drafting: Arc<Drafting>,
    directory: Node,
    opened: Vec<Entry>,
}

#[async_trait]
impl Entries for OpenDirectory {
    /// The kernel keeps what it is told here of a draft: what was true when it was opened would be taken for true from now
    /// on. What has gone since then is left out.
    async fn from(&self, offset: u64) -> Result<Vec<Entry>> {
        let names = self.opened.iter().skip(offset as usize);
        let now = names.filter_map(|entry| {
            let attributes = self.drafting.find(self.directory, &entry.name).ok()?;
            Some(Entry {
                attributes,
                ..entry.clone()
            })
        });
        Ok(now.take(HELD_ENTRIES).collect())
    }
}
