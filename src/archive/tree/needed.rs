//! The WAL that makes a backup consistent: is it at hand?
//!
//! A backup claims a range of WAL. Each segment of a short one is asked for; of a long one the listing is compared, and
//! only until enough are missing: a range may be a lie.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::BASEBACKUPS;
use super::backup::{MOST_AWAITED, OwnSegment};
use super::catalogue::{BackupWal, READS};
use super::summary::Summary;
use crate::archive::wal::{Compared, Sought, WalCursor};
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, WalName};
use crate::store::Patience;

/// Segments that are asked for one by one; a listing of more costs less.
const ASKED_ONE_BY_ONE: usize = MOST_AWAITED;

/// Missing segments after which no more are looked for.
const MOST_MISSING: usize = 1000;

impl Archive {
    /// Is the WAL at hand that makes a backup consistent?
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn backup_wal(&self, summary: &Summary, patience: Patience) -> Result<BackupWal, Error> {
        let segments = summary.backup.segments();
        let segments = segments.map_err(|reason| self.no_backup(reason))?;
        if segments.is_empty() {
            return Ok(BackupWal::Complete);
        }
        let own: BTreeSet<&SegmentName> = summary.backup.own_wal.iter().collect();
        let awaited = summary.backup.awaited.iter();
        let awaited = awaited.filter(|awaited| segments.binary_search(&awaited.segment).is_ok());
        let awaited: BTreeMap<SegmentName, OwnSegment> =
            awaited.map(|awaited| (awaited.segment, *awaited)).collect();
        let compared = self.compare_awaited(awaited.values().copied(), patience).await?;
        let with = |wanted: Option<Compared>| {
            let found = compared.iter().filter(move |(_, found)| *found == wanted);
            found.map(|(segment, _)| *segment)
        };
        let others: Vec<SegmentName> = with(Some(Compared::Other)).collect();
        if !others.is_empty() {
            return Ok(BackupWal::Others(others));
        }
        let absent = with(Some(Compared::Absent)).filter(|segment| !own.contains(segment));
        // One that is damaged is in the way of the backup's own.
        let mut missing: Vec<SegmentName> = absent.chain(with(None)).collect();
        let wanted: Vec<SegmentName> = segments
            .into_iter()
            .filter(|segment| !own.contains(segment) && !awaited.contains_key(segment))
            .collect();
        missing.extend(if wanted.len() <= ASKED_ONE_BY_ONE {
            self.missing_by_asking(wanted, patience).await?
        } else {
            self.missing_by_listing(wanted, patience).await?
        });
        match self.other_by_landmarks(summary, &mut missing, patience).await? {
            Some(other) => return Ok(BackupWal::Others(vec![other])),
            None => missing.sort(),
        }
        missing.dedup();
        Ok(if missing.is_empty() {
            BackupWal::Complete
        } else {
            BackupWal::Missing(missing)
        })
    }

    /// A segment that has not the backup's record where it should be. One that is damaged is missing.
    async fn other_by_landmarks(
        &self,
        summary: &Summary,
        missing: &mut Vec<SegmentName>,
        patience: Patience,
    ) -> Result<Option<SegmentName>, Error> {
        let seeker = self.seeker(&summary.backup, patience);
        let mut seeker = seeker.map_err(|reason| self.no_backup(reason))?;
        for landmark in &summary.backup.landmarks {
            match seeker.seek(*landmark).await {
                Ok(Sought::There | Sought::Unseen) => {}
                Ok(Sought::Other(segment, _)) => return Ok(Some(segment)),
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("{error}");
                    missing.extend(seeker.segment(*landmark));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn no_backup(&self, reason: String) -> Error {
        Error::Marker {
            key: BASEBACKUPS,
            place: self.place(),
            reason,
        }
    }

    /// What there is of each; `None` for one that is damaged.
    async fn compare_awaited(
        &self,
        awaited: impl Iterator<Item = OwnSegment>,
        patience: Patience,
    ) -> Result<Vec<(SegmentName, Option<Compared>)>, Error> {
        let compare = |own: OwnSegment| async move {
            let compared = match self.compare_wal(&own, patience).await {
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("{error}");
                    None
                }
                compared => Some(compared?),
            };
            Ok::<_, Error>((own.segment, compared))
        };
        let compared = stream::iter(awaited).map(compare);
        compared.buffered(READS).try_collect().await
    }

    async fn missing_by_asking(
        &self,
        wanted: Vec<SegmentName>,
        patience: Patience,
    ) -> Result<Vec<SegmentName>, Error> {
        let look = |segment: SegmentName| async move {
            // One that has been cut, or is no file, is not at hand.
            let found = match self.wal_meta(WalName::Segment(segment), patience).await {
                Err(error @ Error::Damaged { .. }) => {
                    tracing::warn!("{error}");
                    None
                }
                found => found?,
            };
            Ok::<_, Error>(found.is_none().then_some(segment))
        };
        let looks = stream::iter(wanted).map(look).buffered(READS);
        looks
            .try_filter_map(|missing| async move { Ok(missing) })
            .try_collect()
            .await
    }

    /// `wanted` ascending.
    async fn missing_by_listing(
        &self,
        wanted: Vec<SegmentName>,
        patience: Patience,
    ) -> Result<Vec<SegmentName>, Error> {
        let mut missing = Vec::new();
        let mut wanted = wanted.into_iter().peekable();
        let mut from = wanted.peek().map(|first| WalCursor::before(*first));
        while wanted.peek().is_some() && missing.len() < MOST_MISSING {
            let page = self.list_wal(from.as_ref(), patience).await?;
            let listed = page.entries.iter().filter_map(|(name, meta)| match name {
                WalName::Segment(segment) if meta.bytes > 0 => Some(*segment),
                _ => None,
            });
            for found in listed {
                while let Some(absent) = wanted.next_if(|next| *next < found) {
                    missing.push(absent);
                }
                wanted.next_if_eq(&found);
            }
            from = page.next;
            if from.is_none() {
                missing.extend(wanted.by_ref());
            }
        }
        missing.truncate(MOST_MISSING);
        Ok(missing)
    }
}
