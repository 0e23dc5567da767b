//! Segments that follow each other, as a listing shows them.

use std::time::SystemTime;

/// Segments that follow each other, by number, both ends included; and the time of the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// When the newest of them was archived, by the store's clock.
    pub newest: SystemTime,
}

impl Run {
    /// How many they are.
    pub fn segments(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Adds the next segment of an ascending listing.
pub(super) fn push(runs: &mut Vec<Run>, number: u64, modified: SystemTime) {
    match runs.last_mut() {
        Some(run) if run.last + 1 == number => {
            run.last = number;
            run.newest = run.newest.max(modified);
        }
        _ => runs.push(Run {
            first: number,
            last: number,
            newest: modified,
        }),
    }
}
