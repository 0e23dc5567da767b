//! Which WAL the backups that stay need: what makes each consistent, and what recovery beyond its end can read.
//!
//! A position of the WAL is a number that only grows along a line of history, whatever the timelines are called: no recovery
//! reads a segment whose number is below that of its backup's first.

use std::collections::BTreeMap;

use crate::archive::tree::backup::Backup;
use crate::job::look::Lines;
use crate::job::restore::way::Way;
use crate::job::runs::{Span, without};
use crate::pg::{Lsn, SegmentSize, Timeline};

/// Segments that must stay.
#[derive(Debug, Clone, Default)]
pub(super) struct NeededWal {
    /// Ascending, and apart from each other.
    spans: BTreeMap<Timeline, Vec<Span>>,
}

impl NeededWal {
    /// Takes what makes a backup consistent; with `beyond` all that recovery from it can reach, too.
    ///
    /// # Errors
    /// What its summary says cannot be: why.
    pub(super) fn take(&mut self, backup: &Backup, beyond: bool, lines: &Lines) -> Result<(), String> {
        let size = lines.size;
        let segments = backup.segments()?;
        for segment in &segments {
            let number = segment.number(size);
            self.add(segment.timeline, (number, number));
        }
        let (Some((own, stop)), true) = (backup.stop(), beyond) else {
            return Ok(());
        };
        let first = segments.iter().map(|segment| segment.number(size)).min();
        let first = first.unwrap_or(0).min(number_of(stop, size));
        let known = lines.ways.iter().any(|way| way.timeline() == own);
        let alone = (!known).then(|| Way::new(own, &[]));
        let ways = lines.ways.iter().chain(&alone);
        for way in ways.filter(|way| way.check_through(own, stop).is_ok()) {
            for stretch in way.stretches() {
                let from = number_of(stop, size).max(stretch.begin.0 / size.bytes());
                let to = stretch.end.map_or(u64::MAX, |end| end.0 / size.bytes());
                if from <= to {
                    self.add(stretch.timeline, (from, to));
                }
            }
        }
        for lost in &lines.lost {
            self.add(*lost, (first, u64::MAX));
        }
        Ok(())
    }

    /// Takes what is only on the last timeline of a way.
    pub(super) fn take_end(&mut self, end: &Way, lines: &Lines) {
        let begin = end.fork().map_or(0, |(_, fork)| fork.0 / lines.size.bytes());
        self.add(end.timeline(), (begin, u64::MAX));
    }

    fn add(&mut self, timeline: Timeline, span: Span) {
        let spans = self.spans.entry(timeline).or_default();
        spans.push(span);
        spans.sort_unstable();
        let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
        for &(first, last) in spans.iter() {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        *spans = joined;
    }

    /// The rest of a timeline, from its first number to its last.
    pub(super) fn rest(&self, timeline: Timeline, (first, last): Span) -> Vec<Span> {
        without(
            (first, last),
            self.spans.get(&timeline).map_or(&[], Vec::as_slice),
        )
    }
}

/// The segment whose last record ends there begins with the number of the one before.
fn number_of(stop: Lsn, size: SegmentSize) -> u64 {
    stop.0.saturating_sub(1) / size.bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::backup::WalRange;
    use crate::archive::tree::summary::tests::sample;
    use crate::pg::history::HistoryEntry;

    const MIB: u64 = 1 << 20;

    fn way(timeline: u32, history: &[(u32, u64)]) -> Way {
        let entries = history.iter().map(|(timeline, end)| HistoryEntry {
            timeline: Timeline(*timeline),
            end: Lsn(*end),
            reason: String::new(),
        });
        Way::new(Timeline(timeline), &entries.collect::<Vec<_>>())
    }

    /// On a timeline, from one segment into another.
    fn backup(timeline: u32, from: u64, to: u64) -> Backup {
        let mut backup = sample("monday").backup;
        backup.segment_bytes = MIB;
        backup.wal = vec![WalRange {
            timeline: Timeline(timeline),
            start: Lsn(from * MIB + 40),
            end: Lsn(to * MIB + 400),
        }];
        backup
    }

    fn lines(ways: &[Way], lost: &[u32]) -> Lines {
        Lines {
            ways: ways.to_vec(),
            lost: lost.iter().copied().map(Timeline).collect(),
            size: SegmentSize::MIN,
        }
    }

    #[test]
    fn k3_recovery_reads_nothing_below_its_backup() {
        // Two left one in segment 10, three left two in 20; four is a branch that left one in 5.
        let ways = [
            way(1, &[]),
            way(2, &[(1, 10 * MIB + 9)]),
            way(3, &[(1, 10 * MIB + 9), (2, 20 * MIB + 9)]),
            way(4, &[(1, 5 * MIB + 9)]),
        ];
        let lines = lines(&ways, &[7]);
        let mut needed = NeededWal::default();
        needed.take(&backup(1, 7, 8), true, &lines).unwrap();
        let rest = |needed: &NeededWal, timeline| needed.rest(Timeline(timeline), (1, 30));
        assert_eq!(rest(&needed, 1), [(1, 6)]);
        assert_eq!(rest(&needed, 2), [(1, 9)]);
        assert_eq!(rest(&needed, 3), [(1, 19)]);
        assert_eq!(rest(&needed, 4), [(1, 30)]);
        assert_eq!(rest(&needed, 7), [(1, 6)]);

        // Behind the fork of two nothing of one is in reach but what the two share.
        let mut needed = NeededWal::default();
        needed.take(&backup(2, 12, 13), true, &lines).unwrap();
        assert_eq!(rest(&needed, 1), [(1, 30)]);
        assert_eq!(rest(&needed, 2), [(1, 11)]);
        // What an old one needs to be consistent, and no more.
        needed.take(&backup(1, 3, 4), false, &lines).unwrap();
        assert_eq!(rest(&needed, 1), [(1, 2), (5, 30)]);
    }

    #[test]
    fn k3_a_standbys_backup_needs_each_of_its_timelines() {
        let ways = [way(1, &[]), way(2, &[(1, 10 * MIB + 9)])];
        let mut over = backup(1, 8, 10);
        over.wal[0].end = Lsn(10 * MIB + 9);
        over.wal.push(WalRange {
            timeline: Timeline(2),
            start: Lsn(10 * MIB + 9),
            end: Lsn(12 * MIB + 400),
        });
        let mut needed = NeededWal::default();
        needed.take(&over, true, &lines(&ways, &[])).unwrap();
        assert_eq!(needed.rest(Timeline(1), (1, 12)), [(1, 7), (10, 12)]);
        assert_eq!(needed.rest(Timeline(2), (10, 20)), []);
    }
}
