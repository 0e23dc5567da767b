//! Memory for stored bytes on their way: those that somebody waits for, and those that are fetched ahead.
//!
//! Who is waited for goes first. What is fetched ahead leaves the room of a whole piece free, and is dropped when that
//! is not enough.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::PIECE_BYTES;

/// All stored bytes held outside of the caches.
const ALL_BYTES: u64 = 3 * PIECE_BYTES;

/// What is fetched ahead does not touch the last of it.
const LEFT_BYTES: u64 = PIECE_BYTES;

/// How long a fetch waits for its turn.
pub(super) const TURN: Duration = Duration::from_secs(2);

/// The memory, one permit a KiB.
#[derive(Debug, Clone)]
pub(super) struct Space(Arc<Semaphore>);

/// A share of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Held(OwnedSemaphorePermit);

impl Default for Space {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(kib(ALL_BYTES) as usize)))
    }
}

impl Space {
    /// A share for somebody who waits; he waits for it for a moment only. Who waits longer is behind requests that
    /// hang, and hold no bytes: he goes without (contract S4).
    pub(super) async fn take(&self, bytes: u64) -> Option<Held> {
        let turn = tokio::time::timeout(TURN, self.0.clone().acquire_many_owned(kib(bytes)));
        Some(Held(turn.await.ok()?.expect("never closed")))
    }

    /// Could [`Space::take`] be had at once?
    pub(super) fn has(&self, bytes: u64) -> bool {
        self.0.available_permits() >= kib(bytes) as usize
    }

    /// A share for what nobody waits for yet; `None` if there is too little.
    pub(super) fn take_ahead(&self, bytes: u64) -> Option<Held> {
        let enough = self.has(bytes + LEFT_BYTES);
        enough.then(|| self.0.clone().try_acquire_many_owned(kib(bytes)).ok().map(Held))?
    }
}

impl Held {
    /// Both together.
    pub(super) fn join(&mut self, more: Self) {
        self.0.merge(more.0);
    }

    /// Gives back what is not needed after all.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let more = self.0.num_permits().saturating_sub(kib(bytes) as usize);
        drop(self.0.split(more));
    }
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_whole_piece_is_left_to_those_who_wait() {
        let space = Space::default();
        let mut ahead: Vec<Held> = std::iter::from_fn(|| space.take_ahead(5 << 20)).collect();
        assert_eq!(ahead.len(), 6);
        let waiting = space.take(PIECE_BYTES).await.expect("there is room");
        assert!(space.take_ahead(1 << 10).is_none());
        drop(waiting);
        ahead[0].shrink_to(1 << 20);
        assert!(space.take_ahead(5 << 20).is_some());
        drop(ahead);
        assert!(space.has(ALL_BYTES));
    }
}
