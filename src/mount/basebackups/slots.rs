//! Complete backups, and versions of files, by number: the part of an inode number that says which backup it is in.
//!
//! A backup gets its slot when this process first sees it, and keeps it: the kernel may come back with a number after
//! days. A backup that is removed and made again under its name is another one, with another slot. What is kept of each
//! is its summary, a few KiB.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::future::Cache;

use crate::archive::tree::summary::Summary;
use crate::archive::tree::{TreeId, TreeKind, TreeName};
use crate::mount::node::TreeNode;

/// How long a name stands for the backup that was found under it.
const KEPT: Duration = Duration::from_secs(60);

/// Names remembered that long; more are asked for again.
const NAMES: u64 = 4096;

/// A complete backup.
#[derive(Debug)]
pub(in crate::mount) struct Committed {
    /// Its number here.
    pub(super) slot: u32,
    /// Its name.
    pub(in crate::mount) name: TreeName,
    /// Its folder.
    pub(super) id: TreeId,
    /// What there is to know of it.
    pub(in crate::mount) summary: Summary,
}

impl Committed {
    /// The node of one of its entries.
    pub(in crate::mount) fn node(&self, entry: u32) -> TreeNode {
        TreeNode {
            slot: self.slot,
            entry,
        }
    }
}

/// All backups seen by this process.
#[derive(Debug)]
pub(super) struct Slots {
    seen: Mutex<Seen>,
    found: Cache<(TreeKind, TreeName), Arc<Committed>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The first slot: those before it were given away while the archive was open before.
    first: u32,
    backups: Vec<Arc<Committed>>,
    slots: HashMap<TreeId, u32>,
}

impl Default for Slots {
    fn default() -> Self {
        let found = Cache::builder().max_capacity(NAMES).time_to_live(KEPT).build();
        Self {
            seen: Mutex::default(),
            found,
        }
    }
}

impl Slots {
    /// What the store said of a name in the last minute.
    pub(super) async fn known(&self, kind: TreeKind, name: &TreeName) -> Option<Arc<Committed>> {
        self.found.get(&(kind, name.clone())).await
    }

    /// Notes what the store has just said of a name.
    ///
    /// # Errors
    /// Why the summary is not that name's.
    pub(super) async fn insert(&self, name: &TreeName, summary: Summary) -> Result<Arc<Committed>, String> {
        let id = summary
            .tree_id(name)
            .ok_or_else(|| format!("it is that of {}", summary.id))?;
        let kind = summary.content;
        let backup = self
            .seen
            .lock()
            .expect("no panic while held")
            .slot(name, id, summary);
        self.found.insert((kind, name.clone()), backup.clone()).await;
        Ok(backup)
    }

    /// The backup in a slot.
    pub(super) fn of(&self, slot: u32) -> Option<Arc<Committed>> {
        let seen = self.seen.lock().expect("no panic while held");
        seen.at(slot).cloned()
    }

    /// Gives no slot before this one.
    pub(super) fn begin_at(&self, first: u32) {
        self.seen.lock().expect("no panic while held").first = first;
    }

    /// The slot that the next one gets.
    pub(super) fn next(&self) -> u32 {
        self.seen.lock().expect("no panic while held").next()
    }
}

impl Seen {
    fn at(&self, slot: u32) -> Option<&Arc<Committed>> {
        self.backups.get(slot.checked_sub(self.first)? as usize)
    }

    fn next(&self) -> u32 {
        self.first + self.backups.len() as u32
    }

    fn slot(&mut self, name: &TreeName, id: TreeId, summary: Summary) -> Arc<Committed> {
        if let Some(known) = self.slots.get(&id).and_then(|slot| self.at(*slot)) {
            return known.clone();
        }
        let slot = self.next();
        let backup = Arc::new(Committed {
            slot,
            name: name.clone(),
            id: id.clone(),
            summary,
        });
        self.slots.insert(id, slot);
        self.backups.push(backup.clone());
        backup
    }
}
