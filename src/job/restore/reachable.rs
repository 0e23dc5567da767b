//! Can recovery reach the target? The archived WAL tells, and nothing is touched before it is known (promise K5).
//!
//! PostgreSQL stops (`recoveryStopsBefore`, `recoveryStopsAfter` of xlogrecovery.c) at a time with the first transaction that
//! ended later, by commit or abort; at a position with the first record that begins there or behind; at a name with that
//! restore point; at a transaction with its end. Where the WAL has no such record, recovery ends with "recovery ended before
//! configured recovery target was reached", hours later. What was received of the last segment counts. A standby's server may
//! bring what the archive lacks.
//!
//! A time is looked for from the end of the WAL on, so that one segment's index tells as a rule. All of those since the
//! backup, up to [`MOST_SEGMENTS`], are asked before a target is refused: clocks go back.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;

use super::candidate::Candidate;
use super::error::Error;
use super::received::Rest;
use super::settings::Recovery;
use super::target::Target;
use super::wal::Reach;
use super::way::Way;
use crate::archive::{self, Archive};
use crate::job::line::{Line, Order, Told};
use crate::pg::wal_index::{Facts, Moment};
use crate::pg::{Lsn, SegmentName, Timeline};
use crate::store::Patience;

/// Segments that are looked at, the newest first, before a target is refused.
const MOST_SEGMENTS: usize = 8192;

/// Segments without an index that are fetched and walked through.
const MOST_WALKS: u64 = 64;

/// Why it is not known what a segment has.
const NO_INDEX: &str = "has no index, or not a whole one";

/// What was found of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// The record at which recovery stops, or one at or before which it does; the newest such.
    At(Lsn),
    /// There is none.
    Nowhere,
    /// Of this segment, and perhaps of others, it is not known what it has, and why.
    Unknown(SegmentName, &'static str),
}

/// What was seen while a target was looked for.
#[derive(Debug)]
struct Seen {
    sight: Sight,
    /// The newest commit.
    commit: Option<Moment>,
    /// Behind the last record.
    end: Option<Lsn>,
}

/// Is the target to be reached? What is not known becomes a warning.
///
/// # Errors
/// [`Error::NotReached`], [`Error::TargetTooEarly`]; [`Error::Archive`].
pub(super) async fn check(
    archive: &Arc<Archive>,
    recovery: &Recovery,
    (candidate, way): (&Candidate, &Way),
    (reach, rest): (&Reach, Option<&Arc<Rest>>),
    patience: Patience,
) -> Result<Vec<String>, Error> {
    if matches!(recovery.target, Target::Latest | Target::Immediate) {
        return Ok(Vec::new());
    }
    let size = candidate.segment_size()?;
    let (first, last) = (
        candidate.stop.0.saturating_sub(1) / size.bytes(),
        reach.last.number(size),
    );
    // What only the backup has of it is no more than it needs.
    let runs = match reach.is_own() {
        true => Vec::new(),
        false => way.runs(first..=last, size),
    };
    let line = Line::new(archive, runs, rest.cloned(), (size, patience))
        .await?
        .walking_at_most(MOST_WALKS);
    let seen = look(&line, recovery, reach.broken()).await?;
    match (seen.sight, &recovery.target) {
        (Sight::At(at), _) if at >= candidate.stop => Ok(Vec::new()),
        (Sight::At(_), target) => Err(Error::TargetTooEarly {
            backup: candidate.name.clone(),
            target: target.to_string(),
            stop: candidate.stop.to_string(),
        }),
        // A standby's server may bring it.
        (_, target) if recovery.standby => Ok(vec![format!(
            "the archived WAL does not reach {target} yet: {}",
            seen.reached(reach.timeline, Some(reach.furthest()))
        )]),
        (Sight::Unknown(segment, why), target) => Ok(vec![format!(
            "whether the archived WAL reaches {target} is not known: {segment} {why}. If it does not, the server will end \
             with \"recovery ended before configured recovery target was reached\""
        )]),
        (Sight::Nowhere, _) => {
            let hole = reach.gap.map(|gap| reach.lack.of(gap));
            Err(seen.refused(archive, recovery, (reach.timeline, Some(reach.furthest())), hole))
        }
    }
}

/// The backups that end before a restore point or a transaction, of which only the WAL tells when it was, or before the newest
/// WAL from after a time. Of several of that name the newest counts. `None`: it is not known.
///
/// # Errors
/// [`Error::NotReached`], [`Error::NoneBefore`]; [`Error::Archive`].
pub(super) async fn before(
    archive: &Arc<Archive>,
    recovery: &Recovery,
    (candidates, way): (&[Candidate], &Way),
    patience: Patience,
) -> Result<Option<Vec<Candidate>>, Error> {
    let on_way: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.is_on(way))
        .collect();
    let Some(oldest) = on_way.iter().min_by_key(|candidate| candidate.stop) else {
        return Ok(Some(Vec::new()));
    };
    let size = oldest.segment_size()?;
    let from = oldest.stop.0.saturating_sub(1) / size.bytes();
    let line = Line::along(archive, way, (from, size), patience)
        .await?
        .walking_at_most(MOST_WALKS);
    let seen = look(&line, recovery, None).await?;
    let at = match seen.sight {
        Sight::At(at) => at,
        Sight::Unknown(..) => return Ok(None),
        Sight::Nowhere => return Err(seen.refused(archive, recovery, (way.timeline(), None), None)),
    };
    let before = on_way.into_iter().filter(|candidate| candidate.stop <= at);
    let before: Vec<Candidate> = before.cloned().collect();
    match before.is_empty() {
        true => Err(Error::NoneBefore {
            place: archive.place(),
            target: recovery.target.to_string(),
        }),
        false => Ok(Some(before)),
    }
}

fn missing(target: &Target, inclusive: bool) -> &'static str {
    match target {
        Target::Time(_) if inclusive => "no transaction in it ended later",
        Target::Time(_) => "no transaction in it ended then or later",
        Target::Lsn(_) => "no record in it begins there or behind",
        Target::Name(_) => "it has no such restore point behind the backup",
        _ => "it has neither a commit nor an abort of it behind the backup",
    }
}

fn hint(target: &Target, seen: &Seen) -> String {
    match (target, seen.commit) {
        (Target::Time(_), Some(last)) => format!(
            "without --target-time all of it is recovered; or name a time before {}",
            last.time
        ),
        (Target::Time(_) | Target::Lsn(_), _) => "without a target all of it is recovered".into(),
        (Target::Name(name), _) => format!(
            "`walfs wal-find --restore-point {}` looks for it in all archived WAL of a timeline (--timeline), without a name \
             after --restore-point it lists all",
            quoted(name)
        ),
        (Target::Xid(xid), _) => {
            format!("`walfs wal-find --xid {xid}` looks for it in all archived WAL of a timeline")
        }
        _ => "choose another target".into(),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Seen {
    fn refused(
        &self,
        archive: &Archive,
        recovery: &Recovery,
        (timeline, furthest): (Timeline, Option<Lsn>),
        hole: Option<String>,
    ) -> Error {
        let reached = self.reached(timeline, furthest);
        Error::NotReached {
            place: archive.place(),
            target: recovery.target.to_string(),
            reason: missing(&recovery.target, recovery.inclusive),
            reached: match &hole {
                Some(hole) => format!("{reached}, because {hole}: what lies behind was not looked at"),
                None => reached,
            },
            hint: match (&hole, furthest) {
                // All of it is not to be had.
                (Some(_), Some(end)) => format!("choose a newer backup, or a target before {end}"),
                _ => hint(&recovery.target, self),
            },
        }
    }

    fn reached(&self, timeline: Timeline, furthest: Option<Lsn>) -> String {
        let commit = match self.commit {
            Some(Moment { at, time }) => {
                format!("the last commit is of {time}, at {at} on timeline {timeline}")
            }
            None => format!("it has no commit behind the backup, on timeline {timeline}"),
        };
        match self.end.or(furthest) {
            Some(end) => format!("{commit}, and the WAL ends at {end}"),
            None => commit,
        }
    }
}

/// Looks for the target, from the end of the line on. What lies behind the end of the WAL in a segment that is `broken` does not
/// count.
///
/// # Errors
/// [`archive::Error::Store`].
async fn look(line: &Line, recovery: &Recovery, broken: Option<SegmentName>) -> Result<Seen, archive::Error> {
    let mut seen = Seen {
        sight: Sight::Nowhere,
        commit: None,
        end: None,
    };
    let (mut told, mut left) = (line.told(Order::NewestFirst), MOST_SEGMENTS);
    let mut unknown = None;
    while let Some(one) = told.next().await {
        let one = one?;
        let Some(more) = left.checked_sub(1) else {
            unknown = unknown.or(Some((
                one.segment,
                "and those before it lie too far back to be looked at",
            )));
            break;
        };
        left = more;
        let is_broken = broken == Some(one.segment);
        let Some(index) = &one.index else {
            unknown = unknown.or((!is_broken).then_some((one.segment, NO_INDEX)));
            continue;
        };
        if !index.is_whole() && !is_broken {
            unknown = unknown.or(Some((one.segment, NO_INDEX)));
        }
        seen.commit = seen.commit.or(index.facts.commits.map(|commits| commits.last));
        seen.end = seen.end.or(index.walked.last.map(|_| index.walked.end));
        let found = match &recovery.target {
            Target::Time(time) => later(&index.facts, *time, recovery.inclusive),
            // The last record says it, whatever lies before.
            Target::Lsn(lsn) => match index.walked.last {
                Some(last) if last < *lsn && unknown.is_none() => return Ok(seen),
                last => last.filter(|last| last >= lsn),
            },
            Target::Name(name) => {
                let mut points = index.facts.restore_points.iter().rev();
                let point = points
                    .find(|point| point.name == *name)
                    .map(|point| point.moment.at);
                match point {
                    None if !index.facts.all => of_name(line, &one, name).await?,
                    point => point,
                }
            }
            Target::Xid(xid) => match of_xid(line, &one, *xid as u32).await? {
                Place::At(at) => Some(at),
                Place::Nowhere => None,
                Place::Unknown => {
                    unknown = unknown.or(Some((
                        one.segment,
                        "has the end of a prepared one whose number is not known",
                    )));
                    None
                }
            },
            Target::Latest | Target::Immediate => None,
        };
        if let Some(at) = found {
            seen.sight = Sight::At(at);
            return Ok(seen);
        }
    }
    if let Some((segment, why)) = unknown {
        seen.sight = Sight::Unknown(segment, why);
    }
    Ok(seen)
}

fn later(facts: &Facts, time: Timestamp, inclusive: bool) -> Option<Lsn> {
    let latest = facts.latest_end()?;
    let is_later = match inclusive {
        true => latest.time > time,
        false => latest.time >= time,
    };
    is_later.then_some(latest.at)
}

async fn of_name(line: &Line, told: &Told, name: &str) -> Result<Option<Lsn>, archive::Error> {
    let mut found: Option<Lsn> = None;
    line.visit(told, |at, head| {
        if head.restore_point().is_some_and(|(_, found)| found == name) {
            found = found.max(Some(at));
        }
    })
    .await?;
    Ok(found)
}

/// Where a segment has the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::job) enum Place {
    /// Its record begins there.
    At(Lsn),
    /// It has none.
    Nowhere,
    /// It has one of which the number is not at hand: of a prepared transaction, across a border.
    Unknown,
}

/// The end of a transaction, in a segment that may have it.
///
/// # Errors
/// As [`look`].
pub(in crate::job) async fn of_xid(line: &Line, told: &Told, xid: u32) -> Result<Place, archive::Error> {
    let Some(index) = told.index.as_ref().filter(|index| index.facts.may_end(xid)) else {
        return Ok(Place::Nowhere);
    };
    let (magic, mut found) = (index.walked.magic, Place::Nowhere);
    line.visit(told, |at, head| match head.ended_xid(magic) {
        Some(ended) if ended == xid => found = Place::At(at),
        None if found == Place::Nowhere && head.needs_all() => found = Place::Unknown,
        _ => {}
    })
    .await?;
    Ok(found)
}
