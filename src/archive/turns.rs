//! Who may write now: one writer at a time at a name, where the store does not judge races, and as many bodies as memory
//! allows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::OwnedSemaphorePermit;

use super::Archive;
use super::wal::{Found, UPLOAD_MEMORY_BYTES};
use crate::codec::ContentHash;
use crate::pg::WalName;

/// The writers of one name in this process.
#[derive(Debug, Default)]
pub(super) struct NameTurn {
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
pub(super) struct NameTurns(Mutex<HashMap<WalName, Weak<NameTurn>>>);

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

/// A part of the memory that bodies of uploads may take.
#[derive(Debug)]
pub struct UploadSpace(OwnedSemaphorePermit);

impl UploadSpace {
    /// Gives back what is more than `kib` KiB.
    pub fn shrink_to(&mut self, kib: usize) {
        let excess = self.0.num_permits().saturating_sub(kib);
        drop(self.0.split(excess));
    }
}

impl Archive {
    /// Takes memory for a body of so many bytes, or all there is, in its turn: before the body is made.
    pub async fn upload_space(&self, bytes: u64) -> UploadSpace {
        let kib = bytes.min(UPLOAD_MEMORY_BYTES).div_ceil(1 << 10) as u32;
        let space = self.upload_memory.clone().acquire_many_owned(kib).await;
        UploadSpace(space.expect("never closed"))
    }

    /// Takes so many KiB of the memory for bodies, if they are free now.
    pub fn try_upload_space(&self, kib: u32) -> Option<UploadSpace> {
        let space = self.upload_memory.clone().try_acquire_many_owned(kib);
        space.ok().map(UploadSpace)
    }
}
