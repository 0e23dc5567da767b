//! Is a missing segment the end of its timeline, or a hole in it (promise R6)?
//!
//! PostgreSQL takes a missing segment for the end of the WAL. It is, if the archive has nothing later of that timeline, and
//! no timeline with WAL that left it behind the missing one: recovery of that one goes through here. It is no hole
//! either where the timeline had not begun yet, by its archived history: then an older one has the segment. In all other
//! cases something was lost, also in front of the first archived segment: recovery that ended there would forget what lies
//! behind. WAL is a segment as well as the beginning of one: a `.partial`, or what was received.

use std::time::{Duration, Instant};

use super::{Archive, Error};
use crate::pg::history;
use crate::pg::{SegmentName, Timeline, WalName};
use crate::store::Patience;

/// How long a hole may take to fill: two archivers may store in another order than they read.
const MOMENT: Duration = Duration::from_secs(3);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// What lies behind a segment that is not archived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// Nothing of its timeline; or the timeline begins later, and an older one has the segment.
    End,
    /// The segment itself: it has come meanwhile.
    Come,
    /// Others of its timeline, without it.
    Hole(Hole),
    /// A prune has removed it, or may be about to.
    Pruned(PrunedWal),
}

/// A missing segment that is not kept any more. Behind it nothing is left, but the WAL did not end there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{missing} is not kept in {place} any more: `walfs prune` has removed it, or is about to. Recovery stops here, and the \
     archive does not end here.\n\
     HINT: a backup from behind it recovers further (`walfs backup-list`); of the one that was restored `walfs restore \
     --immediate` brings the state at its end"
)]
pub struct PrunedWal {
    /// What is not kept.
    pub missing: SegmentName,
    /// The archive.
    pub place: String,
}

/// A missing segment with later ones of its timeline, or of one that left it later, in the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{missing} is missing in {place}, and the WAL goes on behind it, the next file that is there is {next}: a hole, not \
     the end of the archive. Recovery stops here, and can be started again.\n\
     HINT: look for {missing} in pg_wal of the server and of its standbys, and archive it; `walfs wal-verify` lists all \
     holes. To give up all that follows: `walfs restore --up-to-gap`"
)]
pub struct Hole {
    /// What is not archived.
    pub missing: SegmentName,
    /// The first file behind it that is there; of a segment that was received in part its `.partial`.
    pub next: WalName,
    /// The archive.
    pub place: String,
}

/// A timeline with WAL, and no history that says where it began.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is missing in {place}, and WAL of timeline {timeline} is there, the first file is {first}. PostgreSQL takes a \
     timeline without its history for one that does not exist, and ends recovery before it.\n\
     HINT: look for the file in pg_wal of the servers that are on that timeline or on a later one, and archive it",
    WalName::History(*timeline)
)]
pub struct LostHistory {
    /// The timeline.
    pub timeline: Timeline,
    /// Its first segment, or the beginning of it.
    pub first: WalName,
    /// The archive.
    pub place: String,
}

impl Archive {
    /// What lies behind a segment that the store has just said not to be there? Three listings of a few names, side by side, and
    /// that is all where nothing does, and nobody has pruned; otherwise histories are read.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn behind(&self, missing: SegmentName, patience: Patience) -> Result<Behind, Error> {
        let received = self.next_received(missing.timeline, Some(missing), patience);
        let (names, received, has_pruned) = futures::try_join!(
            self.names_behind(missing, patience),
            received,
            self.has_pruned(patience)
        )?;
        let next = match (names, received) {
            ((Some(next), _), _) if next == WalName::Segment(missing) => return Ok(Behind::Come),
            ((Some(next), _), _) => Some(next),
            ((None, _), Some(next)) => Some(WalName::Partial(next)),
            ((None, true), None) => self.next_of_child(missing, patience).await?,
            ((None, false), None) => None,
        };
        Ok(match next {
            Some(next) if !self.is_before_beginning(missing, patience).await? => Behind::Hole(Hole {
                missing,
                next,
                place: self.place(),
            }),
            _ if has_pruned && self.is_pruned(missing, patience).await? => Behind::Pruned(PrunedWal {
                missing,
                place: self.place(),
            }),
            _ => Behind::End,
        })
    }

    async fn is_pruned(&self, missing: SegmentName, patience: Patience) -> Result<bool, Error> {
        let Some(cluster) = self.cluster_of_wal(patience).await? else {
            return Ok(false);
        };
        let missing = [missing];
        let pruned = self.pruned_of(&missing, cluster.segment_size, patience);
        Ok(pruned.await?.is_some())
    }

    /// The first segment of its timeline from this one on, or the first `.partial` behind it; without one, whether there is
    /// anything of later timelines.
    async fn names_behind(
        &self,
        missing: SegmentName,
        patience: Patience,
    ) -> Result<(Option<WalName>, bool), Error> {
        // Just before the segment's own key.
        let mut after = format!("wal/{missing}");
        loop {
            let page = self.store.list("wal/", Some(&after), 16, patience).await?;
            for name in page.entries.iter().filter_map(|(key, _)| self.wal_name(key)) {
                match name {
                    WalName::Segment(next) if next.timeline == missing.timeline => {
                        return Ok((Some(name), false));
                    }
                    // That of the missing one is where its timeline ends.
                    WalName::Partial(next) if next.timeline == missing.timeline && next != missing => {
                        return Ok((Some(name), false));
                    }
                    later if later.timeline() > missing.timeline => return Ok((None, true)),
                    _ => {}
                }
            }
            match page.entries.last() {
                Some((last, _)) if page.more => last.as_str().clone_into(&mut after),
                _ => return Ok((None, false)),
            }
        }
    }

    /// The first WAL of a timeline that left this one behind the missing segment.
    async fn next_of_child(
        &self,
        missing: SegmentName,
        patience: Patience,
    ) -> Result<Option<WalName>, Error> {
        let Some(cluster) = self.cluster_of_wal(patience).await? else {
            return Ok(None);
        };
        let size = cluster.segment_size;
        for child in self.children_of(missing.timeline, patience).await? {
            if child.left_at.0 / size.bytes() <= missing.number(size) {
                continue;
            }
            if let Some(next) = self.first_wal(child.timeline, patience).await? {
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    /// The same, but a hole is looked at again: for some seconds, and for as long as `is_coming` says that it is about to be
    /// filled.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn settled_behind(
        &self,
        missing: SegmentName,
        is_coming: impl Fn() -> bool + Send,
        patience: Patience,
    ) -> Result<Behind, Error> {
        let began = Instant::now();
        loop {
            let behind = self.behind(missing, patience).await?;
            // What is known must be said before the asker's time is over.
            let is_late = matches!(patience, Patience::Until(end) if Instant::now() + 2 * PAUSE > end);
            let waits = !is_late && (began.elapsed() < MOMENT || is_coming());
            if !waits || !matches!(behind, Behind::Hole(_)) {
                return Ok(behind);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The first segment of a timeline, or the beginning of one.
    async fn first_wal(&self, timeline: Timeline, patience: Patience) -> Result<Option<WalName>, Error> {
        let received = self.next_received(timeline, None, patience);
        let (archived, received) = futures::try_join!(self.first_archived(timeline, patience), received)?;
        let received = received.map(WalName::Partial);
        Ok(archived.into_iter().chain(received).min())
    }

    async fn first_archived(&self, timeline: Timeline, patience: Patience) -> Result<Option<WalName>, Error> {
        let (prefix, mut after) = (format!("wal/{:08X}", timeline.0), None);
        loop {
            let page = self.store.list(&prefix, after.as_deref(), 16, patience).await?;
            let mut names = page.entries.iter().filter_map(|(key, _)| self.wal_name(key));
            let found = names.find(|name| name.has_pages());
            match page.entries.last() {
                Some((last, _)) if found.is_none() && page.more => after = Some(last.as_str().to_owned()),
                _ => return Ok(found),
            }
        }
    }

    /// Had the timeline not begun with this segment, as its archived history says? A damaged history says nothing.
    async fn is_before_beginning(&self, segment: SegmentName, patience: Patience) -> Result<bool, Error> {
        // It has none.
        if segment.timeline == Timeline(1) {
            return Ok(false);
        }
        let text = match self
            .read_small(WalName::History(segment.timeline), patience)
            .await
        {
            Err(Error::Damaged { .. }) => return Ok(false),
            text => text?,
        };
        let entries = text.and_then(|text| history::parse(&text, segment.timeline).ok());
        let (Some(entries), Some(cluster)) = (entries, self.cluster_of_wal(patience).await?) else {
            return Ok(false);
        };
        let size = cluster.segment_size;
        let began = entries.last().map(|parent| parent.end.0 / size.bytes());
        Ok(began.is_some_and(|began| segment.number(size) < began))
    }

    /// Has the archive segments of a timeline whose history the store has just said not to be there? None of the oldest
    /// timeline: there the archive began, and recovery needs no history.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn lost_history(
        &self,
        timeline: Timeline,
        patience: Patience,
    ) -> Result<Option<LostHistory>, Error> {
        if timeline == Timeline(1) {
            return Ok(None);
        }
        let Some(first) = self.first_wal(timeline, patience).await? else {
            return Ok(None);
        };
        let oldest = self.store.list("wal/", None, 1, patience).await?;
        let oldest = oldest.entries.first().and_then(|(key, _)| self.wal_name(key));
        let is_later = oldest.is_some_and(|oldest| oldest.timeline() < timeline);
        Ok(is_later.then(|| LostHistory {
            timeline,
            first,
            place: self.place(),
        }))
    }
}
