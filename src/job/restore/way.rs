//! The way through the timelines: on which of them each position of the WAL is read.
//!
//! A position is read from the newest timeline that had begun by then; the segment in which a timeline began is its own,
//! with its parent's pages in front (`XLogFileReadAnyTLI` of xlogrecovery.c).

use std::ops::RangeInclusive;

use crate::pg::history::HistoryEntry;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline};

/// A stretch of the WAL that is on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) struct Stretch {
    pub timeline: Timeline,
    pub begin: Lsn,
    /// `None` on the last.
    pub end: Option<Lsn>,
}

impl Stretch {
    /// Has the segment with that number some of it?
    pub(in crate::job) fn is_in(&self, number: u64, size: SegmentSize) -> bool {
        let last = self.end.map_or(u64::MAX, |end| end.0 / size.bytes());
        (self.begin.0 / size.bytes()..=last).contains(&number)
    }
}

/// From the first timeline to one that recovery can end on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::job) struct Way {
    stretches: Vec<Stretch>,
    timeline: Timeline,
}

impl Way {
    /// To a timeline with this history; with none, that timeline is all of it.
    pub(in crate::job) fn new(timeline: Timeline, history: &[HistoryEntry]) -> Self {
        let mut begin = Lsn(0);
        let mut stretches = Vec::with_capacity(history.len() + 1);
        for entry in history {
            let (timeline, end) = (entry.timeline, Some(entry.end));
            stretches.push(Stretch { timeline, begin, end });
            begin = entry.end;
        }
        let end = None;
        stretches.push(Stretch { timeline, begin, end });
        Self { stretches, timeline }
    }

    /// Where it ends.
    pub(in crate::job) fn timeline(&self) -> Timeline {
        self.timeline
    }

    pub(in crate::job) fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Is that segment's WAL replayed, all of it?
    pub(super) fn replays(&self, segment: SegmentName, size: SegmentSize) -> bool {
        let number = segment.number(size);
        let mut own = self
            .stretches
            .iter()
            .filter(|stretch| stretch.timeline == segment.timeline);
        own.any(|stretch| {
            number >= stretch.begin.0 / size.bytes()
                && stretch.end.is_none_or(|end| number < end.0 / size.bytes())
        })
    }

    /// The segment with that number, on the timeline on which it is read.
    pub(in crate::job) fn segment(&self, number: u64, size: SegmentSize) -> Option<SegmentName> {
        segment_of(&self.stretches, number, size)
    }

    /// Is what comes before this segment on another timeline?
    pub(in crate::job) fn comes_over(&self, segment: SegmentName, size: SegmentSize) -> bool {
        let before = segment.number(size).checked_sub(1);
        let before = before.and_then(|number| self.segment(number, size));
        before.is_some_and(|before| before.timeline != segment.timeline)
    }

    /// On which timelines segments lie that follow each other, by number.
    pub(in crate::job) fn runs(
        &self,
        numbers: RangeInclusive<u64>,
        size: SegmentSize,
    ) -> Vec<(Timeline, RangeInclusive<u64>)> {
        let mut runs = Vec::new();
        let mut last = *numbers.end();
        for stretch in self.stretches.iter().rev() {
            let first = (stretch.begin.0 / size.bytes()).max(*numbers.start());
            if first <= last {
                runs.push((stretch.timeline, first..=last));
                let Some(before) = first.checked_sub(1).filter(|before| before >= numbers.start()) else {
                    break;
                };
                last = before;
            }
        }
        runs.reverse();
        runs
    }

    /// The timeline that the last one comes from, and where it left it.
    pub(in crate::job) fn fork(&self) -> Option<(Timeline, Lsn)> {
        let (_, before) = self.stretches.split_last()?;
        before
            .last()
            .and_then(|parent| Some((parent.timeline, parent.end?)))
    }

    /// Where it leaves a timeline; `None` if it ends on it or never comes there.
    pub(in crate::job) fn leaves(&self, timeline: Timeline) -> Option<Lsn> {
        let stretch = self.stretches.iter().find(|stretch| stretch.timeline == timeline);
        stretch.and_then(|stretch| stretch.end)
    }

    /// Does it go through this position of that timeline?
    ///
    /// # Errors
    /// Why not.
    pub(in crate::job) fn check_through(&self, timeline: Timeline, position: Lsn) -> Result<(), String> {
        let through = self.stretches.iter().find(|stretch| stretch.timeline == timeline);
        match through {
            Some(Stretch { end: Some(end), .. }) if *end < position => {
                Err(format!("it left timeline {timeline} at {end}"))
            }
            Some(_) => Ok(()),
            None => Err(format!("timeline {timeline} is not among its ancestors")),
        }
    }

    /// Up to where two ways are the same; `None` if they are one.
    pub(in crate::job) fn parts_from(&self, other: &Self) -> Option<Lsn> {
        let both = self.stretches.iter().zip(&other.stretches);
        let (own, others) = both.into_iter().find(|(own, others)| own != others)?;
        if own.timeline != others.timeline {
            return Some(own.begin.min(others.begin));
        }
        let end = |stretch: &Stretch| stretch.end.unwrap_or(Lsn(u64::MAX));
        Some(end(own).min(end(others)))
    }
}

/// The segment with that number, of the last of these stretches that had begun by its end.
pub(super) fn segment_of(stretches: &[Stretch], number: u64, size: SegmentSize) -> Option<SegmentName> {
    let begun = |stretch: &&Stretch| stretch.begin.0 / size.bytes() <= number;
    let on = stretches.iter().rev().find(begun);
    SegmentName::from_number(on.map_or(Timeline(1), |stretch| stretch.timeline), number, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(timeline: u32, history: &[(u32, u64)]) -> Way {
        let entries = history.iter().map(|(timeline, end)| HistoryEntry {
            timeline: Timeline(*timeline),
            end: Lsn(*end),
            reason: String::new(),
        });
        Way::new(Timeline(timeline), &entries.collect::<Vec<_>>())
    }

    #[test]
    fn a_backup_must_lie_on_the_way() {
        let way = way(3, &[(1, 500)]);
        let through = |timeline, position| way.check_through(Timeline(timeline), Lsn(position));
        assert!(through(1, 500).is_ok() && through(3, 900).is_ok());
        assert!(through(1, 501).unwrap_err().contains("left timeline 1 at 0/1F4"));
        assert!(through(2, 1).is_err());
    }

    #[test]
    fn a_segment_lies_on_the_timeline_that_began_in_it() {
        const MIB: u64 = 1 << 20;
        let way = way(3, &[(1, 5 * MIB + 77), (2, 5 * MIB + 99)]);
        let runs = |numbers| way.runs(numbers, SegmentSize::MIN);
        assert_eq!(runs(3..=9), [(Timeline(1), 3..=4), (Timeline(3), 5..=9)]);
        assert_eq!(runs(6..=6), [(Timeline(3), 6..=6)]);
        assert_eq!(runs(0..=0), [(Timeline(1), 0..=0)]);
        let comes_over = |timeline: u32, number| {
            let name = SegmentName::from_number(Timeline(timeline), number, SegmentSize::MIN).unwrap();
            way.comes_over(name, SegmentSize::MIN)
        };
        assert!(comes_over(3, 5) && !comes_over(3, 6) && !comes_over(1, 4) && !comes_over(1, 0));
    }

    #[test]
    fn ways_part_where_the_first_leaves() {
        let (one, two) = (way(1, &[]), way(2, &[(1, 500)]));
        let (three, four) = (way(3, &[(1, 400)]), way(4, &[(1, 500), (2, 900)]));
        assert_eq!(one.parts_from(&two), Some(Lsn(500)));
        assert_eq!(two.parts_from(&three), Some(Lsn(400)));
        assert_eq!(four.parts_from(&two), Some(Lsn(900)));
        assert_eq!(four.parts_from(&one), Some(Lsn(500)));
        assert_eq!(one.parts_from(&one), None);
        assert_eq!(
            way(2, &[(1, 500)]).parts_from(&way(3, &[(1, 500)])),
            Some(Lsn(500))
        );
        assert_eq!((four.fork(), one.fork()), (Some((Timeline(2), Lsn(900))), None));
        assert_eq!(
            (four.leaves(Timeline(1)), four.leaves(Timeline(4))),
            (Some(Lsn(500)), None)
        );
    }
}
