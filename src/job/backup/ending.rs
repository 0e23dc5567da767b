//! What makes copied files a backup: the label, the tablespace map, the control file and PostgreSQL's manifest, sent last;
//! and the backup's description.

use jiff::Timestamp;

use super::walk::Source;
use super::whole::{self, Whole};
use super::{Error, Taking, local, wal};
use crate::archive::tree::backup::{Pages, Shape, Tablespace, WalRange};
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::summary::{Description, Method};
use crate::archive::tree::{Attributes, Tree, TreeKind, backup, layout};
use crate::pg::Lsn;
use crate::pg::backup_manifest::{self, ManifestVersion};
use crate::pg::control::ControlFile;
use crate::pg::label::{self, BackupFrom};
use crate::pg::landmark::{self, Landmark};
use crate::pg::tablespace_map;
use crate::server::Stopped;

/// Links and settings files that the description names.
const LISTED: usize = 100;

impl Taking<'_> {
    /// Sends what makes the files a backup, and describes it.
    pub(super) async fn finish(&mut self, stopped: Stopped, control: Whole) -> Result<Description, Error> {
        let label = label::parse(&stopped.label)?;
        let mut landmarks = landmark::of_label(&label, stopped.lsn);
        let known = ControlFile::parse(&control.content).ok();
        let checksums = known.as_ref().is_some_and(ControlFile::has_data_checksums);
        landmarks.extend(known.and_then(|known| landmark::of_control(&known, label.start_lsn, stopped.lsn)));
        let map = tablespace_map::parse(&stopped.tablespace_map)?;
        let wal = self.wal(&label, stopped.lsn)?;
        let pages = self.pages(stopped.lsn, checksums);
        let ended = Ended {
            at: stopped.at,
            known_from: KnownFrom::Server,
        };
        let mut files = vec![Whole {
            path: "backup_label",
            attributes: made_now(control.attributes),
            content: stopped.label,
        }];
        if !stopped.tablespace_map.is_empty() {
            files.push(Whole {
                path: "tablespace_map",
                attributes: made_now(control.attributes),
                content: stopped.tablespace_map,
            });
        }
        files.push(control);
        self.send_last(files, &wal).await?;
        Ok(self.describe((label, ended), map, (wal, landmarks), pages))
    }

    /// The WAL that the backup needs.
    fn wal(&self, label: &label::BackupLabel, end: Lsn) -> Result<Vec<WalRange>, Error> {
        let root = &self.facts.data_directory;
        let first = label.start_timeline();
        let newest = match label.from {
            BackupFrom::Primary => first,
            // Read again: the standby may have followed its primary until the very end.
            BackupFrom::Standby => local::control_file(root)?.1.minimum_recovery_timeline.max(first),
        };
        wal::ranges(root, (first, label.start_lsn), (newest, end))
    }

    /// What was found in data pages, if somebody looked; the backup's WAL ends at `end`, when they had checksums, or not.
    fn pages(&mut self, end: Lsn, checksums: bool) -> Option<Pages> {
        let rules = self
            .packers
            .as_ref()
            .expect("the files have been copied")
            .0
            .rules?;
        if rules.checker.verifies_checksums() && !checksums {
            tracing::warn!(
                "checksums of data pages were switched off while the backup was taken, so they say nothing of its pages"
            );
        }
        let checksums = rules.checker.verifies_checksums() && checksums;
        Some(Pages {
            checksums,
            ..self.uploads.collected.take_pages(end, checksums)
        })
    }

    /// The last volume, or the last two if the manifest is a large file.
    async fn send_last(&mut self, mut files: Vec<Whole>, wal: &[WalRange]) -> Result<(), Error> {
        self.uploads.collected.sort();
        let version = ManifestVersion::of_postgres(self.facts.major, self.facts.system_id);
        let newest_first: Vec<_> = wal.iter().rev().map(manifest_range).collect();
        let content = self.uploads.collected.manifest(version, &files, &newest_first);
        let manifest = Whole {
            path: "backup_manifest",
            attributes: made_now(files[0].attributes),
            content,
        };
        let queue = &self.packers.as_ref().expect("the files have been copied").0.queue;
        let (form, volume) = (self.archive.form(), queue.next_volume());
        let bytes = manifest.content.len() as u64;
        let mut last = Vec::new();
        if bytes > layout::LARGE_BYTES {
            let volume = queue.next_volume();
            last.extend(
                (0..layout::slices(bytes)).map(|index| whole::slice_of(form, volume, index, &manifest)),
            );
        } else {
            files.push(manifest);
        }
        last.push(whole::bundle_of(form, volume, &files, self.base.as_deref()).await?);
        for made in last {
            self.uploads.begin(self.archive, &self.id, made);
        }
        self.uploads.collected.sort();
        Ok(())
    }

    /// What is known of the backup.
    fn describe(
        &self,
        (label, ended): (label::BackupLabel, Ended),
        map: Vec<tablespace_map::Tablespace>,
        (wal, landmarks): (Vec<WalRange>, Vec<Landmark>),
        pages: Option<Pages>,
    ) -> Description {
        let tablespaces = map.into_iter().map(|tablespace| Tablespace {
            oid: tablespace.oid,
            location: String::from_utf8_lossy(&tablespace.location).into_owned(),
        });
        Description {
            content: TreeKind::BaseBackup,
            began: self.began,
            method: Method::Walfs,
            plain_tar: true,
            backup: backup::Backup {
                shape: Shape::Plain,
                system_identifier: Some(self.facts.system_id),
                postgresql_major: Some(self.facts.major),
                segment_bytes: self.facts.segment_size.bytes(),
                wal,
                label: label.label,
                ended,
                from_standby: label.from == BackupFrom::Standby,
                incremental_from: None,
                dump_hash: None,
                plain_file: false,
                own_wal: Vec::new(),
                awaited: Vec::new(),
                landmarks,
                tablespaces: tablespaces.collect(),
                links: self.links.iter().take(LISTED).cloned().collect(),
                outside: self.outside.iter().take(LISTED).cloned().collect(),
                pages,
            },
        }
    }

    /// The tree of all parts that were sent, and whether these are it as a tar tool would unpack them.
    pub(super) fn tree(&mut self) -> Result<(Tree, bool), Error> {
        let collected = std::mem::take(&mut self.uploads.collected);
        let plan = &self.packers.as_ref().expect("the files have been copied").0.plan;
        let directories = plan.sources.iter().filter(|source| source.bytes.is_none());
        Ok(collected.into_tree(self.id.clone(), directories.map(Source::directory))?)
    }
}

fn manifest_range(range: &WalRange) -> backup_manifest::WalRange {
    backup_manifest::WalRange {
        timeline: range.timeline,
        start: range.start,
        end: range.end,
    }
}

/// Owner and mode of the cluster's other files.
fn made_now(like: Attributes) -> Attributes {
    Attributes {
        modified: Timestamp::now(),
        ..like
    }
}
