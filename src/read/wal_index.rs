//! What the records of archived segments say, by the index that lies in each object, or by its bytes where there is none.
//!
//! An index is the annex of its object, so the request that brings the seek table brings it as well; a long one takes another.
//! It is a hint: one that is damaged is as none, and then the segment is fetched and walked through.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::archive::wal::Found;
use crate::archive::{Archive, Error};
use crate::codec::{self, Damage, FRAME_BYTES, SeekTable, Tail};
use crate::memory::PIECE_BYTES;
use crate::pg::extent::{Extents, Proved};
use crate::pg::record::Head;
use crate::pg::wal_index::{WalIndex, Walks};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, WalName};
use crate::store::{ByteRange, ErrorKind, Patience};

use super::annex::stored_annex;

/// What is asked of the end of an object beside its seek table: most indexes are shorter.
const GUESS_BYTES: u64 = 24 << 10;

/// Segments walked through at once: each is fetched by pieces of 16 MiB.
const WALKS: usize = 2;

/// Reads indexes of segments.
#[derive(Debug, Clone)]
pub struct WalIndexReader {
    archive: Arc<Archive>,
    walks: Arc<Semaphore>,
}

/// What there is of a segment.
#[derive(Debug, Clone)]
pub enum Indexed {
    /// The store has said that there is no such segment.
    Absent,
    /// It has no index that is of use.
    Without(Arc<SeekTable>),
    /// It has one.
    With(Box<WalIndex>),
}

impl WalIndexReader {
    /// Of this archive.
    pub fn new(archive: Arc<Archive>) -> Self {
        Self {
            archive,
            walks: Arc::new(Semaphore::new(WALKS)),
        }
    }

    /// The index in an object, by one request or two.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Damaged`], if the seek table is.
    pub async fn stored(
        &self,
        segment: SegmentName,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<Indexed, Error> {
        let (store, key) = (
            self.archive.store(),
            self.archive.wal_key(WalName::Segment(segment)),
        );
        let guess = codec::trailer_bytes(size.bytes()) + GUESS_BYTES;
        let tail = match store.get(&key, ByteRange::Last(guess), patience).await {
            Ok(tail) => tail,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(Indexed::Absent),
            Err(error) => return Err(error.into()),
        };
        let table = match SeekTable::parse(&tail.bytes, tail.meta.stored_bytes) {
            Ok(Tail::Table(table)) if table.plain_bytes() == size.bytes() => table,
            Ok(Tail::Table(table)) => {
                let damage = Damage::PlainBytes {
                    expected_bytes: size.bytes(),
                    found_bytes: table.plain_bytes(),
                };
                return Err(self.archive.damaged(&key, damage));
            }
            Ok(Tail::NeedLast(needed_bytes)) => {
                let damage = Damage::ObjectTooShort {
                    object_bytes: tail.meta.stored_bytes,
                    needed_bytes,
                };
                return Err(self.archive.damaged(&key, damage));
            }
            Err(damage) => return Err(self.archive.damaged(&key, damage)),
        };
        let stored = stored_annex(store, &key, &tail, &table, patience).await?;
        let index = match table.annex(&stored) {
            Ok(annex) => WalIndex::from_annex(annex, segment.start(size), size.bytes()),
            Err(damage) => {
                tracing::warn!("the index of the WAL in {key} cannot be read, the WAL itself is: {damage}");
                None
            }
        };
        Ok(match index {
            Some(index) => Indexed::With(Box::new(index)),
            None => Indexed::Without(Arc::new(table)),
        })
    }

    /// What the records of a segment say, by its bytes; `None` if it is no WAL that is known.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn walked(
        &self,
        segment: SegmentName,
        table: &SeekTable,
        patience: Patience,
    ) -> Result<Option<WalIndex>, Error> {
        let _turn = self.walks.acquire().await.expect("never closed");
        let mut parts = Vec::new();
        for start in (0..table.plain_bytes()).step_by(PIECE_BYTES as usize) {
            let piece = self.piece(segment, table, start, patience).await?;
            parts.extend(piece.chunks(FRAME_BYTES).map(WalIndex::of));
        }
        Ok(WalIndex::join(
            parts.iter().map(Option::as_ref),
            table.plain_bytes(),
        ))
    }

    /// Shows each record of a segment that begins and ends in it: where it begins, and its first bytes at least. In no order.
    ///
    /// # Errors
    /// As [`WalIndexReader::walked`].
    pub async fn visit(
        &self,
        segment: SegmentName,
        size: SegmentSize,
        patience: Patience,
        visit: impl FnMut(Lsn, Head<'_>) + Send,
    ) -> Result<(), Error> {
        let Found::Archived(table) = self.archive.look(WalName::Segment(segment), patience).await? else {
            return Ok(());
        };
        let _turn = self.walks.acquire().await.expect("never closed");
        let mut walks = Walks::new(visit);
        for start in (0..size.bytes().min(table.plain_bytes())).step_by(PIECE_BYTES as usize) {
            walks.go_on(&self.piece(segment, &table, start, patience).await?);
        }
        Ok(())
    }

    /// What all pages of a segment show; `None`: it is not archived.
    ///
    /// # Errors
    /// As [`WalIndexReader::walked`].
    pub async fn proved(
        &self,
        segment: SegmentName,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<Option<Proved>, Error> {
        let Found::Archived(table) = self.archive.look(WalName::Segment(segment), patience).await? else {
            return Ok(None);
        };
        let _turn = self.walks.acquire().await.expect("never closed");
        let mut extents: Option<(Extents, usize)> = None;
        for start in (0..size.bytes().min(table.plain_bytes())).step_by(PIECE_BYTES as usize) {
            let piece = self.piece(segment, &table, start, patience).await?;
            let (extents, block) = match &mut extents {
                Some(begun) => begun,
                none => {
                    let begin = segment.start(size);
                    let own = PageHeader::parse(&piece)
                        .ok()
                        .and_then(|header| Some((Extents::new(begin, header)?, header.block_bytes as usize)));
                    match own {
                        Some(own) => none.insert(own),
                        None => return Ok(Some(Proved::nothing(begin))),
                    }
                }
            };
            piece.chunks(*block).for_each(|page| extents.add(page));
        }
        Ok(extents.map(|(extents, _)| extents.proved()))
    }

    async fn piece(
        &self,
        segment: SegmentName,
        table: &SeekTable,
        start: u64,
        patience: Patience,
    ) -> Result<Vec<u8>, Error> {
        let end = table.plain_bytes().min(start + PIECE_BYTES);
        let name = WalName::Segment(segment);
        self.archive.unpacked(name, table, start..end, patience).await
    }
}
