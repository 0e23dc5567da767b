//! What records say, added up.

use jiff::Timestamp;

use super::super::Lsn;
use super::super::record::{Checkpoint, EndOfRecovery, Head};

/// Restore points of a segment that are kept, and checkpoints; ends of recovery.
pub(super) const MOST_POINTS: usize = 64;

pub(super) const MOST_RECOVERIES: usize = 8;

/// When something was, by the clock of the server that wrote it, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Where its record begins.
    pub at: Lsn,
    /// When it was.
    pub time: Timestamp,
}

/// The ends of transactions, in the order of the WAL. Clocks go back, too: so the first need not be the earliest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The first.
    pub first: Moment,
    /// The last.
    pub last: Moment,
    /// The one of the earliest time.
    pub earliest: Moment,
    /// The one of the latest time; of several the last.
    pub latest: Moment,
}

impl Ends {
    fn one(moment: Moment) -> Self {
        Self {
            first: moment,
            last: moment,
            earliest: moment,
            latest: moment,
        }
    }

    /// With those that come behind.
    fn then(self, next: Self) -> Self {
        Self {
            first: self.first,
            last: next.last,
            earliest: match next.earliest.time < self.earliest.time {
                true => next.earliest,
                false => self.earliest,
            },
            latest: match next.latest.time >= self.latest.time {
                true => next.latest,
                false => self.latest,
            },
        }
    }
}

/// Numbers of transactions, which go round: so many from the lowest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xids {
    /// The lowest.
    pub lowest: u32,
    /// How many numbers behind it the highest is.
    pub span: u32,
}

impl Xids {
    /// Is it one of these, or between them?
    pub fn has(self, xid: u32) -> bool {
        xid.wrapping_sub(self.lowest) <= self.span
    }

    fn with(self, other: Self) -> Self {
        let offset = |xid: u32| xid.wrapping_sub(self.lowest) as i32;
        let (low, high) = (
            offset(other.lowest),
            offset(other.lowest.wrapping_add(other.span)),
        );
        let lowest = low.min(0);
        let highest = high.max(self.span as i32);
        Self {
            lowest: self.lowest.wrapping_add(lowest as u32),
            span: highest.wrapping_sub(lowest) as u32,
        }
    }
}

/// What `pg_create_restore_point` has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Where and when.
    pub moment: Moment,
    /// Its name, of 63 bytes at most. What is not UTF-8 is replaced.
    pub name: String,
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointAt {
    /// Where its record begins.
    pub at: Lsn,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Was the server stopped?
    pub shutdown: bool,
}

/// An end of recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecoveryEnd {
    /// Where its record begins.
    pub at: Lsn,
    /// What it says.
    pub end: EndOfRecovery,
}

/// What records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The commits.
    pub commits: Option<Ends>,
    /// The aborts that are recorded: recovery to a time or a transaction stops at these as well.
    pub aborts: Option<Ends>,
    /// The transactions that ended, but for those that had been prepared.
    pub xids: Option<Xids>,
    /// Has one ended that had been prepared? Its number is elsewhere in the record.
    pub prepared: bool,
    /// The restore points.
    pub restore_points: Vec<RestorePoint>,
    /// The checkpoints.
    pub checkpoints: Vec<CheckpointAt>,
    /// The ends of recovery.
    pub recoveries: Vec<RecoveryEnd>,
    /// Were all restore points, checkpoints and ends of recovery kept?
    pub all: bool,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            commits: None,
            aborts: None,
            xids: None,
            prepared: false,
            restore_points: Vec::new(),
            checkpoints: Vec::new(),
            recoveries: Vec::new(),
            all: true,
        }
    }
}

impl Facts {
    /// Takes what a record says.
    pub fn take(&mut self, at: Lsn, head: Head<'_>) {
        if let Some(ended) = head.ended() {
            let one = Ends::one(Moment { at, time: ended.time });
            match ended.committed {
                true => add(&mut self.commits, one),
                false => add(&mut self.aborts, one),
            }
            match ended.prepared {
                true => self.prepared = true,
                false => self.take_xid(head.xid()),
            }
        } else if let Some((time, name)) = head.restore_point() {
            let moment = Moment { at, time };
            self.all &= push(
                &mut self.restore_points,
                MOST_POINTS,
                RestorePoint { moment, name },
            );
        } else if let Some(checkpoint) = head.checkpoint() {
            let checkpoint = CheckpointAt {
                at,
                checkpoint,
                shutdown: head.is_shutdown(),
            };
            self.all &= push(&mut self.checkpoints, MOST_POINTS, checkpoint);
        } else if let Some(end) = head.end_of_recovery() {
            self.all &= push(&mut self.recoveries, MOST_RECOVERIES, RecoveryEnd { at, end });
        }
    }

    fn take_xid(&mut self, xid: u32) {
        let one = Xids { lowest: xid, span: 0 };
        self.xids = Some(self.xids.map_or(one, |known| known.with(one)));
    }

    /// Adds what the records behind say.
    pub fn add(&mut self, next: Self) {
        if let Some(commits) = next.commits {
            add(&mut self.commits, commits);
        }
        if let Some(aborts) = next.aborts {
            add(&mut self.aborts, aborts);
        }
        if let Some(xids) = next.xids {
            self.xids = Some(self.xids.map_or(xids, |known| known.with(xids)));
        }
        self.prepared |= next.prepared;
        self.all &= next.all;
        for point in next.restore_points {
            self.all &= push(&mut self.restore_points, MOST_POINTS, point);
        }
        for checkpoint in next.checkpoints {
            self.all &= push(&mut self.checkpoints, MOST_POINTS, checkpoint);
        }
        for recovery in next.recoveries {
            self.all &= push(&mut self.recoveries, MOST_RECOVERIES, recovery);
        }
    }

    /// May this transaction have ended here?
    pub fn may_end(&self, xid: u32) -> bool {
        self.prepared || self.xids.is_some_and(|xids| xids.has(xid))
    }

    /// The end of a transaction that is of the latest time, of commits and aborts together.
    pub fn latest_end(&self) -> Option<Moment> {
        let ends = [self.commits, self.aborts].into_iter().flatten();
        ends.map(|ends| ends.latest).max_by_key(|latest| latest.time)
    }

    pub(super) fn held_bytes(&self) -> usize {
        let names: usize = self.restore_points.iter().map(|point| point.name.len()).sum();
        names
            + self.restore_points.len() * size_of::<RestorePoint>()
            + self.checkpoints.len() * size_of::<CheckpointAt>()
            + self.recoveries.len() * size_of::<RecoveryEnd>()
    }
}

fn add(known: &mut Option<Ends>, next: Ends) {
    *known = Some(known.map_or(next, |known| known.then(next)));
}

fn push<T>(list: &mut Vec<T>, most: usize, one: T) -> bool {
    let has_room = list.len() < most;
    if has_room {
        list.push(one);
    }
    has_room
}
