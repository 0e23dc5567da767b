//! Reads a file in large blocks, on a thread of its own, while the blocks before are packed.
//!
//! A thread that reads and packs by turns leaves the disk idle while it packs, and a core while it reads. The kernel's
//! read-ahead does not mend that: it follows one reader of an open file and not several in different slices of it (and
//! what it guesses wrong stays in the page cache, see `reading`). So the reading is done here: while a block is packed,
//! the next one waits and the one behind it is read; and a disk that answers slowly, but much at a time, is asked for
//! much at a time.
//!
//! What fits into one block is read by whoever packs it: small files cost no thread.

use std::ops::Range;
use std::sync::{Mutex, mpsc};
use std::thread;

use super::Error;
use super::spent::Spent;
use crate::archive::tree::chunks;
use crate::codec::FRAME_BYTES;

/// Chunks that are read in one go.
const BLOCK_CHUNKS: u64 = 4;

/// The longest block, in bytes.
pub(super) const BLOCK_BYTES: u64 = BLOCK_CHUNKS * FRAME_BYTES as u64;

/// Blocks that wait to be packed. Beside them one is packed and one read: 3 MiB for each thread that packs.
const WAITING: usize = 1;

/// Bytes of a file, read in one go: whole chunks, but for the file's end.
#[derive(Debug)]
pub(super) struct Block {
    /// Where it begins in the file.
    pub(super) at: u64,
    /// As many as were wanted. Those that are no longer in the file are zeros.
    pub(super) bytes: Vec<u8>,
    /// How many were in the file.
    pub(super) read: usize,
}

impl Block {
    /// Its chunks: where each begins in the file, its bytes, and how many of them were in the file.
    pub(super) fn chunks(&mut self) -> impl Iterator<Item = (u64, &mut [u8], usize)> {
        let (mut at, mut rest, mut read) = (self.at, &mut self.bytes[..], self.read);
        std::iter::from_fn(move || {
            let whole = chunks::range(chunks::index_of(at), u64::MAX);
            let bytes = rest.len().min((whole.end - at) as usize);
            let chunk = rest.split_off_mut(..bytes).filter(|chunk| !chunk.is_empty())?;
            let found = (at, chunk, read.min(bytes));
            (at, read) = (at + bytes as u64, read.saturating_sub(bytes));
            Some(found)
        })
    }
}

/// Makes blocks, of memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Blocks {
    /// Gives `pack` all blocks of `range`, in order. `read` fills what it is given from an offset on, and says how
    /// much there was.
    ///
    /// # Errors
    /// What `read` or `pack` fails with; [`Error::Thread`].
    pub(super) fn each(
        &self,
        range: Range<u64>,
        read: impl Fn(&mut [u8], u64) -> Result<usize, Error> + Send,
        spent: &Spent,
        mut pack: impl FnMut(&mut Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut cuts = cut(range).peekable();
        let first = cuts.next();
        if cuts.peek().is_none() {
            return first.map_or(Ok(()), |only| {
                let block = spent.on_disk(|| self.read(only, &read))?;
                self.use_up(block, &mut pack)
            });
        }
        thread::scope(|scope| {
            let (send, blocks) = mpsc::sync_channel(WAITING);
            let read_all = move || {
                for cut in first.into_iter().chain(cuts) {
                    let block = self.read(cut, &read);
                    let failed = block.is_err();
                    if send.send(block).is_err() || failed {
                        return;
                    }
                }
            };
            // Its priority is that of the thread which starts it.
            let reader = thread::Builder::new().name("reader".into());
            reader.spawn_scoped(scope, read_all).map_err(Error::Thread)?;
            while let Ok(block) = spent.on_disk(|| blocks.recv()) {
                self.use_up(block?, &mut pack)?;
            }
            Ok(())
        })
    }

    fn read(
        &self,
        cut: Range<u64>,
        read: impl Fn(&mut [u8], u64) -> Result<usize, Error>,
    ) -> Result<Block, Error> {
        let mut bytes = self
            .spare
            .lock()
            .expect("no panic while held")
            .pop()
            .unwrap_or_default();
        bytes.resize((cut.end - cut.start) as usize, 0);
        let read = read(&mut bytes, cut.start)?;
        bytes[read..].fill(0);
        Ok(Block {
            at: cut.start,
            bytes,
            read,
        })
    }

    fn use_up(
        &self,
        mut block: Block,
        pack: &mut impl FnMut(&mut Block) -> Result<(), Error>,
    ) -> Result<(), Error> {
        pack(&mut block)?;
        self.spare.lock().expect("no panic while held").push(block.bytes);
        Ok(())
    }
}

/// A run of a file in blocks. It begins where a chunk does.
fn cut(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let block = move |at: u64| {
        let until = chunks::range(chunks::index_of(at) + BLOCK_CHUNKS - 1, end).end;
        (at < end).then_some(at..until)
    };
    std::iter::successors(block(range.start), move |before| block(before.end))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    const END: u64 = 10 * BLOCK_BYTES + 5000;

    /// The byte of a made-up file at an offset.
    fn byte(at: u64) -> u8 {
        (at / 1000) as u8
    }

    /// Reads the made-up file, which has so many bytes.
    fn read(buffer: &mut [u8], at: u64, bytes: u64) -> usize {
        let there = buffer.len().min(bytes.saturating_sub(at) as usize);
        for (byte_at, out) in (at..).zip(&mut buffer[..there]) {
            *out = byte(byte_at);
        }
        there
    }

    #[test]
    fn chunks_come_in_order_and_whole() {
        let slice = 32 << 20;
        for range in [0..0, 0..1, 0..BLOCK_BYTES, 0..END, slice - 8192..slice + END] {
            let there = range.end - (range.end - range.start) / 3;
            let (mut at, mut long) = (range.start, 0);
            let pack = |block: &mut Block| {
                long = long.max(block.bytes.len());
                for (start, chunk, read) in block.chunks() {
                    let expected = chunks::range(chunks::index_of(at), range.end);
                    assert_eq!(
                        (start, start + chunk.len() as u64),
                        (expected.start, expected.end)
                    );
                    assert_eq!(read, there.saturating_sub(at).min(chunk.len() as u64) as usize);
                    let right = |(at, found): (u64, &u8)| *found == if at < there { byte(at) } else { 0 };
                    assert!((start..).zip(chunk.iter()).all(right));
                    at = expected.end;
                }
                Ok(())
            };
            let blocks = Blocks::default();
            blocks
                .each(
                    range.clone(),
                    |buffer, at| Ok(read(buffer, at, there)),
                    &Spent::default(),
                    pack,
                )
                .unwrap();
            assert_eq!(at, range.end);
            assert!(long as u64 <= BLOCK_BYTES);
        }
    }

    #[test]
    fn while_one_is_packed_the_next_are_read_but_not_more() {
        let (begun, packed) = (AtomicU64::new(0), AtomicU64::new(0));
        let (tell, told) = mpsc::channel();
        let read = |buffer: &mut [u8], at| {
            let number = begun.fetch_add(1, Ordering::SeqCst);
            assert!(number <= packed.load(Ordering::SeqCst) + WAITING as u64 + 1);
            tell.send(number).unwrap();
            Ok(read(buffer, at, END))
        };
        let last = cut(0..END).count() as u64 - 1;
        let mut newest = None;
        let pack = |_: &mut Block| {
            let ahead = packed.load(Ordering::SeqCst) + WAITING as u64 + 1;
            while newest < Some(ahead.min(last)) {
                // Whoever reads only when nothing is packed never says so.
                newest = Some(
                    told.recv_timeout(Duration::from_secs(60))
                        .expect("the next ones are read"),
                );
            }
            packed.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let blocks = Blocks::default();
        blocks.each(0..END, read, &Spent::default(), pack).unwrap();
        assert!(blocks.spare.lock().unwrap().len() <= WAITING + 2);
    }

    #[test]
    fn what_cannot_be_read_ends_it() {
        for bad in [0, 1, 3] {
            let mut packed = 0;
            let read = |buffer: &mut [u8], at| match at >= cut(0..END).nth(bad).unwrap().start {
                true => Err(Error::Thread(io::ErrorKind::Other.into())),
                false => Ok(read(buffer, at, END)),
            };
            let failed = Blocks::default().each(0..END, read, &Spent::default(), |_| {
                packed += 1;
                Ok(())
            });
            assert!(matches!(failed, Err(Error::Thread(_))));
            assert_eq!(packed, bad);
        }
    }
}
