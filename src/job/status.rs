//! The state of an archive in one look (promise K7): what can be restored, up to which moment, and what is wrong.
//!
//! All that is told is in one plain value, which is printed, drawn, stored as JSON, and remembered for the day on which the
//! store is away.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::broken;
use super::line::Line;
use super::look::{Known, Look};
use super::progress::Progress;
use super::restore::candidate::Candidate;
use super::restore::way::Way;
use super::restore::{self, received, wal};
use super::wal_ranges::{Beginning, TimelineRanges};
use crate::archive::tree::TreeKind;
use crate::archive::tree::begun::Maker;
use crate::archive::tree::summary::Summary;
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, SegmentSize};
use crate::store::Patience;

mod backlog;
mod brief;
mod scheduled;
mod shown;
mod troubles;
mod versions;

pub use backlog::Backlog;
pub use brief::{Brief, State, metrics as metrics_of_all, table};
pub use scheduled::Scheduled;
pub use shown::Shown;
pub use troubles::{Limits, Trouble, spoken};
pub use versions::FilesStatus;

pub(super) use backlog::marked;

/// Segments without an index that are read for the last commit of a line.
const MOST_WALKS: u64 = 8;

/// Segments behind a backup whose indexes are asked whether they lead on, the newest.
const MOST_LOOKED: u64 = 1024;

/// Everything that is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// When it was looked at.
    pub at: Timestamp,
    /// The archive.
    pub archive: String,
    /// Whose it is; absent as long as no segment was archived.
    pub system_identifier: Option<String>,
    /// Bytes of a segment.
    pub segment_bytes: Option<u64>,
    /// The ends of the lines of history that nobody has given up.
    pub recoverable: Vec<Recoverable>,
    /// The segment that was archived last.
    pub last_segment: Option<Archived>,
    /// Every backup with a summary, oldest first.
    pub backups: Vec<BackupStatus>,
    /// What has none.
    pub unfinished: Vec<UnfinishedStatus>,
    /// Versions of files and dumps, name by name.
    #[serde(default)]
    pub files: Vec<FilesStatus>,
    /// All WAL, ascending by timeline.
    pub timelines: Vec<TimelineStatus>,
    /// What `walfs verify` remembers; absent if it never ran.
    pub verified: Option<Verified>,
    /// What agents do by a schedule.
    #[serde(default)]
    pub scheduled: Vec<Scheduled>,
    /// What waits in `pg_wal`, if that was looked at.
    pub backlog: Option<Backlog>,
    /// What somebody should look at, the worst first.
    pub troubles: Vec<Trouble>,
}

/// What can be restored along one line of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recoverable {
    /// The timeline that it ends on.
    pub timeline: u32,
    /// The backup to begin with: the newest that reaches it.
    pub backup: Option<String>,
    /// The last commit that comes back, if it is known.
    pub last_commit: Option<Timestamp>,
    /// Where that is.
    pub last_commit_lsn: Option<String>,
    /// Up to where the WAL is whole from the backup on.
    pub wal_ends_at: Option<String>,
    /// The first segment that is missing there, if later ones are archived.
    pub gap: Option<String>,
    /// The first segment there in which recovery ends, although later ones are archived, and why.
    #[serde(default)]
    pub broken: Option<String>,
}

/// A segment, and when it came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Archived {
    /// Its name.
    pub name: String,
    /// When it was stored, by the store's clock.
    pub at: Timestamp,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupStatus {
    /// Its name.
    pub name: String,
    /// The timeline of its end.
    pub timeline: Option<u32>,
    /// Numbers of the segments of its start and its end.
    pub segments: Option<(u64, u64)>,
    /// When it ended.
    pub ended: Timestamp,
    /// Bytes stored for it alone.
    pub stored_bytes: u64,
    /// Why it cannot be restored; absent if it can.
    pub lacks: Option<String>,
    /// Why it is pinned.
    pub pinned: Option<String>,
    /// Pages that were damaged on the server already.
    pub bad_pages: u64,
}

/// What has no summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedStatus {
    /// Its name.
    pub name: String,
    /// Is somebody still at it, as far as can be told?
    pub is_running: bool,
    /// May it be a complete one that has lost its summary?
    pub may_be_complete: bool,
    /// Bytes stored of it.
    pub stored_bytes: u64,
}

/// The WAL of a timeline: numbers of segments, both ends included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineStatus {
    /// Its number.
    pub timeline: u32,
    /// The timeline that it left, and the number of the segment in which it did.
    pub left: Option<(u32, u64)>,
    /// Why nobody can follow it, if so.
    pub broken: Option<String>,
    /// Does a server stop that asks for its history?
    #[serde(default)]
    pub stops_recovery: bool,
    /// What is there.
    pub archived: Vec<(u64, u64)>,
    /// What is missing.
    pub holes: Vec<(u64, u64)>,
    /// What prunes have removed.
    pub pruned: Vec<(u64, u64)>,
}

/// What was read back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// When the last run ended.
    pub at: Timestamp,
    /// When what was read longest ago was read.
    pub oldest: Option<Timestamp>,
    /// Objects that were damaged, and what that costs.
    pub findings: Vec<String>,
}

/// Looks at everything. `pg_wal` is a directory of a server on this machine.
///
/// # Errors
/// [`Error::Store`] and its like: then nothing is told of the archive.
pub async fn status(
    archive: &Arc<Archive>,
    pg_wal: Option<&Path>,
    limits: &Limits,
    progress: &Arc<dyn Progress>,
    deadline: Duration,
) -> Result<Status, Error> {
    let patience = || Patience::for_at_most(deadline);
    let now = Timestamp::now();
    let look = Look::take(archive, now, progress, patience).await?;
    let cluster = archive.cluster(patience()).await?;
    let size = look.ranges.segment_size;
    let mut recoverable = Vec::new();
    if let Some(size) = size {
        // A server that asks for a damaged history stops, on an older timeline as well.
        let stops = |own: &TimelineRanges| matches!(own.beginning, Beginning::Damaged(_));
        let damaged = look.ranges.timelines.iter().rfind(|own| stops(own));
        let ends = look
            .ends
            .iter()
            .filter(|end| damaged.is_none_or(|damaged| damaged.timeline < end.timeline()));
        for end in ends {
            recoverable.push(reached(archive, &look, end, size, patience()).await?);
        }
    }
    let backlog = match (pg_wal, size) {
        (Some(directory), Some(size)) => {
            Some(backlog::look(archive, directory, (size, now), patience()).await?)
        }
        _ => None,
    };
    let mut status = Status {
        at: now,
        archive: archive.place(),
        system_identifier: cluster.map(|cluster| cluster.system_id.to_string()),
        segment_bytes: size.map(SegmentSize::bytes),
        recoverable,
        last_segment: size.and_then(|size| last_segment(&look.ranges.timelines, size)),
        backups: look.backups.iter().map(|known| of_backup(known, size)).collect(),
        unfinished: look
            .unfinished
            .iter()
            // Of files the next run removes it, but for what is asked for.
            .filter(|(tree, maker)| {
                tree.kind() == TreeKind::BaseBackup || tree.may_have_lost_its_summary(*maker)
            })
            .map(|(tree, maker)| UnfinishedStatus {
                name: tree.id.name().to_string(),
                is_running: *maker != Maker::Dead,
                may_be_complete: tree.may_have_lost_its_summary(*maker),
                stored_bytes: tree.stored_bytes,
            })
            .collect(),
        files: versions::of(&look.versions),
        timelines: match size {
            Some(size) => look
                .ranges
                .timelines
                .iter()
                .map(|own| of_timeline(own, size))
                .collect(),
            None => vec![],
        },
        verified: verified(archive, patience()).await?,
        scheduled: scheduled::all(archive, now, patience()).await?,
        backlog,
        troubles: vec![],
    };
    status.troubles = troubles::all(&status, &look.unreadable, limits);
    Ok(status)
}

/// How far recovery gets along the line to an end, from the newest complete backup on it.
async fn reached(
    archive: &Arc<Archive>,
    look: &Look,
    end: &Way,
    size: SegmentSize,
    patience: Patience,
) -> Result<Recoverable, Error> {
    let nothing = Recoverable {
        timeline: end.timeline().0,
        backup: None,
        last_commit: None,
        last_commit_lsn: None,
        wal_ends_at: None,
        gap: None,
        broken: None,
    };
    let known = look
        .backups
        .iter()
        .rev()
        .find(|known| known.is_complete && known.is_on(end));
    let Some((known, (_, stop))) = known.and_then(|known| Some((known, known.summary.backup.stop()?))) else {
        return Ok(nothing);
    };
    let Some(candidate) = Candidate::new(known.name.clone(), Summary::clone(&known.summary)) else {
        return Ok(nothing);
    };
    let reach = wal::reach(archive, &candidate, end, patience).await;
    let reach = reach.map_err(|error| match error {
        restore::Error::Archive(error) => error,
        other => archive.tree_damaged(&known.name, "its summary", other.to_string()),
    })?;
    let last_own = stop.0.saturating_sub(1) / size.bytes();
    let rest = match reach.next.filter(|_| reach.gap.is_none()) {
        Some(next) => received::behind(archive, end, next.number(size), (size, patience)).await?,
        None => None,
    };
    let (start, last) = (known.summary.backup.start(), reach.last.number(size));
    let first = start.map_or(last_own, |(_, start)| start.0 / size.bytes());
    let looked = end.runs(first.max((last + 1).saturating_sub(MOST_LOOKED))..=last, size);
    let is_followed = reach.gap.is_some() || rest.is_some();
    let broken = broken::first(archive, &looked, (is_followed, stop), (size, patience))
        .boxed()
        .await?;
    if let Some(broken) = broken.filter(|broken| broken.at < stop) {
        let why = broken.fault.of(broken.segment);
        return Ok(Recoverable {
            broken: Some(format!(
                "{why}, and backup {} needs it to become consistent",
                known.name
            )),
            ..nothing
        });
    }
    let (rest, last) = match broken {
        Some(broken) => (None, broken.segment.number(size)),
        None => (rest, last),
    };
    let torn = rest.as_ref().filter(|rest| rest.torn.is_some());
    let torn = torn.map(|rest| rest.segment);
    // What only the backup has of it is no more than it needs.
    let runs = match reach.next == Some(reach.last) {
        true => vec![],
        false => end.runs(last_own..=last, size),
    };
    let line = Line::new(archive, runs, rest.map(Arc::new), (size, patience)).await?;
    let told = line.walking_at_most(MOST_WALKS).end(None).await?;
    let commit = told
        .commit
        .map(|(_, commit)| commit)
        .filter(|commit| commit.at >= stop);
    Ok(Recoverable {
        backup: Some(known.name.to_string()),
        last_commit: commit.map(|commit| commit.time),
        last_commit_lsn: commit.map(|commit| commit.at.to_string()),
        wal_ends_at: Some(told.end.unwrap_or(stop).max(stop).to_string()),
        gap: reach
            .gap
            .or(torn)
            .filter(|_| broken.is_none())
            .map(|gap| gap.to_string()),
        broken: broken.map(|broken| broken.fault.of(broken.segment)),
        ..nothing
    })
}

fn last_segment(timelines: &[TimelineRanges], size: SegmentSize) -> Option<Archived> {
    let runs = timelines
        .iter()
        .flat_map(|own| own.runs.iter().map(|run| (own.timeline, run)));
    let (timeline, run) = runs.max_by_key(|(_, run)| run.archived_at)?;
    Some(Archived {
        name: SegmentName::from_number(timeline, run.last, size)?.to_string(),
        at: time(run.archived_at),
    })
}

fn time(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn of_backup(known: &Known, size: Option<SegmentSize>) -> BackupStatus {
    let backup = &known.summary.backup;
    let number = |position: u64, size: SegmentSize| position / size.bytes();
    let segments = size.and_then(|size| {
        let ((_, start), (_, stop)) = (backup.start()?, backup.stop()?);
        Some((number(start.0, size), number(stop.0.saturating_sub(1), size)))
    });
    BackupStatus {
        name: known.name.to_string(),
        timeline: backup.stop().map(|(timeline, _)| timeline.0),
        segments,
        ended: backup.ended.at,
        stored_bytes: known.summary.stored_bytes,
        lacks: known.lacks.clone(),
        pinned: known.pinned.clone(),
        bad_pages: backup.bad_pages(),
    }
}

fn of_timeline(own: &TimelineRanges, size: SegmentSize) -> TimelineStatus {
    TimelineStatus {
        timeline: own.timeline.0,
        left: match own.beginning {
            Beginning::Left(parent, at) => Some((parent.0, at.0 / size.bytes())),
            _ => None,
        },
        broken: match &own.beginning {
            Beginning::Lost => Some(format!("{:08X}.history is missing", own.timeline.0)),
            Beginning::Wrong(reason) | Beginning::Damaged(reason) => reason.lines().next().map(str::to_owned),
            _ => None,
        },
        stops_recovery: matches!(own.beginning, Beginning::Damaged(_)),
        archived: own.runs.iter().map(|run| (run.first, run.last)).collect(),
        holes: own.holes.clone(),
        pruned: own.pruned.clone(),
    }
}

/// Of several records the newest word on each object counts; of one of another place, or another name of this one, what was found.
async fn verified(archive: &Archive, patience: Patience) -> Result<Option<Verified>, Error> {
    let records = archive.checks(patience).await?.into_iter();
    let records: Vec<_> = records.filter_map(|(_, record)| record.ok()).collect();
    let mut verified: Option<Verified> = None;
    let mut found = BTreeMap::new();
    for record in records {
        let is_own = record.place == archive.place();
        if !is_own && record.found.is_empty() {
            continue;
        }
        let told = verified.get_or_insert(Verified {
            at: record.at,
            oldest: None,
            findings: vec![],
        });
        if is_own {
            told.at = told.at.max(record.at);
            let oldest = record.ranges.iter().map(|range| range.at).min();
            told.oldest = told.oldest.into_iter().chain(oldest).min();
        }
        for one in record.found {
            let costs: Vec<String> = std::iter::once(one.reason).chain(one.costs).collect();
            found.insert(
                one.object.clone(),
                format!("{}: {}", one.object, costs.join("; ")),
            );
        }
    }
    if let Some(told) = &mut verified {
        told.findings = found.into_values().collect();
    }
    Ok(verified)
}

/// How far a clock may be ahead of the one here.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

impl Status {
    /// Backups that can be restored.
    fn complete(&self) -> impl DoubleEndedIterator<Item = &BackupStatus> {
        self.backups.iter().filter(|backup| backup.lacks.is_none())
    }

    /// Does it say that it ended at a moment that is yet to come?
    fn is_ahead(&self, backup: &BackupStatus) -> bool {
        backup.ended.duration_since(self.at) > AHEAD
    }

    /// The newest that can be restored. One from a clock that was ahead would be it for as long as that was.
    fn newest(&self) -> Option<&BackupStatus> {
        let by_clock = |backup: &&BackupStatus| (!self.is_ahead(backup), backup.ended);
        self.complete().max_by_key(by_clock)
    }
}

/// How long ago, in seconds; 0 if the clocks disagree.
fn age(at: Timestamp, now: Timestamp) -> u64 {
    let age: SignedDuration = now.duration_since(at);
    u64::try_from(age.as_secs()).unwrap_or(0)
}
