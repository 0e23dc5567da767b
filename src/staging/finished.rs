//! A draft's finished object.

use std::io::{self, Cursor, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use super::spill::{self, Kept, Spill};
use crate::archive::wal::Offered;
use crate::codec::{self, ContentHash};
use crate::memory::Buffers;

/// A finished object: packed frames, wherever they are kept, and the seek table.
#[derive(Debug)]
pub struct FinishedDraft {
    frames: Vec<Kept>,
    /// Offset of each frame in the object, and of the trailer.
    offsets: Vec<u64>,
    finished: codec::Finished,
    spill: Arc<Mutex<Spill>>,
    buffers: Buffers,
}

impl FinishedDraft {
    pub(super) fn new(
        frames: Vec<Kept>,
        finished: codec::Finished,
        spill: Arc<Mutex<Spill>>,
        buffers: Buffers,
    ) -> Self {
        let mut at = 0;
        let mut offsets = Vec::with_capacity(frames.len() + 1);
        for frame in &frames {
            offsets.push(at);
            at += u64::from(frame.summary.stored_bytes());
        }
        offsets.push(at);
        Self {
            frames,
            offsets,
            finished,
            spill,
            buffers,
        }
    }

    /// Length of its plain content, in bytes.
    pub fn plain_bytes(&self) -> u64 {
        self.finished.plain_bytes
    }

    fn frame(&self, index: usize) -> io::Result<Bytes> {
        match self.frames.get(index) {
            Some(kept) => spill::fetch(kept, &self.spill),
            None => Ok(self.finished.trailer.clone()),
        }
    }
}

#[async_trait]
impl Offered for FinishedDraft {
    fn hash(&self) -> ContentHash {
        self.finished.hash
    }

    fn stored_bytes(&self) -> u64 {
        self.finished.stored_bytes
    }

    async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let mut room = self.buffers.take_for((range.end - range.start) as usize);
        let mut out = Cursor::new(room.room());
        let first = self.offsets.partition_point(|&offset| offset <= range.start) - 1;
        for index in first..self.offsets.len() {
            let start = self.offsets[index];
            if start >= range.end {
                break;
            }
            let frame = self.frame(index)?;
            let from = range.start.saturating_sub(start) as usize;
            let to = ((range.end - start) as usize).min(frame.len());
            out.write_all(&frame[from..to])?;
        }
        let bytes = out.position() as usize;
        Ok(room.filled_to(bytes))
    }
}
