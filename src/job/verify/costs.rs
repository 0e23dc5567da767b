//! What findings in WAL, and in the small objects, cost: which backups recover no further, and which not at all.

use std::collections::BTreeSet;

use futures::FutureExt;

use super::finding::{Cost, Finding, Kind};
use super::tree::OpenTree;
use super::{Backup, Run, Scope, words};
use crate::archive::Error;
use crate::archive::object::Object;
use crate::archive::tree::catalogue::BackupWal;
use crate::archive::wal::Fragment;
use crate::job::proof::Lost;
use crate::job::restore::begun;
use crate::job::wal_ranges::{Beginning, WalRanges};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalName};
use crate::store::{Key, Meta};

impl Run<'_> {
    /// Takes down what is wrong with an object that was read.
    pub(super) async fn find_wrong(
        &mut self,
        (key, meta): (&Key, &Meta),
        object: &Object,
        (kind, reason, lost): (Kind, String, Lost),
        tree: &mut Option<OpenTree>,
    ) -> Result<(), Error> {
        let costs = match object {
            // Who points to it is looked up for all parts of a tree together.
            Object::Part(_) => {
                if let Some(tree) = tree {
                    tree.lose(key, kind, reason, lost);
                }
                return Ok(());
            }
            Object::Wal(name) => self.costs_of_wal(*name, &lost).await?,
            Object::Fragment(fragment) => self.costs_of_fragment(fragment).await?,
            Object::Summary(_, name) => vec![Cost::Backup {
                backup: name.clone(),
                because: "its summary says where everything else of it is, and proves it".into(),
            }],
            Object::Manifest(id) => {
                let costs = self.costs_of_manifest(id);
                match costs.is_empty() {
                    true => vec![Cost::other("it is of a backup that is not complete")],
                    false => costs,
                }
            }
            Object::Pin(name) => self.costs_of_pin(name, kind),
            Object::Order => words::costs_of_order(),
            Object::Pruned => words::costs_of_pruned(meta),
            _ => vec![Cost::other(
                "no backup needs it: it only says who brought a backup, and when",
            )],
        };
        self.find(Finding {
            object: key.as_str().to_owned(),
            kind,
            reason,
            costs,
        });
        Ok(())
    }

    /// Of segments they are told when all are known.
    async fn costs_of_wal(&mut self, name: WalName, lost: &Lost) -> Result<Vec<Cost>, Error> {
        Ok(match name {
            WalName::Segment(_) if *lost == Lost::Annex => vec![Cost::other(
                "its WAL is right; what it says is found by reading it through, which takes longer",
            )],
            WalName::Segment(_) => Vec::new(),
            WalName::Partial(segment) => {
                self.costs_of_received(segment, self.joined(segment).await?)
                    .await?
            }
            WalName::History(timeline) => self.costs_of_history(timeline, true),
            WalName::Backup(..) => vec![Cost::other(
                "no backup needs it: one that was copied by hand does not know the moment of its end",
            )],
        })
    }

    /// Without a history those recover that end on its timeline, and no others come there. A damaged one also stops every
    /// server that asks whether there is a newer timeline.
    fn costs_of_history(&self, timeline: Timeline, is_damaged: bool) -> Vec<Cost> {
        let own = self.backups.iter().filter(|backup| {
            let stop = backup.summary.backup.stop();
            stop.is_some_and(|(ended, _)| ended == timeline)
        });
        let own: Vec<&str> = own.map(|backup| backup.name.as_str()).collect();
        let but = match own.is_empty() {
            true => String::new(),
            false => format!(", but those that end on it: {}", own.join(", ")),
        };
        let mut costs = vec![Cost::other(format!(
            "no backup recovers onto timeline {timeline}, nor onto one that left it{but}"
        ))];
        if is_damaged {
            costs.push(Cost::other(format!(
                "as long as the object is there, no server recovers along timeline {timeline} or an older one: it asks for it, \
                 and stops"
            )));
        }
        costs
    }

    /// What the other fragments lead to without it.
    async fn costs_of_fragment(&self, fragment: &Fragment) -> Result<Vec<Cost>, Error> {
        let (segment, end) = (fragment.segment, fragment.range.end);
        if fragment.bytes() == 0 {
            return Ok(vec![Cost::other(
                "nothing is lost: it has no WAL, and says only that the file was made",
            )]);
        }
        let joined = self.joined(segment).await?;
        let is_elsewhere = |(joined, size): (Lsn, SegmentSize)| joined.0 >= segment.start(size).0 + end;
        if joined.zip(self.segment_size).is_some_and(is_elsewhere) {
            return Ok(vec![Cost::other(
                "nothing is lost: what it has is there elsewhere",
            )]);
        }
        self.costs_of_received(segment, joined).await
    }

    /// How far what is there of a segment's beginning leads.
    async fn joined(&self, segment: SegmentName) -> Result<Option<Lsn>, Error> {
        let begun = begun::load(self.archive, segment, self.patience())
            .boxed()
            .await?;
        let filled_bytes = begun.map_or(0, |begun| begun.filled_bytes);
        Ok(self
            .segment_size
            .map(|size| Lsn(segment.start(size).0 + filled_bytes)))
    }

    /// Of WAL that is the beginning of a segment only, and leads to there.
    async fn costs_of_received(&self, segment: SegmentName, end: Option<Lsn>) -> Result<Vec<Cost>, Error> {
        let whole = self
            .archive
            .wal_meta(WalName::Segment(segment), self.patience())
            .await;
        let is_archived = match whole {
            Ok(found) => found.is_some(),
            Err(Error::Damaged { .. }) => false,
            Err(error) => return Err(error),
        };
        Ok(match (is_archived, end) {
            (true, _) => vec![Cost::other(format!(
                "nothing is lost: {segment} is archived whole"
            ))],
            (false, Some(end)) => self.costs_until(segment, end, None),
            (false, None) => Vec::new(),
        })
    }

    /// Which backups recover through a segment, and so no further than `end`. `ranges` tells how timelines follow each other;
    /// without it only the segment's own is looked at.
    fn costs_until(&self, segment: SegmentName, end: Lsn, ranges: Option<&WalRanges>) -> Vec<Cost> {
        let Some(size) = self.segment_size else {
            return Vec::new();
        };
        let through = self
            .backups
            .iter()
            .filter(|backup| leads_through(backup, segment, size, ranges));
        let costs = through.map(|backup| Cost::Until {
            backup: backup.name.clone(),
            lsn: end,
            timeline: segment.timeline,
        });
        costs.collect()
    }

    /// Of a segment in which recovery `ends`, at its beginning if nothing else is known.
    fn costs_of_segment(&self, segment: SegmentName, ends: Option<Lsn>, ranges: &WalRanges) -> Vec<Cost> {
        let Some(size) = self.segment_size else {
            return Vec::new();
        };
        let mut costs = Vec::new();
        let mut needing = BTreeSet::new();
        for (number, backup) in self.backups.iter().enumerate() {
            let stop = backup.summary.backup.stop().map(|(_, stop)| stop);
            if self.needed_wal(number).contains(&segment) && (ends.is_none() || ends < stop) {
                needing.insert(&backup.name);
                costs.push(Cost::Backup {
                    backup: backup.name.clone(),
                    because: format!("it needs {segment} to become consistent"),
                });
            }
        }
        let until = self.costs_until(segment, ends.unwrap_or(segment.start(size)), Some(ranges));
        costs.extend(until.into_iter().filter(|cost| match cost {
            Cost::Until { backup, .. } => !needing.contains(backup),
            _ => true,
        }));
        if costs.is_empty() {
            costs.push(Cost::other("no backup recovers through it"));
        }
        costs
    }

    /// Adds what segments cost that cannot be read.
    pub(super) fn tell_costs(&mut self, ranges: &WalRanges) {
        for (segment, ends) in std::mem::take(&mut self.bad_wal) {
            let key = self.archive.wal_key(WalName::Segment(segment));
            let costs = self.costs_of_segment(segment, ends, ranges);
            let mut own = self.findings.iter_mut();
            if let Some(finding) = own.find(|finding| finding.object == key.as_str()) {
                finding.costs = costs;
            }
        }
    }

    /// What is missing between archived segments, and timelines whose beginning is not known.
    pub(super) fn find_holes(&mut self, ranges: &WalRanges) {
        for own in &ranges.timelines {
            let timeline = own.timeline;
            for (first, last) in &own.holes {
                let (Some(first_name), Some(last_name)) =
                    (ranges.name(timeline, *first), ranges.name(timeline, *last))
                else {
                    continue;
                };
                let reason = match last - first {
                    0 => "it is not there, and later WAL is".to_owned(),
                    more => format!(
                        "{} segments up to {last_name} are not there, and later WAL is",
                        more + 1
                    ),
                };
                let costs = self.costs_of_segment(first_name, None, ranges);
                self.find(Finding {
                    object: self
                        .archive
                        .wal_key(WalName::Segment(first_name))
                        .as_str()
                        .to_owned(),
                    kind: Kind::Missing,
                    reason,
                    costs,
                });
            }
            let history = self.archive.wal_key(WalName::History(timeline));
            let (kind, reason) = match &own.beginning {
                Beginning::Lost => (
                    Kind::Missing,
                    "it is not there, and says where the timeline began".to_owned(),
                ),
                Beginning::Wrong(reason) | Beginning::Damaged(reason) => (
                    Kind::Damaged,
                    reason.lines().next().unwrap_or_default().to_owned(),
                ),
                Beginning::First | Beginning::Left(..) => continue,
            };
            if !self
                .findings
                .iter()
                .any(|finding| finding.object == history.as_str())
            {
                self.find(Finding {
                    object: history.as_str().to_owned(),
                    kind,
                    reason,
                    costs: self.costs_of_history(timeline, kind == Kind::Damaged),
                });
            }
        }
        for own in &ranges.timelines {
            if let Some((first, last)) = own.before_beginning
                && let Some(name) = ranges.name(own.timeline, first)
            {
                self.find(Finding {
                    object: self.archive.wal_key(WalName::Segment(name)).as_str().to_owned(),
                    kind: Kind::Misplaced,
                    reason: format!(
                        "{} segments from it on lie before timeline {} began: they are another server's",
                        last - first + 1,
                        own.timeline
                    ),
                    costs: vec![Cost::other("no backup recovers through them")],
                });
            }
        }
    }

    /// WAL that backups need and that is neither archived nor damaged, which is told by then.
    pub(super) async fn find_missing_wal(&mut self) -> Result<(), Error> {
        let is_unreadable = matches!(self.scope, Scope::Backup(_)) && self.only.is_none();
        if self.scope == Scope::Wal || is_unreadable {
            return Ok(());
        }
        for number in 0..self.backups.len() {
            if self.only.is_some_and(|only| only != number) {
                continue;
            }
            let Backup { name, summary } = &self.backups[number];
            let (segments, kind, reason) =
                match self.archive.backup_wal(summary, self.patience()).boxed().await? {
                    BackupWal::Complete => continue,
                    BackupWal::Missing(segments) => (segments, Kind::Missing, "it is not there"),
                    BackupWal::Others(segments) => (segments, Kind::Misplaced, "it is another server's"),
                };
            let told: BTreeSet<&str> = self
                .findings
                .iter()
                .map(|finding| finding.object.as_str())
                .collect();
            let key = |segment: &SegmentName| self.archive.wal_key(WalName::Segment(*segment));
            let left: Vec<&SegmentName> = segments
                .iter()
                .filter(|segment| !told.contains(key(segment).as_str()))
                .collect();
            let is_hole_told = left.len() < segments.len();
            let Some(first) = left.first().filter(|_| !is_hole_told) else {
                continue;
            };
            let costs = vec![Cost::Backup {
                backup: name.clone(),
                because: format!(
                    "it needs {} segments to become consistent that are not at hand",
                    left.len()
                ),
            }];
            let object = key(first).as_str().to_owned();
            self.find(Finding {
                object,
                kind,
                reason: reason.to_owned(),
                costs,
            });
        }
        Ok(())
    }

    /// What was received of a segment: do its fragments lead as far as they say?
    pub(super) async fn join_received(&mut self) -> Result<(), Error> {
        let Some(size) = self.segment_size else {
            return Ok(());
        };
        for segment in std::mem::take(&mut self.received) {
            let fragments = self.archive.received(segment, self.patience()).await?;
            let Some(end) = fragments.iter().map(|fragment| fragment.range.end).max() else {
                continue;
            };
            // One that cannot be read is told.
            let fragment = format!("receiving/{segment}.");
            if self
                .findings
                .iter()
                .any(|finding| finding.object.starts_with(&fragment))
            {
                continue;
            }
            let start = segment.start(size);
            let joined = match begun::load(self.archive, segment, self.patience()).boxed().await {
                Ok(begun) => begun.map_or(start, |begun| Lsn(start.0 + begun.filled_bytes)),
                // So is a `.partial`.
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let claimed = Lsn(start.0 + end);
            if joined < claimed {
                let costs = self.costs_of_received(segment, Some(joined)).await?;
                self.find(Finding {
                    object: format!("receiving/{segment}"),
                    kind: Kind::Useless,
                    reason: format!(
                        "what was received of it up to {claimed} can be put together up to {joined} only: a fragment is \
                         missing, or another's"
                    ),
                    costs,
                });
            }
        }
        Ok(())
    }
}

/// Does a backup recover through a segment?
fn leads_through(
    backup: &Backup,
    segment: SegmentName,
    size: SegmentSize,
    ranges: Option<&WalRanges>,
) -> bool {
    let backup = &backup.summary.backup;
    let (Some((_, start)), Some((timeline, stop))) = (backup.start(), backup.stop()) else {
        return false;
    };
    let number = segment.number(size);
    if number < start.0 / size.bytes() {
        return false;
    }
    let mut at = segment.timeline;
    let mut last = number;
    // Up from the segment's timeline to the backup's: each was left behind the place that is come from.
    while at != timeline {
        let Some((parent, fork)) = ranges.and_then(|ranges| left(ranges, at)) else {
            return false;
        };
        if last < fork.0 / size.bytes() || parent >= at {
            return false;
        }
        (at, last) = (parent, fork.0 / size.bytes());
        if at == timeline && fork < stop {
            return false;
        }
    }
    true
}

fn left(ranges: &WalRanges, timeline: Timeline) -> Option<(Timeline, Lsn)> {
    let own = ranges.timelines.iter().find(|own| own.timeline == timeline)?;
    match own.beginning {
        Beginning::Left(parent, at) => Some((parent, at)),
        _ => None,
    }
}
