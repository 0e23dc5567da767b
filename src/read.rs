//! Bytes on their way out: whole pieces of archived files, verified, cached, fetched once however many ask.
//!
//! A file is read in pieces of [`PIECE_BYTES`]; a 16 MiB segment is one piece and costs one request. Every frame's
//! checksum and its place in the content's hash tree are verified before a byte of its piece is handed out, so that
//! nothing unverified ever leaves (promise R3), and a file larger than the cache can be read at random.
//!
//! Where it is wished, the segments that will be wanted next are fetched meanwhile (`ahead`).
//!
//! With [`Patience::Forever`] a read waits for as long as the store is away: an error here would be taken by
//! PostgreSQL for the end of the WAL (promise R1).

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use crate::archive::wal::WalMeta;
use crate::archive::{Archive, Error};
use crate::cache::disk::DiskCache;
use crate::cache::{BlockId, Cache};
use crate::codec::FRAME_BYTES;
use crate::memory::{Buffers, Memory};
use crate::pg::WalName;
use crate::store::Patience;

mod ahead;
mod annex;
pub mod base;
mod fetcher;
pub mod page_hashes;
pub mod part;
mod space;
pub mod tree;
pub mod wal_index;

use ahead::{Ahead, Told};
use fetcher::Fetcher;
use space::Space;
use tree::TreeReader;

pub use crate::memory::PIECE_BYTES;

const FRAMES_PER_PIECE: u64 = PIECE_BYTES / FRAME_BYTES as u64;

/// The memory that readers of several archives have together.
#[derive(Debug, Clone)]
pub struct Together {
    cache: Cache,
    space: Space,
    decoders: Arc<Semaphore>,
    buffers: Buffers,
}

impl Together {
    /// Plain bytes are cached in `cache`; the rest is as `memory` says.
    pub fn new(memory: &Memory, cache: Cache) -> Self {
        Self {
            cache,
            space: Space::new(memory.stored.clone()),
            decoders: Arc::new(Semaphore::new(memory.pieces)),
            buffers: Buffers::of_blocks(memory.pieces),
        }
    }

    /// For the archive of this number; each has another one.
    pub fn of_archive(&self, number: u32) -> Self {
        Self {
            cache: self.cache.scoped(number),
            ..self.clone()
        }
    }
}

/// Reads archived files.
#[derive(Debug)]
pub struct Reader {
    fetcher: Arc<Fetcher>,
    cache: Cache,
    space: Space,
    ahead: Option<Ahead>,
    trees: TreeReader,
}

impl Reader {
    /// A reader that caches plain bytes in `cache` and stored bytes in `disk`.
    pub fn new(archive: Arc<Archive>, cache: Cache, disk: Option<DiskCache>) -> Self {
        let together = Together::new(archive.memory(), cache);
        Self::beside_others(archive, &together, disk)
    }

    /// A reader that has its memory together with others, and caches stored bytes in `disk`.
    pub fn beside_others(archive: Arc<Archive>, together: &Together, disk: Option<DiskCache>) -> Self {
        let Together {
            cache,
            space,
            decoders,
            buffers,
        } = together.clone();
        let trees = TreeReader::new(archive.clone(), cache.clone(), space.clone(), decoders.clone());
        Self {
            fetcher: Arc::new(Fetcher::new(archive, disk, decoders, buffers)),
            cache,
            space,
            ahead: None,
            trees,
        }
    }

    /// The same, where the segments that will be wanted next are fetched before they are (promise R4).
    pub fn fetching_ahead(mut self) -> Self {
        self.ahead = Some(Ahead::new(
            self.fetcher.clone(),
            self.cache.clone(),
            self.space.clone(),
        ));
        self
    }

    /// Reads files of stored trees, in the same memory.
    pub fn trees(&self) -> &TreeReader {
        &self.trees
    }

    /// Where plain content is held in memory.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Stored bytes held in memory of what was fetched ahead.
    pub fn ahead_bytes(&self) -> u64 {
        self.ahead.as_ref().map_or(0, Ahead::bytes)
    }

    /// Segments that were fetched before they were asked for, and how many of these were there when they were.
    pub fn fetched_ahead_and_hits(&self) -> (u64, u64) {
        self.ahead.as_ref().map_or((0, 0), Ahead::fetched_and_hits)
    }

    /// Is the file archived? `None` only when the store itself said now that it is not (promise R1). What was fetched
    /// ahead is known to be.
    ///
    /// `wants_all`: the asker will read all of it at once, so that it may be fetched with the answer.
    ///
    /// # Errors
    /// As [`Archive::wal_meta`].
    pub async fn meta(
        &self,
        name: WalName,
        wants_all: bool,
        patience: Patience,
    ) -> Result<Option<WalMeta>, Error> {
        if let Some(ahead) = &self.ahead {
            if let Some(meta) = ahead.meta(name) {
                return Ok(Some(meta));
            }
            if wants_all {
                match ahead.look(name).await {
                    Told::Archived(meta) => return Ok(Some(meta)),
                    Told::Absent => return Ok(None),
                    Told::Nothing => {}
                }
            }
        }
        self.fetcher.archive.wal_meta(name, patience).await
    }

    /// Reads from a file of `file_bytes` plain bytes; short only at its end.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Misplaced`]; [`Error::Store`], `NotFound` if the object has gone.
    pub async fn read(
        &self,
        name: WalName,
        file_bytes: u64,
        offset: u64,
        bytes: usize,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let end = file_bytes.min(offset.saturating_add(bytes as u64));
        if offset >= end {
            return Ok(Bytes::new());
        }
        if offset == 0
            && let Some(ahead) = &self.ahead
        {
            ahead.reads(name);
        }
        let first = self.slice(name, file_bytes, offset..end, patience).await?;
        if first.len() as u64 == end - offset {
            return Ok(first);
        }
        let mut whole = BytesMut::from(&first[..]);
        while offset + (whole.len() as u64) < end {
            let rest = offset + whole.len() as u64..end;
            whole.extend_from_slice(&self.slice(name, file_bytes, rest, patience).await?);
        }
        Ok(whole.freeze())
    }

    /// The content of a file whose whole object is there already: one of [`PIECE_BYTES`] at most.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Misplaced`].
    pub async fn unpack(&self, name: WalName, file_bytes: u64, object: Bytes) -> Result<Bytes, Error> {
        self.fetcher.unpack_whole(name, file_bytes, object).await
    }

    /// The part of the range that lies in the piece it begins in.
    async fn slice(
        &self,
        name: WalName,
        file_bytes: u64,
        range: std::ops::Range<u64>,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let index = range.start / PIECE_BYTES;
        let start = index * PIECE_BYTES;
        let piece = self.piece(name, file_bytes, index, patience).await?;
        let (from, to) = (
            (range.start - start) as usize,
            (range.end - start).min(piece.len() as u64) as usize,
        );
        Ok(piece.slice(from..to))
    }

    /// One verified piece: from the cache, fetched ahead, or from the store.
    async fn piece(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let id = block_id(&self.fetcher.archive, name, index);
        if let Some(ahead) = &self.ahead
            && index == 0
        {
            // The cache first: once unpacked it is there, and no longer ahead.
            if let Some(piece) = self.cache.find(&id).await {
                return Ok(piece);
            }
            if let Some(piece) = ahead.piece(name).await {
                ahead.learn(name, &piece);
                return Ok(piece);
            }
        }
        let piece = self
            .cache
            .get(id, self.fetch(name, file_bytes, index, patience))
            .await?;
        if let Some(ahead) = &self.ahead {
            ahead.learn(name, &piece);
        }
        Ok(piece)
    }

    async fn fetch(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        if let Some(ahead) = &self.ahead
            && !self.space.has(PIECE_BYTES)
        {
            ahead.give_way();
        }
        let _held = self.space.take(PIECE_BYTES).await;
        let began = Instant::now();
        let piece = self.fetcher.piece(name, file_bytes, index, patience).await;
        if let Some(ahead) = &self.ahead
            && piece.is_ok()
        {
            ahead.fetched_by_itself(name, began.elapsed());
        }
        piece
    }
}

fn block_id(archive: &Archive, name: WalName, index: u64) -> BlockId {
    BlockId {
        object: archive.wal_key(name).as_str().into(),
        piece: index,
    }
}
