//! What there is in an archive at one moment: backups, WAL, and which ends of its lines are alive. A prune decides from it, and
//! `walfs status` shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::archive::tree::backup::Backup;
use crate::archive::tree::begun::{Maker, SILENCE};
use crate::archive::tree::catalogue::Unfinished;
use crate::archive::tree::summary::Summary;
use crate::archive::tree::version::Version;
use crate::archive::tree::{Part, TreeId, TreeKind, TreeName};
use crate::archive::{Archive, Error};
use crate::job::backup::named;
use crate::job::broken;
use crate::job::listing::{Listed, State, trees_and_remnants};
use crate::job::pinned::{Pins, ids};
use crate::job::progress::Progress;
use crate::job::proof::{Expected, Verdict, held_bytes, prove};
use crate::job::restore::timelines::Timelines;
use crate::job::restore::way::Way;
use crate::job::restore::{self, forks};
use crate::job::wal_ranges::{WalRanges, wal_ranges};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::read::tree::TreeReader;
use crate::store::{Patience, Retention};

/// A backup with a summary.
#[derive(Debug)]
pub(in crate::job) struct Known {
    pub name: TreeName,
    pub id: TreeId,
    pub summary: Box<Summary>,
    /// All of it is there, and its WAL, and a server can start from it, without another one.
    pub is_complete: bool,
    /// Was its manifest read, and were its parts listed?
    pub is_proved: bool,
    /// Why not, if it is damaged or lacks WAL.
    pub lacks: Option<String>,
    /// Has `walfs verify` found that it cannot be restored whole?
    pub found_damaged: bool,
    pub pinned: Option<String>,
    /// The store does not give up something of it. Only a prune asks.
    pub locked: Option<Retention>,
    /// Unfinished ones that point to it.
    pub base_of: Vec<TreeName>,
}

/// All of it.
#[derive(Debug)]
pub(in crate::job) struct Look {
    /// The store's time, as far as it is known.
    pub now: Timestamp,
    /// Oldest first.
    pub backups: Vec<Known>,
    /// Complete versions of files and dumps, kind by kind, in the order of their names. No WAL is theirs.
    pub versions: Vec<Known>,
    /// Names in the place of whose summary lies something that cannot be read, and why.
    pub unreadable: Vec<(TreeName, String)>,
    /// What has no summary.
    pub unfinished: Vec<(Unfinished, Maker)>,
    /// Who may become incremental ones of PostgreSQL's, to be combined with any that is there.
    pub may_be_incremental: Vec<TreeName>,
    /// Who may need WAL that nobody can name: it is being made, or has lost its summary.
    pub making: Option<TreeName>,
    /// Folders of pruned trees of which something is left.
    pub remnants: Vec<TreeId>,
    pub ranges: WalRanges,
    /// `None` as long as no segment was archived.
    pub lines: Option<Lines>,
    /// Ends of lines of history that nobody has given up.
    pub ends: Vec<Way>,
}

impl Look {
    /// Looks at everything.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub(in crate::job) async fn take(
        archive: &Arc<Archive>,
        now: Timestamp,
        progress: &Arc<dyn Progress>,
        patience: impl Fn() -> Patience,
    ) -> Result<Self, Error> {
        let (listed, remnants) = trees_and_remnants(archive, patience()).await?;
        let ids = ids(&listed);
        let pins = Pins::read(archive, now, patience()).await?;
        let mut base_of: BTreeMap<TreeId, Vec<TreeName>> = BTreeMap::new();
        let (mut making, mut may_be_incremental) = (None, Vec::new());
        let (mut backups, mut versions) = (Vec::new(), Vec::new());
        let (mut unreadable, mut unfinished) = (Vec::new(), Vec::new());
        for listed in listed {
            let pinned = pins.of(&listed, &ids).map(|pinned| pinned.reason);
            let Listed { kind, name, state } = listed;
            let found_damaged = matches!(state, State::FoundDamaged(..));
            let (summary, lacks) = match state {
                // What it has lost may be one page of many: so it stays as long as a whole one does.
                State::Complete(summary) | State::FoundDamaged(summary, _) => (summary, None),
                State::WalMissing(summary, segments) => {
                    let lacks = format!("of its WAL are missing {}", named(&segments));
                    (summary, Some(lacks))
                }
                State::Damaged(Some(summary), reason) => (summary, Some(reason)),
                State::Damaged(None, reason) => {
                    unreadable.push((name, reason));
                    continue;
                }
                // The next sweep removes it.
                State::Unfinished(tree, Maker::Dead) if tree.may_be_swept() => {
                    unfinished.push((tree, Maker::Dead));
                    continue;
                }
                State::Unfinished(tree, maker) => {
                    for base in &tree.builds_on {
                        base_of.entry(base.clone()).or_default().push(name.clone());
                    }
                    let is_made = maker != Maker::Dead && !is_silent(&tree, now);
                    if is_made && tree.may_be_incremental() {
                        may_be_incremental.push(name.clone());
                    }
                    let may_need =
                        kind == TreeKind::BaseBackup && (is_made || tree.may_have_lost_its_summary(maker));
                    making = making.or(may_need.then_some(name));
                    unfinished.push((tree, maker));
                    continue;
                }
            };
            let Some(id) = summary.tree_id(&name) else {
                unreadable.push((name, "its folder is another one's".into()));
                continue;
            };
            let known = Known {
                pinned,
                name,
                id,
                is_complete: lacks.is_none() && summary.backup.incremental_from.is_none(),
                lacks,
                found_damaged,
                summary,
                base_of: vec![],
                locked: None,
                is_proved: false,
            };
            match kind {
                TreeKind::BaseBackup => backups.push(known),
                TreeKind::Files | TreeKind::Dump => versions.push(known),
            }
        }
        versions.sort_by(|one, other| one.place().cmp(&other.place()));
        for known in backups.iter_mut().chain(&mut versions) {
            known.base_of = base_of.remove(&known.id).unwrap_or_default();
        }
        let ranges = wal_ranges(archive, progress, &patience).await?;
        let timelines = Timelines::find(archive, patience()).await?;
        let mut look = Self {
            now,
            backups,
            versions,
            unreadable,
            unfinished,
            may_be_incremental,
            making,
            remnants,
            lines: None,
            ends: vec![],
            ranges,
        };
        let damaged = archive.found_damaged(patience()).await?;
        look.prove_versions(archive, &damaged, &patience).await?;
        let Some(size) = look.ranges.segment_size else {
            return Ok(look);
        };
        let ways: Vec<Way> = timelines.followed().collect();
        let followed: BTreeSet<Timeline> = ways.iter().map(Way::timeline).collect();
        let lost = timelines
            .with_wal()
            .filter(|timeline| !followed.contains(timeline));
        let lines = Lines {
            lost: lost.collect(),
            ways,
            size,
        };
        look.prove(archive, None, &damaged, &patience).await?;
        look.ends = look.living_ends(archive, &lines, &patience).await?;
        for end in look.ends.clone() {
            look.prove(archive, Some(&end), &damaged, &patience).await?;
        }
        look.lines = Some(lines);
        Ok(look)
    }

    /// Reads what tells apart the parts of the newest complete backup, of all or of those that reach an end, lists these, and looks
    /// into the WAL that makes it consistent: so much rests on it that names and lengths alone are not believed, nor what `walfs
    /// verify` has found damaged. One that does not stand that is not complete, and the next older one is asked.
    async fn prove(
        &mut self,
        archive: &Arc<Archive>,
        end: Option<&Way>,
        damaged: &BTreeSet<String>,
        patience: impl Fn() -> Patience,
    ) -> Result<(), Error> {
        let candidates = self
            .backups
            .iter_mut()
            .filter(|known| end.is_none_or(|end| known.is_on(end)));
        prove_newest(archive, candidates.rev(), damaged, &patience).await
    }

    /// The same of the versions of each name.
    async fn prove_versions(
        &mut self,
        archive: &Arc<Archive>,
        damaged: &BTreeSet<String>,
        patience: impl Fn() -> Patience,
    ) -> Result<(), Error> {
        for row in self.versions.chunk_by_mut(|one, next| one.row() == next.row()) {
            prove_newest(archive, row.iter_mut().rev(), damaged, &patience).await?;
        }
        Ok(())
    }

    /// Timelines that were not merely left for another one, and for which no backup of another one shows that they were given
    /// up: that of the newest complete backup in any case. One of which nobody knows where it began counts as an end of all.
    async fn living_ends(
        &self,
        archive: &Arc<Archive>,
        lines: &Lines,
        patience: impl Fn() -> Patience,
    ) -> Result<Vec<Way>, Error> {
        let own = self
            .backups
            .iter()
            .filter_map(|known| known.summary.backup.stop());
        let known: BTreeSet<Timeline> = lines.ways.iter().map(Way::timeline).collect();
        let alone: BTreeSet<Timeline> = own.map(|(timeline, _)| timeline).collect();
        let alone = alone.difference(&known).map(|timeline| Way::new(*timeline, &[]));
        let ways: Vec<Way> = lines.ways.iter().cloned().chain(alone).collect();
        let mut ends = Vec::new();
        for way in &ways {
            let left = ways.iter().filter_map(|other| other.leaves(way.timeline())).max();
            let goes_on = match left {
                Some(fork) => goes_on(archive, way.timeline(), fork, lines.size, patience()).await?,
                None => true,
            };
            if goes_on {
                ends.push(way.clone());
            }
        }
        let newest = self.backups.iter().rev().find(|known| known.is_complete);
        let is_newest = |end: &Way| newest.is_some_and(|newest| newest.is_on(end));
        let mut living = Vec::new();
        for end in &ends {
            if is_newest(end)
                || !self
                    .is_given_up(archive, (end, &ends), lines.size, patience())
                    .await?
            {
                living.push(end.clone());
            }
        }
        Ok(living)
    }

    /// As `restore` decides it: a backup of another end was begun after its last WAL was archived. Both clocks must say so: that of the
    /// backup's host, which may be ahead, and the store's, which in a copy tells when it was copied.
    async fn is_given_up(
        &self,
        archive: &Archive,
        (end, ends): (&Way, &[Way]),
        size: SegmentSize,
        patience: Patience,
    ) -> Result<bool, Error> {
        let mut ranges = self.ranges.timelines.iter();
        let own = ranges.find(|ranges| ranges.timeline == end.timeline());
        let archived = own.and_then(|own| Some(own.runs.last()?.archived_at));
        let first = SegmentName::from_number(end.timeline(), 0, size);
        let received = match first {
            Some(first) => archive.received_from(first, None, patience).await?,
            None => None,
        };
        let newest = archived.max(received.map(|(_, at)| at));
        let Some(newest) = newest else { return Ok(false) };
        // Somebody has taken a backup of it since, complete or not.
        let own = self.backups.iter().filter(|known| {
            known
                .summary
                .backup
                .stop()
                .is_some_and(|(own, _)| own == end.timeline())
        });
        let finished = own.map(|known| known.summary.finished).max();
        for known in self.backups.iter().rev().filter(|known| known.is_complete) {
            let is_elsewhere = !known.is_on(end) && ends.iter().any(|other| known.is_on(other));
            if is_elsewhere
                && SystemTime::from(known.summary.began) > newest
                && Some(known.summary.began) > finished
                && archive.tree_begun(&known.id, patience).await? > Some(newest)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Known {
    /// Does the way go through its end?
    pub(in crate::job) fn is_on(&self, way: &Way) -> bool {
        let stop = self.summary.backup.stop();
        stop.is_some_and(|(timeline, stop)| way.check_through(timeline, stop).is_ok())
    }

    /// Of a version of what it is one: the kind, and the name. What has the name of no version is alone.
    pub(in crate::job) fn row(&self) -> (TreeKind, String) {
        let name =
            Version::of(&self.name).map_or_else(|| self.name.to_string(), |version| version.set.to_string());
        (self.summary.content, name)
    }

    /// Its place among versions.
    fn place(&self) -> (TreeKind, &TreeName) {
        (self.summary.content, &self.name)
    }
}

/// Proves the first of these that stands that.
async fn prove_newest(
    archive: &Arc<Archive>,
    newest_first: impl Iterator<Item = &mut Known>,
    damaged: &BTreeSet<String>,
    patience: impl Fn() -> Patience,
) -> Result<(), Error> {
    for known in newest_first.filter(|known| known.is_complete) {
        if known.is_proved {
            return Ok(());
        }
        match lacking(archive, known, damaged, &patience).await? {
            None => {
                known.is_proved = true;
                return Ok(());
            }
            Some(reason) => {
                tracing::warn!("backup {} does not count as complete: {reason}", known.name);
                known.is_complete = false;
                known.lacks = Some(reason);
            }
        }
    }
    Ok(())
}

/// Has nothing come for so long that whoever is at it will not be waited for? A mount lives for months, with what was left
/// in it. Should it go on, it is refused when its WAL is gone.
fn is_silent(tree: &Unfinished, now: Timestamp) -> bool {
    let silence = SystemTime::from(now).duration_since(tree.last_stored);
    silence.is_ok_and(|silence| silence > SILENCE)
}

/// What of a backup is not right, as far as its manifest and a listing tell.
async fn lacking(
    archive: &Arc<Archive>,
    known: &Known,
    damaged: &BTreeSet<String>,
    patience: impl Fn() -> Patience,
) -> Result<Option<String>, Error> {
    let parts = match proved_parts(archive, known, &patience).await {
        Ok(parts) => parts,
        Err(damage @ Error::TreeDamaged { .. }) => return Ok(Some(damage.to_string())),
        Err(error) => return Err(error),
    };
    if let Some(part) = parts.iter().find(|part| damaged.contains(part.key.as_str())) {
        return Ok(Some(format!("`walfs verify` found {} damaged", part.key)));
    }
    if let Some((part, reason)) = archive.missing_part(&parts, patience()).await? {
        return Ok(Some(format!("{part}: {reason}")));
    }
    broken_wal(archive, &known.summary.backup, patience()).await
}

/// Why recovery from a backup does not come to its end, though all of the segments are there that it needs.
async fn broken_wal(
    archive: &Arc<Archive>,
    backup: &Backup,
    patience: Patience,
) -> Result<Option<String>, Error> {
    let (Some((_, stop)), Ok(size)) = (backup.stop(), SegmentSize::new(backup.segment_bytes)) else {
        return Ok(None);
    };
    let segments = backup.segments().unwrap_or_default();
    let runs: Vec<_> = segments
        .iter()
        .map(|segment| (segment.timeline, segment.number(size)..=segment.number(size)))
        .collect();
    let found = broken::first(archive, &runs, (true, stop), (size, patience)).await?;
    let found = found.filter(|broken| broken.at < stop);
    Ok(found.map(|broken| {
        let fault = broken.fault.of(broken.segment);
        format!("{fault}, and it is consistent at {stop} only")
    }))
}

/// The parts of a backup, by a manifest of which every byte was read and proved. It is gone through window by window: one of
/// a million files is not held.
async fn proved_parts(
    archive: &Arc<Archive>,
    Known { name, summary, .. }: &Known,
    patience: impl Fn() -> Patience,
) -> Result<Vec<Part>, Error> {
    let manifest = archive.manifest_part(name, summary)?;
    let expected = Expected {
        plain_bytes: Some(manifest.plain_bytes),
        hash: Some(manifest.hash),
        by: "the backup's summary",
    };
    let held = archive
        .memory()
        .filling
        .take(held_bytes(manifest.stored_bytes))
        .await;
    let proved = prove(archive, &manifest.key, &expected, patience(), Arc::new(|_, _| {}));
    let wrong = match proved.await? {
        Verdict::Proved => None,
        Verdict::Gone => Some("it is not there".to_owned()),
        Verdict::Damaged(reason, _) => Some(reason),
    };
    drop(held);
    if let Some(reason) = wrong {
        return Err(archive.tree_damaged(name, manifest.key.as_str(), reason));
    }
    let reader = TreeReader::alone(archive.clone());
    let tree = reader.open(name, summary, patience()).await?;
    tree.parts(patience).await
}

/// What there is of WAL beyond backups.
#[derive(Debug)]
pub(in crate::job) struct Lines {
    /// To each timeline whose history is known, and that has WAL.
    pub ways: Vec<Way>,
    /// Timelines that have WAL, and of which nobody knows where they began.
    pub lost: Vec<Timeline>,
    pub size: SegmentSize,
}

/// Does a timeline go on behind a fork? What cannot be read may.
async fn goes_on(
    archive: &Arc<Archive>,
    timeline: Timeline,
    fork: Lsn,
    size: SegmentSize,
    patience: Patience,
) -> Result<bool, Error> {
    match forks::goes_on(archive, timeline, fork, size, patience).await {
        Ok(goes_on) => Ok(goes_on),
        Err(restore::Error::Archive(error @ Error::Store(_))) => Err(error),
        Err(error) => {
            tracing::warn!("timeline {timeline} is taken to go on behind {fork}: {error}");
            Ok(true)
        }
    }
}
