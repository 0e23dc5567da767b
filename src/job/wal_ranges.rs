//! The archived WAL as unbroken ranges: what is there, what is missing in between, and what should not be there.
//!
//! Only ranges are kept, so a million segments need no more memory than ten. What should be there is told by the segments
//! themselves and by the histories: on each timeline all from its beginning, or from where the archive begins, up to its
//! last segment or the beginning of one, received or archived as `.partial`, and up to where the last one left it that has
//! WAL.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::progress::{Phase, Progress};
use super::restore::wal::Lack;
use super::runs::{Run, Span, both, push, without};
use crate::archive::prune::WalSpan;
use crate::archive::{Archive, Error};
use crate::pg::history::{self, HistoryEntry};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalName};
use crate::store::Patience;

/// All archived WAL.
#[derive(Debug, Clone, Default)]
pub struct WalRanges {
    /// Of all segments; `None` as long as none was archived.
    pub segment_size: Option<SegmentSize>,
    /// Ascending.
    pub timelines: Vec<TimelineRanges>,
}

/// What there is of one timeline.
#[derive(Debug, Clone)]
pub struct TimelineRanges {
    /// Its number.
    pub timeline: Timeline,
    /// Where it began, as far as that is known.
    pub beginning: Beginning,
    /// Segments that follow each other, ascending.
    pub runs: Vec<Run>,
    /// Numbers of missing segments, both ends included, ascending.
    pub holes: Vec<(u64, u64)>,
    /// Numbers of segments that a prune has removed, both ends included, ascending.
    pub pruned: Vec<(u64, u64)>,
    /// Segments from before it began, which cannot be: numbers, both ends included.
    pub before_beginning: Option<(u64, u64)>,
    /// The number of the last segment of which only the beginning is there.
    pub begun: Option<u64>,
    /// Segments that are not what they must be, the first few of each kind: by number, and why.
    pub wrong: Vec<(u64, String)>,
    /// Timelines that left it while it goes on: which, where, and how many segments lie behind that.
    pub left_behind: Vec<(Timeline, Lsn, u64)>,
}

/// Where a timeline began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// With the cluster (timeline 1), or before the archive did, which has no history of it and nothing older.
    First,
    /// It left this one there.
    Left(Timeline, Lsn),
    /// Nothing says so: the archive has older timelines, and not its history.
    Lost,
    /// Its history is of no use: why.
    Wrong(String),
    /// Its history cannot be read: why. A server that asks for it stops.
    Damaged(String),
}

impl TimelineRanges {
    /// Is something wrong with it? That a timeline goes on where another one left it is not.
    pub fn is_broken(&self) -> bool {
        let is_told = matches!(self.beginning, Beginning::First | Beginning::Left(..));
        !is_told || !self.holes.is_empty() || !self.wrong.is_empty() || self.before_beginning.is_some()
    }

    /// How many segments there are.
    pub fn segments(&self) -> u64 {
        self.runs.iter().map(Run::segments).sum()
    }
}

impl WalRanges {
    /// Of these spans what is not archived.
    pub fn without(&self, spans: &[WalSpan], size: SegmentSize) -> Vec<WalSpan> {
        let own = |span: &WalSpan| {
            let (timeline, numbers) = span.numbers(size)?;
            let own = self.timelines.iter().find(|own| own.timeline == timeline);
            let there: Vec<Span> = own.map_or_else(Vec::new, |own| {
                own.runs.iter().map(|run| (run.first, run.last)).collect()
            });
            Some((timeline, without(numbers, &there)))
        };
        let rest = spans.iter().filter_map(own);
        rest.flat_map(|(timeline, rest)| {
            rest.into_iter()
                .filter_map(move |span| WalSpan::new(timeline, span, size))
        })
        .collect()
    }

    /// Of these spans, which were pruned elsewhere, what was never here: nothing older is kept, or nothing of the span. What is
    /// not there otherwise was lost, or came too late.
    pub fn never_had(&self, spans: &[WalSpan], size: SegmentSize) -> Vec<WalSpan> {
        let begin = self.timelines.iter().filter_map(|own| own.runs.first());
        let begin = begin.map(|run| run.first).min();
        let is_whole = |rest: &WalSpan| spans.contains(rest);
        let is_before = |rest: &WalSpan| {
            let numbers = rest.numbers(size);
            numbers.is_some_and(|(_, (first, _))| begin.is_none_or(|begin| first < begin))
        };
        let mut rest = self.without(spans, size);
        rest.retain(|rest| is_before(rest) || is_whole(rest));
        rest
    }

    /// The name of a segment of a timeline.
    pub fn name(&self, timeline: Timeline, number: u64) -> Option<SegmentName> {
        SegmentName::from_number(timeline, number, self.segment_size?)
    }
}

/// What the listing and the histories say of one timeline.
#[derive(Debug)]
struct Found {
    runs: Vec<Run>,
    /// The last number of which there is not all.
    begun: Option<u64>,
    wrong: Vec<(u64, String)>,
    has_history: bool,
    /// None without a history; where it began as far as that is known, if it is of no use.
    ancestors: Result<Vec<HistoryEntry>, Beginning>,
}

impl Default for Found {
    fn default() -> Self {
        Self {
            runs: Vec::new(),
            begun: None,
            wrong: Vec::new(),
            has_history: false,
            ancestors: Ok(Vec::new()),
        }
    }
}

/// Segments that are told by name.
const MOST_WRONG: usize = 1000;

impl Found {
    fn has_wal(&self) -> bool {
        !self.runs.is_empty() || self.begun.is_some()
    }

    fn has(&self, number: u64) -> bool {
        self.runs
            .iter()
            .any(|run| (run.first..=run.last).contains(&number))
    }

    fn is_wrong(&mut self, number: u64, why: String) {
        if self.wrong.len() < MOST_WRONG {
            self.wrong.push((number, why));
        }
    }
}

/// Lists all WAL, and reads the histories. `progress` is told of segments.
///
/// # Errors
/// [`Error::Store`]. A damaged history is a finding, not an error.
pub async fn wal_ranges(
    archive: &Archive,
    progress: &Arc<dyn Progress>,
    patience: impl Fn() -> Patience,
) -> Result<WalRanges, Error> {
    progress.phase(Phase::Listing);
    let Some(cluster) = archive.cluster_of_wal(patience()).await? else {
        return Ok(WalRanges::default());
    };
    let size = cluster.segment_size;
    let mut found: BTreeMap<Timeline, Found> = BTreeMap::new();
    let mut pages = archive.wal_pages(None, size, &patience);
    while let Some(entries) = pages.next().await? {
        for (name, meta) in &entries {
            match name {
                // A listing shows a damaged one so.
                WalName::Segment(segment) if meta.bytes == 0 => {
                    let found = found.entry(segment.timeline).or_default();
                    found.is_wrong(segment.number(size), Lack::Cut(meta.stored_bytes).of(*segment));
                }
                WalName::Segment(segment) => {
                    let found = found.entry(segment.timeline).or_default();
                    push(&mut found.runs, segment.number(size), meta.modified);
                }
                WalName::History(timeline) => found.entry(*timeline).or_default().has_history = true,
                WalName::Partial(segment) => {
                    let begun = &mut found.entry(segment.timeline).or_default().begun;
                    *begun = (*begun).max(Some(segment.number(size)));
                }
                WalName::Backup(..) => {}
            }
        }
        progress.advance(entries.len() as u64);
    }
    for (segment, torn) in archive.received_segments(patience()).await? {
        let (found, number) = (found.entry(segment.timeline).or_default(), segment.number(size));
        if !found.has(number) {
            found.begun = found.begun.max(Some(number));
            if let Some(torn) = torn {
                found.is_wrong(number, Lack::Torn(torn).of(segment));
            }
        }
    }
    for (timeline, found) in found.iter_mut().filter(|(_, found)| found.has_history) {
        found.ancestors = read(archive, *timeline, patience()).await?;
    }
    let mut timelines = judge(&found, size);
    let mut removed = archive.removed_wal(patience()).await?;
    removed.add(vec![], size);
    for own in &mut timelines {
        let spans = removed.wal.iter().filter_map(|span| span.numbers(size));
        let spans: Vec<(u64, u64)> = spans
            .filter(|(timeline, _)| *timeline == own.timeline)
            .map(|(_, numbers)| numbers)
            .collect();
        own.pruned = both(&own.holes, &spans);
        own.holes = own.holes.iter().flat_map(|hole| without(*hole, &spans)).collect();
    }
    Ok(WalRanges {
        segment_size: Some(size),
        timelines,
    })
}

async fn read(
    archive: &Archive,
    timeline: Timeline,
    patience: Patience,
) -> Result<Result<Vec<HistoryEntry>, Beginning>, Error> {
    match archive.read_small(WalName::History(timeline), patience).await {
        Ok(text) => Ok(history::parse(&text.unwrap_or_default(), timeline)
            .map_err(|error| Beginning::Wrong(error.to_string()))),
        Err(error @ Error::Damaged { .. }) => Ok(Err(Beginning::Damaged(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// Which numbers of which timelines should be there, from the first to before the last, by the histories of those that have
/// segments.
fn needed(found: &BTreeMap<Timeline, Found>, size: SegmentSize) -> BTreeMap<Timeline, (u64, u64)> {
    let mut needed: BTreeMap<Timeline, (u64, u64)> = BTreeMap::new();
    for found in found.values().filter(|found| found.has_wal()) {
        let mut begin = 0;
        for entry in found.ancestors.iter().flatten() {
            let end = entry.end.0 / size.bytes();
            let known = needed.entry(entry.timeline).or_insert((begin, end));
            known.1 = known.1.max(end);
            begin = end;
        }
    }
    needed
}

fn judge(found: &BTreeMap<Timeline, Found>, size: SegmentSize) -> Vec<TimelineRanges> {
    let needed = needed(found, size);
    let with_segments = || found.iter().filter(|(_, found)| found.has_wal());
    let Some((&oldest, _)) = with_segments().next() else {
        return Vec::new();
    };
    let nothing = Found::default();
    let lacking = needed.keys().filter(|timeline| **timeline > oldest);
    let mut timelines: Vec<Timeline> = with_segments()
        .map(|(timeline, _)| *timeline)
        .chain(lacking.copied())
        .collect();
    timelines.sort_unstable();
    timelines.dedup();
    let judged = timelines.into_iter().map(|timeline| {
        let own = found.get(&timeline).unwrap_or(&nothing);
        let beginning = match (&own.ancestors, own.has_history) {
            (Err(beginning), _) => beginning.clone(),
            (Ok(ancestors), _) if !ancestors.is_empty() => {
                let parent = &ancestors[ancestors.len() - 1];
                Beginning::Left(parent.timeline, parent.end)
            }
            _ if timeline == oldest || timeline == Timeline(1) => Beginning::First,
            _ => Beginning::Lost,
        };
        let begun = match &beginning {
            Beginning::Left(_, at) => Some(at.0 / size.bytes()),
            _ => needed.get(&timeline).map(|(begin, _)| *begin),
        };
        // Where the archive begins nothing is missing that could be told.
        let first = own.runs.first().map(|run| run.first).or(own.begun);
        let from = begun.filter(|_| timeline > oldest).or(first);
        let to = needed
            .get(&timeline)
            .map_or(0, |(_, end)| *end)
            .max(own.begun.unwrap_or(0));
        let behind = |child: Timeline, at: Lsn| {
            let after = at.0 / size.bytes() + 1;
            let counted = own
                .runs
                .iter()
                .map(|run| (run.last + 1).saturating_sub(run.first.max(after)));
            (child, at, counted.sum::<u64>())
        };
        let children = with_segments().filter_map(|(child, found)| {
            let entries = found.ancestors.as_ref().ok()?;
            let left = entries.last().filter(|left| left.timeline == timeline)?;
            Some(behind(*child, left.end))
        });
        TimelineRanges {
            timeline,
            holes: holes(&own.runs, from.unwrap_or(to), to),
            pruned: vec![],
            before_beginning: match (&beginning, first) {
                (Beginning::Left(_, at), Some(first)) if first < at.0 / size.bytes() => Some((
                    first,
                    own.runs
                        .first()
                        .map_or(first, |run| run.last)
                        .min(at.0 / size.bytes() - 1),
                )),
                _ => None,
            },
            left_behind: children.filter(|(.., segments)| *segments > 0).collect(),
            beginning,
            begun: own.begun.filter(|begun| !own.has(*begun)),
            wrong: own.wrong.clone(),
            runs: own.runs.clone(),
        }
    });
    judged.collect()
}

/// What is missing from `from` on, up to the last run, and before `to`.
fn holes(runs: &[Run], from: u64, to: u64) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut next = from;
    for run in runs {
        if run.first > next {
            holes.push((next, run.first - 1));
        }
        next = next.max(run.last + 1);
    }
    if to > next {
        holes.push((next, to - 1));
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    const MIB: u64 = 1 << 20;

    /// Each timeline with its runs, and the ancestors that its history names; `None`: there is none.
    type Made<'a> = (u32, &'a [(u64, u64)], Option<&'a [(u32, u64)]>);

    fn judged(made: &[Made<'_>]) -> Vec<TimelineRanges> {
        let found = made.iter().map(|(timeline, runs, history)| {
            let archived_at = SystemTime::UNIX_EPOCH;
            let run = |&(first, last): &(u64, u64)| Run {
                first,
                last,
                archived_at,
            };
            let entry = |&(timeline, segment): &(u32, u64)| HistoryEntry {
                timeline: Timeline(timeline),
                end: Lsn(segment * MIB + 77),
                reason: String::new(),
            };
            let found = Found {
                runs: runs.iter().map(run).collect(),
                begun: None,
                wrong: Vec::new(),
                has_history: history.is_some(),
                ancestors: Ok(history.unwrap_or_default().iter().map(entry).collect()),
            };
            (Timeline(*timeline), found)
        });
        judge(&found.collect(), SegmentSize::MIN)
    }

    #[test]
    fn what_is_missing_and_what_is_too_much() {
        let all = judged(&[
            (1, &[(3, 5), (7, 7), (20, 21)], None),
            (2, &[(9, 9), (12, 12)], Some(&[(1, 10)])),
            (4, &[(30, 31)], Some(&[(1, 10), (3, 28)])),
            (5, &[(40, 40)], None),
        ]);
        let holes: Vec<_> = all
            .iter()
            .map(|ranges| (ranges.timeline.0, ranges.holes.clone()))
            .collect();
        assert_eq!(
            holes,
            [
                (1, vec![(6, 6), (8, 19)]),
                (2, vec![(10, 11)]),
                (3, vec![(10, 27)]),
                (4, vec![(28, 29)]),
                (5, vec![])
            ]
        );
        assert_eq!(all[1].before_beginning, Some((9, 9)));
        assert_eq!(all[0].left_behind, [(Timeline(2), Lsn(10 * MIB + 77), 2)]);
        assert_eq!(all[4].beginning, Beginning::Lost);
        assert!(all.iter().all(TimelineRanges::is_broken));
    }

    #[test]
    fn an_archive_begins_somewhere() {
        let all = judged(&[(3, &[(6, 9)], None), (4, &[(9, 12)], Some(&[(2, 5), (3, 9)]))]);
        assert!(!all.iter().any(TimelineRanges::is_broken), "{all:?}");
        assert_eq!(all[0].beginning, Beginning::First);
        assert_eq!(judged(&[(2, &[], Some(&[(1, 5)]))]).len(), 0);
        let unarchived = judged(&[(1, &[(1, 3)], None), (2, &[(5, 6)], Some(&[(1, 5)]))]);
        assert_eq!(unarchived[0].holes, [(4, 4)]);
    }
}
