//! Does a `.history` or `.backup` file fit what is archived (promise W5, B12)?
//!
//! Neither says of which cluster it is, and PostgreSQL follows the newest history that it finds. What contradicts the
//! archive for certain is refused; of what only looks odd (an archive may have begun later than its cluster) the log tells.
//! A timeline that goes on after another one has left it, is a fork: two servers write, and recovery follows the newer.

use super::{Archive, Error, Found};
use crate::pg::backup_history::BackupHistory;
use crate::pg::history::{self, HistoryEntry};
use crate::pg::record::{self, Window};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, Timeline, WalName};
use crate::store::Patience;

/// Timelines that are looked at, at most, for what they say of an older one.
const TIMELINES: usize = 64;

/// The first look at a record; most end in its page.
const LOOK_BYTES: u64 = 1 << 20;

/// A timeline that has left another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// The timeline.
    pub timeline: Timeline,
    /// Where: the first byte that is its own.
    pub left_at: Lsn,
}

/// Two timelines that both went on from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The older one.
    pub parent: Timeline,
    /// The one that left it.
    pub child: Timeline,
    /// Where.
    pub at: Lsn,
    /// An archived segment of the older one that lies behind that.
    pub beyond: SegmentName,
}

impl std::fmt::Display for Fork {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            parent,
            child,
            at,
            beyond,
        } = self;
        write!(
            out,
            "timeline {child} left timeline {parent} at {at}, and timeline {parent} goes on: {beyond} is archived. \
             Recovery follows timeline {child}, and what only timeline {parent} has is not in it.\n\
             HINT: of two servers one archives here that should not, perhaps a restored copy: stop it, or give it a \
             prefix of its own; to recover timeline {parent}, name it: `walfs restore --target-timeline {parent}`"
        )
    }
}

/// What is odd about a file that is accepted all the same, and a fork that it shows.
#[derive(Debug, Clone, Default)]
pub struct Lineage {
    /// For the log.
    pub doubts: Vec<String>,
    /// See [`Fork`].
    pub fork: Option<Fork>,
}

impl Archive {
    /// Does the history of timeline `own` fit what is archived?
    ///
    /// # Errors
    /// [`Error::Text`]: it contradicts the archived history of an ancestor, or archived segments of its own
    /// timeline. [`Error::Store`].
    pub async fn check_history(
        &self,
        own: Timeline,
        entries: &[HistoryEntry],
        patience: Patience,
    ) -> Result<Lineage, Error> {
        let refused = |reason| Error::Text {
            name: WalName::History(own),
            reason: format!(
                "{reason}\nHINT: it is the history of another cluster or of another branch, or was made by hand; \
                 archive another cluster to a prefix of its own"
            ),
        };
        let (Some(parent), Some(cluster)) = (entries.last(), self.cluster_of_wal(patience).await?) else {
            return Ok(Lineage::default());
        };
        let size = cluster.segment_size;
        let left_at = segment_of(parent.timeline, parent.end, size);
        let (ancestors, own_first, parent_first, beyond) = futures::try_join!(
            self.contradicted_ancestor(entries, patience),
            self.segment_from(own, None, patience),
            self.segment_from(parent.timeline, None, patience),
            self.segment_from(parent.timeline, left_at, patience),
        )?;
        if let Some(reason) = ancestors.or_else(|| began_before(own, own_first, parent, size)) {
            return Err(refused(reason));
        }
        let child = Child {
            timeline: own,
            left_at: parent.end,
        };
        let mut fork = None;
        if let Some(beyond) = beyond {
            fork = self.fork(child, beyond, patience).await?;
            // In that one it may have ended.
            let next = SegmentName::from_number(parent.timeline, beyond.number(size) + 1, size);
            if let (None, Some(next)) = (fork, next)
                && let Some(later) = self.segment_from(parent.timeline, Some(next), patience).await?
            {
                fork = self.fork(child, later, patience).await?;
            }
        }
        let doubts = match parent_first {
            Some(_) => Vec::new(),
            None => vec![format!(
                "timeline {own} left timeline {} at {}, of which nothing is archived here",
                parent.timeline, parent.end
            )],
        };
        Ok(Lineage { doubts, fork })
    }

    /// Does an archived history of an ancestor say something else?
    async fn contradicted_ancestor(
        &self,
        entries: &[HistoryEntry],
        patience: Patience,
    ) -> Result<Option<String>, Error> {
        for (earlier, entry) in entries.iter().enumerate().skip(1) {
            let name = WalName::History(entry.timeline);
            let Some(text) = self.read_small(name, patience).await? else {
                continue;
            };
            // What is archived was parsed before; a damaged one is no evidence.
            let Ok(archived) = history::parse(&text, entry.timeline) else {
                continue;
            };
            let places = |entries: &[HistoryEntry]| -> Vec<(Timeline, Lsn)> {
                entries.iter().map(|entry| (entry.timeline, entry.end)).collect()
            };
            let (said, archived) = (places(&entries[..earlier]), places(&archived));
            if said != archived {
                let told = |places: &[(Timeline, Lsn)]| {
                    let places = places
                        .iter()
                        .map(|(timeline, end)| format!("timeline {timeline} until {end}"));
                    places.collect::<Vec<_>>().join(", ")
                };
                return Ok(Some(format!(
                    "before timeline {} it states {}, but the archived {name} states {}",
                    entry.timeline,
                    told(&said),
                    told(&archived)
                )));
            }
        }
        Ok(None)
    }

    /// The first archived segment of a timeline, from this one on if it is given.
    pub(super) async fn segment_from(
        &self,
        timeline: Timeline,
        from: Option<SegmentName>,
        patience: Patience,
    ) -> Result<Option<SegmentName>, Error> {
        // Just before the segment's own key, or before the first one of the timeline.
        let mut after = match from {
            Some(segment) => format!("wal/{segment}"),
            None => format!("wal/{:08X}0", timeline.0),
        };
        let prefix = format!("wal/{:08X}", timeline.0);
        loop {
            // What is no whole segment (`.partial`, `.backup`) lies between: a handful of names is mostly enough to meet one.
            let page = self.store.list(&prefix, Some(&after), 16, patience).await?;
            let mut names = page.entries.iter().filter_map(|(key, _)| self.wal_name(key));
            let found = names.find_map(|name| match name {
                WalName::Segment(segment) => Some(segment),
                _ => None,
            });
            match page.entries.last() {
                Some((last, _)) if found.is_none() && page.more => last.as_str().clone_into(&mut after),
                _ => return Ok(found),
            }
        }
    }

    /// Which archived timelines have left this one, and where.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn children_of(&self, parent: Timeline, patience: Patience) -> Result<Vec<Child>, Error> {
        let mut children = Vec::new();
        let mut timeline = parent;
        for _ in 0..TIMELINES {
            let after = format!("wal/{:08X}~", timeline.0);
            let page = self.store.list("wal/", Some(&after), 1, patience).await?;
            let next = page.entries.first().and_then(|(key, _)| self.wal_name(key));
            let Some(next) = next.map(WalName::timeline) else {
                break;
            };
            timeline = next;
            let Some(text) = self.read_small(WalName::History(next), patience).await? else {
                continue;
            };
            let Ok(entries) = history::parse(&text, next) else {
                continue;
            };
            let left = entries.into_iter().find(|entry| entry.timeline == parent);
            children.extend(left.map(|left| Child {
                timeline: next,
                left_at: left.end,
            }));
        }
        Ok(children)
    }

    /// The fork that an archived segment of the parent shows, if it has WAL behind the place where the child left: in the
    /// segment of that place a whole record. One that runs on into a segment that is not there is none: there recovery ends.
    ///
    /// # Errors
    /// [`Error::Store`]. What is damaged may go on.
    pub async fn fork(
        &self,
        child: Child,
        segment: SegmentName,
        patience: Patience,
    ) -> Result<Option<Fork>, Error> {
        let Some(size) = self.known_cluster().map(|cluster| cluster.segment_size) else {
            return Ok(None);
        };
        let (start, at) = (segment.start(size).0, child.left_at.0);
        let goes_on = match () {
            () if start.saturating_add(size.bytes()) <= at => false,
            () if start >= at => true,
            () => match self.has_record(segment, child.left_at, size, patience).await {
                Err(Error::Damaged { .. }) => true,
                found => found?,
            },
        };
        Ok(goes_on.then_some(Fork {
            parent: segment.timeline,
            child: child.timeline,
            at: child.left_at,
            beyond: segment,
        }))
    }

    /// Does a record begin at this place of an archived segment, and end in the segment? What is no WAL that is known may.
    async fn has_record(
        &self,
        segment: SegmentName,
        at: Lsn,
        size: SegmentSize,
        patience: Patience,
    ) -> Result<bool, Error> {
        let name = WalName::Segment(segment);
        let Found::Archived(table) = self.look(name, patience).await? else {
            return Ok(false);
        };
        let first = 0..PageHeader::BYTES as u64;
        let first = self.unpacked(name, &table, first, patience).await?;
        let Ok(header) = PageHeader::parse(&first) else {
            return Ok(true);
        };
        let offset = at.0 - segment.start(size).0;
        let page = offset - offset % u64::from(header.block_bytes);
        let begin = Lsn(segment.start(size).0 + page);
        let mut bytes = LOOK_BYTES;
        loop {
            let end = size.bytes().min(page + bytes);
            let piece = self.unpacked(name, &table, page..end, patience).await?;
            match Window::new(&header, begin, &piece).record_at(at) {
                record::Found::Record(_) => return Ok(true),
                record::Found::Beyond if end < size.bytes() => bytes *= 16,
                record::Found::Beyond | record::Found::Nothing => return Ok(false),
            }
        }
    }

    /// Does the history of a backup fit what is archived?
    ///
    /// # Errors
    /// [`Error::Text`]: its positions are not in the segments that it names, of the size that this archive's have.
    /// [`Error::Store`].
    pub async fn check_backup(
        &self,
        name: WalName,
        backup: &BackupHistory,
        patience: Patience,
    ) -> Result<Lineage, Error> {
        let Some(cluster) = self.cluster_of_wal(patience).await? else {
            return Ok(Lineage::default());
        };
        if let Some(reason) = misplaced(backup, cluster.segment_size) {
            return Err(Error::Text {
                name,
                reason: format!(
                    "{reason}\nHINT: it is of another cluster; archive that to a prefix of its own"
                ),
            });
        }
        let first = self
            .segment_from(backup.start_file.timeline, Some(backup.start_file), patience)
            .await?;
        let doubts = match first {
            Some(first) if first == backup.start_file => Vec::new(),
            _ => vec![format!(
                "the backup begins in {}, which is not archived here",
                backup.start_file
            )],
        };
        Ok(Lineage { doubts, fork: None })
    }
}

/// A timeline has no segments from before it left its parent.
fn began_before(
    own: Timeline,
    first: Option<SegmentName>,
    parent: &HistoryEntry,
    size: SegmentSize,
) -> Option<String> {
    let first = first.filter(|first| first.start(size).0 + size.bytes() <= parent.end.0)?;
    Some(format!(
        "it states that timeline {own} left timeline {} at {}, but {first}, which lies before that, is archived",
        parent.timeline, parent.end
    ))
}

fn segment_of(timeline: Timeline, position: Lsn, size: SegmentSize) -> Option<SegmentName> {
    SegmentName::from_number(timeline, position.0 / size.bytes(), size)
}

fn misplaced(backup: &BackupHistory, size: SegmentSize) -> Option<String> {
    // At the end of a segment the position may be that of the next one (`XLByteToPrevSeg`).
    let places = [
        ("starts", backup.start_lsn, backup.start_file),
        ("stops", backup.stop_lsn, backup.stop_file),
    ];
    let wrong = places.into_iter().find(|(_, lsn, file)| {
        let start = file.start(size).0;
        !file.valid_for(size) || !(start..=start + size.bytes()).contains(&lsn.0)
    });
    let (verb, lsn, file) = wrong?;
    Some(format!(
        "it states that the backup {verb} at {lsn} in {file}, but with segments of {size} that position is not there"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn entry(timeline: u32, end: u64) -> HistoryEntry {
        HistoryEntry {
            timeline: Timeline(timeline),
            end: Lsn(end),
            reason: String::new(),
        }
    }

    fn segment(timeline: u32, number: u64) -> SegmentName {
        SegmentName::from_number(Timeline(timeline), number, SegmentSize::new(SIZE).unwrap()).unwrap()
    }

    #[test]
    fn a_timeline_begins_where_it_left_its_parent() {
        let size = SegmentSize::new(SIZE).unwrap();
        let left = entry(1, 3 * SIZE + 100);
        for (first, fits) in [(2, false), (3, true), (9, true)] {
            let found = began_before(Timeline(2), Some(segment(2, first)), &left, size);
            assert_eq!(found.is_none(), fits, "{found:?}");
        }
        assert_eq!(
            began_before(Timeline(2), Some(segment(2, 2)), &entry(1, 2 * SIZE), size),
            None
        );
    }
}
