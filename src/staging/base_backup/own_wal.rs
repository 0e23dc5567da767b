//! The WAL that a base backup brings in its own `pg_wal`: is it what the archive has under the same names?
//!
//! A restored server asks the archive first, and takes the backup's own only where that has none. What another server archived
//! would be taken instead of it (promise B2).

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::tree::backup::{Backup, MOST_AWAITED, OwnSegment, Shape};
use crate::archive::wal::Compared;
use crate::codec::{ContentHash, FRAME_BYTES, FrameHash};
use crate::pg::{SegmentName, WalName};
use crate::staging::tree::judge::DraftFile;

use super::{Candidate, Error};

/// Segments that are read back from either end of a long list, whatever is archived.
const AT_EITHER_END: usize = 8;

/// Bytes of a large segment that are read back; of the last one, all up to the backup's end.
const MOST_BYTES: u64 = 64 << 20;

/// Bytes read at once.
const READ_BYTES: u64 = 16 * FRAME_BYTES as u64;

/// Where a segment lies: the file, and where in it the segment begins.
pub(super) type Spot = (Arc<DraftFile>, u64);

/// A segment, where it lies, and whether it is the one in which the backup ends.
type Own = (SegmentName, Spot, bool);

impl Candidate<'_> {
    /// What it has itself of the WAL that it needs and that is not archived yet.
    ///
    /// # Errors
    /// [`Error::NoBackup`] if something else is archived; [`Error::Tree`].
    pub(super) async fn compare_own_wal(&self, backup: &Backup) -> Result<Vec<OwnSegment>, Error> {
        let needed = backup.segments().map_err(Error::NoBackup)?;
        let spots = self.spots(backup).await?;
        let last = needed.last();
        let own =
            |segment: &SegmentName| Some((*segment, spots.get(segment)?.clone(), last == Some(segment)));
        let own: Vec<Own> = needed.iter().filter_map(own).collect();
        let (first, behind) = own.split_at(own.len().min(AT_EITHER_END));
        let archive = self.0.archive();
        let mut absent = Vec::new();
        for segment in first {
            self.compare(backup, segment, &mut absent).await?;
        }
        // From the end on: an archiver that is refused at a segment gets no further, so what is archived and the same vouches for
        // all before it.
        for (looked_at, segment) in behind.iter().rev().enumerate() {
            let name = WalName::Segment(segment.0);
            let is_noted = absent.len() >= MOST_AWAITED;
            if is_noted && archive.wal_meta(name, self.0.patience()).await?.is_none() {
                continue;
            }
            let is_archived = self.compare(backup, segment, &mut absent).await?;
            if is_archived && looked_at + 1 >= AT_EITHER_END {
                break;
            }
        }
        absent.truncate(MOST_AWAITED);
        absent.sort_by_key(|own| own.segment);
        Ok(absent)
    }

    /// Is it archived, with the same content? If it is absent, it is noted.
    async fn compare(
        &self,
        backup: &Backup,
        (segment, spot, is_last): &Own,
        absent: &mut Vec<OwnSegment>,
    ) -> Result<bool, Error> {
        let archive = self.0.archive();
        let own = self.own_segment(backup, *segment, spot, *is_last).await?;
        match archive.compare_wal(&own, self.0.patience()).await? {
            Compared::Same => Ok(true),
            Compared::Absent => {
                absent.push(own);
                Ok(false)
            }
            Compared::Other => Err(Error::no_backup(format!(
                "{segment} in {} has other content than in its own pg_wal: another server archives there, and this backup would \
                 not recover.\n\
                 HINT: pg_stat_archiver shows since when this server's WAL is refused; give it an archive of its own",
                archive.place()
            ))),
        }
    }

    async fn spots(&self, backup: &Backup) -> Result<HashMap<SegmentName, Spot>, Error> {
        let plain = |segment: &SegmentName| {
            let file = self.0.file(format!("pg_wal/{segment}").as_bytes())?;
            Some((*segment, (file, 0)))
        };
        Ok(match backup.shape {
            Shape::Plain => backup.own_wal.iter().filter_map(plain).collect(),
            Shape::Tar => self.members_of_wal(backup.segment_bytes).await?,
        })
    }

    /// Of the last one up to the backup's end: what streams WAL may end there, and the rest is zeros.
    async fn own_segment(
        &self,
        backup: &Backup,
        segment: SegmentName,
        (file, start): &Spot,
        is_last: bool,
    ) -> Result<OwnSegment, Error> {
        let bytes = match backup.stop() {
            Some((_, end)) if is_last => end.0.saturating_sub(1) % backup.segment_bytes + 1,
            _ => backup.segment_bytes.min(MOST_BYTES),
        };
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < bytes {
            let plain = self
                .0
                .read(file, start + at, (bytes - at).min(READ_BYTES) as usize)
                .await?;
            if plain.is_empty() {
                break;
            }
            at += plain.len() as u64;
            let first = frames.len() as u64;
            frames.extend(
                (first..)
                    .zip(plain.chunks(FRAME_BYTES))
                    .map(|(index, content)| FrameHash::of(index, content)),
            );
        }
        let hash = match &frames[..] {
            [] => ContentHash::of(&[]),
            frames => FrameHash::whole(frames),
        };
        Ok(OwnSegment { segment, bytes, hash })
    }
}
