//! Room for unpacked pieces, used again: a fresh block of 16 MiB costs the kernel more time to clear, page by page, than
//! unpacking WAL into it takes.
//!
//! Blocks that nobody uses are kept, but only while as many decoders are idle, so that blocks being filled and those kept
//! are never more than the decoders. A new one is asked for in huge pages, of which the kernel clears eight instead of
//! 4096 small ones; where it has none to give, nothing is lost.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

use super::DECODERS;

/// Smaller blocks come and go without a trace.
const LEAST_BYTES: usize = 1 << 20;

/// Blocks of one size that come back.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
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
pub(super) struct Filling {
    block: Block,
    from: Buffers,
}

/// A filled block, on its way back when the last reader has let go of it.
struct Filled {
    block: Block,
    from: Buffers,
}

impl Buffers {
    /// A block to be filled.
    pub(super) fn take(&self, bytes: usize) -> Filling {
        let kept = self.pool().take(bytes);
        Filling {
            block: kept.unwrap_or_else(|| Block::new(bytes)),
            from: self.clone(),
        }
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
        let found = self.kept.iter().position(|kept| kept.bytes().len() == bytes);
        let found = found.map(|at| self.kept.swap_remove(at));
        self.kept.truncate(DECODERS.saturating_sub(self.being_filled));
        found
    }

    fn give_back(&mut self, block: Block) {
        if self.being_filled + self.kept.len() < DECODERS && block.bytes().len() >= LEAST_BYTES {
            self.kept.push(block);
        }
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
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.block.bytes_mut()
    }

    /// All of it has been written.
    pub(super) fn filled(mut self) -> Bytes {
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

    fn filled(buffers: &Buffers, byte: u8) -> Bytes {
        let mut filling = buffers.take(LEAST_BYTES);
        filling.room().fill(byte);
        filling.filled()
    }

    #[test]
    fn a_block_comes_back_when_its_last_reader_has_gone() {
        let buffers = Buffers::default();
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
        let buffers = Buffers::default();
        let first = filled(&buffers, 1);
        let place = first.as_ptr();
        drop(first);
        drop(buffers.take(100).filled());
        assert_eq!(filled(&buffers, 2).as_ptr(), place);
    }

    #[test]
    fn blocks_kept_and_being_filled_are_no_more_than_the_decoders() {
        let buffers = Buffers::default();
        let blocks = [1, 2, 3].map(|byte| filled(&buffers, byte));
        drop(blocks);
        assert_eq!(buffers.pool().kept.len(), DECODERS);
        let filling = [(); DECODERS].map(|()| buffers.take(2 * LEAST_BYTES));
        assert!(buffers.pool().kept.is_empty());
        drop(filled(&buffers, 4));
        assert!(buffers.pool().kept.is_empty());
        drop(filling);
        drop(filled(&buffers, 5));
        assert_eq!(buffers.pool().kept.len(), 1);
    }
}
