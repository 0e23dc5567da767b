//! How far the archived WAL leads on from a backup, along the timelines that recovery would follow.
//!
//! PostgreSQL's `latest` is the last of the timelines that follow each other without a gap in their numbers
//! (`findNewestTimeLine` of timeline.c). A position is read from the newest timeline that had begun by then; the segment
//! in which a timeline began is its own, with its parent's pages in front (`XLogFileReadAnyTLI` of xlogrecovery.c).

use std::time::SystemTime;

use super::error::Error;
use super::target::TargetTimeline;
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::Summary;
use crate::archive::wal::WalCursor;
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalName, history};
use crate::store::Patience;

/// What the archive has behind a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The timeline that recovery ends on.
    pub timeline: Timeline,
    /// The last segment before anything is missing; in the backup at least.
    pub last: SegmentName,
    /// Where that segment ends.
    pub end: Lsn,
    /// The segment that would come then.
    pub next: Option<SegmentName>,
    /// Where what was received of that ends, if something was.
    pub received: Option<Lsn>,
    /// The first missing segment, if others behind it are archived.
    pub gap: Option<SegmentName>,
    /// When the newest of the unbroken segments behind the backup was archived, by the store's clock.
    pub newest: Option<SystemTime>,
}

impl Reach {
    /// The furthest that recovery could get to, with what was received of the next segment.
    pub fn furthest(&self) -> Lsn {
        self.received.unwrap_or(self.end)
    }
}

/// A stretch of the WAL that is on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    timeline: Timeline,
    begin: Lsn,
    /// `None` on the last.
    end: Option<Lsn>,
}

/// Segments that follow each other, by number, both ends included; and the time of the last.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    newest: SystemTime,
}

/// Looks how far the WAL leads from where the backup ends.
///
/// # Errors
/// [`Error::NoTimeline`], [`Error::OtherBranch`], [`Error::Content`], [`Error::Archive`].
pub(super) async fn reach(
    archive: &Archive,
    backup: &TreeName,
    summary: &Summary,
    wanted: TargetTimeline,
    patience: Patience,
) -> Result<Reach, Error> {
    let broken = |reason: &str| Error::Content {
        backup: backup.clone(),
        file: "its summary".into(),
        reason: reason.to_owned(),
    };
    let size = SegmentSize::new(summary.backup.segment_bytes).map_err(|error| broken(&error.to_string()))?;
    let (begun, _) = summary.backup.start().ok_or_else(|| broken("it names no WAL"))?;
    let (own, stop) = summary.backup.stop().ok_or_else(|| broken("it names no WAL"))?;
    let timeline = match wanted {
        TargetTimeline::Latest => newest_timeline(archive, begun, patience).await?,
        TargetTimeline::Current => own,
        TargetTimeline::Number(timeline) => timeline,
    };
    let stretches = stretches(archive, timeline, own, patience).await?;
    check_branch(backup, own, stop, timeline, &stretches)?;
    let last_own = stop.0.saturating_sub(1) / size.bytes();
    let mut runs = Vec::new();
    for stretch in stretches.iter().filter(|stretch| stretch.timeline >= own) {
        runs.extend(list(archive, *stretch, last_own, size, patience).await?);
    }
    Ok(add_up(&stretches, runs, last_own, size))
}

async fn newest_timeline(archive: &Archive, from: Timeline, patience: Patience) -> Result<Timeline, Error> {
    let mut newest = from;
    loop {
        let next = Timeline(newest.0.saturating_add(1));
        if next == newest
            || archive
                .wal_meta(WalName::History(next), patience)
                .await?
                .is_none()
        {
            return Ok(newest);
        }
        newest = next;
    }
}

/// The way to a timeline from the first.
async fn stretches(
    archive: &Archive,
    timeline: Timeline,
    own: Timeline,
    patience: Patience,
) -> Result<Vec<Stretch>, Error> {
    let name = WalName::History(timeline);
    let text = archive.read_small(name, patience).await?;
    let mut found = Vec::new();
    let mut begin = Lsn(0);
    if let Some(text) = &text {
        let entries = history::parse(text, timeline).map_err(|error| crate::archive::Error::Text {
            name,
            reason: error.to_string(),
        })?;
        for entry in entries {
            let (timeline, end) = (entry.timeline, Some(entry.end));
            found.push(Stretch { timeline, begin, end });
            begin = entry.end;
        }
    } else if timeline != own && timeline != Timeline(1) {
        return Err(Error::NoTimeline {
            place: archive.place(),
            timeline,
        });
    }
    found.push(Stretch {
        timeline,
        begin,
        end: None,
    });
    Ok(found)
}

/// Does the way go through the backup's end?
fn check_branch(
    backup: &TreeName,
    own: Timeline,
    stop: Lsn,
    timeline: Timeline,
    stretches: &[Stretch],
) -> Result<(), Error> {
    let through = stretches.iter().find(|stretch| stretch.timeline == own);
    let reason = match through {
        Some(Stretch { end: Some(end), .. }) if *end < stop => {
            format!("it left timeline {own} at {end}")
        }
        Some(_) => return Ok(()),
        None => format!("timeline {own} is not among its ancestors"),
    };
    Err(Error::OtherBranch {
        backup: backup.clone(),
        stop,
        own,
        timeline,
        reason,
    })
}

/// The archived segments of a stretch, from number `from` on.
async fn list(
    archive: &Archive,
    stretch: Stretch,
    from: u64,
    size: SegmentSize,
    patience: Patience,
) -> Result<Vec<Run>, Error> {
    let first = from.max(stretch.begin.0 / size.bytes());
    let last = stretch.end.map_or(u64::MAX, |end| end.0 / size.bytes());
    let mut runs: Vec<Run> = Vec::new();
    let mut cursor = SegmentName::from_number(stretch.timeline, first, size).map(WalCursor::before);
    while let Some(at) = cursor {
        let page = archive.list_wal(Some(&at), patience).await?;
        for (name, meta) in &page.entries {
            let WalName::Segment(segment) = name else { continue };
            let number = segment.number(size);
            if segment.timeline != stretch.timeline || number > last {
                return Ok(runs);
            }
            push(&mut runs, number, meta.modified);
        }
        cursor = page.next;
    }
    Ok(runs)
}

fn push(runs: &mut Vec<Run>, number: u64, modified: SystemTime) {
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

/// From the backup's last segment on, which is at hand, as far as the runs join.
fn add_up(stretches: &[Stretch], mut runs: Vec<Run>, last_own: u64, size: SegmentSize) -> Reach {
    runs.sort_by_key(|run| run.first);
    let (mut last, mut newest, mut gap) = (last_own, None, None);
    for run in runs {
        if run.first > last + 1 {
            gap = Some(last + 1);
            break;
        }
        if run.last >= last {
            last = run.last;
            newest = newest.max(Some(run.newest));
        }
    }
    let name = |number: u64| {
        let on = stretches
            .iter()
            .rev()
            .find(|stretch| stretch.begin.0 / size.bytes() <= number);
        let timeline = on.map_or(Timeline(1), |stretch| stretch.timeline);
        SegmentName::from_number(timeline, number, size)
    };
    Reach {
        timeline: stretches.last().map_or(Timeline(1), |stretch| stretch.timeline),
        last: name(last).expect("a number that the archive has"),
        end: Lsn((last + 1).saturating_mul(size.bytes())),
        next: name(last + 1),
        received: None,
        gap: gap.and_then(name),
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
        let newest = SystemTime::UNIX_EPOCH;
        Run { first, last, newest }
    }

    fn reached(runs: &[(u64, u64)]) -> (String, Option<String>) {
        let stretches = [stretch(1, 0, Some(5 * MIB + 77)), stretch(2, 5 * MIB + 77, None)];
        let runs = runs.iter().map(|(first, last)| run(*first, *last)).collect();
        let reach = add_up(&stretches, runs, 3, SegmentSize::MIN);
        assert_eq!(reach.timeline, Timeline(2));
        (reach.last.to_string(), reach.gap.map(|name| name.to_string()))
    }

    #[test]
    fn runs_join_over_a_change_of_timelines() {
        let second = |number: u64| format!("0000000200000000{number:08X}");
        let first = |number: u64| format!("0000000100000000{number:08X}");
        assert_eq!(reached(&[]), (first(3), None));
        assert_eq!(reached(&[(3, 4), (5, 9)]), (second(9), None));
        assert_eq!(reached(&[(3, 5), (5, 9)]), (second(9), None));
        assert_eq!(reached(&[(3, 4), (6, 9)]), (first(4), Some(second(5))));
        assert_eq!(reached(&[(5, 9)]), (first(3), Some(first(4))));
    }

    #[test]
    fn a_backup_must_lie_on_the_way() {
        let name = "monday".parse().unwrap();
        let stretches = [stretch(1, 0, Some(500)), stretch(3, 500, None)];
        let check = |own, stop| check_branch(&name, Timeline(own), Lsn(stop), Timeline(3), &stretches);
        assert!(check(1, 500).is_ok() && check(3, 900).is_ok());
        let left = check(1, 501).unwrap_err().to_string();
        assert!(left.contains("left timeline 1 at 0/1F4"), "{left}");
        assert!(matches!(check(2, 1), Err(Error::OtherBranch { .. })));
    }
}
