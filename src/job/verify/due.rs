//! What a run reads: all that is wanted, or what was proved longest ago.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::Options;
use super::ledger::Ages;
use crate::archive::tree::TreeName;

/// Which objects are verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Scope {
    /// All.
    #[default]
    All,
    /// WAL, archived and received.
    Wal,
    /// All backups.
    Backups,
    /// One backup, what it builds on, and the WAL that makes it consistent.
    Backup(TreeName),
}

impl Scope {
    /// Is all WAL among them?
    pub(super) fn has_wal(&self) -> bool {
        matches!(self, Self::All | Self::Wal)
    }
}

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// All that was proved then, or never.
    whole: BTreeSet<Option<Timestamp>>,
    /// Of what was proved then so many bytes, the first ones.
    edge: Option<(Option<Timestamp>, u64)>,
    bytes: u64,
}

impl Due {
    /// Of objects of these ages, what the options let be read.
    pub(super) fn new(ages: &Ages, options: &Options, now: Timestamp) -> Self {
        let all = ages
            .values()
            .map(|amount| amount.bytes)
            .fold(0, u64::saturating_add);
        let share = options.share.map(|share| (all as f64 * share).ceil() as u64);
        let mut left = options.budget.unwrap_or(u64::MAX).min(share.unwrap_or(u64::MAX));
        let oldest = options.max_age.and_then(|age| {
            let age = SignedDuration::try_from(age).unwrap_or(SignedDuration::MAX);
            now.checked_sub(age).ok()
        });
        let is_old = |at: Option<Timestamp>| match (at, options.max_age) {
            (Some(at), Some(_)) => oldest.is_some_and(|oldest| at <= oldest),
            _ => true,
        };
        let mut due = Self::default();
        // What was never proved comes first, then what was so longest ago.
        for (at, amount) in ages.iter().filter(|(at, _)| is_old(**at)) {
            if amount.bytes > left {
                due.edge = (left > 0).then_some((*at, left));
                due.bytes += left;
                break;
            }
            left -= amount.bytes;
            due.bytes += amount.bytes;
            due.whole.insert(*at);
        }
        due
    }

    /// Stored bytes that will be read, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Is an object read that was proved then?
    pub(super) fn take(&mut self, at: Option<Timestamp>, bytes: u64) -> bool {
        if self.whole.contains(&at) {
            return true;
        }
        match &mut self.edge {
            Some((edge, left)) if *edge == at && *left > 0 => {
                *left = left.saturating_sub(bytes);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::amount::Amount;

    #[test]
    fn the_oldest_are_read_first_and_no_more_than_allowed() {
        let at = |seconds| Some(Timestamp::from_second(seconds).unwrap());
        let amount = |bytes| Amount { objects: 1, bytes };
        let ages: Ages = [(at(300), amount(40)), (None, amount(10)), (at(100), amount(20))].into();
        let now = at(1000).unwrap();
        let due = |max_age: Option<u64>, budget, share| {
            let options = Options {
                max_age: max_age.map(Duration::from_secs),
                budget,
                share,
                ..Options::default()
            };
            let mut due = Due::new(&ages, &options, now);
            [None, at(100), at(300)].map(|at| due.take(at, 1))
        };
        assert_eq!(due(None, None, None), [true, true, true]);
        assert_eq!(due(Some(800), None, None), [true, true, false]);
        assert_eq!(due(Some(900), Some(15), None), [true, true, false]);
        assert_eq!(due(None, Some(10), None), [true, false, false]);
        assert_eq!(due(None, None, Some(0.1)), [true, false, false]);
        assert_eq!(due(None, Some(0), None), [false, false, false]);
        let mut edge = Due::new(
            &ages,
            &Options {
                budget: Some(15),
                ..Options::default()
            },
            now,
        );
        assert_eq!(edge.bytes(), 15);
        assert_eq!(
            [
                edge.take(at(100), 4),
                edge.take(at(100), 4),
                edge.take(at(100), 4)
            ],
            [true, true, false]
        );
    }
}
