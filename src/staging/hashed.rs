//! Frames that are most likely archived already: hashed, and kept as they came in case they are not.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{self, JoinHandle};

use super::spare::Frame;
use crate::codec::PieceHash;

/// A frame's plain bytes and their hash.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) plain: Frame,
    pub(super) hash: PieceHash,
    /// Counted as packed frames are; held for its `Drop`.
    _memory: OwnedSemaphorePermit,
}

/// Room for a frame kept plain, if there is enough in what all drafts have together.
pub(super) fn room(memory: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kib = bytes.div_ceil(1 << 10) as u32;
    memory.clone().try_acquire_many_owned(kib).ok()
}

/// Hashes a frame on another thread.
pub(super) fn hash(index: u64, plain: Frame, memory: OwnedSemaphorePermit) -> JoinHandle<Hashed> {
    task::spawn_blocking(move || Hashed {
        hash: PieceHash::of(index, &plain),
        plain,
        _memory: memory,
    })
}
