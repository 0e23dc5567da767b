//! Reading an archive back (promise K6): every object, or those that were not for longest, once each, whoever points to
//! it. It goes on after a finding, and says what each costs.
//!
//! The listing is gone through to know how old the last check of each object is, and so what this run reads; then once more,
//! object by object. What was proved is remembered in the archive ([`crate::archive::verified`]), as ranges of keys, so
//! neither this nor what it keeps in memory grows with the number of objects. What a backup needs and is not listed is missed;
//! of WAL what lies between two archived segments.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;

use super::amount::Amount;
use super::progress::{Phase, Progress};
use super::wal_ranges::{WalRanges, wal_ranges};
use crate::archive::object::{Folder, Object};
use crate::archive::tree::summary::Summary;
use crate::archive::tree::{TreeId, TreeKind, TreeName};
use crate::archive::verified::{Checks, Found, MOST_FOUND};
use crate::archive::{Archive, Error};
use crate::pg::{SegmentName, SegmentSize, SystemId};
use crate::read::tree::TreeReader;
use crate::store::{Key, Meta, Patience};

mod costs;
mod due;
mod finding;
mod ledger;
mod pages;
mod task;
mod tree;
mod wal;
mod words;

pub use due::Scope;
pub use finding::{Cost, Finding, Kind};

use due::Due;
use ledger::{Ages, Known, Ledger};
use task::{Checked, Outcome, Task};
use tree::OpenTree;

/// Objects read at once; how much memory they take is the archive's to say.
const AT_ONCE: usize = 8;

/// Findings that are told one by one; the others are counted.
const MOST_FINDINGS: usize = 10_000;

/// After how long what was proved so far is remembered.
const REMEMBERED_EVERY: Duration = Duration::from_secs(300);

/// What is read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Of which objects.
    pub scope: Scope,
    /// Only those whose last check is longer ago.
    pub max_age: Option<Duration>,
    /// At most so many stored bytes, those checked longest ago first.
    pub budget: Option<u64>,
    /// As a share of all stored bytes, from 0 to 1.
    pub share: Option<f64>,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Is nothing found?
    pub is_sound: bool,
    /// What was read in this run.
    pub read: Amount,
    /// What was not, because it was not due.
    pub left: Amount,
    /// ... of it what was never read.
    pub never: Amount,
    /// When the one of those that were not read was, that was checked longest ago.
    pub oldest: Option<Timestamp>,
    /// What is not as it should be, by object.
    pub findings: Vec<Finding>,
    /// How many more there are.
    pub more_findings: u64,
    /// What is known to be so and is no finding.
    pub remarks: Vec<String>,
    /// Why what was proved could not be remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_remembered: Option<String>,
}

/// A complete backup.
#[derive(Debug)]
struct Backup {
    name: TreeName,
    summary: Summary,
}

/// A run.
struct Run<'a> {
    archive: &'a Arc<Archive>,
    progress: &'a Arc<dyn Progress>,
    wait: Duration,
    began: Timestamp,
    scope: Scope,
    /// Those that can be read, in the order of their ends.
    backups: Vec<Backup>,
    /// The only one that is verified.
    only: Option<usize>,
    /// Parts of that one, and WAL that it needs.
    only_parts: HashSet<Key>,
    only_wal: BTreeSet<SegmentName>,
    /// Why others cannot be read.
    unreadable: BTreeMap<Key, String>,
    segment_size: Option<SegmentSize>,
    trees: TreeReader,
    known: Known,
    due: Due,
    ledger: Ledger,
    read: Amount,
    left: Amount,
    never: Amount,
    oldest: Option<Timestamp>,
    findings: Vec<Finding>,
    more_findings: u64,
    remarks: Vec<String>,
    /// Segments that cannot be read: what they cost is told when all are known.
    bad_wal: BTreeSet<SegmentName>,
    /// Segments of which fragments were read.
    received: BTreeSet<SegmentName>,
    /// What earlier runs have found, and whether it was proved by this one.
    remembered: BTreeMap<String, (Found, bool)>,
    /// Segments by the cluster that they say they are of.
    clusters: BTreeMap<SystemId, u64>,
}

/// Verifies an archive. `progress` is told of stored bytes.
///
/// # Errors
/// [`Error::Store`]: the store did not answer within `wait`; what was proved before is remembered.
/// [`Error::Marker`]: what tells whose the archive is cannot be read. A finding is no error.
pub async fn verify(
    archive: &Arc<Archive>,
    options: &Options,
    progress: &Arc<dyn Progress>,
    wait: Duration,
) -> Result<Report, Error> {
    progress.phase(Phase::Listing);
    let began = Timestamp::now();
    let patience = || Patience::for_at_most(wait);
    let records = archive.checks(patience()).await?;
    let mut run = Run::new(archive, options, progress, (wait, began)).await?;
    let mut superseded: Vec<Key> = records.iter().map(|(key, _)| key.clone()).collect();
    let mut readable = Vec::new();
    for (key, record) in records {
        match record {
            Ok(checks) => {
                if checks.place == archive.place() {
                    // The newest record comes first.
                    for found in &checks.found {
                        run.remembered
                            .entry(found.object.clone())
                            .or_insert_with(|| (found.clone(), false));
                    }
                }
                readable.push(checks);
            }
            Err(reason) => run.find(Finding {
                object: key.as_str().to_owned(),
                kind: Kind::Damaged,
                reason,
                costs: vec![Cost::other(
                    "no backup needs it; what it remembered is verified again",
                )],
            }),
        }
    }
    run.known = Known::new(readable, &archive.place(), began);
    let ages = run.survey().await?;
    run.due = Due::new(&ages, options, began);
    progress.phase(Phase::Verifying {
        bytes: run.due.bytes(),
    });
    let mut partial: Option<Key> = None;
    let gone_through = run.go_through(&mut partial).await;
    let outcome = match gone_through {
        Ok(()) => run.conclude().boxed().await,
        Err(error) => Err(error),
    };
    // Of a run that did not come to its end only what it has proved: the records before it say the rest.
    let is_whole = outcome.is_ok();
    let not_remembered = run.remember(is_whole).await;
    if not_remembered.is_none() {
        let mut keys: Vec<Key> = partial.into_iter().collect();
        if is_whole {
            keys.append(&mut superseded);
        }
        if let Err(error) = archive.delete_checks(&keys, patience()).await {
            tracing::debug!("older records of checks stay: {error}");
        }
    }
    outcome?;
    run.findings.sort_by(|one, other| one.object.cmp(&other.object));
    Ok(Report {
        is_sound: run.findings.is_empty(),
        read: run.read,
        left: run.left,
        never: run.never,
        oldest: run.oldest,
        findings: run.findings,
        more_findings: run.more_findings,
        remarks: run.remarks,
        not_remembered,
    })
}

impl<'a> Run<'a> {
    async fn new(
        archive: &'a Arc<Archive>,
        options: &Options,
        progress: &'a Arc<dyn Progress>,
        (wait, began): (Duration, Timestamp),
    ) -> Result<Self, Error> {
        let patience = Patience::for_at_most(wait);
        let cluster = archive.cluster(patience).await?;
        let mut run = Self {
            archive,
            progress,
            wait,
            began,
            scope: options.scope.clone(),
            backups: Vec::new(),
            only: None,
            only_parts: HashSet::new(),
            only_wal: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            segment_size: cluster.map(|cluster| cluster.segment_size),
            trees: TreeReader::alone(archive.clone()),
            known: Known::default(),
            due: Due::default(),
            ledger: Ledger::default(),
            read: Amount::default(),
            left: Amount::default(),
            never: Amount::default(),
            oldest: None,
            findings: Vec::new(),
            more_findings: 0,
            remarks: Vec::new(),
            bad_wal: BTreeSet::new(),
            received: BTreeSet::new(),
            remembered: BTreeMap::new(),
            clusters: BTreeMap::new(),
        };
        for (name, summary) in archive.summaries(TreeKind::BaseBackup, patience).await? {
            match summary {
                Ok(summary) => run.backups.push(Backup { name, summary }),
                Err(error) => {
                    let key = name.summary_key(TreeKind::BaseBackup);
                    run.unreadable.insert(key, first_line(&error));
                }
            }
        }
        if let Scope::Backup(name) = &options.scope {
            run.only = run.backups.iter().position(|backup| backup.name == *name);
            if let Some(only) = run.only {
                run.only_wal = run.needed_wal(only);
                run.only_parts = run.parts_of_only(only).await?;
            }
        }
        Ok(run)
    }

    fn patience(&self) -> Patience {
        Patience::for_at_most(self.wait)
    }

    fn needed_wal(&self, backup: usize) -> BTreeSet<SegmentName> {
        let backup = &self.backups[backup].summary.backup;
        let own: BTreeSet<&SegmentName> = backup.own_wal.iter().collect();
        let needed = backup.segments().unwrap_or_default();
        needed
            .into_iter()
            .filter(|segment| !own.contains(segment))
            .collect()
    }

    async fn parts_of_only(&self, only: usize) -> Result<HashSet<Key>, Error> {
        let Backup { name, summary } = &self.backups[only];
        let opened = self.trees.open(name, summary, self.patience()).boxed().await;
        let parts = match opened {
            Ok(tree) => tree.parts(|| self.patience()).boxed().await,
            Err(error) => Err(error),
        };
        match parts {
            Ok(parts) => Ok(parts.into_iter().map(|part| part.key).collect()),
            // It is found when its manifest is verified.
            Err(Error::TreeDamaged { .. }) => Ok(HashSet::new()),
            Err(error) => Err(error),
        }
    }

    /// Is this object among those that are verified?
    fn wants(&self, key: &Key, object: &Object) -> bool {
        let only = match (&self.scope, self.only) {
            (Scope::All, _) => return true,
            (Scope::Wal, _) => return is_of_wal(object),
            (Scope::Backups, _) => return !is_of_wal(object),
            (Scope::Backup(name), None) => return *object == Object::Summary(name.clone()),
            (Scope::Backup(_), Some(only)) => &self.backups[only],
        };
        match object {
            Object::Summary(name) | Object::Pin(name) => *name == only.name,
            Object::Manifest(id) | Object::Word(id) => id.as_str() == only.summary.id,
            Object::Part(_) => self.only_parts.contains(key),
            Object::Wal(crate::pg::WalName::Segment(segment)) => self.only_wal.contains(segment),
            _ => false,
        }
    }

    /// How old the last check is of all that is verified. What is known of the rest stays so: all folders are listed.
    async fn survey(&mut self) -> Result<Ages, Error> {
        // Ranges are counted first, so ages are told in a second pass over each folder's listing.
        let mut ages = Ages::new();
        for counts in [true, false] {
            for folder in Folder::ALL {
                let mut after = None;
                loop {
                    let page = self
                        .archive
                        .list_folder(folder, after.as_ref(), self.patience())
                        .await?;
                    for (key, meta) in &page.entries {
                        let Some(object) = self.archive.object(key) else {
                            continue;
                        };
                        if counts {
                            self.known.note(key, meta);
                        } else if self.wants(key, &object) && !words::is_always_read(&object) {
                            ages.entry(self.known.at(key, meta))
                                .or_default()
                                .add(meta.stored_bytes);
                        }
                    }
                    match page.entries.last() {
                        Some((last, _)) if page.more => after = Some(last.clone()),
                        _ => break,
                    }
                }
            }
        }
        Ok(ages)
    }

    /// Reads what is due, folder by folder. What was proved so far is remembered now and then: `partial` is that record.
    async fn go_through(&mut self, partial: &mut Option<Key>) -> Result<(), Error> {
        let mut remembered = Instant::now();
        let needed = self.needed_trees();
        for folder in Folder::ALL {
            let mut tree: Option<OpenTree> = None;
            let mut seen_trees: BTreeSet<String> = BTreeSet::new();
            let mut after = None;
            loop {
                let page = self
                    .archive
                    .list_folder(folder, after.as_ref(), self.patience())
                    .await?;
                let mut tasks = Vec::new();
                for (key, meta) in &page.entries {
                    let Some(object) = self.archive.object(key) else {
                        continue;
                    };
                    if let Object::Part(id) | Object::Manifest(id) | Object::Word(id) = &object
                        && tree.as_ref().is_none_or(|open| open.id != *id)
                    {
                        self.run_tasks(std::mem::take(&mut tasks), &mut tree).await?;
                        self.close_tree(tree.take()).boxed().await?;
                        seen_trees.insert(id.to_string());
                        if self.looks_into(id, &needed) {
                            tree = Some(self.open_tree(id.clone()).boxed().await?);
                        }
                    }
                    let task = self.task(key, meta, object, &mut tree).boxed().await?;
                    tasks.push(task);
                }
                self.run_tasks(tasks, &mut tree).await?;
                if remembered.elapsed() > REMEMBERED_EVERY {
                    self.remember_so_far(partial).await;
                    remembered = Instant::now();
                }
                match page.entries.last() {
                    Some((last, _)) if page.more => after = Some(last.clone()),
                    _ => break,
                }
            }
            self.close_tree(tree.take()).boxed().await?;
            if folder == Folder::Trees {
                for id in needed.difference(&seen_trees) {
                    if let Some(id) = TreeId::parse(id).filter(|id| self.looks_into(id, &needed)) {
                        let tree = self.open_tree(id).boxed().await?;
                        self.close_tree(Some(tree)).boxed().await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Is a tree's folder compared with what manifests say of it?
    fn looks_into(&self, id: &TreeId, needed: &BTreeSet<String>) -> bool {
        match self.scope {
            Scope::All | Scope::Backups => true,
            Scope::Wal => false,
            Scope::Backup(_) => needed.contains(id.as_str()),
        }
    }

    /// Folders that backups point to.
    fn needed_trees(&self) -> BTreeSet<String> {
        let backups = match (&self.scope, self.only) {
            (Scope::Backup(_), Some(only)) => &self.backups[only..=only],
            (Scope::Backup(_), None) => &[],
            _ => &self.backups[..],
        };
        let needed = backups.iter().flat_map(|Backup { summary, .. }| {
            let earlier = summary.builds_on.iter().map(|on| on.id.clone());
            earlier.chain([summary.id.clone()])
        });
        needed.collect()
    }

    /// What is to be done with a listed object.
    async fn task(
        &mut self,
        key: &Key,
        meta: &Meta,
        object: Object,
        tree: &mut Option<OpenTree>,
    ) -> Result<Task, Error> {
        let at = self.known.at(key, meta);
        let wanted = self.wants(key, &object);
        let is_due = wanted && (words::is_always_read(&object) || self.due.take(at, meta.stored_bytes));
        if wanted && !is_due {
            self.left.add(meta.stored_bytes);
            match at {
                None => self.never.add(meta.stored_bytes),
                Some(at) => self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at))),
            }
        }
        let mut task = Task::new(key.clone(), meta.clone(), object, at, is_due);
        if let Some(tree) = tree.as_mut() {
            self.prepare(tree, &mut task).await?;
        }
        Ok(task)
    }

    async fn run_tasks(&mut self, tasks: Vec<Task>, tree: &mut Option<OpenTree>) -> Result<(), Error> {
        let (archive, progress, size) = (self.archive, self.progress, self.segment_size);
        let (unreadable, wait) = (&self.unreadable, self.wait);
        let checks = stream::iter(tasks).map(|task| {
            async move {
                let checked = match task.is_due {
                    true => {
                        // Of a gigabyte more is to come than of a part.
                        let wait = wait + Duration::from_secs(task.meta.stored_bytes >> 20);
                        let patience = Patience::for_at_most(wait);
                        task.check(archive, size, unreadable, patience).await
                    }
                    false => Ok(Checked::default()),
                };
                if task.is_due {
                    progress.advance(task.meta.stored_bytes);
                }
                (task, checked)
            }
            .boxed()
        });
        let mut checked = checks.buffered(AT_ONCE);
        let mut done = Vec::new();
        let mut failed = None;
        while let Some((task, checked)) = checked.next().await {
            match checked {
                Ok(checked) => done.push((task, checked)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        drop(checked);
        for (task, checked) in done {
            self.enter(task, checked, tree).boxed().await?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Takes down what came of an object.
    async fn enter(
        &mut self,
        task: Task,
        checked: Checked,
        tree: &mut Option<OpenTree>,
    ) -> Result<(), Error> {
        let Task {
            key,
            meta,
            object,
            at,
            is_due,
            ..
        } = task;
        if !is_due {
            match at {
                Some(at) => self.ledger.proved(&key, &meta, at),
                None => self.ledger.unproved(),
            }
            return Ok(());
        }
        self.read.add(meta.stored_bytes);
        if let Some(system_id) = checked.system_id {
            *self.clusters.entry(system_id).or_default() += 1;
        }
        if let Object::Fragment(fragment) = &object {
            self.received.insert(fragment.segment);
        }
        if let Some(tree) = tree.as_mut() {
            tree.bad_pages
                .extend(checked.pages.into_iter().map(|bad| (key.clone(), bad)));
        }
        match checked.outcome {
            Outcome::Proved => {
                self.ledger.proved(&key, &meta, self.began);
                if let Some((_, is_proved)) = self.remembered.get_mut(key.as_str()) {
                    *is_proved = true;
                }
            }
            // Fragments are replaced, and backups pruned, while this goes on. What a backup needs is looked for once more.
            Outcome::Gone => {
                if let Some(tree) = tree.as_mut() {
                    tree.gone(&key);
                }
            }
            Outcome::Wrong { kind, reason, lost } => {
                self.ledger.unproved();
                self.find_wrong((&key, &meta), &object, (kind, reason, lost), tree)
                    .boxed()
                    .await?;
            }
        }
        Ok(())
    }

    fn find(&mut self, finding: Finding) {
        match self.findings.len() < MOST_FINDINGS {
            true => self.findings.push(finding),
            false => self.more_findings += 1,
        }
    }

    /// What is known now, as a record: also what was found before and was not looked at.
    fn checks(&self, is_whole: bool) -> Checks {
        let mut found: BTreeMap<String, Found> = BTreeMap::new();
        for (object, (old, is_proved)) in &self.remembered {
            let is_known_anew = *is_proved || (is_whole && self.is_settled(object));
            if !is_known_anew {
                found.insert(object.clone(), old.clone());
            }
        }
        for finding in &self.findings {
            found.insert(finding.object.clone(), finding.remembered(self.began));
        }
        Checks {
            at: Timestamp::now(),
            place: self.archive.place(),
            ranges: self.ledger.ranges(),
            found: found.into_values().take(MOST_FOUND).collect(),
        }
    }

    /// Does a run that has come to its end know whether an earlier finding still holds? Unless other objects were wanted, or
    /// some were never read, which come before all others.
    fn is_settled(&self, object: &str) -> bool {
        let Some(key) = Key::parse(object) else {
            return true;
        };
        let kind = self.archive.object(&key);
        let wanted = kind.is_none_or(|kind| self.wants(&key, &kind));
        wanted && self.never.objects == 0
    }

    async fn remember(&self, is_whole: bool) -> Option<String> {
        let checks = self.checks(is_whole);
        let put = self.archive.put_checks(&checks, self.patience()).await;
        put.err().map(|error| error.to_string())
    }

    async fn remember_so_far(&self, partial: &mut Option<Key>) {
        let checks = self.checks(false);
        match self.archive.put_checks(&checks, self.patience()).await {
            Ok(key) => {
                let old: Vec<Key> = partial.replace(key).into_iter().collect();
                if let Err(error) = self.archive.delete_checks(&old, self.patience()).await {
                    tracing::debug!("an older record of checks stays: {error}");
                }
            }
            Err(error) => tracing::debug!("what was verified so far is not remembered: {error}"),
        }
    }

    /// What only all of it tells: holes, lost histories, WAL that backups lack, what findings in WAL cost.
    async fn conclude(&mut self) -> Result<(), Error> {
        let mut ranges = WalRanges::default();
        if self.scope.has_wal() || !self.bad_wal.is_empty() || self.only.is_some() {
            let (archive, wait) = (self.archive, self.wait);
            ranges = wal_ranges(archive, self.progress, || Patience::for_at_most(wait)).await?;
        }
        self.judge_cluster();
        if self.scope.has_wal() {
            self.find_holes(&ranges);
            self.join_received().await?;
        }
        self.find_lost_summaries().await?;
        self.find_missing_wal().await?;
        self.tell_costs(&ranges);
        Ok(())
    }

    /// Another number in `cluster.json` makes all segments look like another cluster's.
    fn judge_cluster(&mut self) {
        let Some(archived) = self.archive.known_cluster().map(|cluster| cluster.system_id) else {
            return;
        };
        let mut seen = self.clusters.clone();
        for backup in &self.backups {
            if let Some(system_id) = backup.summary.backup.system_identifier {
                *seen.entry(system_id).or_default() += 1;
            }
        }
        let Some((other, count)) = seen
            .pop_first()
            .filter(|(other, _)| seen.is_empty() && *other != archived)
        else {
            return;
        };
        self.findings.retain(|finding| {
            finding.kind != Kind::Misplaced || !finding.reason.contains("system identifier")
        });
        let segments: Vec<SegmentName> = self.bad_wal.iter().copied().collect();
        for segment in segments {
            let key = self.archive.wal_key(crate::pg::WalName::Segment(segment));
            if !self.findings.iter().any(|finding| finding.object == key.as_str()) {
                self.bad_wal.remove(&segment);
            }
        }
        self.find(Finding {
            object: "cluster.json".to_owned(),
            kind: Kind::Damaged,
            reason: format!(
                "it states system identifier {archived}; all {count} segments and backups are of {other}"
            ),
            costs: vec![Cost::other(
                "no segment is archived or restored through walfs: each is refused as another cluster's",
            )],
        });
    }

    /// Backups that have lost their summary.
    async fn find_lost_summaries(&mut self) -> Result<(), Error> {
        if !matches!(self.scope, Scope::All | Scope::Backups) {
            return Ok(());
        }
        let now = std::time::SystemTime::now();
        for tree in self.archive.unfinished_trees(self.patience()).await? {
            if !tree.may_have_lost_its_summary(tree.maker(now)) {
                continue;
            }
            let name = tree.id.name();
            self.find(Finding {
                object: name.summary_key(TreeKind::BaseBackup).as_str().to_owned(),
                kind: Kind::Missing,
                reason: format!("it is not there, and all else of {} may be", tree.id.prefix()),
                costs: vec![Cost::Backup {
                    backup: name,
                    because: "without its summary it is none; bring that back, or remove the rest by `walfs \
                              backup-discard`"
                        .into(),
                }],
            });
        }
        Ok(())
    }
}

/// Is it WAL, or a word about WAL?
fn is_of_wal(object: &Object) -> bool {
    matches!(object, Object::Wal(_) | Object::Fragment(_) | Object::Pruned)
}

/// Without its hints: those are for who is told of this one only.
fn first_line(error: &Error) -> String {
    match error {
        Error::TreeDamaged { reason, .. } => reason.clone(),
        Error::Damaged { damage, .. } => damage.to_string(),
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    }
}
