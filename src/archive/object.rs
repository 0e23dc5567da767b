//! What an object is, by its key; and all there are, folder by folder.

use super::prune::{self, PRUNE};
use super::tree::pin::{self, PINS};
use super::tree::{BASEBACKUPS, DUMPS, FILES, TREES, TreeId, TreeKind, TreeName};
use super::verified::VERIFIED;
use super::wal::{Fragment, RECEIVING};
use super::{Archive, CLUSTER, Error, MARKER, WAL};
use crate::pg::WalName;
use crate::store::{Key, Page, Patience};

/// Objects in a page of a listing.
const PAGE: usize = 1000;

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// `walfs.json`.
    Marker,
    /// `cluster.json`.
    Cluster,
    /// An archived file.
    Wal(WalName),
    /// Some bytes of a segment that is being received.
    Fragment(Fragment),
    /// That by which a tree exists.
    Summary(TreeKind, TreeName),
    /// Some content of a tree.
    Part(TreeId),
    /// What tells a tree's parts apart.
    Manifest(TreeId),
    /// Who began a tree, or why it was not completed.
    Word(TreeId),
    /// Why no prune removes a backup.
    Pin(TreeName),
    /// What a prune is about to remove.
    Order,
    /// Which WAL prunes have removed.
    Pruned,
    /// What was verified, and when.
    Checks,
}

/// Where objects lie, in the order of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folder {
    /// Summaries of backups.
    BaseBackups,
    /// Summaries of dumps.
    Dumps,
    /// Summaries of versions of files.
    Files,
    /// Pins of backups.
    Pins,
    /// What prunes say of themselves.
    Prune,
    /// Fragments.
    Receiving,
    /// Everything else of backups.
    Trees,
    /// Archived WAL.
    Wal,
}

impl Folder {
    /// All that hold what was archived, or what was said of it.
    pub const ALL: [Self; 8] = [
        Self::BaseBackups,
        Self::Dumps,
        Self::Files,
        Self::Pins,
        Self::Prune,
        Self::Receiving,
        Self::Trees,
        Self::Wal,
    ];

    /// What the keys of its objects begin with, but for the slash.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BaseBackups => BASEBACKUPS,
            Self::Dumps => DUMPS,
            Self::Files => FILES,
            Self::Pins => PINS,
            Self::Prune => PRUNE,
            Self::Receiving => RECEIVING,
            Self::Trees => TREES,
            Self::Wal => WAL,
        }
    }
}

impl Archive {
    /// What an object is; `None` for one that no reader looks at.
    pub fn object(&self, key: &Key) -> Option<Object> {
        let text = key.as_str();
        let Some((folder, name)) = text.split_once('/') else {
            return match text {
                MARKER => Some(Object::Marker),
                CLUSTER => Some(Object::Cluster),
                _ => None,
            };
        };
        match folder {
            WAL => self.wal_name(key).map(Object::Wal),
            RECEIVING => Fragment::parse(key, &self.marker.codec).map(Object::Fragment),
            BASEBACKUPS => summary(TreeKind::BaseBackup, name),
            DUMPS => summary(TreeKind::Dump, name),
            FILES => summary(TreeKind::Files, name),
            PINS => pin::named(key).map(Object::Pin),
            PRUNE => prune::word(key),
            TREES => self.of_tree(key, name),
            VERIFIED => Some(Object::Checks),
            _ => None,
        }
    }

    fn of_tree(&self, key: &Key, below: &str) -> Option<Object> {
        let (folder, file) = below.split_once('/')?;
        let id = TreeId::parse(folder)?;
        if *key == self.manifest_key(&id) {
            return Some(Object::Manifest(id));
        }
        if TreeId::is_part(file, &self.marker.codec) {
            return Some(Object::Part(id));
        }
        file.ends_with(".json").then_some(Object::Word(id))
    }

    /// A page of a folder's objects behind a key, ascending.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_folder(
        &self,
        folder: Folder,
        after: Option<&Key>,
        patience: Patience,
    ) -> Result<Page, Error> {
        let prefix = format!("{}/", folder.name());
        let after = after.map(Key::as_str);
        Ok(self.store.list(&prefix, after, PAGE, patience).await?)
    }
}

fn summary(kind: TreeKind, file: &str) -> Option<Object> {
    let name = file.strip_suffix(".json")?.parse().ok()?;
    Some(Object::Summary(kind, name))
}
