//! Frames that are most likely archived already: hashed, and kept as they came in case they are not.

use std::io;

use tokio::task::{self, JoinHandle};

use super::frame::Frame;
use super::{Draft, Slot};
use crate::codec::{ContentHash, FrameHash};
use crate::memory::Held;

/// A frame's plain bytes and their hash.
#[derive(Debug)]
pub(super) struct Hashed {
    pub(super) plain: Frame,
    pub(super) hash: FrameHash,
    /// Counted as packed frames are; held for its `Drop`.
    _memory: Held,
}

/// Hashes a frame on another thread.
pub(super) fn hash(index: u64, plain: Frame, memory: Held) -> JoinHandle<Hashed> {
    task::spawn_blocking(move || Hashed {
        hash: FrameHash::of(index, &plain),
        plain,
        _memory: memory,
    })
}

impl Draft {
    /// Only hashes what comes, until its object is wanted.
    pub(super) fn compared(mut self) -> Self {
        self.compared = true;
        self
    }

    /// Hash of the whole content.
    ///
    /// # Errors
    /// As [`Draft::write`].
    pub(super) async fn hash(&mut self) -> io::Result<ContentHash> {
        self.pack_all().await?;
        let mut frames = Vec::with_capacity(self.frames.len());
        for index in 0..self.frames.len() {
            frames.push(self.frame_hash(index).await?);
        }
        Ok(FrameHash::whole(&frames))
    }

    async fn frame_hash(&mut self, index: usize) -> io::Result<FrameHash> {
        self.arrive(index).await;
        let bytes = self.frame_bytes(index);
        let known = match &self.frames[index] {
            Slot::Hashed(hashed) if hashed.plain.len() == bytes => Some(hashed.hash),
            Slot::Kept(kept) if kept.summary.plain_bytes() as usize == bytes => Some(kept.summary.hash()),
            _ => None,
        };
        match known {
            Some(hash) => Ok(hash),
            None => Ok(FrameHash::of(
                index as u64,
                &self.open_frame(index).await?[..bytes],
            )),
        }
    }
}
