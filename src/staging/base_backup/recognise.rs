//! What a tree must hold to be a base backup, and what is known of it then.
//!
//! Read out of what was written: `backup_label`, `backup_manifest`, `global/pg_control`. Without a manifest nothing says
//! which files there should be, so no tree is complete without one (promise B4).

use crate::archive::tree::backup::{Backup, Shape, Tablespace, WalRange};
use crate::archive::tree::combined;
use crate::archive::tree::ended::Ended;
use crate::pg::backup_manifest::{Manifest, ManifestVersion};
use crate::pg::control::{ClusterState, ControlFile};
use crate::pg::label::{self, BackupFrom};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId, Timeline, landmark, tablespace_map};
use crate::staging::tree::names::Kind;

use super::tablespaces::{self, Mapped};
use super::tar_backup::is_incremental;
use super::{Candidate, Error, MANIFEST};

/// Longest of the files that are read whole to learn what a backup is; a manifest has some hundred bytes a file.
const TEXT_BYTES: u64 = 512 << 20;

pub(super) const CONTROL: &[u8] = b"global/pg_control";

impl Candidate<'_> {
    /// What the tree is as a base backup.
    ///
    /// # Errors
    /// [`Error::NoBackup`] says what is missing or does not fit; and as [`Candidate::verify`].
    pub(super) async fn recognise(&self, mapped: &[Mapped]) -> Result<Backup, Error> {
        let manifest = self.manifest().await?;
        let mut backup = match self.read_text(b"backup_label").await? {
            Some(label) => self.plain_backup(Some(&label), &manifest).await?,
            None if self.0.file(CONTROL).is_some() => self.plain_backup(None, &manifest).await?,
            None => self.tar_backup(&manifest).await?,
        };
        self.check_cluster(&backup).await?;
        self.check_base(&backup).await?;
        backup.ended = self.0.archive().ended(&backup, self.0.patience()).await?;
        match backup.shape {
            Shape::Plain => self.verify(&manifest, mapped).await?,
            Shape::Tar => {
                if let Some(control) = self.verify_tars(&manifest).await? {
                    let control = ControlFile::parse(&control).map_err(Error::no_backup)?;
                    self.check_system(&manifest, control.system_id)?;
                    backup.system_identifier = Some(control.system_id);
                    self.check_cluster(&backup).await?;
                    let bound = |bound: Option<(Timeline, Lsn)>| bound.map_or(Lsn(0), |(_, at)| at);
                    let (start, stop) = (bound(backup.start()), bound(backup.stop()));
                    backup
                        .landmarks
                        .extend(landmark::of_control(&control, start, stop));
                }
            }
        }
        backup.awaited = self.compare_own_wal(&backup).await?;
        self.settle_landmarks(&mut backup).await?;
        Ok(backup)
    }

    async fn manifest(&self) -> Result<Manifest, Error> {
        let text = self.read_text(MANIFEST).await?.ok_or_else(|| {
            Error::no_backup(
                "it has no backup_manifest, so nobody knows whether all its files are there\n\
                 HINT: `walfs backup-finish` makes one for a copy of a data directory; pg_basebackup does by itself",
            )
        })?;
        Manifest::parse(&text).map_err(Error::no_backup)
    }

    /// Of a server that ran, with its label, or of one that was shut down, without.
    async fn plain_backup(&self, label: Option<&[u8]>, manifest: &Manifest) -> Result<Backup, Error> {
        let label = label.map(label::read).transpose();
        let (label, incremental_from) = label.map_err(Error::no_backup)?.unzip();
        let incremental_from = incremental_from.flatten();
        if incremental_from.is_none() && is_incremental(manifest) {
            return Err(Error::no_backup(
                "it has files of an incremental backup, and its backup_label does not say so",
            ));
        }
        let control = self.read_text(CONTROL).await?;
        let control = control.ok_or_else(|| Error::no_backup("global/pg_control is not there"))?;
        let control = ControlFile::parse(&control).map_err(Error::no_backup)?;
        self.check_system(manifest, control.system_id)?;
        self.check_links()?;
        if label.is_none() && control.state != ClusterState::ShutDown {
            return Err(Error::no_backup(
                "its server was not shut down cleanly, and it has no backup_label to start from",
            ));
        }
        let wal = self.wal_ranges(manifest)?;
        let stop = wal.last().map_or(Lsn(0), |range| range.end);
        let start = label.as_ref().map_or(Lsn(0), |label| label.start_lsn);
        let of_label = label.as_ref().map(|label| landmark::of_label(label, stop));
        let of_control = landmark::of_control(&control, start, stop);
        Ok(Backup {
            shape: Shape::Plain,
            system_identifier: Some(control.system_id),
            postgresql_major: self.major_version(&control).await?,
            segment_bytes: control.segment_size.bytes(),
            wal,
            ended: Ended::of_files(&control, label.as_ref()),
            from_standby: label
                .as_ref()
                .is_some_and(|label| label.from == BackupFrom::Standby),
            incremental_from,
            label: label
                .as_ref()
                .map(|label| label.label.clone())
                .unwrap_or_default(),
            dump_hash: None,
            plain_file: false,
            own_wal: self.own_segments(control.segment_size),
            awaited: Vec::new(),
            landmarks: of_label.into_iter().flatten().chain(of_control).collect(),
            tablespaces: self.plain_tablespaces().await?,
            links: Vec::new(),
            outside: Vec::new(),
            pages: None,
        })
    }

    /// The tablespaces that are there. A copy by hand has `tablespace_map`, which tells their places, and which names none
    /// that may be missing; `pg_basebackup` in plain format has none.
    async fn plain_tablespaces(&self) -> Result<Vec<Tablespace>, Error> {
        let map = self.read_text(b"tablespace_map").await?.unwrap_or_default();
        let map = tablespace_map::parse(&map).map_err(Error::no_backup)?;
        let found = tablespaces::all(&self.0.names());
        tablespaces::described(&found, &map).map_err(Error::NoBackup)
    }

    async fn major_version(&self, control: &ControlFile) -> Result<Option<u32>, Error> {
        if let Some(major) = control.major_version() {
            return Ok(Some(major));
        }
        let text = self.read_text(b"PG_VERSION").await?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).trim().parse().ok())
    }

    fn check_system(&self, manifest: &Manifest, own: SystemId) -> Result<(), Error> {
        match manifest.version {
            ManifestVersion::V2(listed) if listed != own => Err(Error::no_backup(format!(
                "backup_manifest is of system identifier {listed}, pg_control of {own}"
            ))),
            _ => Ok(()),
        }
    }

    /// The WAL that makes it consistent, oldest first.
    pub(super) fn wal_ranges(&self, manifest: &Manifest) -> Result<Vec<WalRange>, Error> {
        let oldest_first = manifest.wal_ranges.iter().rev().map(|range| WalRange {
            timeline: range.timeline,
            start: range.start,
            end: range.end,
        });
        let ranges: Vec<WalRange> = oldest_first.collect();
        match ranges.is_empty() {
            true => Err(Error::no_backup(
                "its backup_manifest does not say which WAL it needs",
            )),
            false => Ok(ranges),
        }
    }

    /// Whole segments in its own `pg_wal`.
    fn own_segments(&self, size: SegmentSize) -> Vec<SegmentName> {
        let names = self.0.names();
        let children = names
            .find(b"pg_wal")
            .and_then(|number| names.children(number).ok());
        let whole = |(name, number): (&[u8], u32)| {
            let segment: SegmentName = str::from_utf8(name).ok()?.parse().ok()?;
            match names.kind(number) {
                Ok(Kind::File(file)) if file.bytes() == size.bytes() => Some(segment),
                _ => None,
            }
        };
        let children = children.into_iter().flatten();
        let children = children.map(|(name, number)| (&**name, *number));
        children.filter_map(whole).collect()
    }

    /// A backup of another cluster has no business here (promise W5).
    async fn check_cluster(&self, backup: &Backup) -> Result<(), Error> {
        let archive = self.0.archive();
        let Some(cluster) = archive.cluster_of_wal(self.0.patience()).await? else {
            return Ok(());
        };
        let own = cluster.system_id;
        match backup.system_identifier {
            Some(found) if found != own => Err(Error::no_backup(format!(
                "it is of the cluster with system identifier {found}, and {} holds the WAL of system identifier {own}.\n\
                 HINT: a database made by initdb or pg_upgrade has a new identifier; give it its own prefix",
                archive.place()
            ))),
            _ => Ok(()),
        }
    }

    /// What an incremental one is to be combined with is there, and stays (promise K3).
    async fn check_base(&self, backup: &Backup) -> Result<(), Error> {
        let Some(from) = backup.incremental_from else {
            return Ok(());
        };
        let (archive, patience) = (self.0.archive(), self.0.patience());
        match archive.lacking_base(from, patience).await? {
            None => Ok(()),
            Some(began) => Err(Error::no_backup(format!(
                "{} in {}\n\
                 HINT: take a full backup; or, if that one is elsewhere, bring it in first, and take this one again",
                combined::lacks(began),
                archive.place()
            ))),
        }
    }

    /// The whole of a file, if it is there.
    pub(super) async fn read_text(&self, path: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.0.file(path) else {
            return Ok(None);
        };
        let bytes = file.bytes();
        if bytes > TEXT_BYTES {
            let path = String::from_utf8_lossy(path);
            return Err(Error::no_backup(format!(
                "{path} has {bytes} bytes, which is too long to be what its name says"
            )));
        }
        Ok(Some(self.0.read(&file, 0, bytes as usize).await?))
    }
}
