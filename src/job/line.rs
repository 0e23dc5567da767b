//! The WAL of one line of history, told by the indexes of its segments: where transactions ended, restore points, what was
//! touched.
//!
//! A line leads through timelines (`Way`). Its segments are looked at from its end or from its beginning on, sixteen at a
//! time, and little is kept of them. What was received of the segment behind the last one counts as one more. Of a segment
//! without an index the bytes are fetched and walked through, as long as these are not too many.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, BoxStream, StreamExt};

use super::restore::received::{self, Rest};
use super::restore::wal;
use super::restore::way::Way;
use super::runs::Run;
use crate::archive::{Archive, Error};
use crate::pg::record::Head;
use crate::pg::wal_index::{Moment, WalIndex, Walked};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::read::wal_index::{Indexed, WalIndexReader};
use crate::store::Patience;

/// Indexes read at once.
const READS: usize = 16;

/// Segments that one record can go over: it has 1 GiB at most, and they 1 MiB at least.
const MOST_PASSED: usize = 1026;

/// The segments of a line, and what tells of them.
#[derive(Debug)]
pub struct Line {
    reader: WalIndexReader,
    size: SegmentSize,
    patience: Patience,
    /// Segments that follow each other, by number, ascending.
    runs: Vec<(Timeline, RangeInclusive<u64>)>,
    /// Missing segments with WAL behind them, the first of each hole, ascending.
    holes: Vec<SegmentName>,
    /// What was received behind them.
    received: Option<(Arc<Rest>, Option<WalIndex>)>,
    /// Segments without an index that may still be walked through.
    walks: AtomicU64,
}

/// What a segment says, with the record that goes on from it into the next.
#[derive(Debug, Clone)]
pub struct Told {
    /// The segment.
    pub segment: SegmentName,
    /// `None`: it is not known.
    pub index: Option<WalIndex>,
    /// Is it one of which only a part was received?
    pub received: bool,
}

/// From which end on a line is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From its end on.
    NewestFirst,
    /// From its beginning on.
    OldestFirst,
}

/// The end of a line, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineEnd {
    /// The last commit in it: the last recoverable moment.
    pub commit: Option<(SegmentName, Moment)>,
    /// Its last segment.
    pub last: Option<SegmentName>,
    /// Behind its last record.
    pub end: Option<Lsn>,
}

impl Line {
    /// All segments of a way, from the one with this number on, and what was received behind them.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`], [`Error::Staging`].
    pub(in crate::job) async fn along(
        archive: &Arc<Archive>,
        way: &Way,
        (from, size): (u64, SegmentSize),
        patience: Patience,
    ) -> Result<Self, Error> {
        let mut runs: Vec<(Timeline, RangeInclusive<u64>)> = Vec::new();
        let mut begun: Option<u64> = None;
        for stretch in way.stretches() {
            let listed = wal::list(archive, *stretch, from, size, patience).await?;
            begun = begun.max(listed.last_begun());
            begun = begun.max(wal::received(archive, *stretch, from, size, patience).await?);
            for Run { first, last, .. } in listed.runs {
                // A later timeline's first segment begins with what the one before has of it.
                cut(&mut runs, first);
                runs.push((stretch.timeline, first..=last));
            }
        }
        let behind = match (runs.last(), begun) {
            (Some((_, run)), _) => run.end() + 1,
            (None, Some(begun)) => begun,
            (None, None) => from,
        };
        let rest = received::behind(archive, way, behind, (size, patience)).await?;
        let mut holes = holes(&runs);
        if begun.is_some_and(|begun| begun > behind) || rest.as_ref().is_some_and(|rest| rest.torn.is_some())
        {
            holes.push(behind);
        }
        let mut line = Self::new(archive, runs, rest.map(Arc::new), (size, patience)).await?;
        let holes = holes.into_iter();
        line.holes = holes.filter_map(|number| way.segment(number, size)).collect();
        Ok(line)
    }

    /// The first segment that is missing although there is WAL behind it, from this position on. Nothing that begins before
    /// leads over it.
    pub fn hole_behind(&self, position: Lsn) -> Option<SegmentName> {
        let is_behind =
            |hole: &&SegmentName| hole.start(self.size).0.saturating_add(self.size.bytes()) > position.0;
        self.holes.iter().find(is_behind).copied()
    }

    /// Does a segment lie behind this missing one?
    pub fn is_behind(&self, segment: SegmentName, hole: SegmentName) -> bool {
        segment.number(self.size) > hole.number(self.size)
    }

    /// Of these segments, and what was received behind them.
    ///
    /// # Errors
    /// [`Error::Staging`].
    pub(in crate::job) async fn new(
        archive: &Arc<Archive>,
        runs: Vec<(Timeline, RangeInclusive<u64>)>,
        rest: Option<Arc<Rest>>,
        (size, patience): (SegmentSize, Patience),
    ) -> Result<Self, Error> {
        let received = match rest {
            Some(rest) => {
                let index = rest.index(size).await?;
                Some((rest, index))
            }
            None => None,
        };
        Ok(Self {
            reader: WalIndexReader::new(archive.clone()),
            size,
            patience,
            runs,
            holes: Vec::new(),
            received,
            walks: AtomicU64::new(u64::MAX),
        })
    }

    /// The segments from the one with this number on, so many at most.
    pub(in crate::job) fn runs_from(&self, number: u64, most: u64) -> Vec<(Timeline, RangeInclusive<u64>)> {
        let end = number.saturating_add(most - 1);
        let cut = self.runs.iter().map(|(timeline, run)| {
            let cut = number.max(*run.start())..=end.min(*run.end());
            (*timeline, cut)
        });
        cut.filter(|(_, run)| !run.is_empty()).collect()
    }

    /// Walks through no more segments than so many.
    pub fn walking_at_most(self, segments: u64) -> Self {
        self.walks.store(segments, Ordering::Relaxed);
        self
    }

    /// How many segments there are.
    pub fn segments(&self) -> u64 {
        let archived: u64 = self.runs.iter().map(|(_, run)| run.end() - run.start() + 1).sum();
        archived + u64::from(self.received.is_some())
    }

    /// What each segment says. The record across the end of one is told with it, if the next is there.
    pub fn told(&self, order: Order) -> BoxStream<'_, Result<Told, Error>> {
        let received = self.received.iter().map(|(rest, index)| Told {
            segment: rest.segment,
            index: index.clone(),
            received: true,
        });
        let received = stream::iter(received.map(Ok));
        let numbers = self
            .runs
            .iter()
            .flat_map(|(timeline, run)| run.clone().map(|number| (*timeline, number)));
        let told = |(timeline, number)| self.archived(timeline, number);
        let there = async |told: Result<Option<Told>, Error>| told.transpose();
        match order {
            Order::OldestFirst => {
                let archived = stream::iter(numbers).map(told).buffered(READS).filter_map(there);
                joined_forward(archived.chain(received).boxed())
            }
            Order::NewestFirst => {
                let archived = stream::iter(numbers.rev())
                    .map(told)
                    .buffered(READS)
                    .filter_map(there);
                joined_backward(received.chain(archived).boxed())
            }
        }
    }

    /// `None`: it is not archived.
    async fn archived(&self, timeline: Timeline, number: u64) -> Result<Option<Told>, Error> {
        let segment =
            SegmentName::from_number(timeline, number, self.size).expect("a number that was listed");
        let index = match self.index(segment).await {
            // Who reads it finds that again.
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!("{error}");
                None
            }
            Ok(Indexed::Absent) => return Ok(None),
            Ok(Indexed::With(index)) => Some(*index),
            Ok(Indexed::Without(_)) => None,
            Err(error) => return Err(error),
        };
        let received = false;
        Ok(Some(Told {
            segment,
            index,
            received,
        }))
    }

    async fn index(&self, segment: SegmentName) -> Result<Indexed, Error> {
        let found = self.reader.stored(segment, self.size, self.patience).await?;
        match &found {
            Indexed::Without(table) if self.may_walk() => {
                let walked = self.reader.walked(segment, table, self.patience).await?;
                Ok(walked.map_or(found, |index| Indexed::With(Box::new(index))))
            }
            _ => Ok(found),
        }
    }

    fn may_walk(&self) -> bool {
        let walk = |left: u64| left.checked_sub(1);
        let taken = self
            .walks
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, walk);
        taken.is_ok()
    }

    /// Shows each record that begins in a segment, in no order; the one that goes on behind it if the next segment is there.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn visit(&self, told: &Told, mut visit: impl FnMut(Lsn, Head<'_>) + Send) -> Result<(), Error> {
        if let Some((at, head)) = told.index.as_ref().and_then(WalIndex::taken) {
            visit(at, head);
        }
        match &self.received {
            Some((rest, _)) if told.received => rest.visit(visit).await,
            _ => {
                self.reader
                    .visit(told.segment, self.size, self.patience, visit)
                    .await
            }
        }
    }

    /// The last recoverable moment: the newest commit of the line, and where its WAL ends; before a hole, if one is given. As a
    /// rule by one request; an idle server's last segments may have no commits.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn end(&self, hole: Option<SegmentName>) -> Result<LineEnd, Error> {
        let (mut found, mut told) = (LineEnd::default(), self.told(Order::NewestFirst));
        while let Some(one) = told.next().await {
            let Told { segment, index, .. } = one?;
            if hole.is_some_and(|hole| self.is_behind(segment, hole)) {
                continue;
            }
            found.last = found.last.or(Some(segment));
            let Some(index) = index else { continue };
            found.end = found.end.or(index.walked.last.map(|_| index.walked.end));
            if let Some(commits) = index.facts.commits {
                found.commit = Some((segment, commits.last));
                break;
            }
        }
        Ok(found)
    }
}

/// Numbers of the first segments that are missing between these.
fn holes(runs: &[(Timeline, RangeInclusive<u64>)]) -> Vec<u64> {
    let pairs = runs
        .windows(2)
        .map(|pair| (pair[0].1.end() + 1, *pair[1].1.start()));
    pairs
        .filter(|(next, there)| next < there)
        .map(|(next, _)| next)
        .collect()
}

/// Nothing from this number on.
fn cut(runs: &mut Vec<(Timeline, RangeInclusive<u64>)>, from: u64) {
    while let Some((_, run)) = runs.last_mut() {
        if *run.end() < from {
            return;
        }
        if *run.start() < from {
            *run = *run.start()..=from - 1;
            return;
        }
        runs.pop();
    }
}

type Stream<'a> = BoxStream<'a, Result<Told, Error>>;

/// What follows a segment, up to where the record across its end can end: one may go over many segments.
#[derive(Default)]
struct Behind(Option<Walked>);

impl Behind {
    /// Adds what comes before.
    fn put_before(&mut self, told: &Told) {
        let own = told.index.as_ref().map(|index| index.walked.clone());
        let behind = self.0.take();
        self.0 = own.map(|mut own| {
            if let (true, Some(behind)) = (own.passes(), &behind) {
                own.push(behind);
            }
            own
        });
    }

    fn give_to(&self, told: &mut Told) {
        if let (Some(index), Some(behind)) = (&mut told.index, &self.0) {
            index.take_across(behind);
        }
    }
}

fn joined_forward(told: Stream<'_>) -> Stream<'_> {
    let begin = (told, VecDeque::<Told>::new());
    stream::try_unfold(begin, |(mut told, mut waiting)| async move {
        let passes = |one: &Told| one.index.as_ref().is_some_and(|index| index.walked.passes());
        // One, and what follows up to the first that a record does not just pass through.
        while waiting.len() < 2 || waiting.len() < MOST_PASSED && waiting.back().is_some_and(passes) {
            match told.next().await.transpose()? {
                Some(next) => waiting.push_back(next),
                None => break,
            }
        }
        let Some(mut one) = waiting.pop_front() else {
            return Ok(None);
        };
        let mut behind = Behind::default();
        waiting.iter().rev().for_each(|next| behind.put_before(next));
        behind.give_to(&mut one);
        Ok(Some((one, (told, waiting))))
    })
    .boxed()
}

fn joined_backward(told: Stream<'_>) -> Stream<'_> {
    let begin = (told, Behind::default());
    stream::try_unfold(begin, |(mut told, mut behind)| async move {
        let Some(mut one) = told.next().await.transpose()? else {
            return Ok(None);
        };
        let before = Behind(behind.0.clone());
        behind.put_before(&one);
        before.give_to(&mut one);
        Ok(Some((one, (told, behind))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_timeline_takes_over() {
        let mut runs = vec![(Timeline(1), 3..=5), (Timeline(1), 7..=9)];
        cut(&mut runs, 10);
        assert_eq!(runs.len(), 2);
        cut(&mut runs, 8);
        assert_eq!(runs[1], (Timeline(1), 7..=7));
        assert_eq!(holes(&runs), [6]);
        cut(&mut runs, 4);
        assert_eq!(runs, [(Timeline(1), 3..=3)]);
        cut(&mut runs, 0);
        assert!(runs.is_empty());
    }
}
