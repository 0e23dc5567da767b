//! Segments that follow each other, as a listing shows them.

use std::time::SystemTime;

/// Segments that follow each other, by number, both ends included; and the time of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first.
    pub first: u64,
    /// Number of the last.
    pub last: u64,
    /// When the last of them was archived, by the store's clock. An earlier one may be younger: a copy has brought it back.
    pub archived_at: SystemTime,
}

impl Run {
    /// How many they are.
    pub fn segments(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// Numbers of segments, both ends included.
pub(super) type Span = (u64, u64);

/// Adds the next segment of an ascending listing.
pub(super) fn push(runs: &mut Vec<Run>, number: u64, modified: SystemTime) {
    match runs.last_mut() {
        Some(run) if run.last + 1 == number => {
            run.last = number;
            run.archived_at = modified;
        }
        _ => runs.push(Run {
            first: number,
            last: number,
            archived_at: modified,
        }),
    }
}

/// What of a span is in none of these, which are ascending.
pub(super) fn without((first, last): Span, taken: &[Span]) -> Vec<Span> {
    let mut rest = Vec::new();
    let mut next = first;
    for &(from, to) in taken {
        if from > last {
            break;
        }
        if from > next {
            rest.push((next, from - 1));
        }
        match to.checked_add(1) {
            Some(behind) => next = next.max(behind),
            None => return rest,
        }
    }
    if next <= last {
        rest.push((next, last));
    }
    rest
}

/// What is in both, each ascending and apart from each other.
pub(super) fn both(one: &[Span], other: &[Span]) -> Vec<Span> {
    let pairs = one
        .iter()
        .flat_map(|a| other.iter().map(move |b| (a.0.max(b.0), a.1.min(b.1))));
    pairs.filter(|(first, last)| first <= last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_cut() {
        assert_eq!(
            without((3, 9), &[(1, 3), (5, 5), (9, u64::MAX)]),
            [(4, 4), (6, 8)]
        );
        assert_eq!(without((3, 9), &[]), [(3, 9)]);
        assert_eq!(without((3, 9), &[(0, u64::MAX)]), []);
        assert_eq!(both(&[(1, 5), (8, 9)], &[(4, 8)]), [(4, 5), (8, 8)]);
    }
}
