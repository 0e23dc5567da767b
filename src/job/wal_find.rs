//! `walfs wal-find`: where in the archived WAL something is, by the indexes of its segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;

use super::broken::{self, Broken, Fault};
use super::line::{Line, LineEnd, Order, Told};
use super::restore::reachable::{self, Place};
use super::restore::timelines::Timelines;
use super::restore::way::Way;
use super::time_stop;
use crate::archive::tree::TreeKind;
use crate::archive::{Archive, Error};
use crate::pg::record::{Ended, RelationFork};
use crate::pg::wal_index::{Moment, RestorePoint};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::store::Patience;

/// The line of history that is searched.
#[derive(Debug)]
pub struct Searched {
    /// Its WAL.
    pub line: Line,
    /// What is wrong with a history that a server on this line asks for, if it is damaged.
    pub damaged: Option<String>,
    /// The timeline that it ends on.
    pub timeline: Timeline,
    /// Others that have WAL, and that it does not lead through.
    pub others: Vec<Timeline>,
    /// A segment that is missing behind the newest backup on the line, or in which recovery ends, although there is WAL behind it:
    /// nothing recovers past it.
    pub hole: Option<SegmentName>,
    /// Why recovery ends in it, if it is not missing.
    pub broken: Option<Fault>,
}

/// Why nothing can be searched.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Error),
    /// There is no WAL.
    #[error("{place} has no WAL yet.\nHINT: `walfs wal-list` shows what is archived.")]
    Empty {
        /// The archive.
        place: String,
    },
    /// No WAL of the timeline that was asked for.
    #[error("{place} has no WAL of timeline {timeline}.\nHINT: it has some of {known}.")]
    NoTimeline {
        /// The archive.
        place: String,
        /// What was asked for.
        timeline: Timeline,
        /// Those that there are.
        known: String,
    },
}

/// An end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// In which segment.
    pub segment: SegmentName,
    /// Where its record begins.
    pub at: Lsn,
    /// When it was, and how.
    pub ended: Ended,
    /// The transaction; `None` if the record does not say it in its first bytes.
    pub xid: Option<u32>,
}

/// What lies around a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Around {
    /// The last commit at it or before.
    pub before: Option<TransactionEnd>,
    /// The first end of a transaction after it, at which recovery to that time stops.
    pub after: Option<TransactionEnd>,
    /// A commit behind that which is at it or before all the same: that recovery does not reach it.
    pub missed: Option<(SegmentName, Moment)>,
}

/// Blocks of a fork of a relation that a segment touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TouchedIn {
    /// The segment.
    pub segment: SegmentName,
    /// The blocks, as runs of the first and the last; some of each group of 2^shift blocks was touched.
    pub forks: Vec<(RelationFork, Vec<(u32, u32)>)>,
    /// Are these all?
    pub all: bool,
}

/// A relation's files, whichever tablespace they are in if none is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// Its tablespace.
    pub tablespace: Option<u32>,
    /// Its database.
    pub database: u32,
    /// The number in its file's name.
    pub relation: u32,
}

/// What was found, and what could not be looked at.
#[derive(Debug, Clone)]
pub struct Findings<T> {
    /// What was found.
    pub found: T,
    /// Segments whose WAL could not be read, the first few.
    pub unknown: Vec<SegmentName>,
}

/// Segments behind the newest backup whose indexes are asked whether they lead on.
const MOST_LOOKED: u64 = 8192;

/// Unknown segments that are told.
const UNKNOWN: usize = 8;

/// The line to search: to this timeline, or to the newest that has WAL.
///
/// # Errors
/// [`FindError`].
pub async fn line(
    archive: &Arc<Archive>,
    timeline: Option<Timeline>,
    patience: Patience,
) -> Result<Searched, FindError> {
    let place = || archive.place();
    let Some(cluster) = archive.cluster_of_wal(patience).await? else {
        return Err(FindError::Empty { place: place() });
    };
    let timelines = Timelines::find(archive, patience).await?;
    let followed: Vec<Way> = timelines.followed().collect();
    let known: Vec<Timeline> = timelines.with_wal().collect();
    let way = match timeline {
        Some(timeline) => known
            .contains(&timeline)
            .then(|| timelines.way(timeline, true))
            .flatten()
            .ok_or_else(|| FindError::NoTimeline {
                place: place(),
                timeline,
                known: named(&known),
            })?,
        None => followed
            .into_iter()
            .next_back()
            .ok_or_else(|| FindError::Empty { place: place() })?,
    };
    let is_on = |timeline: &Timeline| {
        way.stretches()
            .iter()
            .any(|stretch| stretch.timeline == *timeline)
    };
    let damaged = timelines.damaged(way.timeline());
    let others = known.into_iter().filter(|timeline| !is_on(timeline)).collect();
    let size: SegmentSize = cluster.segment_size;
    let (line, newest) = futures::try_join!(
        Line::along(archive, &way, (0, size), patience),
        newest_backup(archive, &way, patience)
    )?;
    let hole = newest.and_then(|newest| line.hole_behind(newest));
    let broken = match newest {
        Some(newest) => {
            broken_behind(archive, &line, newest, hole, (size, patience))
                .boxed()
                .await?
        }
        None => None,
    };
    Ok(Searched {
        hole: broken.map(|broken| broken.segment).or(hole),
        broken: broken.map(|broken| broken.fault),
        line,
        damaged: damaged.map(|(_, reason)| reason.to_owned()),
        timeline: way.timeline(),
        others,
    })
}

/// Where the newest backup on the way ends; `None`: there is none here, and nobody knows where recovery would begin.
async fn newest_backup(archive: &Archive, way: &Way, patience: Patience) -> Result<Option<Lsn>, Error> {
    let summaries = archive.summaries(TreeKind::BaseBackup, patience).await?;
    let stops = summaries
        .into_iter()
        .filter_map(|(_, summary)| summary.ok()?.backup.stop());
    let on_way = stops.filter(|(timeline, stop)| way.check_through(*timeline, *stop).is_ok());
    Ok(on_way.map(|(_, stop)| stop).max())
}

/// The first segment behind a position, and before a hole, that does not lead on.
async fn broken_behind(
    archive: &Arc<Archive>,
    line: &Line,
    position: Lsn,
    hole: Option<SegmentName>,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<Broken>, Error> {
    let first = position.0.saturating_sub(1) / size.bytes();
    let runs = line.runs_from(first, MOST_LOOKED);
    let found = broken::first(archive, &runs, (hole.is_some(), Lsn(0)), (size, patience)).await?;
    Ok(found.filter(|broken| hole.is_none_or(|hole| !line.is_behind(broken.segment, hole))))
}

fn named(timelines: &[Timeline]) -> String {
    let named: Vec<String> = timelines.iter().map(ToString::to_string).collect();
    match named.is_empty() {
        true => "none".into(),
        false => format!("timeline {}", named.join(", ")),
    }
}

impl Searched {
    /// Does nothing recover to there, because of the hole before it?
    pub fn is_behind_hole(&self, segment: SegmentName) -> bool {
        self.hole.is_some_and(|hole| self.line.is_behind(segment, hole))
    }

    /// The last recoverable moment.
    ///
    /// # Errors
    /// [`Error::Store`], [`Error::Damaged`].
    pub async fn end(&self) -> Result<LineEnd, Error> {
        self.line.end(self.hole).await
    }

    /// The last commit at a time or before, and the first end of a transaction after it, in the order of the WAL.
    ///
    /// # Errors
    /// As [`Searched::end`].
    pub async fn around(&self, time: Timestamp) -> Result<Findings<Around>, Error> {
        let mut findings = Findings::default();
        let mut told = self.line.told(Order::OldestFirst);
        // The segment of the last commit that is not later.
        let mut before: Option<(Told, Moment)> = None;
        while let Some(one) = told.next().await {
            let one = one?;
            let Some(index) = findings.known(&one) else {
                continue;
            };
            let facts = &index.facts;
            if facts.latest_end().is_some_and(|latest| latest.time > time) {
                findings.found = self.around_in(&one, time).await?;
                if let Some(after) = findings.found.after {
                    let stop = Moment {
                        at: after.at,
                        time: after.ended.time,
                    };
                    let behind = time_stop::missed(&self.line, (stop, &one), &mut told, |ended| ended > time);
                    findings.found.missed = behind.await?;
                }
                break;
            }
            if let Some(commits) = facts.commits {
                before = Some((one, commits.last));
            }
        }
        if let (None, Some((told, last))) = (findings.found.before, before) {
            let ends = self.ends_at(&told, last.at).await?;
            findings.found.before = ends;
        }
        Ok(findings)
    }

    async fn around_in(&self, told: &Told, time: Timestamp) -> Result<Around, Error> {
        let mut ends = self.ends(told).await?;
        let after = ends.iter().position(|end| end.ended.time > time);
        let found = after.map(|after| ends[after]);
        ends.truncate(after.unwrap_or(ends.len()));
        let before = ends.iter().rev().find(|end| end.ended.committed);
        Ok(Around {
            before: before.copied(),
            after: found,
            missed: None,
        })
    }

    async fn ends_at(&self, told: &Told, at: Lsn) -> Result<Option<TransactionEnd>, Error> {
        let ends = self.ends(told).await?;
        Ok(ends.into_iter().find(|end| end.at == at))
    }

    /// All ends of transactions of a segment, in order.
    async fn ends(&self, told: &Told) -> Result<Vec<TransactionEnd>, Error> {
        let (segment, mut ends) = (told.segment, BTreeMap::new());
        let magic = told.index.as_ref().map_or(0, |index| index.walked.magic);
        self.line
            .visit(told, |at, head| {
                if let Some(ended) = head.ended() {
                    let xid = head.ended_xid(magic);
                    let end = TransactionEnd {
                        segment,
                        at,
                        ended,
                        xid,
                    };
                    ends.insert(at, end);
                }
            })
            .await?;
        Ok(ends.into_values().collect())
    }

    /// Where a transaction ended.
    ///
    /// # Errors
    /// As [`Searched::end`].
    pub async fn xid(&self, xid: u32) -> Result<Findings<Vec<TransactionEnd>>, Error> {
        let mut findings = Findings::<Vec<TransactionEnd>>::default();
        let mut told = self.line.told(Order::OldestFirst);
        while let Some(one) = told.next().await {
            let one = one?;
            if findings.known(&one).is_none() {
                continue;
            }
            match reachable::of_xid(&self.line, &one, xid).await? {
                Place::At(at) => findings.found.extend(self.ends_at(&one, at).await?),
                Place::Nowhere => {}
                Place::Unknown => findings.is_unknown(one.segment),
            }
        }
        Ok(findings)
    }

    /// The restore points of this name, or all.
    ///
    /// # Errors
    /// As [`Searched::end`].
    pub async fn restore_points(
        &self,
        name: Option<&str>,
    ) -> Result<Findings<Vec<(SegmentName, RestorePoint)>>, Error> {
        let mut findings = Findings::<Vec<_>>::default();
        let mut told = self.line.told(Order::OldestFirst);
        while let Some(one) = told.next().await {
            let one = one?;
            let Some(index) = findings.known(&one) else {
                continue;
            };
            let points = match index.facts.all {
                true => index.facts.restore_points.clone(),
                false => self.all_points(&one).await?,
            };
            let wanted = points
                .into_iter()
                .filter(|point| name.is_none_or(|name| point.name == name));
            findings.found.extend(wanted.map(|point| (one.segment, point)));
        }
        Ok(findings)
    }

    async fn all_points(&self, told: &Told) -> Result<Vec<RestorePoint>, Error> {
        let mut points = BTreeMap::new();
        self.line
            .visit(told, |at, head| {
                if let Some((time, name)) = head.restore_point() {
                    let moment = Moment { at, time };
                    points.insert(at, RestorePoint { moment, name });
                }
            })
            .await?;
        Ok(points.into_values().collect())
    }

    /// The segments that touch a relation; each is shown as soon as it is known.
    ///
    /// # Errors
    /// As [`Searched::end`].
    pub async fn relation(
        &self,
        file: RelationFile,
        mut show: impl FnMut(TouchedIn),
    ) -> Result<Findings<u64>, Error> {
        let mut findings = Findings::<u64>::default();
        let mut told = self.line.told(Order::OldestFirst);
        while let Some(one) = told.next().await {
            let one = one?;
            let Some(index) = findings.known(&one) else {
                continue;
            };
            let (blocks, all) = index.blocks();
            let mut forks: BTreeMap<RelationFork, Vec<(u32, u32)>> = BTreeMap::new();
            for touched in blocks.iter().filter(|touched| file.is_of(&touched.relation)) {
                let runs = touched.runs.iter().map(|run| (*run.start(), *run.end()));
                forks.entry(touched.relation).or_default().extend(runs);
            }
            if forks.is_empty() && all {
                continue;
            }
            if !forks.is_empty() {
                findings.found += 1;
            }
            show(TouchedIn {
                segment: one.segment,
                forks: forks.into_iter().collect(),
                all,
            });
        }
        Ok(findings)
    }
}

impl RelationFile {
    fn is_of(self, relation: &RelationFork) -> bool {
        self.tablespace
            .is_none_or(|tablespace| tablespace == relation.tablespace)
            && (self.database, self.relation) == (relation.database, relation.relation)
    }
}

impl<T: Default> Default for Findings<T> {
    fn default() -> Self {
        Self {
            found: T::default(),
            unknown: Vec::new(),
        }
    }
}

impl<T> Findings<T> {
    fn known<'a>(&mut self, told: &'a Told) -> Option<&'a crate::pg::wal_index::WalIndex> {
        if !told.index.as_ref().is_some_and(|index| index.is_whole()) {
            self.is_unknown(told.segment);
        }
        told.index.as_ref()
    }

    fn is_unknown(&mut self, segment: SegmentName) {
        if self.unknown.len() < UNKNOWN {
            self.unknown.push(segment);
        }
    }
}
