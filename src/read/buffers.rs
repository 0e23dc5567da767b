//! Room for unpacked pieces, used again: a fresh block of 16 MiB costs the kernel more time to clear, page by page, than
//! unpacking WAL into it takes.
//!
//! One block that nobody uses is kept, and only while a decoder is idle, so that blocks being filled and the one kept are
//! never more than the decoders.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::DECODERS;

/// Smaller blocks come and go without a trace.
const LEAST_BYTES: usize = 1 << 20;

/// Blocks of one size that come back.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Pool>>);

#[derive(Debug, Default)]
struct Pool {
    kept: Option<Vec<u8>>,
    being_filled: usize,
}

/// A block being filled. Its bytes are those of whoever had it before.
#[derive(Debug)]
pub(super) struct Filling {
    block: Vec<u8>,
    from: Buffers,
}

/// A filled block, on its way back when the last reader has let go of it.
struct Filled {
    block: Vec<u8>,
    from: Buffers,
}

impl Buffers {
    /// A block to be filled.
    pub(super) fn take(&self, bytes: usize) -> Filling {
        let mut pool = self.0.lock().expect("no panic while held");
        pool.being_filled += 1;
        let kept = if bytes < LEAST_BYTES {
            None
        } else {
            pool.kept.take()
        };
        drop(pool);
        let kept = kept.filter(|kept| kept.len() == bytes);
        Filling {
            block: kept.unwrap_or_else(|| vec![0; bytes]),
            from: self.clone(),
        }
    }

    fn give_back(&self, block: Vec<u8>) {
        let mut pool = self.0.lock().expect("no panic while held");
        if pool.being_filled < DECODERS && block.len() >= LEAST_BYTES {
            pool.kept = Some(block);
        }
    }
}

impl Filling {
    /// Where to write.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.block
    }

    /// All of it has been written.
    pub(super) fn filled(mut self) -> Bytes {
        Bytes::from_owner(Filled {
            block: std::mem::take(&mut self.block),
            from: self.from.clone(),
        })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.from.0.lock().expect("no panic while held").being_filled -= 1;
    }
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.block
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.from.give_back(std::mem::take(&mut self.block));
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
    fn none_is_kept_while_every_decoder_fills_one() {
        let buffers = Buffers::default();
        let first = filled(&buffers, 1);
        let filling = [(); DECODERS].map(|()| buffers.take(LEAST_BYTES));
        drop(first);
        assert!(buffers.0.lock().unwrap().kept.is_none());
        drop(filling);
        drop(filled(&buffers, 2));
        assert!(buffers.0.lock().unwrap().kept.is_some());
    }
}
