//! Is an archived segment the one that a server has, or a backup? Another server may have archived under the same name.

use std::ops::Range;

use super::Found;
use crate::archive::tree::backup::OwnSegment;
use crate::archive::{Archive, Error};
use crate::codec::{ContentHash, FRAME_BYTES, SeekTable};
use crate::pg::WalName;
use crate::store::{ByteRange, Patience};

/// What is archived under a segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Nothing.
    Absent,
    /// What the server has.
    Same,
    /// Something else.
    Other,
}

impl Archive {
    /// Compares what is archived with what a server has: by the seek table, and where less than all of it is meant, by the
    /// frame in which that ends.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn compare_wal(&self, own: &OwnSegment, patience: Patience) -> Result<Compared, Error> {
        let name = WalName::Segment(own.segment);
        self.compare_first(name, own.bytes, own.hash, patience).await
    }

    /// Compares so many first bytes of an archived file with those that have this hash.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn compare_first(
        &self,
        name: WalName,
        bytes: u64,
        hash: ContentHash,
        patience: Patience,
    ) -> Result<Compared, Error> {
        let Found::Archived(table) = self.look(name, patience).await? else {
            return Ok(Compared::Absent);
        };
        let found = match bytes {
            0 => return Ok(Compared::Same),
            bytes if bytes > table.plain_bytes() => return Ok(Compared::Other),
            bytes => self.hash_of_first(name, &table, bytes, patience).await?,
        };
        Ok(match found == hash {
            true => Compared::Same,
            false => Compared::Other,
        })
    }

    /// Of at least one byte, and no more than there are.
    pub(super) async fn hash_of_first(
        &self,
        name: WalName,
        table: &SeekTable,
        bytes: u64,
        patience: Patience,
    ) -> Result<ContentHash, Error> {
        if bytes == table.plain_bytes() {
            return Ok(table.hash());
        }
        let frame = (bytes - 1) / FRAME_BYTES as u64;
        let start = frame * FRAME_BYTES as u64;
        let rest = self.unpacked(name, table, start..bytes, patience).await?;
        Ok(table.hash_of_first(frame, &rest))
    }

    /// Some of an archived file's bytes, as far as there are any; `range` is not empty, and begins in the file.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub(crate) async fn unpacked(
        &self,
        name: WalName,
        table: &SeekTable,
        range: Range<u64>,
        patience: Patience,
    ) -> Result<Vec<u8>, Error> {
        let key = self.wal_key(name);
        let stored = ByteRange::Span(table.stored_range(table.frames_of(range.clone())));
        let fetched = self.store().get(&key, stored, patience).await?;
        let unpacked = table.unpack_range(range, &fetched.bytes);
        unpacked.map_err(|damage| self.damaged(&key, damage))
    }
}
