//! Memory for stored bytes on their way: those that somebody waits for, and those that are fetched ahead.
//!
//! Who is waited for goes first. What is fetched ahead leaves the room of a whole piece free, and is dropped when that
//! is not enough. The room that unpacked bytes were in is kept for the next flight, with its share of the memory, because
//! fresh memory costs the kernel more time than receiving the bytes takes; it is the first thing to go.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;

use super::PIECE_BYTES;
use crate::memory::{self, Share};

/// What is fetched ahead does not touch the last of it.
const LEFT_BYTES: u64 = PIECE_BYTES;

/// How long a fetch waits for its turn.
pub(super) const TURN: Duration = Duration::from_secs(2);

/// The memory.
#[derive(Debug, Clone)]
pub(super) struct Space {
    share: Share,
    /// What the next one to fetch ahead may have.
    spare: Arc<Mutex<Option<HeldRoom>>>,
}

/// A share of it, until it is dropped.
#[derive(Debug)]
pub(super) struct HeldRoom {
    memory: memory::Held,
    /// Room that is part of the share, or none yet.
    room: Vec<u8>,
}

impl Space {
    /// Of all stored bytes held outside of the caches.
    pub(super) fn new(share: Share) -> Self {
        Self {
            share,
            spare: Arc::default(),
        }
    }

    /// A share for somebody who waits; he waits for it for a moment only. Who waits longer is behind requests that
    /// hang, and hold no bytes: he goes without (promise S4).
    pub(super) async fn take(&self, bytes: u64) -> Option<HeldRoom> {
        if self.share.free_bytes() < bytes {
            drop(self.spare().take());
        }
        let turn = tokio::time::timeout(TURN, self.share.take(bytes));
        turn.await.ok().map(HeldRoom::of)
    }

    /// Could [`Space::take`] be had at once?
    pub(super) fn has(&self, bytes: u64) -> bool {
        let spare_bytes = self.spare().as_ref().map_or(0, HeldRoom::bytes);
        self.share.free_bytes() + spare_bytes >= bytes
    }

    /// A share for what nobody waits for yet; `None` if there is too little.
    pub(super) fn take_ahead(&self, bytes: u64) -> Option<HeldRoom> {
        if !self.has(bytes + LEFT_BYTES) {
            return None;
        }
        let spare = self.spare().take();
        let more = bytes.saturating_sub(spare.as_ref().map_or(0, HeldRoom::bytes));
        let mut held = HeldRoom::of(self.share.try_take(more)?);
        if let Some(spare) = spare {
            held.join(spare);
        }
        Some(held)
    }

    /// Takes a share back whose bytes have been used, and keeps their room, unless somebody waits for memory.
    pub(super) fn keep(&self, mut held: HeldRoom, bytes: Bytes) {
        if !bytes.is_unique() {
            return;
        }
        held.room = bytes.into();
        let is_covered = held.room.capacity() as u64 <= held.bytes();
        held.shrink_to(0);
        let mut spare = self.spare();
        if is_covered && spare.is_none() && self.share.free_bytes() >= LEFT_BYTES {
            *spare = Some(held);
        }
    }

    fn spare(&self) -> MutexGuard<'_, Option<HeldRoom>> {
        self.spare.lock().expect("no panic while held")
    }
}

impl HeldRoom {
    fn of(memory: memory::Held) -> Self {
        Self {
            memory,
            room: Vec::new(),
        }
    }

    fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Both together.
    pub(super) fn join(&mut self, more: Self) {
        self.memory.join(more.memory);
        if self.room.capacity() == 0 {
            self.room = more.room;
        }
    }

    /// The room in it, to be filled; the share stays.
    pub(super) fn room(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.room)
    }

    /// Gives back what is not needed after all, but not of the room in it.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        self.memory.shrink_to(bytes.max(self.room.capacity() as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL_BYTES: u64 = 3 * PIECE_BYTES;

    fn space() -> Space {
        Space::new(Share::new(ALL_BYTES))
    }

    #[tokio::test]
    async fn a_whole_piece_is_left_to_those_who_wait() {
        let space = space();
        let mut ahead: Vec<HeldRoom> = std::iter::from_fn(|| space.take_ahead(5 << 20)).collect();
        assert_eq!(ahead.len(), 6);
        let waiting = space.take(PIECE_BYTES).await.expect("there is room");
        assert!(space.take_ahead(1 << 10).is_none());
        drop(waiting);
        ahead[0].shrink_to(1 << 20);
        assert!(space.take_ahead(5 << 20).is_some());
        drop(ahead);
        assert!(space.has(ALL_BYTES));
    }

    /// Bytes that have come in a share of their size, and where they are.
    fn received(space: &Space, bytes: usize) -> (HeldRoom, Bytes, *const u8) {
        let mut held = space.take_ahead(bytes as u64).expect("there is room");
        let mut room = held.room();
        room.clear();
        room.resize(bytes, 7);
        let received = Bytes::from(room);
        let place = received.as_ptr();
        (held, received, place)
    }

    #[tokio::test]
    async fn the_room_of_what_was_used_is_that_of_the_next() {
        let space = space();
        let (held, bytes, place) = received(&space, 4 << 20);
        space.keep(held, bytes);
        assert!(space.has(ALL_BYTES));
        let (held, bytes, again) = received(&space, 4 << 20);
        assert_eq!(again, place);
        let reader = bytes.clone();
        space.keep(held, bytes);
        assert!(space.spare().is_none(), "somebody reads {} bytes", reader.len());
    }

    #[tokio::test]
    async fn who_waits_gets_the_room_that_was_kept() {
        let space = space();
        let (held, bytes, _) = received(&space, 4 << 20);
        space.keep(held, bytes);
        let all = space.take(ALL_BYTES).await.expect("all of it is free");
        assert!(space.spare().is_none());
        drop(all);
    }
}
