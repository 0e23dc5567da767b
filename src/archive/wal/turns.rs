//! Who may write now: one writer at a time at a name, where the store does not judge races.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::Found;
use crate::codec::ContentHash;
use crate::pg::WalName;

/// The writers of one name in this process.
#[derive(Debug, Default)]
pub(in crate::archive) struct NameTurn {
    /// Held by the one who writes.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// How often somebody began or ended to write.
    written: AtomicU64,
}

/// Somebody writes, until it is dropped: then the object is there, or may be.
#[derive(Debug)]
pub(super) struct Writes<'a>(&'a NameTurn);

impl NameTurn {
    /// Somebody is about to write: what others have seen before is out of date, and so is what they see until it is done.
    pub(super) fn writes(&self) -> Writes<'_> {
        self.written.fetch_add(1, Ordering::AcqRel);
        Writes(self)
    }
}

impl Drop for Writes<'_> {
    fn drop(&mut self) {
        self.0.written.fetch_add(1, Ordering::AcqRel);
    }
}

/// One for each name that somebody writes.
#[derive(Debug, Default)]
pub(in crate::archive) struct NameTurns(Mutex<HashMap<WalName, Weak<NameTurn>>>);

impl NameTurns {
    pub(super) fn of(&self, name: WalName) -> Arc<NameTurn> {
        let mut turns = self.0.lock().expect("no panic while held");
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(NameTurn::default());
        turns.insert(name, Arc::downgrade(&turn));
        turn
    }
}

/// What the store said of a name to somebody who means to write it.
#[derive(Debug)]
pub struct Looked {
    pub(super) found: Found,
    /// Kept, so that a writer who comes meanwhile shows.
    turn: Arc<NameTurn>,
    written_before: u64,
}

impl Looked {
    /// To be made before the store is asked, see [`Looked::found`].
    pub(super) fn begin(turn: Arc<NameTurn>) -> Self {
        Self {
            found: Found::Absent,
            written_before: turn.written.load(Ordering::Acquire),
            turn,
        }
    }

    pub(super) fn found(self, found: Found) -> Self {
        Self { found, ..self }
    }

    /// Is this content archived?
    pub fn shows(&self, hash: ContentHash) -> bool {
        matches!(&self.found, Found::Archived(table) if table.hash() == hash)
    }

    /// Has nobody in this process written the name since, nor been about it?
    pub(super) fn is_recent(&self) -> bool {
        self.turn.written.load(Ordering::Acquire) == self.written_before
    }
}
