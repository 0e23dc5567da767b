//! Stored bytes into verified plain bytes: fetching a piece of an archived file, from the disk cache or the store, and
//! unpacking it with every checksum compared (promise R3).

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{FRAMES_PER_PIECE, PIECE_BYTES};
use crate::archive::{Archive, Error};
use crate::cache::disk::DiskCache;
use crate::codec::{self, Damage, SeekTable};
use crate::memory::Buffers;
use crate::pg::WalName;
use crate::store::{ByteRange, Key, Patience};

/// Fetches and unpacks.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) archive: Arc<Archive>,
    disk: Option<Arc<DiskCache>>,
    decoders: Arc<Semaphore>,
    buffers: Buffers,
}

impl Fetcher {
    pub(super) fn new(
        archive: Arc<Archive>,
        disk: Option<DiskCache>,
        decoders: Arc<Semaphore>,
        buffers: Buffers,
    ) -> Self {
        Self {
            buffers,
            archive,
            disk: disk.map(Arc::new),
            decoders,
        }
    }

    /// One verified piece. Damage is looked at twice.
    pub(super) async fn piece(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
    ) -> Result<Bytes, Error> {
        match self.piece_once(name, file_bytes, index, patience, true).await {
            // Once more, past the disk cache: the damage may be there, or have happened on the way.
            Err(Error::Damaged { .. } | Error::Misplaced { .. }) => {
                if let Some(disk) = &self.disk {
                    let key = self.archive.wal_key(name);
                    disk.forget(&self.archive.marker().identity.archive_id, key.as_str());
                }
                self.piece_once(name, file_bytes, index, patience, false).await
            }
            done => done,
        }
    }

    async fn piece_once(
        &self,
        name: WalName,
        file_bytes: u64,
        index: u64,
        patience: Patience,
        from_disk: bool,
    ) -> Result<Bytes, Error> {
        let key = &self.archive.wal_key(name);
        if file_bytes <= PIECE_BYTES {
            let most_bytes = codec::most_stored_bytes(file_bytes);
            let object = self.whole(key, most_bytes, patience, from_disk).await?;
            return self.unpack_whole(name, file_bytes, object).await;
        }
        let table = self.archive.seek_table(key, patience).await?;
        let range = ByteRange::Span(table.stored_range(frames_of(&table, index)));
        let stored = self.archive.store().get(key, range, patience).await?.bytes;
        self.unpack(name, file_bytes, table, index, stored).await
    }

    /// The only piece of a file, out of its whole object.
    pub(super) async fn unpack_whole(
        &self,
        name: WalName,
        file_bytes: u64,
        object: Bytes,
    ) -> Result<Bytes, Error> {
        let key = self.archive.wal_key(name);
        let table = SeekTable::of_whole(&object).map_err(|damage| self.archive.damaged(&key, damage))?;
        self.unpack(name, file_bytes, table, 0, object).await
    }

    async fn unpack(
        &self,
        name: WalName,
        file_bytes: u64,
        table: SeekTable,
        index: u64,
        stored: Bytes,
    ) -> Result<Bytes, Error> {
        let key = &self.archive.wal_key(name);
        if table.plain_bytes() != file_bytes {
            let damage = Damage::PlainBytes {
                expected_bytes: file_bytes,
                found_bytes: table.plain_bytes(),
            };
            return Err(self.archive.damaged(key, damage));
        }
        let decoder = self.decoders.clone().acquire_owned().await.expect("never closed");
        let buffers = self.buffers.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let piece = decode(&table, index, &stored, &buffers);
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
    async fn whole(
        &self,
        key: &Key,
        most_bytes: u64,
        patience: Patience,
        from_disk: bool,
    ) -> Result<Bytes, Error> {
        if from_disk && let Some(bytes) = self.on_disk(key, most_bytes).await {
            return Ok(bytes);
        }
        let most = ByteRange::AtMost(most_bytes);
        let fetched = self.archive.store().get(key, most, patience).await?;
        self.keep_on_disk(key, &fetched.bytes);
        Ok(fetched.bytes)
    }

    /// An object in the disk cache, unverified, if it has at most so many bytes.
    pub(super) async fn on_disk(&self, key: &Key, most_bytes: u64) -> Option<Bytes> {
        let disk = self.disk.clone()?;
        let (archive_id, object) = (
            self.archive.marker().identity.archive_id.clone(),
            key.as_str().to_owned(),
        );
        let cached = tokio::task::spawn_blocking(move || disk.get(&archive_id, &object, most_bytes));
        cached.await.expect("reading does not panic")
    }

    /// Hands an object to the disk cache; nobody waits for that.
    pub(super) fn keep_on_disk(&self, key: &Key, object: &Bytes) {
        if let Some(disk) = self.disk.clone() {
            let (archive_id, key) = (
                self.archive.marker().identity.archive_id.clone(),
                key.as_str().to_owned(),
            );
            let copy = object.clone();
            tokio::task::spawn_blocking(move || disk.put(&archive_id, &key, &copy));
        }
    }
}

fn frames_of(table: &SeekTable, piece: u64) -> std::ops::Range<u64> {
    let first = piece * FRAMES_PER_PIECE;
    first..(first + FRAMES_PER_PIECE).min(table.frames())
}

/// Decodes and verifies a piece; `stored` begins with its first frame.
fn decode(table: &SeekTable, piece: u64, stored: &[u8], buffers: &Buffers) -> Result<Bytes, Damage> {
    let frames = frames_of(table, piece);
    let start = piece * PIECE_BYTES;
    let mut plain = buffers.take((table.plain_bytes() - start).min(PIECE_BYTES) as usize);
    table.unpack_frames(frames, stored, plain.room())?;
    Ok(plain.filled())
}
