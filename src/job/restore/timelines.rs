//! Which timelines the archive has: their histories, and whether there is WAL of them.
//!
//! A history file alone proves nothing: anybody who archives can bring one. A timeline is followed without being asked for
//! only if there is WAL of it, and if that does not contradict what its history says. What is not followed is named. What
//! was received of a segment, or archived of it as `.partial`, is WAL of its timeline: commits were acknowledged for it.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::way::Way;
use crate::archive::wal::WalCursor;
use crate::archive::{self, Archive};
use crate::pg::history::{self, HistoryEntry};
use crate::pg::{SegmentName, SegmentSize, Timeline, WalName};
use crate::store::Patience;

/// Histories read at once.
const READS: usize = 8;

/// All that the archive has.
#[derive(Debug, Clone, Default)]
pub(in crate::job) struct Timelines {
    known: BTreeMap<Timeline, Known>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    history: History,
    /// The first segment that is archived, as a whole or as `.partial`, or of which something was received.
    first: Option<SegmentName>,
}

#[derive(Debug, Clone, Default)]
enum History {
    #[default]
    Missing,
    /// It is archived, and not yet read.
    Unread,
    Ancestors(Vec<HistoryEntry>),
    /// It says what cannot be: why.
    Wrong(String),
    /// It cannot be read: why. A server that asks for it stops.
    Damaged(String),
}

impl Timelines {
    /// Looks for all of them, at the cost of a request or two for each.
    ///
    /// # Errors
    /// [`archive::Error`], if the store did not answer. A damaged history is a finding, not an error.
    pub(in crate::job) async fn find(archive: &Archive, patience: Patience) -> Result<Self, archive::Error> {
        let (mut known, received) =
            futures::try_join!(names(archive, patience), archive.first_received(patience))?;
        for (timeline, received) in received {
            let first = &mut known.entry(timeline).or_default().first;
            *first = Some(first.map_or(received, |first| first.min(received)));
        }
        let unread: Vec<Timeline> = known
            .iter()
            .filter(|(_, known)| matches!(known.history, History::Unread))
            .map(|(timeline, _)| *timeline)
            .collect();
        let read = |timeline| async move {
            let history = read(archive, timeline, patience).await?;
            Ok::<_, archive::Error>((timeline, history))
        };
        let reads = stream::iter(unread).map(read).buffered(READS);
        let histories: Vec<(Timeline, History)> = reads.try_collect().await?;
        for (timeline, history) in histories {
            known.entry(timeline).or_default().history = history;
        }
        let mut found = Self { known };
        if let Some(cluster) = archive.cluster_of_wal(patience).await? {
            found.refuse_contradicted(cluster.segment_size);
        }
        Ok(found)
    }

    /// A timeline has no WAL from before it began.
    fn refuse_contradicted(&mut self, size: SegmentSize) {
        for known in self.known.values_mut() {
            let (History::Ancestors(ancestors), Some(first)) = (&known.history, known.first) else {
                continue;
            };
            if let Some(parent) = ancestors.last()
                && first.number(size) < parent.end.0 / size.bytes()
            {
                let reason = format!(
                    "it says that the timeline began at {}, but the archive has {first}, which lies before",
                    parent.end
                );
                known.history = History::Wrong(reason);
            }
        }
    }

    /// The way to a timeline, if the archive has its history, or if it needs none.
    pub(in crate::job) fn way(&self, timeline: Timeline, needs_none: bool) -> Option<Way> {
        match self.known.get(&timeline).map(|known| &known.history) {
            Some(History::Ancestors(ancestors)) => Some(Way::new(timeline, ancestors)),
            _ if needs_none || timeline == Timeline(1) => Some(Way::new(timeline, &[])),
            _ => None,
        }
    }

    /// Those that are followed without being asked for, ascending.
    pub(in crate::job) fn followed(&self) -> impl Iterator<Item = Way> {
        let with_wal = self.known.iter().filter(|(_, known)| known.first.is_some());
        with_wal.filter_map(|(timeline, _)| self.way(*timeline, false))
    }

    /// Those that have WAL, ascending.
    pub(in crate::job) fn with_wal(&self) -> impl Iterator<Item = Timeline> {
        let with_wal = self.known.iter().filter(|(_, known)| known.first.is_some());
        with_wal.map(|(timeline, _)| *timeline)
    }

    /// Would PostgreSQL find the history of this timeline?
    pub(in crate::job) fn has_history(&self, timeline: Timeline) -> bool {
        let known = self.known.get(&timeline);
        known.is_some_and(|known| !matches!(known.history, History::Missing))
    }

    /// What PostgreSQL takes for the latest: the last of those whose histories follow each other without a gap in their
    /// numbers (`findNewestTimeLine` of timeline.c).
    pub(in crate::job) fn latest_of_postgresql(&self, from: Timeline) -> Timeline {
        let numbers = (from.0.saturating_add(1)..).map(Timeline);
        let found = numbers.take_while(|timeline| self.has_history(*timeline)).last();
        found.unwrap_or(from)
    }

    /// The first timeline after `own` that the archive has WAL of and no history, so that nobody can follow it; not one that
    /// the chosen way goes through.
    pub(super) fn lost(&self, own: Timeline, chosen: &Way) -> Option<(Timeline, SegmentName)> {
        let later = self.known.range(own..).filter(|(timeline, _)| **timeline > own);
        let mut lost = later.filter(|(timeline, known)| {
            matches!(known.history, History::Missing)
                && **timeline != chosen.timeline()
                && chosen.leaves(**timeline).is_none()
        });
        lost.find_map(|(timeline, known)| Some((*timeline, known.first?)))
    }

    /// The first history from that of this timeline on that cannot be read, and why. A server that recovers along a timeline
    /// asks for its history, and then which newer ones there are: it stops there.
    pub(in crate::job) fn damaged(&self, from: Timeline) -> Option<(Timeline, &str)> {
        let later = self.known.range(from..);
        later
            .filter_map(|(timeline, known)| match &known.history {
                History::Damaged(reason) => Some((*timeline, reason.as_str())),
                _ => None,
            })
            .next()
    }

    /// Names the timelines after `own` that are not followed, and why; not the one that was chosen.
    pub(in crate::job) fn passed_over(&self, own: Timeline, chosen: Timeline) -> Vec<String> {
        let later = self
            .known
            .range(own..)
            .filter(|(timeline, _)| ![own, chosen].contains(timeline));
        later
            .filter_map(|(timeline, known)| Some((timeline, known.not_followed(*timeline)?)))
            .map(|(timeline, reason)| {
                format!(
                    "timeline {timeline} is not followed: {reason}.\n\
                     HINT: if it is this cluster's, --target-timeline {timeline} follows it"
                )
            })
            .collect()
    }
}

impl Known {
    fn not_followed(&self, timeline: Timeline) -> Option<String> {
        let file = WalName::History(timeline);
        match (&self.history, self.first) {
            (History::Missing, Some(first)) if timeline != Timeline(1) => Some(format!(
                "the archive has {first} and perhaps more of it, but not {file}, which says where it began"
            )),
            (History::Wrong(reason) | History::Damaged(reason), _) => {
                Some(format!("{file} is of no use: {reason}"))
            }
            (History::Ancestors(_), None) => Some(format!("{file} is archived, but no segment of it")),
            _ => None,
        }
    }
}

/// Lists the beginning of each timeline only.
async fn names(archive: &Archive, patience: Patience) -> Result<BTreeMap<Timeline, Known>, archive::Error> {
    let mut found: BTreeMap<Timeline, Known> = BTreeMap::new();
    let mut cursor = Some(WalCursor::before_timeline(Timeline(0)));
    while let Some(at) = cursor {
        let page = archive.list_wal(Some(&at), patience).await?;
        for (name, _) in &page.entries {
            let known = found.entry(name.timeline()).or_default();
            match name {
                WalName::History(_) => known.history = History::Unread,
                WalName::Segment(segment) | WalName::Partial(segment) => {
                    known.first.get_or_insert(*segment);
                }
                WalName::Backup(..) => {}
            }
        }
        let last = page.entries.last().map(|(name, _)| name.timeline());
        let seen = last.filter(|last| found.get(last).is_some_and(|known| known.first.is_some()));
        let next = seen.and_then(|last| last.0.checked_add(1)).map(Timeline);
        cursor = match (page.next, next) {
            (Some(_), Some(next)) => Some(WalCursor::before_timeline(next)),
            (more, _) => more,
        };
    }
    Ok(found)
}

async fn read(archive: &Archive, timeline: Timeline, patience: Patience) -> Result<History, archive::Error> {
    match archive.read_small(WalName::History(timeline), patience).await {
        Ok(None) => Ok(History::Missing),
        Ok(Some(text)) => Ok(match history::parse(&text, timeline) {
            Ok(ancestors) => History::Ancestors(ancestors),
            Err(error) => History::Wrong(error.to_string()),
        }),
        Err(error @ archive::Error::Damaged { .. }) => Ok(History::Damaged(first_line(&error))),
        Err(error) => Err(error),
    }
}

/// The HINT is another one.
fn first_line(error: &archive::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
