//! How far the archived WAL leads on from a backup, along the way that recovery takes.

use std::time::SystemTime;

use super::candidate::Candidate;
use super::error::Error;
use super::way::{Stretch, Way, segment_of};
use crate::archive::wal::{Torn, WalCursor};
use crate::archive::{self, Archive};
use crate::job::broken::{Broken, Fault};
use crate::job::runs::{Run, push};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalName};
use crate::store::Patience;

/// What the archive has behind a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline that recovery ends on.
    pub timeline: Timeline,
    /// The last segment before anything is missing; in the backup at least.
    pub last: SegmentName,
    /// Where that segment ends; if only the backup has it, where the backup ends: it may have no more of it.
    pub end: Lsn,
    /// The segment that would come then: the last one once more, if only the backup has it.
    pub next: Option<SegmentName>,
    /// Where what was received of that ends, if something was.
    pub received: Option<Lsn>,
    /// The first missing segment, or the one in which recovery ends, if there is WAL behind it.
    pub gap: Option<SegmentName>,
    /// Why it is missing.
    pub lack: Lack,
    /// When the last of the unbroken segments behind the backup was archived, by the store's clock.
    pub newest: Option<SystemTime>,
}

/// Why recovery ends at a segment although there is WAL behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lack {
    /// It is not archived.
    #[default]
    Absent,
    /// A prune has removed it.
    Pruned,
    /// Its object has so many bytes, too few for any.
    Cut(u64),
    /// What was received of it does not hang together.
    Torn(Torn),
    /// It is archived, and recovery ends in it.
    Broken(Fault),
}

impl Lack {
    /// Says it of a segment.
    pub(in crate::job) fn of(self, segment: SegmentName) -> String {
        match self {
            Self::Absent => format!("{segment} is not archived, although WAL behind it is there"),
            Self::Pruned => format!("`walfs prune` has removed {segment}"),
            Self::Cut(bytes) => {
                format!("{segment} is damaged: its object has {bytes} bytes, too few for a segment")
            }
            Self::Torn(torn) => format!("{segment} is not archived, and {torn}"),
            Self::Broken(fault) => format!("{}, although WAL behind it is there", fault.of(segment)),
        }
    }
}

impl Reach {
    /// Has only the backup the last segment, and perhaps not all of it?
    pub(super) fn is_own(&self) -> bool {
        self.next == Some(self.last) && self.broken().is_none()
    }

    /// The segment in which recovery ends although WAL lies behind: the last one.
    pub(super) fn broken(&self) -> Option<SegmentName> {
        self.gap.filter(|_| matches!(self.lack, Lack::Broken(_)))
    }

    /// Cuts it off at a segment that does not lead on, of which the beginning is replayed.
    pub(super) fn cut_off(&mut self, broken: &Broken) {
        (self.last, self.end) = (broken.segment, broken.at);
        (self.next, self.gap) = (Some(broken.segment), Some(broken.segment));
        (self.received, self.lack) = (None, Lack::Broken(broken.fault));
    }

    /// The furthest that recovery could get to, with what was received of the next segment.
    pub fn furthest(&self) -> Lsn {
        self.received.unwrap_or(self.end)
    }
}

/// Looks how far the WAL leads from where the backup ends.
///
/// # Errors
/// [`Error::Content`], [`Error::Archive`].
pub(in crate::job) async fn reach(
    archive: &Archive,
    candidate: &Candidate,
    way: &Way,
    patience: Patience,
) -> Result<Reach, Error> {
    let size = candidate.segment_size()?;
    let last_own = last_of(candidate.stop, size);
    let stretches = way.stretches();
    let mut listed = Listed::default();
    for stretch in stretches
        .iter()
        .filter(|stretch| stretch.timeline >= candidate.own)
    {
        listed.add(list(archive, *stretch, last_own, size, patience).await?);
        listed.partial = listed
            .partial
            .max(received(archive, *stretch, last_own, size, patience).await?);
    }
    let mut reach = add_up(stretches, listed, candidate.stop, size);
    if let (Some(gap), Lack::Absent) = (reach.gap, reach.lack)
        && archive.pruned_of(&[gap], size, patience).await?.is_some()
    {
        reach.lack = Lack::Pruned;
    }
    Ok(reach)
}

/// What a listing shows of a stretch.
#[derive(Debug, Default)]
pub(in crate::job) struct Listed {
    /// Whole segments.
    pub runs: Vec<Run>,
    /// Number of the last one of which the beginning is archived, as `.partial`.
    pub partial: Option<u64>,
    /// Numbers of those whose objects are too short for any, and the bytes of these; the first few.
    pub cut: Vec<(u64, u64)>,
}

/// Segments that are too short, and told.
const MOST_CUT: usize = 1000;

impl Listed {
    fn add(&mut self, other: Self) {
        self.runs.extend(other.runs);
        self.partial = self.partial.max(other.partial);
        self.cut.extend(other.cut);
    }

    /// The last number of which there is anything but whole segments.
    pub(in crate::job) fn last_begun(&self) -> Option<u64> {
        let cut = self.cut.iter().map(|(number, _)| *number);
        cut.chain(self.partial).max()
    }
}

/// The number of the last segment of a stretch of which something was received.
///
/// # Errors
/// [`archive::Error::Store`].
pub(in crate::job) async fn received(
    archive: &Archive,
    stretch: Stretch,
    from: u64,
    size: SegmentSize,
    patience: Patience,
) -> Result<Option<u64>, archive::Error> {
    let name = |number| SegmentName::from_number(stretch.timeline, number, size);
    let Some(first) = name(from.max(stretch.begin.0 / size.bytes())) else {
        return Ok(None);
    };
    let last = stretch.end.and_then(|end| name(end.0 / size.bytes()));
    let found = archive.received_from(first, last, patience).await?;
    Ok(found.map(|(segment, _)| segment.number(size)))
}

/// The archived segments of a stretch, from number `from` on.
///
/// # Errors
/// [`archive::Error::Store`].
pub(in crate::job) async fn list(
    archive: &Archive,
    stretch: Stretch,
    from: u64,
    size: SegmentSize,
    patience: Patience,
) -> Result<Listed, archive::Error> {
    let first = from.max(stretch.begin.0 / size.bytes());
    let last = stretch.end.map_or(u64::MAX, |end| end.0 / size.bytes());
    let mut listed = Listed::default();
    let mut cursor = SegmentName::from_number(stretch.timeline, first, size).map(WalCursor::before);
    while let Some(at) = cursor {
        let page = archive.list_wal(Some(&at), patience).await?;
        for (name, meta) in &page.entries {
            let (WalName::Segment(segment) | WalName::Partial(segment)) = name else {
                continue;
            };
            let number = segment.number(size);
            if segment.timeline != stretch.timeline || number > last {
                return Ok(listed);
            }
            match name {
                WalName::Partial(_) => listed.partial = Some(number),
                // A listing shows a damaged one so.
                _ if meta.bytes == 0 => {
                    if listed.cut.len() < MOST_CUT {
                        listed.cut.push((number, meta.stored_bytes));
                    }
                }
                _ => push(&mut listed.runs, number, meta.modified),
            }
        }
        cursor = page.next;
    }
    Ok(listed)
}

/// The number of the last segment that a backup needs which ends there.
fn last_of(stop: Lsn, size: SegmentSize) -> u64 {
    stop.0.saturating_sub(1) / size.bytes()
}

/// From the backup's last segment on, which is at hand, as far as the runs join.
fn add_up(stretches: &[Stretch], listed: Listed, stop: Lsn, size: SegmentSize) -> Reach {
    let begun = listed.last_begun();
    let Listed { mut runs, cut, .. } = listed;
    runs.sort_by_key(|run| run.first);
    let last_own = last_of(stop, size);
    // The backup's own last segment is whole where WAL behind it is there.
    let is_own = runs.is_empty() && begun.is_none_or(|begun| begun <= last_own);
    let (mut last, mut newest, mut gap) = (last_own, None, None);
    for run in runs {
        if run.first > last + 1 {
            gap = Some(last + 1);
            break;
        }
        if run.last >= last {
            last = run.last;
            newest = Some(run.archived_at);
        }
    }
    // The one behind the last may be begun; one that is too short is none.
    let is_cut = |number: u64| {
        cut.iter()
            .find(|(cut, _)| *cut == number)
            .map(|(_, bytes)| *bytes)
    };
    let behind = if is_own { last } else { last + 1 };
    if begun.is_some_and(|begun| begun > behind) || is_cut(behind).is_some() {
        gap = gap.or(Some(behind));
    }
    let lack = gap.and_then(is_cut).map_or(Lack::Absent, Lack::Cut);
    let name = |number: u64| segment_of(stretches, number, size);
    Reach {
        timeline: stretches.last().map_or(Timeline(1), |stretch| stretch.timeline),
        last: name(last).expect("a number that the archive has"),
        end: match is_own {
            true => stop,
            false => Lsn((last + 1).saturating_mul(size.bytes())),
        },
        next: name(if is_own { last } else { last + 1 }),
        received: None,
        gap: gap.and_then(name),
        lack,
        newest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn stretch(timeline: u32, begin: u64, end: Option<u64>) -> Stretch {
        Stretch {
            timeline: Timeline(timeline),
            begin: Lsn(begin),
            end: end.map(Lsn),
        }
    }

    fn run(first: u64, last: u64) -> Run {
        let archived_at = SystemTime::UNIX_EPOCH;
        Run {
            first,
            last,
            archived_at,
        }
    }

    fn reached(runs: &[(u64, u64)]) -> (String, Option<String>) {
        let stretches = [stretch(1, 0, Some(5 * MIB + 77)), stretch(2, 5 * MIB + 77, None)];
        let runs = runs.iter().map(|(first, last)| run(*first, *last)).collect();
        let runs = Listed {
            runs,
            ..Listed::default()
        };
        let reach = add_up(&stretches, runs, Lsn(3 * MIB + 5000), SegmentSize::MIN);
        assert_eq!(reach.timeline, Timeline(2));
        (reach.last.to_string(), reach.gap.map(|name| name.to_string()))
    }

    #[test]
    fn runs_join_over_a_change_of_timelines() {
        let second = |number: u64| format!("0000000200000000{number:08X}");
        let first = |number: u64| format!("0000000100000000{number:08X}");
        assert_eq!(reached(&[]), (first(3), None));
        let alone = add_up(
            &[stretch(1, 0, None)],
            Listed::default(),
            Lsn(3 * MIB + 5000),
            SegmentSize::MIN,
        );
        assert!(alone.is_own() && alone.end == Lsn(3 * MIB + 5000));
        assert_eq!(reached(&[(3, 4), (5, 9)]), (second(9), None));
        assert_eq!(reached(&[(3, 5), (5, 9)]), (second(9), None));
        assert_eq!(reached(&[(3, 4), (6, 9)]), (first(4), Some(second(5))));
        assert_eq!(reached(&[(5, 9)]), (first(3), Some(first(4))));
    }
}
