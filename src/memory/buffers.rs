//! Room for large blocks of bytes, used again: a fresh block of 16 MiB costs the kernel more time to clear, page by page,
//! than packing or unpacking WAL into it takes; on a virtual machine whose host must bring the memory, several times as
//! much.
//!
//! Blocks that no reader holds are kept, within a bound. A new one is asked for in huge pages, of which the kernel clears
//! eight instead of 4096 small ones; where it has none to give, nothing is lost.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// Smaller blocks come and go without a trace.
const LEAST_BYTES: usize = 1 << 20;

/// Sizes of blocks that are used for objects of any size.
const STEP_BYTES: usize = 4 << 20;

/// What the kernel brings at once.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Blocks that come back.
#[derive(Debug, Clone)]
pub struct Buffers(Arc<Mutex<Pool>>);

#[derive(Debug)]
struct Pool {
    most: Most,
    /// The one that has lain here longest comes first.
    kept: Vec<Block>,
    being_filled: usize,
    /// Bytes of blocks that somebody reads.
    read_bytes: usize,
}

/// What is kept.
#[derive(Debug)]
enum Most {
    /// So many blocks, with those being filled.
    Blocks(usize),
    /// Half of so many bytes, and no more than those that are being read leave of them.
    Bytes(usize),
}

#[derive(Debug, Default)]
struct Block {
    memory: Backing,
    /// Bytes that the kernel has brought: up to the last one that was ever written to.
    real_bytes: usize,
}

/// Backing of its own, or a share of the allocator's.
#[derive(Debug)]
enum Backing {
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
    pub(crate) fn of_blocks(most: usize) -> Self {
        Self::of(Most::Blocks(most))
    }

    /// Half of so many bytes are kept, and no more than those that are being read leave of them.
    pub(super) fn of_bytes(most: usize) -> Self {
        Self::of(Most::Bytes(most))
    }

    fn of(most: Most) -> Self {
        Self(Arc::new(Mutex::new(Pool {
            most,
            kept: Vec::new(),
            being_filled: 0,
            read_bytes: 0,
        })))
    }

    /// A block to be filled.
    pub(crate) fn take(&self, bytes: usize) -> Filling {
        // Blocks that make room go when nobody waits for the pool.
        let (kept, _gone) = self.pool().take(bytes);
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
    /// A block of that size, if there is one, and those that there is no room for now.
    fn take(&mut self, bytes: usize) -> (Option<Block>, Vec<Block>) {
        self.being_filled += 1;
        if bytes < LEAST_BYTES {
            return (None, Vec::new());
        }
        // The last one used: the processor's caches still have some of it.
        let found = self.kept.iter().rposition(|kept| kept.bytes().len() == bytes);
        let found = found.map(|at| self.kept.remove(at));
        (found, self.make_room())
    }

    /// Somebody reads a block now. Gives those that there is no room for.
    fn lend(&mut self, block: &Block) -> Vec<Block> {
        self.read_bytes += block.real_bytes;
        self.make_room()
    }

    /// Gives those that there is no room for now.
    fn give_back(&mut self, block: Block) -> Vec<Block> {
        self.read_bytes -= block.real_bytes;
        let fits = match self.most {
            Most::Blocks(blocks) => self.being_filled < blocks,
            Most::Bytes(bytes) => block.real_bytes <= bytes / 2,
        };
        if block.bytes().len() < LEAST_BYTES || !fits {
            return vec![block];
        }
        self.kept.push(block);
        self.make_room()
    }

    /// The ones that have lain here longest: perhaps nobody asks for their sizes any more.
    fn make_room(&mut self) -> Vec<Block> {
        let mut gone = 0;
        while !self.fits_without(gone) {
            gone += 1;
        }
        self.kept.drain(..gone).collect()
    }

    fn fits_without(&self, gone: usize) -> bool {
        let kept = &self.kept[gone..];
        match self.most {
            _ if kept.is_empty() => true,
            Most::Blocks(blocks) => self.being_filled + kept.len() <= blocks,
            Most::Bytes(bytes) => {
                let room = bytes.saturating_sub(self.read_bytes).min(bytes / 2);
                kept.iter().map(|block| block.real_bytes).sum::<usize>() <= room
            }
        }
    }
}

impl Block {
    fn new(bytes: usize) -> Self {
        Self {
            memory: Backing::new(bytes),
            real_bytes: 0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.memory {
            Backing::Mapped(mapped) => mapped,
            Backing::Allocated(allocated) => allocated,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Backing::Mapped(mapped) => mapped,
            Backing::Allocated(allocated) => allocated,
        }
    }
}

impl Backing {
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
}

impl Filling {
    /// Where to write.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.block.bytes_mut()
    }

    /// All of it has been written.
    pub(crate) fn filled(self) -> Bytes {
        let bytes = self.block.bytes().len();
        self.filled_to(bytes)
    }

    /// So many of its bytes have been written, from its start: these.
    pub(crate) fn filled_to(mut self, bytes: usize) -> Bytes {
        let mut block = std::mem::take(&mut self.block);
        let brought = bytes.next_multiple_of(HUGE_PAGE_BYTES).min(block.bytes().len());
        block.real_bytes = block.real_bytes.max(brought);
        let _gone = self.from.pool().lend(&block);
        let from = self.from.clone();
        Bytes::from_owner(Filled { block, from }).slice(..bytes)
    }
}

impl Default for Backing {
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
        let _gone = self.from.pool().give_back(block);
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
        let buffers = Buffers::of_blocks(MOST);
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
        let buffers = Buffers::of_blocks(MOST);
        let first = filled(&buffers, 1);
        let place = first.as_ptr();
        drop(first);
        drop(buffers.take(100).filled());
        assert_eq!(filled(&buffers, 2).as_ptr(), place);
    }

    #[test]
    fn a_size_that_nobody_asks_for_makes_room() {
        let buffers = Buffers::of_blocks(MOST);
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
    fn what_is_kept_for_writers_is_bounded_by_what_was_written_to() {
        let buffers = Buffers::of_bytes(8 * LEAST_BYTES);
        let used = |many: usize, bytes| -> Vec<Bytes> {
            let used = || buffers.take(16 * LEAST_BYTES).filled_to(bytes);
            std::iter::repeat_with(used).take(many).collect()
        };
        drop(used(8, 1));
        assert_eq!(buffers.pool().kept.len(), (4 * LEAST_BYTES) / HUGE_PAGE_BYTES);
        drop(used(1, 5 * LEAST_BYTES));
        assert_eq!(buffers.pool().kept.len(), 1);
        drop(filled(&buffers, 1));
        assert_eq!(buffers.pool().kept.len(), 2);
    }

    #[test]
    fn what_is_read_leaves_less_room_to_what_is_kept() {
        let buffers = Buffers::of_bytes(4 * LEAST_BYTES);
        let blocks = [1, 2].map(|byte| filled(&buffers, byte));
        drop(blocks);
        assert_eq!(buffers.pool().kept.len(), 2);
        let read = [(); 3].map(|()| buffers.take(16 * LEAST_BYTES).filled_to(1));
        assert!(buffers.pool().kept.is_empty());
        drop(filled(&buffers, 3));
        assert!(buffers.pool().kept.is_empty());
        drop(read);
        drop(filled(&buffers, 4));
        let pool = buffers.pool();
        assert_eq!((pool.kept.len(), pool.read_bytes), (1, 0));
    }

    #[test]
    fn blocks_kept_and_being_filled_are_no_more_than_was_set() {
        let buffers = Buffers::of_blocks(MOST);
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
