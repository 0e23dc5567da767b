//! Writing base backups: what processes do in a directory that they have made in `basebackups/`.
//!
//! The rules are those of [`crate::staging::tree`]; here they get inode numbers and open files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;

use crate::archive;
use crate::archive::tree::{self, TreeName};
use crate::staging::tree::names::ROOT;
use crate::staging::tree::{Change, Options, Stat, StatKind, TreeDraft};
use crate::store::{self, GRACE};

use super::super::asker::Asker;
use super::super::error::Error;
use super::super::fs::{Fs, Result};
use super::super::handles::Handle;
use super::super::node::{Attributes, Kept, Kind, Node, TreeNode};
use crate::linux::kernel::Owner;

/// What a new file, directory or link gets.
#[derive(Debug, Clone, Copy)]
pub struct Making {
    /// Permission bits.
    pub mode: u32,
    /// Who makes it.
    pub owner: Owner,
}

/// A file of a draft that is open.
#[derive(Debug)]
pub struct OpenDraft {
    draft: Arc<TreeDraft>,
    at: TreeNode,
    to_write: bool,
}

impl Making {
    fn attributes(self) -> tree::Attributes {
        tree::Attributes {
            mode: self.mode & 0o7777,
            uid: self.owner.uid,
            gid: self.owner.gid,
            modified: jiff::Timestamp::now(),
        }
    }
}

impl Fs {
    /// The draft that a node is in.
    fn draft(&self, at: TreeNode) -> Result<Arc<TreeDraft>> {
        self.basebackups.drafts.of(at.slot).ok_or(Error::Stale)
    }

    /// The backup of that name that is being written here, as a directory.
    pub(super) fn draft_named(&self, name: &TreeName) -> Option<Attributes> {
        let slot = self.basebackups.drafts.find(name)?;
        self.draft_attributes(TreeNode { slot, entry: ROOT }).ok()
    }

    /// Names and attributes of all that are being written here.
    pub(super) fn list_drafts(&self) -> Vec<(OsString, Attributes)> {
        let named = self.basebackups.drafts.list().into_iter();
        let shown = named.filter_map(|(name, slot)| {
            let attributes = self.draft_attributes(TreeNode { slot, entry: ROOT }).ok()?;
            Some((OsString::from(name.as_str()), attributes))
        });
        shown.collect()
    }

    pub(in super::super) fn draft_attributes(&self, at: TreeNode) -> Result<Attributes> {
        let stat = self.draft(at)?.stat(at.entry)?;
        Ok(self.shown(at.slot, &stat))
    }

    fn shown(&self, slot: u32, stat: &Stat) -> Attributes {
        let entry = stat.number;
        Attributes {
            ino: self.inodes.number(Node::Draft(TreeNode { slot, entry })),
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
            kept: kept(stat),
        }
    }

    pub(in super::super) fn lookup_in_draft(&self, at: TreeNode, name: &OsStr) -> Result<Attributes> {
        let stat = self.draft(at)?.lookup(at.entry, name.as_bytes())?;
        Ok(self.shown(at.slot, &stat))
    }

    /// What a directory of a draft holds.
    pub(in super::super) fn list_in_draft(&self, at: TreeNode) -> Result<Vec<(OsString, Attributes)>> {
        let listed = self.draft(at)?.list(at.entry)?.into_iter();
        let shown =
            listed.map(|(name, stat)| (OsString::from_vec(name.into_vec()), self.shown(at.slot, &stat)));
        Ok(shown.collect())
    }

    pub(super) fn read_draft_link(&self, at: TreeNode) -> Result<Bytes> {
        Ok(self.draft(at)?.read_link(at.entry)?.into_vec().into())
    }

    /// Makes a directory: in `basebackups/` that begins a backup.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::BadName`], [`Error::Draft`]; [`Error::Immutable`] elsewhere.
    pub async fn make_directory(
        &self,
        parent: u64,
        name: &OsStr,
        making: Making,
        asker: Option<&Asker>,
    ) -> Result<Attributes> {
        match self.node(parent)? {
            Node::Wal => {
                self.gates_open()?;
                self.make_folder(name, asker)
            }
            Node::Basebackups => {
                self.gates_open()?;
                let begun = timeout(self.options.deadline + GRACE, self.begin_draft(name, making)).await;
                let begun = begun.unwrap_or_else(|_| Err(self.late_beginning(name)));
                self.noted("begin a backup", begun)
            }
            Node::Draft(at) => {
                self.gates_open()?;
                let draft = self.draft(at)?;
                let made = draft.make_directory(at.entry, name.as_bytes(), making.attributes());
                Ok(self.shown(at.slot, &made.await?))
            }
            _ => Err(self.refuse_change(parent, name)),
        }
    }

    fn late_beginning(&self, name: &OsStr) -> Error {
        let target = format!("backup {} in {}", name.to_string_lossy(), self.archive.place());
        let late = store::Error::late(
            "begin",
            target,
            self.options.deadline,
            "the store does not answer",
        );
        archive::Error::from(late).into()
    }

    async fn begin_draft(&self, name: &OsStr, making: Making) -> Result<Attributes> {
        let text = name.to_string_lossy();
        let name: TreeName = text
            .parse()
            .map_err(|reason: tree::TreeNameError| Error::BadBackupName(reason))?;
        let _alone = self.basebackups.drafts.beginning.lock().await;
        if self.basebackups.drafts.find(&name).is_some() {
            return Err(Error::Exists);
        }
        let directory = self
            .options
            .mountpoint
            .join(tree::BASEBACKUPS)
            .join(name.as_str());
        let options = Options {
            deadline: self.options.deadline,
            longest: self.options.longest,
            directory: directory.into_os_string().into_vec(),
        };
        let (archive, staging) = (self.archive.clone(), self.staging.clone());
        let draft = TreeDraft::begin(archive, staging, name, making.attributes(), options).await?;
        let slot = self.basebackups.drafts.insert(draft);
        self.draft_attributes(TreeNode { slot, entry: ROOT })
    }

    /// Makes a symbolic link, in a backup that is being written.
    ///
    /// # Errors
    /// [`Error::Draft`]; [`Error::Immutable`] elsewhere.
    pub async fn make_link(
        &self,
        parent: u64,
        name: &OsStr,
        target: &OsStr,
        making: Making,
    ) -> Result<Attributes> {
        let Node::Draft(at) = self.node(parent)? else {
            return Err(self.refuse_change(parent, name));
        };
        self.gates_open()?;
        self.noted("link", self.check_link(at, name, target))?;
        let draft = self.draft(at)?;
        let made = draft.make_link(at.entry, name.as_bytes(), target.as_bytes(), making.attributes());
        Ok(self.shown(at.slot, &made.await?))
    }

    /// `pg_basebackup --waldir` into the mount would leave the backup without the WAL that it has brought along.
    fn check_link(&self, at: TreeNode, name: &OsStr, target: &OsStr) -> Result<()> {
        let mountpoint = &self.options.mountpoint;
        let is_here = !mountpoint.as_os_str().is_empty() && Path::new(target).starts_with(mountpoint);
        if at.entry == ROOT && name == "pg_wal" && is_here {
            return Err(Error::Invalid {
                name: name.to_string_lossy().into_owned(),
                reason: "WAL beside its backup would not be in it\nHINT: run pg_basebackup without --waldir",
            });
        }
        Ok(())
    }

    pub(in super::super) async fn create_in_draft(
        &self,
        at: TreeNode,
        name: &OsStr,
        making: Making,
    ) -> Result<(Attributes, u64)> {
        self.gates_open()?;
        let draft = self.draft(at)?;
        let made = draft.create(at.entry, name.as_bytes(), making.attributes()).await;
        let made = self.noted("create", made.map_err(Error::from))?;
        let entry = made.number;
        let open = OpenDraft {
            draft,
            at: TreeNode { entry, ..at },
            to_write: true,
        };
        Ok((
            self.shown(at.slot, &made),
            self.handles.insert(Handle::Draft(open)),
        ))
    }

    pub(in super::super) async fn open_in_draft(
        &self,
        at: TreeNode,
        to_write: bool,
        cut: bool,
    ) -> Result<u64> {
        let draft = self.draft(at)?;
        draft.open(at.entry, to_write)?;
        let open = OpenDraft { draft, at, to_write };
        if cut && let Err(error) = open.truncate(0).await {
            open.close().await;
            return Err(error);
        }
        Ok(self.handles.insert(Handle::Draft(open)))
    }

    /// Sets the length of a file of a draft.
    pub(in super::super) async fn truncate_in_draft(&self, at: TreeNode, bytes: u64) -> Result<()> {
        Ok(self.draft(at)?.truncate(at.entry, bytes).await?)
    }

    /// Sets mode, owner and time.
    pub(in super::super) async fn change_in_draft(&self, at: TreeNode, change: Change) -> Result<()> {
        Ok(self.draft(at)?.set_attributes(at.entry, change).await?)
    }

    /// Renames in one draft. PostgreSQL's rename of its manifest completes it.
    pub(in super::super) async fn rename_in_draft(
        &self,
        from: (TreeNode, &OsStr),
        to: (TreeNode, &OsStr),
        replace: bool,
    ) -> Result<()> {
        if from.0.slot != to.0.slot {
            return Err(Error::OtherTree);
        }
        let draft = self.draft(from.0)?;
        let (old, new) = ((from.0.entry, from.1.as_bytes()), (to.0.entry, to.1.as_bytes()));
        let renamed = draft.rename(old, new, replace).await;
        self.note_completion(from.0.slot, &draft);
        self.noted("rename", renamed.map_err(Error::from))
    }

    pub(in super::super) async fn unlink_in_draft(&self, at: TreeNode, name: &OsStr) -> Result<()> {
        Ok(self.draft(at)?.unlink(at.entry, name.as_bytes()).await?)
    }

    /// Removes a directory: in `basebackups/` a backup that is not complete, with all that is stored of it.
    ///
    /// # Errors
    /// [`Error::Draft`]; [`Error::Immutable`], [`Error::Committed`] for what is complete, or no backup.
    pub async fn remove_directory(&self, parent: u64, name: &OsStr) -> Result<()> {
        match self.node(parent)? {
            Node::Wal => self.remove_folder(name),
            Node::Basebackups => {
                let name = name.to_str().and_then(|name| name.parse().ok());
                let slot = name.as_ref().and_then(|name| self.basebackups.drafts.find(name));
                let Some(slot) = slot else {
                    return Err(self.refuse_change(parent, OsStr::new("a complete backup")));
                };
                let removed = self.draft(TreeNode { slot, entry: ROOT })?.remove().await;
                self.noted("remove a backup", removed.map_err(Error::from))?;
                self.basebackups.drafts.removed(slot);
                Ok(())
            }
            Node::Draft(at) => Ok(self
                .draft(at)?
                .remove_directory(at.entry, name.as_bytes())
                .await?),
            _ => Err(self.refuse_change(parent, name)),
        }
    }

    /// `fsync` of a directory: that of a backup completes it, if it is whole.
    ///
    /// # Errors
    /// [`Error::Draft`].
    pub async fn sync_directory(&self, ino: u64) -> Result<()> {
        match self.node(ino)? {
            Node::Draft(at) => {
                let draft = self.draft(at)?;
                let synced = draft.sync(at.entry).await;
                self.note_completion(at.slot, &draft);
                self.noted("fsync", synced.map_err(Error::from))
            }
            // Names elsewhere are durable when they appear.
            _ => Ok(()),
        }
    }

    fn note_completion(&self, slot: u32, draft: &TreeDraft) {
        if draft.is_complete() {
            self.basebackups.drafts.completed(slot);
            self.basebackups.latest.ask_again();
        }
    }

    /// The number of a draft's directory that holds another.
    pub(in super::super) fn draft_parent(&self, at: TreeNode) -> Result<Node> {
        let entry = self.draft(at)?.parent(at.entry);
        let outside = at.entry == ROOT;
        Ok(if outside {
            Node::Basebackups
        } else {
            Node::Draft(TreeNode { entry, ..at })
        })
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

impl OpenDraft {
    pub(in super::super) fn is_to_write(&self) -> bool {
        self.to_write
    }

    pub(in super::super) async fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        Ok(self.draft.read(self.at.entry, offset, bytes).await?.into())
    }

    pub(in super::super) async fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        Ok(self.draft.write(self.at.entry, offset, data).await?)
    }

    pub(in super::super) async fn truncate(&self, bytes: u64) -> Result<()> {
        Ok(self.draft.truncate(self.at.entry, bytes).await?)
    }

    /// At a close: what has failed the backup meanwhile.
    pub(in super::super) fn check(&self) -> Result<()> {
        Ok(self.draft.still_sound()?)
    }

    /// The last reference to it is gone.
    pub(in super::super) async fn close(&self) {
        self.draft.close(self.at.entry, self.to_write).await;
    }
}
