//! Backups that are being written through this mount, by number; and versions that are written as a directory.
//!
//! One that has become complete is found as a complete one from then on; its draft is kept for those who still have its
//! files open, and for the kernel, which may come back with a number it has seen. Only the latest few are: with an older
//! one's number the kernel is told to look up the path again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::archive::tree::TreeName;
use crate::mount::node::Node;
use crate::staging::tree::TreeDraft;

/// Complete ones that are kept.
const KEPT: usize = 4;

/// All drafts of this process.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    all: Mutex<All>,
    /// Held while one is begun: of two that make one directory, one must see the other's.
    pub(super) beginning: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct All {
    /// By number; `None` when it is gone.
    slots: Vec<Option<Slot>>,
    /// Backups that are being written.
    named: HashMap<TreeName, u32>,
    /// Versions that are being written, by the directory that shows what is in them.
    homes: HashMap<Node, u32>,
    /// Those that have become complete, oldest first.
    complete: Vec<u32>,
}

/// A draft, and the directory that shows what is in it; `None`: one of its name in `basebackups/`.
type Slot = (Arc<TreeDraft>, Option<Node>);

impl Drafts {
    /// Takes in one that was begun, and gives it a number.
    pub(super) fn insert(&self, draft: TreeDraft, home: Option<Node>) -> u32 {
        let mut all = self.all();
        let slot = all.slots.len() as u32;
        match home {
            None => all.named.insert(draft.name().clone(), slot),
            Some(home) => all.homes.insert(home, slot),
        };
        all.slots.push(Some((Arc::new(draft), home)));
        slot
    }

    /// Was one begun since the mount was made?
    pub(super) fn is_used(&self) -> bool {
        !self.all().slots.is_empty()
    }

    /// The one of that number.
    pub(super) fn of(&self, slot: u32) -> Option<Arc<TreeDraft>> {
        Some(self.slot(slot)?.0)
    }

    /// The directory that shows what is in it, if that is not one of its own name.
    pub(super) fn home(&self, slot: u32) -> Option<Node> {
        self.slot(slot)?.1
    }

    /// The one whose content that directory shows.
    pub(super) fn shown_in(&self, home: Node) -> Option<u32> {
        self.all().homes.get(&home).copied()
    }

    /// All whose content some directory shows.
    pub(super) fn at_home(&self) -> Vec<(Node, u32)> {
        self.all()
            .homes
            .iter()
            .map(|(home, slot)| (*home, *slot))
            .collect()
    }

    fn slot(&self, slot: u32) -> Option<Slot> {
        self.all().slots.get(slot as usize).cloned().flatten()
    }

    /// Number of the one that is being written under that name.
    pub(super) fn find(&self, name: &TreeName) -> Option<u32> {
        self.all().named.get(name).copied()
    }

    /// Names and numbers of those that are being written, in no order.
    pub(super) fn list(&self) -> Vec<(TreeName, u32)> {
        let all = self.all();
        all.named
            .iter()
            .map(|(name, slot)| (name.clone(), *slot))
            .collect()
    }

    /// It has become complete.
    pub(super) fn completed(&self, slot: u32) {
        let mut all = self.all();
        all.forget_name(slot);
        if !all.complete.contains(&slot) {
            all.complete.push(slot);
        }
        if all.complete.len() > KEPT {
            let oldest = all.complete.remove(0);
            all.slots[oldest as usize] = None;
        }
    }

    /// It was removed.
    pub(super) fn removed(&self, slot: u32) {
        let mut all = self.all();
        all.forget_name(slot);
        all.slots[slot as usize] = None;
    }

    fn all(&self) -> std::sync::MutexGuard<'_, All> {
        self.all.lock().expect("no panic while held")
    }
}

impl All {
    fn forget_name(&mut self, slot: u32) {
        self.named.retain(|_, named| *named != slot);
        self.homes.retain(|_, shown| *shown != slot);
    }
}
