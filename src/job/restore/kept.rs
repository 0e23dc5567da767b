//! Does recovery replay the WAL that stays in `pg_wal`? What it does not replay the server removes in time (promise S7).

use std::collections::BTreeSet;

use super::candidate::Candidate;
use super::error::Error;
use super::received::Rest;
use super::saved::extent;
use super::spot::Roots;
use super::unarchived::Held;
use super::wal::Reach;
use super::way::Way;
use crate::archive::Archive;
use crate::pg::extent::Extent;
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::store::Patience;

/// What recovery goes through.
pub(super) struct Recovering<'a> {
    pub archive: &'a Archive,
    pub backup: &'a Candidate,
    pub way: &'a Way,
    pub reach: &'a Reach,
    pub rest: Option<&'a Rest>,
    pub size: SegmentSize,
    pub patience: Patience,
}

impl Recovering<'_> {
    /// Looks at WAL that stays. `held` is what lies elsewhere and stays there, where no server looks. Returns what the operator
    /// should know: behind a hole in the last segment nothing is replayed.
    ///
    /// # Errors
    /// [`Error::KeptWalUnread`]: which of it is not replayed, and why; [`Error::Archive`].
    pub(super) async fn check(
        &self,
        roots: &Roots,
        kept: &[WalName],
        held: &[Held],
    ) -> Result<Option<String>, Error> {
        let path = |name: WalName| {
            roots
                .bases
                .path(&roots.bases.spot(format!("pg_wal/{name}").as_bytes()))
        };
        let unread = |name: WalName, reason: String| Error::KeptWalUnread {
            path: path(name),
            reason,
        };
        let mut segments = BTreeSet::new();
        for name in kept {
            match name {
                WalName::Segment(segment) => segments.insert(*segment),
                WalName::Partial(_) => return Err(unread(*name, self.elsewhere())),
                WalName::History(_) | WalName::Backup(..) => continue,
            };
        }
        for segment in &segments {
            if let Some(reason) = self.not_on_way(*segment) {
                return Err(unread(WalName::Segment(*segment), reason));
            }
        }
        let mut segments: Vec<SegmentName> = segments.into_iter().collect();
        segments.sort_by_key(|segment| segment.number(self.size));
        let Some(mut next) = self.reach.next.map(|next| next.number(self.size)) else {
            return Ok(None);
        };
        let mut holed: Option<(SegmentName, String)> = None;
        for segment in segments {
            let number = segment.number(self.size);
            // The archive leads past it; what it has of it is another version, or a newer backup's.
            if number < next {
                continue;
            }
            while next < number {
                let missing = self
                    .way
                    .segment(next, self.size)
                    .filter(|segment| !self.is_received(*segment));
                if let Some(missing) = missing
                    && !self.is_archived(missing).await?
                {
                    let reason = match holed.as_ref().filter(|(holed, _)| *holed == missing) {
                        Some((_, obstacle)) => format!("recovery ends before it, in {missing}: {obstacle}"),
                        None => hole(missing, held),
                    };
                    return Err(unread(WalName::Segment(segment), reason));
                }
                next += 1;
            }
            // What is shorter ends recovery, and is asked for once more; so does what has a hole in it.
            let extent = extent(roots, segment, self.size)?;
            match extent.obstacle() {
                Some(obstacle) => holed = Some((segment, obstacle)),
                None if extent == Extent::Whole => next = number + 1,
                None => {}
            }
        }
        let holed = holed.map(|(segment, obstacle)| {
            format!(
                "recovery ends in {}: {obstacle}. What was committed behind that does not come back.\n\
                 HINT: a standby, or a copy of pg_wal, may have that segment without the hole: put it there, and run this again",
                path(WalName::Segment(segment)).display()
            )
        });
        Ok(holed)
    }

    fn elsewhere(&self) -> String {
        format!(
            "recovery goes to timeline {} and does not replay it",
            self.way.timeline()
        )
    }

    /// Why recovery does not come there, whatever else there is.
    fn not_on_way(&self, segment: SegmentName) -> Option<String> {
        if !self.way.replays(segment, self.size) {
            return Some(self.elsewhere());
        }
        let (_, begin) = self.backup.summary.backup.start()?;
        let is_before = segment.number(self.size) < begin.0 / self.size.bytes();
        is_before.then(|| format!("recovery from backup {} begins behind it", self.backup.name))
    }

    /// Was all of it received?
    fn is_received(&self, segment: SegmentName) -> bool {
        let end = segment.start(self.size).0 + self.size.bytes();
        self.rest
            .is_some_and(|rest| rest.segment == segment && rest.end.0 == end)
    }

    async fn is_archived(&self, segment: SegmentName) -> Result<bool, Error> {
        // Up to the gap: the server is told that it ends there.
        if self.reach.gap == Some(segment) {
            return Ok(false);
        }
        let found = self
            .archive
            .wal_meta(WalName::Segment(segment), self.patience)
            .await?;
        Ok(found.is_some())
    }
}

fn hole(missing: SegmentName, held: &[Held]) -> String {
    let lies = held.iter().find(|held| held.segment == Some(missing));
    let lies = lies.map_or_else(String::new, |held| {
        format!(" (what may be it lies in {:?}, where no server looks)", held.path)
    });
    format!("recovery ends before it, at {missing}, of which neither the archive nor pg_wal has all{lies}")
}
