//! The WAL that a base backup brings in its own `pg_wal`: is it what the archive has under the same names?
//!
//! A restored server asks the archive first, and takes the backup's own only where that has none. What another server archived
//! would be taken instead of it (promise B2).

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::tree::backup::{Backup, OwnSegment, Shape};
use crate::archive::wal::Compared;
use crate::codec::{ContentHash, FRAME_BYTES, PieceHash};
use crate::pg::SegmentName;
use crate::staging::tree::judge::DraftFile;

use super::{Candidate, Error};

/// Segments that are read back from either end of a long list. An archiver that is refused at one of them gets no further.
const AT_EITHER_END: usize = 8;

/// Bytes of a large segment that are read back; of the last one, all up to the backup's end.
const MOST_BYTES: u64 = 64 << 20;

/// Bytes read at once.
const READ_BYTES: u64 = 16 * FRAME_BYTES as u64;

/// Where a segment lies: the file, and where in it the segment begins.
pub(super) type Spot = (Arc<DraftFile>, u64);

impl Candidate<'_> {
    /// What it has itself of the WAL that it needs and that is not archived yet.
    ///
    /// # Errors
    /// [`Error::NoBackup`] if something else is archived; [`Error::Tree`].
    pub(super) async fn compare_own_wal(&self, backup: &Backup) -> Result<Vec<OwnSegment>, Error> {
        let needed = backup.segments().map_err(Error::NoBackup)?;
        let spots = self.spots(backup).await?;
        let own = |segment: &SegmentName| Some((*segment, spots.get(segment)?.clone()));
        let own: Vec<(SegmentName, Spot)> = needed.iter().filter_map(own).collect();
        let behind_first = own.len().saturating_sub(AT_EITHER_END).max(AT_EITHER_END);
        let looked_at = own
            .iter()
            .take(AT_EITHER_END)
            .chain(own.iter().skip(behind_first));
        let archive = self.0.archive();
        let mut absent = Vec::new();
        for (segment, spot) in looked_at {
            let is_last = needed.last() == Some(segment);
            let own = self.own_segment(backup, *segment, spot, is_last).await?;
            match archive.compare_wal(&own, self.0.patience()).await? {
                Compared::Same => {}
                Compared::Absent => absent.push(own),
                Compared::Other => {
                    return Err(Error::no_backup(format!(
                        "{} in {} has other content than in its own pg_wal: another server archives there, and this backup would \
                         not recover.\n\
                         HINT: pg_stat_archiver shows since when this server's WAL is refused; give it an archive of its own",
                        own.segment,
                        archive.place()
                    )));
                }
            }
        }
        Ok(absent)
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
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < bytes {
            let plain = self
                .0
                .read(file, start + at, (bytes - at).min(READ_BYTES) as usize)
                .await?;
            if plain.is_empty() {
                break;
            }
            at += plain.len() as u64;
            let first = pieces.len() as u64;
            pieces.extend(
                (first..)
                    .zip(plain.chunks(FRAME_BYTES))
                    .map(|(index, piece)| PieceHash::of(index, piece)),
            );
        }
        let hash = match &pieces[..] {
            [] => ContentHash::of(&[]),
            pieces => PieceHash::whole(pieces),
        };
        Ok(OwnSegment { segment, bytes, hash })
    }
}
