//! Is the archived WAL that of a backup? By the records that the backup knows, where it brings no segments that could be
//! compared.

use std::ops::Range;

use super::Found;
use crate::archive::{Archive, Error};
use crate::pg::landmark::{Landmark, Mismatch};
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::store::Patience;

impl Archive {
    /// The first landmark that is not where the backup says, with its segment. `segments` are those that the backup needs, in
    /// ascending order. What is not archived is no other server's.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn missed_landmark(
        &self,
        landmarks: &[Landmark],
        segments: &[SegmentName],
        size: SegmentSize,
        patience: Patience,
    ) -> Result<Option<(SegmentName, Mismatch)>, Error> {
        let named = |number| segments.iter().find(|segment| segment.number(size) == number);
        for landmark in landmarks {
            let mut read = Vec::new();
            for (number, bytes) in landmark.ranges(size) {
                let Some(segment) = named(number) else { break };
                let Some(content) = self.read_wal(*segment, bytes, patience).await? else {
                    break;
                };
                read.push(content);
            }
            let (Some((header, pages)), Some(segment)) = (read.split_first(), named(landmark.number(size)))
            else {
                continue;
            };
            if let Err(mismatch) = landmark.check(header, &pages.concat()) {
                return Ok(Some((*segment, mismatch)));
            }
        }
        Ok(None)
    }

    /// `None` if the segment is not archived.
    async fn read_wal(
        &self,
        segment: SegmentName,
        bytes: Range<u64>,
        patience: Patience,
    ) -> Result<Option<Vec<u8>>, Error> {
        let name = WalName::Segment(segment);
        match self.look(name, patience).await? {
            Found::Absent => Ok(None),
            Found::Archived(table) => self.unpacked(name, &table, bytes, patience).await.map(Some),
        }
    }
}
