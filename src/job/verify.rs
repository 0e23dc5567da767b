//! Reading an archive back (promise K6): every object, or those that were not for longest, once each, whoever points to
//! it. It goes on after a finding, and says what each costs.
//!
//! The listing is gone through to know how old the last check of each object is, and so what this run reads; then once more,
//! object by object. What was proved is remembered in the archive ([`crate::archive::verified`]), as ranges of keys, so
//! neither this nor what it keeps in memory grows with the number of objects. What a backup needs and is not listed is missed;
//! of WAL what lies between two archived segments.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use serde::Serialize;

use super::amount::Amount;
use super::progress::{Phase, Progress};
use super::restore::timelines::Timelines;
use crate::archive::object::Object;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::Summary;
use crate::archive::verified::Found;
use crate::archive::{Archive, Error};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId};
use crate::read::tree::TreeReader;
use crate::store::{Key, Patience};

mod conclude;
mod costs;
mod due;
mod finding;
mod ledger;
mod pages;
mod remembered;
mod task;
mod tree;
mod wal;
mod walk;
mod words;

pub use due::Scope;
pub use finding::{Cost, Finding, Kind};

use due::Due;
use ledger::{Known, Ledger};

/// Findings that are told one by one; the others are counted.
const MOST_FINDINGS: usize = 10_000;

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

/// A complete backup, or a complete version of files or a dump.
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
    /// How timelines follow each other.
    timelines: Timelines,
    /// Segments that cannot be read, or where recovery ends in one: what they cost is told when all are known.
    bad_wal: BTreeMap<SegmentName, Option<Lsn>>,
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
                // The newest record comes first.
                for found in &checks.found {
                    run.remembered
                        .entry(found.object.clone())
                        .or_insert_with(|| (found.clone(), false));
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
            timelines: match options.scope {
                Scope::Backups => Timelines::default(),
                _ => Timelines::find(archive, patience).await?,
            },
            bad_wal: BTreeMap::new(),
            received: BTreeSet::new(),
            remembered: BTreeMap::new(),
            clusters: BTreeMap::new(),
        };
        for (kind, name, summary) in archive.all_summaries(patience).await? {
            match summary {
                Ok(summary) => run.backups.push(Backup { name, summary }),
                Err(error) => {
                    let key = name.summary_key(kind);
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
            (Scope::Backup(wanted), None) => {
                return matches!(object, Object::Summary(_, name) if name == wanted);
            }
            (Scope::Backup(_), Some(only)) => &self.backups[only],
        };
        match object {
            Object::Summary(_, name) | Object::Pin(name) => *name == only.name,
            Object::Manifest(id) | Object::Word(id) => id.as_str() == only.summary.id,
            Object::Part(_) => self.only_parts.contains(key),
            Object::Wal(crate::pg::WalName::Segment(segment)) => self.only_wal.contains(segment),
            _ => false,
        }
    }

    fn find(&mut self, finding: Finding) {
        match self.findings.len() < MOST_FINDINGS {
            true => self.findings.push(finding),
            false => self.more_findings += 1,
        }
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
