//! Room for large blocks of bytes, used again: a fresh block of 16 MiB costs the kernel more time to clear, page by page,
//! than packing or unpacking WAL into it takes; on a virtual machine whose host must bring the memory, several times as
//! much.
//!
//! Blocks that nobody uses are kept, but only while few are being filled, so that those and the ones kept are never more
//! than a number that is set. A new one is asked for in huge pages, of which the kernel clears eight instead of 4096 small
//! ones; where it has none to give, nothing is lost.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// Smaller blocks come and go without a trace.
const LEAST_BYTES: usize = 1 << 20;

/// Sizes of blocks that are used for objects of any size.
const STEP_BYTES: usize = 4 << 20;

/// Blocks of one size that come back.
#[derive(Debug, Clone)]
pub(crate) struct Buffers(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    /// Being filled and kept, together.
    most: usize,
    kept: Vec<Block>,
    being_filled: usize,
}

/// Memory of its own, or a share of the allocator's.
#[derive(Debug)]
enum Block {
    Mapped(MmapMut),
    Allocated(Vec<u8>),
}

/// A block being filled. Its bytes are those of whoever had it before.
#[derive(Debug)]
pub(crate) struct Filling {
    block: Block,
    from: Buffers,
}

/// A filled block, on its way back when the last reader has let go of it.
struct Filled {
    block: Block,
    from: Buffers,
}

impl Buffers {
    /// So many blocks at most are being filled and kept, or else none is kept.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Pool {
            most,
            kept: Vec::new(),
            being_filled: 0,
        })))
    }

    /// A block to be filled.
    pub(crate) fn take(&self, bytes: usize) -> Filling {
        let kept = self.pool().take(bytes);
        Filling {
            block: kept.unwrap_or_else(|| Block::new(bytes)),
            from: self.clone(),
        }
    }

    /// A block for at least so many bytes, of a size that most others of about as many will have, too.
    pub(crate) fn take_for(&self, bytes: usize) -> Filling {
        match bytes {
            ..LEAST_BYTES => self.take(bytes),
            _ => self.take(bytes.next_multiple_of(STEP_BYTES)),
        }
    }

    /// A copy of these bytes.
    pub(crate) fn copy_of(&self, bytes: &[u8]) -> Bytes {
        if bytes.len() < LEAST_BYTES {
            return Bytes::copy_from_slice(bytes);
        }
        let mut filling = self.take(bytes.len());
        filling.room().copy_from_slice(bytes);
        filling.filled()
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.0.lock().expect("no panic while held")
    }
}

impl Pool {
    fn take(&mut self, bytes: usize) -> Option<Block> {
        self.being_filled += 1;
        if bytes < LEAST_BYTES {
            return None;
        }
        // The last one used: the processor's caches still have some of it.
        let found = self.kept.iter().rposition(|kept| kept.bytes().len() == bytes);
        let found = found.map(|at| self.kept.remove(at));
        self.kept.truncate(self.most.saturating_sub(self.being_filled));
        found
    }

    /// The one that has lain here longest goes if there is no room: perhaps nobody asks for its size any more.
    fn give_back(&mut self, block: Block) {
        if block.bytes().len() < LEAST_BYTES || self.being_filled >= self.most {
            return;
        }
        if self.being_filled + self.kept.len() >= self.most {
            self.kept.remove(0);
        }
        self.kept.push(block);
    }
}

impl Block {
    fn new(bytes: usize) -> Self {
        if bytes >= LEAST_BYTES
            && let Ok(mapped) = MmapMut::map_anon(bytes)
        {
            // Without them it is only slower.
            let _ = mapped.advise(Advice::HugePage);
            return Self::Mapped(mapped);
        }
        Self::Allocated(vec![0; bytes])
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Allocated(allocated) => allocated,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Mapped(mapped) => mapped,
            Self::Allocated(allocated) => allocated,
        }
    }
}

impl Filling {
    /// Where to write.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.block.bytes_mut()
    }

    /// All of it has been written.
    pub(crate) fn filled(mut self) -> Bytes {
        Bytes::from_owner(Filled {
            block: std::mem::take(&mut self.block),
            from: self.from.clone(),
        })
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::Allocated(Vec::new())
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.from.pool().being_filled -= 1;
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.block.bytes()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.from.pool().give_back(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 2;

    fn filled(buffers: &Buffers, byte: u8) -> Bytes {
        let mut filling = buffers.take(LEAST_BYTES);
        filling.room().fill(byte);
        filling.filled()
    }

    #[test]
    fn a_block_comes_back_when_its_last_reader_has_gone() {
        let buffers = Buffers::new(MOST);
        let first = filled(&buffers, 1);
        let (place, reader) = (first.as_ptr(), first.slice(5..7));
        drop(first);
        let second = filled(&buffers, 2);
        assert_ne!(second.as_ptr(), place);
        assert_eq!(reader, [1, 1][..]);
        drop(reader);
        assert_eq!(filled(&buffers, 3).as_ptr(), place);
    }

    #[test]
    fn a_small_file_takes_no_block_away() {
        let buffers = Buffers::new(MOST);
        let first = filled(&buffers, 1);
        let place = first.as_ptr();
        drop(first);
        drop(buffers.take(100).filled());
        assert_eq!(filled(&buffers, 2).as_ptr(), place);
    }

    #[test]
    fn a_size_that_nobody_asks_for_makes_room() {
        let buffers = Buffers::new(MOST);
        let old = [(); MOST].map(|()| filled(&buffers, 1));
        drop(old);
        let other = buffers.take_for(LEAST_BYTES + 1).filled();
        assert_eq!(other.len(), STEP_BYTES);
        let place = other.as_ptr();
        drop(other);
        assert_eq!(buffers.pool().kept.len(), MOST);
        assert_eq!(buffers.take_for(2 * LEAST_BYTES).filled().as_ptr(), place);
    }

    #[test]
    fn blocks_kept_and_being_filled_are_no_more_than_was_set() {
        let buffers = Buffers::new(MOST);
        let blocks = [1, 2, 3].map(|byte| filled(&buffers, byte));
        drop(blocks);
        assert_eq!(buffers.pool().kept.len(), MOST);
        let filling = [(); MOST].map(|()| buffers.take(2 * LEAST_BYTES));
        assert!(buffers.pool().kept.is_empty());
        drop(filled(&buffers, 4));
        assert!(buffers.pool().kept.is_empty());
        drop(filling);
        drop(filled(&buffers, 5));
        assert_eq!(buffers.pool().kept.len(), 1);
    }
}
