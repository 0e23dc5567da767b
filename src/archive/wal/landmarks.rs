//! Is the archived WAL that of a backup? By the records that the backup knows, where it brings no segments that could be
//! compared.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Found;
use crate::archive::tree::backup::Backup;
use crate::archive::{Archive, Error};
use crate::pg::landmark::{Landmark, Mismatch, Sight};
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::store::Patience;

/// What there is of a landmark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// It is where the backup says.
    There,
    /// It is not archived, or not all of it.
    Unseen,
    /// Another server's WAL is there.
    Other(SegmentName, Mismatch),
}

/// Looks for the landmarks of a backup. Each segment is looked at once: a request for its seek table and one for its header;
/// then comes one for each landmark, or two where it lies in two segments.
#[derive(Debug)]
pub struct Seeker<'a> {
    archive: &'a Archive,
    segments: Vec<SegmentName>,
    size: SegmentSize,
    patience: Patience,
    found: BTreeMap<u64, Found>,
    headers: BTreeMap<u64, Vec<u8>>,
}

impl Archive {
    /// Looks for the landmarks of `backup`.
    ///
    /// # Errors
    /// The text of why it cannot be a backup.
    pub fn seeker(&self, backup: &Backup, patience: Patience) -> Result<Seeker<'_>, String> {
        Ok(Seeker {
            archive: self,
            segments: backup.segments()?,
            size: SegmentSize::new(backup.segment_bytes).map_err(|error| error.to_string())?,
            patience,
            found: BTreeMap::new(),
            headers: BTreeMap::new(),
        })
    }
}

impl Seeker<'_> {
    /// The segment that has the landmark's position, if the backup needs it.
    pub fn segment(&self, landmark: Landmark) -> Option<SegmentName> {
        self.named(landmark.number(self.size))
    }

    /// Is it there?
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn seek(&mut self, landmark: Landmark) -> Result<Sought, Error> {
        let Some(segment) = self.segment(landmark) else {
            return Ok(Sought::Unseen);
        };
        let mut read = Vec::new();
        for (number, bytes) in landmark.ranges(self.size) {
            let Some(content) = self.read(number, bytes).await? else {
                break;
            };
            read.push(content);
        }
        Ok(match landmark.check(&read) {
            Ok(Sight::There) => Sought::There,
            Ok(Sight::Unseen) => Sought::Unseen,
            Err(mismatch) => Sought::Other(segment, mismatch),
        })
    }

    fn named(&self, number: u64) -> Option<SegmentName> {
        let mut segments = self.segments.iter();
        segments
            .find(|segment| segment.number(self.size) == number)
            .copied()
    }

    /// `None` if the segment is not archived, or none of the backup's.
    async fn read(&mut self, number: u64, bytes: Range<u64>) -> Result<Option<Vec<u8>>, Error> {
        let Some(segment) = self.named(number) else {
            return Ok(None);
        };
        let name = WalName::Segment(segment);
        if !self.found.contains_key(&number) {
            let found = self.archive.look(name, self.patience).await?;
            self.found.insert(number, found);
        }
        let Found::Archived(table) = &self.found[&number] else {
            return Ok(None);
        };
        let is_header = bytes.start == 0;
        if let Some(header) = self
            .headers
            .get(&number)
            .filter(|header| bytes == (0..header.len() as u64))
        {
            return Ok(Some(header.clone()));
        }
        let content = self.archive.unpacked(name, table, bytes, self.patience).await?;
        if is_header {
            self.headers.insert(number, content.clone());
        }
        Ok(Some(content))
    }
}
