//! Bytes on their way out: whole pieces of archived files, verified, cached, fetched once however many ask.
//!
//! A file is read in pieces of [`PIECE_BYTES`]; a 16 MiB segment is one piece and costs one request. Every frame's
//! checksum and its place in the content's hash tree are verified before a byte of its piece is handed out, so that
//! nothing unverified ever leaves (contract R3), and a file larger than the cache can be read at random.
//!
//! With [`Patience::Forever`] a read waits for as long as the store is away: an error here would be taken by
//! PostgreSQL for the end of the WAL (contract R1).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;

use crate::archive::{Archive, Error};
use crate::cache::disk::DiskCache;
use crate::cache::{BlockId, Cache};
use crate::codec::{Damage, FRAME_BYTES, SeekTable, Tail};
use crate::pg::WalName;
use crate::store::{ByteRange, Key, Patience};

pub mod part;
pub mod tree;

use tree::TreeReader;

/// Plain bytes fetched and verified together.
pub const PIECE_BYTES: u64 = 16 << 20;

const FRAMES_PER_PIECE: u64 = PIECE_BYTES / FRAME_BYTES as u64;

/// Pieces being fetched at once: each holds its stored bytes, outside of the cache's bound.
const FETCHES: usize = 4;

/// How long a fetch waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// Pieces being decoded at once: each holds its plain bytes, outside of the cache's bound.
const DECODERS: usize = 2;

/// Reads archived files.
#[derive(Debug)]
pub struct Reader {
    archive: Arc<Archive>,
    cache: Cache,
    disk: Option<Arc<DiskCache>>,
    fetches: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    trees: TreeReader,
}

impl Reader {
    /// A reader that caches plain bytes in `cache` and stored bytes in `disk`.
    pub fn new(archive: Arc<Archive>, cache: Cache, disk: Option<DiskCache>) -> Self {
        let fetches = Arc::new(Semaphore::new(FETCHES));
        let decoders = Arc::new(Semaphore::new(DECODERS));
        let trees = TreeReader::new(archive.clone(), cache.clone(), fetches.clone(), decoders.clone());
        Self {
            archive,
            cache,
            disk: disk.map(Arc::new),
            fetches,
            decoders,
            trees,
        }
    }

    /// Reads files of stored trees, in the same memory.
    pub fn trees(&self) -> &TreeReader {
        &self.trees
    }

    /// Bytes of plain content held in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.cache.bytes()
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

    /// One verified piece, from the cache or the store.
    async fn piece(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
    ) -> Result<Bytes, Arc<Error>> {
        let key = self.archive.wal_key(name);
        let id = BlockId {
            object: key.as_str().into(),
            piece: index,
        };
        self.cache
            .get(id, self.fetch(name, file_bytes, index, patience))
            .await
    }

    async fn fetch(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        // Who waits long is behind requests that hang, and hold no bytes: it goes ahead (contract S4).
        let _fetching = tokio::time::timeout(TURN, self.fetches.acquire()).await;
        match self.fetch_once(name, file_bytes, index, patience, true).await {
            // Once more, past the disk cache: the damage may be there, or have happened on the way.
            Err(Error::Damaged { .. } | Error::Misplaced { .. }) => {
                if let Some(disk) = &self.disk {
                    let key = self.archive.wal_key(name);
                    disk.forget(&self.archive.marker().archive_id, key.as_str());
                }
                self.fetch_once(name, file_bytes, index, patience, false).await
            }
            done => done,
        }
    }

    async fn fetch_once(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
        from_disk: bool,
    ) -> Result<Bytes, Error> {
        let key = &self.archive.wal_key(name);
        let (table, stored) = if file_bytes <= PIECE_BYTES {
            let object = self.whole(key, patience, from_disk).await?;
            let table = parse_whole(&object).map_err(|damage| self.archive.damaged(key, damage))?;
            (table, object)
        } else {
            let table = self.archive.seek_table(key, patience).await?;
            let range = ByteRange::Span(table.stored_range(frames_of(&table, index)));
            (table, self.archive.store().get(key, range, patience).await?.bytes)
        };
        if table.plain_bytes() != file_bytes {
            let damage = Damage::PlainBytes {
                expected_bytes: file_bytes,
                found_bytes: table.plain_bytes(),
            };
            return Err(self.archive.damaged(key, damage));
        }
        let decoder = self.decoders.clone().acquire_owned().await.expect("never closed");
        let decoded = tokio::task::spawn_blocking(move || {
            let piece = decode(&table, index, &stored);
            drop(decoder);
            piece
        });
        let piece = decoded.await.expect("decoding does not panic");
        let piece = piece.map_err(|damage| self.archive.damaged(key, damage))?;
        if index == 0 {
            self.archive.check_place(name, &piece)?;
        }
        Ok(piece)
    }

    /// A whole object, from the disk cache or the store.
    async fn whole(&self, key: &Key, patience: Patience, from_disk: bool) -> Result<Bytes, Error> {
        let Some(disk) = self.disk.clone() else {
            return Ok(self
                .archive
                .store()
                .get(key, ByteRange::Whole, patience)
                .await?
                .bytes);
        };
        let (archive_id, object) = (self.archive.marker().archive_id.clone(), key.as_str().to_owned());
        if from_disk {
            let (disk, archive_id, object) = (disk.clone(), archive_id.clone(), object.clone());
            let cached = tokio::task::spawn_blocking(move || disk.get(&archive_id, &object));
            if let Some(bytes) = cached.await.expect("reading does not panic") {
                return Ok(bytes);
            }
        }
        let bytes = self
            .archive
            .store()
            .get(key, ByteRange::Whole, patience)
            .await?
            .bytes;
        let copy = bytes.clone();
        tokio::task::spawn_blocking(move || disk.put(&archive_id, &object, &copy));
        Ok(bytes)
    }
}

fn parse_whole(object: &Bytes) -> Result<SeekTable, Damage> {
    match SeekTable::parse(object, object.len() as u64)? {
        Tail::Table(table) => Ok(table),
        Tail::NeedLast(needed_bytes) => Err(Damage::ObjectTooShort {
            object_bytes: object.len() as u64,
            needed_bytes,
        }),
    }
}

fn frames_of(table: &SeekTable, piece: u64) -> std::ops::Range<u64> {
    let first = piece * FRAMES_PER_PIECE;
    first..(first + FRAMES_PER_PIECE).min(table.frames())
}

/// Decodes and verifies a piece; `stored` begins with its first frame.
fn decode(table: &SeekTable, piece: u64, stored: &[u8]) -> Result<Bytes, Damage> {
    let frames = frames_of(table, piece);
    let start = piece * PIECE_BYTES;
    let mut plain = vec![0; (table.plain_bytes() - start).min(PIECE_BYTES) as usize];
    table.unpack_frames(frames, stored, &mut plain)?;
    Ok(plain.into())
}
