//! What goes and what stays: decided from one look, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Error;
use super::needed_wal::NeededWal;
use super::rules::{Judged, Reason, Rules, days_before, ended_at_latest, keep};
use super::versions;
use crate::archive::prune::WalSpan;
use crate::archive::tree::{TreeId, TreeKind, TreeName};
use crate::job::look::{Known, Look};
use crate::job::restore::way::Way;
use crate::job::runs::{Span, both};
use crate::pg::{Lsn, SegmentSize, Timeline};
use crate::store::Retention;

/// All that is decided.
#[derive(Debug)]
pub struct Plan {
    /// Every backup with a summary, oldest first; behind them every version of files and every dump, by its name.
    pub backups: Vec<Planned>,
    /// Folders of pruned trees; what nothing points to any more goes.
    pub remnants: Vec<TreeId>,
    /// Segments that go; also names that were never archived.
    pub wal: BTreeMap<Timeline, Vec<Span>>,
    /// Timelines whose WAL stays although no backup reaches it: a server may archive there.
    pub without_backup: Vec<Timeline>,
    /// No WAL goes, because this backup is being made, or has lost its summary, and what it needs is not known.
    pub held_by: Option<TreeName>,
    pub(super) size: Option<SegmentSize>,
    /// The store's time, as far as it is known.
    pub(super) now: Timestamp,
    /// Folders that unfinished trees claim: of those without a summary every part stays.
    pub(super) claimed: BTreeSet<TreeId>,
}

/// Until when that keeps an object; `Some(None)`: until somebody takes it away; `None`: not any more.
pub(super) fn locked_until(locked: Retention, now: Timestamp) -> Option<Option<Timestamp>> {
    match locked {
        Retention::Hold => Some(None),
        Retention::Until(until) => {
            let until = Timestamp::try_from(until).unwrap_or(Timestamp::MAX);
            (until > now).then_some(Some(until))
        }
    }
}

/// What becomes of a backup.
#[derive(Debug)]
pub struct Planned {
    pub(super) known: Known,
    /// Why it stays; none: it goes.
    pub why: Vec<Reason>,
    /// When it ended at the latest.
    pub(super) ended: Timestamp,
}

impl Planned {
    /// Its name.
    pub fn name(&self) -> &TreeName {
        &self.known.name
    }

    /// What is known of it.
    pub fn summary(&self) -> &crate::archive::tree::summary::Summary {
        &self.known.summary
    }

    /// Is it to be removed?
    pub fn goes(&self) -> bool {
        self.why.is_empty()
    }
}

impl Plan {
    /// Decides.
    ///
    /// # Errors
    /// [`Error::Unreadable`]: what WAL a backup needs cannot be known; [`Error::NoBackup`]: the rules name one that there is not.
    pub(super) fn new(look: Look, rules: &Rules, place: &str) -> Result<Self, Error> {
        if let Some(name) = &rules.from
            && look.backups.iter().all(|known| known.name != *name)
        {
            let (name, place) = (name.clone(), place.to_owned());
            return Err(Error::NoBackup { name, place });
        }
        if let Some((name, reason)) = look.unreadable.into_iter().next() {
            let place = place.to_owned();
            return Err(Error::Unreadable { name, place, reason });
        }
        let Look {
            now,
            backups,
            versions,
            may_be_incremental,
            making,
            remnants,
            ranges,
            lines,
            ends,
            unfinished,
            ..
        } = look;
        let judged: Vec<Judged> = backups
            .iter()
            .map(|known| Judged {
                name: known.name.clone(),
                ended: known.summary.backup.ended.at,
                is_exact: known.summary.is_end_known(),
                stored: known.summary.finished,
                is_whole: known.lacks.is_none(),
                found_damaged: known.found_damaged,
                has_bad_pages: known.summary.backup.bad_pages() > 0,
                start: known.summary.backup.start().map_or(Lsn(0), |(_, start)| start),
                combined_with: known.summary.backup.incremental_from,
                reaches: ends
                    .iter()
                    .filter(|end| known.is_on(end))
                    .map(|end| end.timeline())
                    .collect(),
                pinned: known.pinned.clone(),
                locked: known.locked.and_then(|locked| locked_until(locked, now)),
                base_of: known.base_of.clone(),
                may_be_base_of: match known.summary.backup.may_be_combined() {
                    true => may_be_incremental.clone(),
                    false => vec![],
                },
            })
            .collect();
        let why = keep(&judged, rules, now);
        let backups = backups.into_iter().zip(why).zip(ended_at_latest(&judged, now));
        let backups = backups.map(|((known, why), ended)| Planned { known, why, ended });
        let backups: Vec<Planned> = backups.chain(versions::plan(versions, rules, now)).collect();
        let claims = unfinished
            .iter()
            .flat_map(|(tree, _)| tree.builds_on.iter().cloned());
        let mut plan = Self {
            claimed: claims.collect(),
            backups,
            remnants,
            wal: BTreeMap::new(),
            held_by: making,
            without_backup: vec![],
            size: ranges.segment_size,
            now,
        };
        let is_backup = |planned: &&Planned| planned.known.summary.content == TreeKind::BaseBackup;
        let has_complete = plan
            .backups
            .iter()
            .any(|planned| planned.known.is_complete && is_backup(&planned));
        if let (Some(lines), true, None) = (&lines, has_complete, &plan.held_by) {
            let window = rules.pitr_days.map(|days| days_before(now, days));
            let mut needed = NeededWal::default();
            let stay = plan.backups.iter().filter(is_backup);
            for Planned { known, why, ended } in stay.filter(|planned| !planned.goes()) {
                let begins = |reason: &Reason| {
                    matches!(
                        reason,
                        Reason::Newest | Reason::Undamaged | Reason::End(_) | Reason::Begins(_)
                    )
                };
                let is_within = window.is_none_or(|window| *ended >= window);
                let beyond = is_within || why.iter().any(begins);
                let taken = needed.take(&known.summary.backup, beyond, lines);
                taken.map_err(|reason| Error::Unreadable {
                    name: known.name.clone(),
                    place: place.to_owned(),
                    reason,
                })?;
            }
            // A server may archive there of which there is no backup here, or none yet.
            let is_reached = |end: &Way| {
                let mut known = plan.backups.iter().map(|planned| &planned.known);
                known.any(|known| known.is_complete && known.is_on(end))
            };
            for end in ends.iter().filter(|end| !is_reached(end)) {
                needed.take_end(end, lines);
                plan.without_backup.push(end.timeline());
            }
            for own in &ranges.timelines {
                let (Some(first), Some(last)) = (own.runs.first(), own.runs.last()) else {
                    continue;
                };
                let rest = needed.rest(own.timeline, (first.first, last.last));
                let is_there =
                    |&(first, last): &Span| own.runs.iter().any(|run| run.first <= last && first <= run.last);
                let rest: Vec<Span> = rest.into_iter().filter(is_there).collect();
                if !rest.is_empty() {
                    plan.wal.insert(own.timeline, rest);
                }
            }
        }
        Ok(plan)
    }

    /// Would nothing be removed?
    pub fn is_empty(&self) -> bool {
        self.wal.is_empty() && self.remnants.is_empty() && !self.backups.iter().any(Planned::goes)
    }

    /// Backups that go.
    pub(super) fn going(&self) -> impl Iterator<Item = &Known> {
        let going = self.backups.iter().filter(|planned| planned.goes());
        going.map(|planned| &planned.known)
    }

    /// Folders of which objects may go.
    pub(super) fn trees(&self) -> BTreeSet<TreeId> {
        let going = self.going().map(|known| known.id.clone());
        going.chain(self.remnants.iter().cloned()).collect()
    }

    /// The segments that go.
    pub fn wal_spans(&self) -> Vec<WalSpan> {
        let Some(size) = self.size else { return vec![] };
        let all = self.wal.iter().flat_map(|(timeline, spans)| {
            spans
                .iter()
                .filter_map(move |span| WalSpan::new(*timeline, *span, size))
        });
        all.collect()
    }

    /// Of what this look decides, only what an earlier one has decided, too.
    pub(super) fn agreed(mut self, earlier: &Self) -> Self {
        let before: BTreeSet<&TreeId> = earlier
            .backups
            .iter()
            .filter(|planned| planned.goes())
            .map(|planned| &planned.known.id)
            .collect();
        for planned in &mut self.backups {
            if planned.goes() && !before.contains(&planned.known.id) {
                planned.why.push(Reason::NewlyUnwanted);
            }
        }
        let remnants: BTreeSet<&TreeId> = earlier.remnants.iter().collect();
        self.remnants.retain(|id| remnants.contains(id));
        let wal = std::mem::take(&mut self.wal).into_iter();
        let wal = wal.map(|(timeline, spans)| {
            let earlier = earlier.wal.get(&timeline).map_or(&[][..], Vec::as_slice);
            (timeline, both(&spans, earlier))
        });
        self.wal = wal.filter(|(_, spans)| !spans.is_empty()).collect();
        self
    }
}
