//! Where packed frames are kept: in memory up to a common budget, beyond it in a draft's own temporary file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::codec::{FrameSummary, Packed};
use crate::memory::{Held, Share};

use crate::parts::chunk::Chunk;
use crate::pg::wal_index::WalIndex;

/// A packed frame.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) summary: FrameSummary,
    /// It as a chunk of a tree's file, where that is wanted.
    pub(super) chunk: Option<Chunk>,
    /// What its WAL says, if it is WAL.
    pub(super) index: Option<Arc<WalIndex>>,
    place: Place,
}

/// What is known of a frame's content beside its bytes.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) chunk: Option<Chunk>,
    pub(super) index: Option<WalIndex>,
}

#[derive(Debug, Clone)]
enum Place {
    Memory(
        Bytes,
        #[expect(dead_code, reason = "held for its Drop")] Arc<Held>,
    ),
    File {
        offset: u64,
        bytes: u32,
    },
}

/// Bytes that take up room, and those who wait for there to be less of them.
#[derive(Debug)]
pub(super) struct Space {
    used: AtomicU64,
    limit: u64,
    freed: Notify,
}

impl Space {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            used: AtomicU64::new(0),
            limit,
            freed: Notify::new(),
        }
    }

    pub(super) fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// Returns when less than the limit is used.
    pub(super) async fn wait(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Listens before it looks: what is freed in between is not missed.
            freed.as_mut().enable();
            if self.used() < self.limit {
                return;
            }
            freed.await;
        }
    }
}

/// The temporary file of a draft, made when first needed.
#[derive(Debug)]
pub(super) struct Spill {
    pub(super) file: Option<Arc<File>>,
    end: u64,
    space: Arc<Space>,
}

impl Spill {
    pub(super) fn new(space: Arc<Space>) -> Self {
        Self {
            file: None,
            end: 0,
            space,
        }
    }

    fn append(&mut self, directory: &Path, stored: &[u8]) -> io::Result<Place> {
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self
                .file
                .insert(Arc::new(tempfile::tempfile_in(directory)?))
                .clone(),
        };
        let place = Place::File {
            offset: self.end,
            bytes: stored.len() as u32,
        };
        file.write_all_at(stored, self.end)?;
        self.end += stored.len() as u64;
        self.space.take(stored.len() as u64);
        Ok(place)
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.space.give(self.end);
    }
}

/// Keeps a frame where there is room.
pub(super) fn keep(
    memory: &Share,
    directory: &Path,
    spill: &Mutex<Spill>,
    packed: Packed,
    Known { chunk, mut index }: Known,
) -> io::Result<Kept> {
    let known_bytes = index.as_ref().map_or(0, WalIndex::held_bytes);
    let place = match memory.try_take((packed.stored.len() + known_bytes) as u64) {
        Some(held) => Place::Memory(packed.stored, Arc::new(held)),
        None => {
            // What stays in memory uncounted is small.
            if let Some(index) = &mut index {
                index.without_blocks();
            }
            spill
                .lock()
                .expect("no panic while held")
                .append(directory, &packed.stored)?
        }
    };
    Ok(Kept {
        summary: packed.summary,
        chunk,
        index: index.map(Arc::new),
        place,
    })
}

/// A kept frame's bytes.
pub(super) fn fetch(kept: &Kept, spill: &Mutex<Spill>) -> io::Result<Bytes> {
    match &kept.place {
        Place::Memory(bytes, _) => Ok(bytes.clone()),
        Place::File { offset, bytes } => {
            let file = spill.lock().expect("no panic while held").file.clone();
            let mut stored = vec![0; *bytes as usize];
            file.expect("made when the frame was spilt")
                .read_exact_at(&mut stored, *offset)?;
            Ok(stored.into())
        }
    }
}
