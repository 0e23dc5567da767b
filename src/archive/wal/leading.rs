//! Segments of which it is known that their WAL leads on to the next one. Nothing archived changes, so this stays true; it is
//! kept for as long as the archive is open, one run of segments for each timeline.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use crate::archive::Archive;
use crate::pg::{SegmentName, SegmentSize, Timeline};

/// Numbers of segments that follow each other.
pub(in crate::archive) type Leading = Mutex<HashMap<Timeline, RangeInclusive<u64>>>;

impl Archive {
    /// Is it known that recovery goes on behind this segment?
    pub fn is_leading_on(&self, segment: SegmentName, size: SegmentSize) -> bool {
        let leading = self.leading.lock().expect("no panic while held");
        let run = leading.get(&segment.timeline);
        run.is_some_and(|run| run.contains(&segment.number(size)))
    }

    /// Takes note of it.
    pub fn leads_on(&self, segment: SegmentName, size: SegmentSize) {
        let number = segment.number(size);
        let mut leading = self.leading.lock().expect("no panic while held");
        let run = leading.entry(segment.timeline).or_insert(number..=number);
        if run.end() + 1 == number {
            *run = *run.start()..=number;
        } else if !run.contains(&number) {
            *run = number..=number;
        }
    }
}
