//! Which bytes of a file have been written, and in which manner: pure arithmetic.
//!
//! Whether a segment is whole (promise W3) is decided from this. Most copiers go forward and leave no gap. Copiers of
//! sparse files leave holes, which are zeros on purpose: GNU `cp` goes forward and brings the file to its full length
//! last, uutils `cp` sets the length first. So a gap is a hole only if something else says so.

use std::ops::Range;

/// Ranges written so far, and how the writer moved.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    /// Disjoint, ascending, not touching.
    ranges: Vec<Range<u64>>,
    /// Where a writer that only goes forward stands.
    frontier: u64,
    /// A write began before the frontier.
    went_back: bool,
    /// A byte was written twice.
    rewritten: bool,
}

impl Coverage {
    /// Notes a write.
    pub fn written(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.went_back |= range.start < self.frontier;
        self.frontier = self.frontier.max(range.end);
        self.rewritten |= self.insert(range);
    }

    /// Notes a new length of the file.
    pub fn truncated(&mut self, bytes: u64) {
        if bytes == 0 {
            *self = Self::default();
            return;
        }
        self.ranges.retain_mut(|range| {
            range.end = range.end.min(bytes);
            !range.is_empty()
        });
        self.frontier = bytes;
    }

    /// Merges a range in; true if it overlapped what was there.
    fn insert(&mut self, range: Range<u64>) -> bool {
        let first = self.ranges.partition_point(|known| known.end < range.start);
        let last = self.ranges.partition_point(|known| known.start <= range.end);
        let touched = &self.ranges[first..last];
        let overlaps = touched
            .iter()
            .any(|known| known.start < range.end && range.start < known.end);
        let start = touched
            .first()
            .map_or(range.start, |known| known.start.min(range.start));
        let end = touched.last().map_or(range.end, |known| known.end.max(range.end));
        self.ranges.splice(first..last, std::iter::once(start..end));
        overlaps
    }

    /// End of the last byte written.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// Has every byte below `bytes` been written?
    pub fn is_full(&self, bytes: u64) -> bool {
        bytes == 0 || matches!(self.ranges.as_slice(), [only] if only.start == 0 && only.end >= bytes)
    }

    /// What has not been written below `bytes`, ascending.
    pub fn gaps(&self, bytes: u64) -> impl Iterator<Item = Range<u64>> {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let ends = self
            .ranges
            .iter()
            .map(|range| range.start)
            .chain(std::iter::once(bytes));
        starts
            .zip(ends)
            .map(move |(start, end)| start..end.min(bytes))
            .filter(|gap| !gap.is_empty())
    }

    /// Has the writer only gone forward, so that gaps are holes it left on purpose?
    pub fn only_forward(&self) -> bool {
        !self.went_back
    }

    /// Was any byte written twice?
    pub fn is_rewritten(&self) -> bool {
        self.rewritten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(writes: &[Range<u64>]) -> Coverage {
        let mut coverage = Coverage::default();
        writes.iter().for_each(|range| coverage.written(range.clone()));
        coverage
    }

    #[test]
    fn a_copier_goes_forward_and_fills() {
        let copier = coverage(&[0..10, 10..20, 20..25]);
        assert!(copier.is_full(25) && copier.only_forward() && !copier.is_rewritten());
        assert!(!copier.is_full(26));
    }

    #[test]
    fn a_sparse_copier_leaves_holes_going_forward() {
        let mut copier = coverage(&[0..10, 20..30]);
        assert!(!copier.is_full(30) && copier.only_forward());
        copier.truncated(40);
        assert!(!copier.is_full(40) && copier.only_forward());
    }

    #[test]
    fn setting_the_length_first_makes_later_writes_backward() {
        let mut writer = Coverage::default();
        writer.truncated(100);
        writer.written(0..10);
        assert!(!writer.only_forward() && !writer.is_full(100));
        writer.written(10..100);
        assert!(writer.is_full(100) && !writer.is_rewritten());
    }

    #[test]
    fn any_order_fills_in_the_end() {
        let writer = coverage(&[20..30, 0..10, 10..20]);
        assert!(writer.is_full(30) && !writer.only_forward() && !writer.is_rewritten());
    }

    #[test]
    fn zeros_first_and_data_after_is_rewriting() {
        let receiver = coverage(&[0..100, 0..10]);
        assert!(receiver.is_full(100) && receiver.is_rewritten());
    }

    #[test]
    fn starting_over_forgets() {
        let mut writer = coverage(&[0..100, 0..10]);
        writer.truncated(0);
        assert!(writer.only_forward() && !writer.is_rewritten() && writer.end() == 0);
    }

    #[test]
    fn gaps_are_what_was_not_written() {
        let writer = coverage(&[20..30, 0..10, 50..60]);
        assert_eq!(writer.gaps(70).collect::<Vec<_>>(), [10..20, 30..50, 60..70]);
        assert_eq!(writer.gaps(55).collect::<Vec<_>>(), [10..20, 30..50]);
        assert_eq!(writer.gaps(10).count(), 0);
        assert_eq!(Coverage::default().gaps(10).collect::<Vec<_>>(), vec![0..10; 1]);
    }

    #[test]
    fn overlaps_merge() {
        let writer = coverage(&[0..10, 20..30, 5..25]);
        assert!(writer.is_full(30) && writer.is_rewritten());
    }
}
