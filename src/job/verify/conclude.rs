//! What only all of it tells, at the end of a run.

use super::finding::{Cost, Finding, Kind};
use super::{Run, Scope};
use crate::archive::Error;
use crate::job::wal_ranges::{WalRanges, wal_ranges};
use crate::pg::SegmentName;
use crate::store::Patience;

impl Run<'_> {
    /// What only all of it tells: holes, lost histories, WAL that backups lack, what findings in WAL cost.
    pub(super) async fn conclude(&mut self) -> Result<(), Error> {
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
        let segments: Vec<SegmentName> = self.bad_wal.keys().copied().collect();
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
                object: name.summary_key(tree.kind()).as_str().to_owned(),
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
