//! A base backup in tar files, as `pg_basebackup -Ft` writes it.
//!
//! What is known of it comes from the manifest, and from the tar files: the label and the tablespace map are the first members
//! of `base.tar` (`basebackup.c`), and the segments in a `pg_wal.tar` that is not compressed are few and long, so that reading
//! their headers is cheap. WAL that `-X fetch` has put into `base.tar` counts only if it is archived as well.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;

use crate::archive::tree::backup::{Backup, Shape, Tablespace};
use crate::archive::tree::ended::{Ended, KnownFrom};
use crate::archive::tree::layout;
use crate::pg::backup_manifest::{Manifest, ManifestVersion};
use crate::pg::label::{self, BackupFrom, BackupLabel};
use crate::pg::{Lsn, PageHeader, SegmentName, SegmentSize, SystemId, TarPacking, landmark, tablespace_map};
use crate::staging::tree::judge::DraftFile;
use crate::staging::tree::names::ROOT;

use super::own_wal::Spot;
use super::{Candidate, Error, tablespaces};

/// Where label and tablespace map lie in `base.tar`, at the longest.
const HEAD_BYTES: usize = 1 << 20;

/// A tar block.
pub(super) const BLOCK: u64 = 512;

/// What `pg_wal.tar` holds.
#[derive(Debug, Default)]
struct OwnWal {
    /// Name, length, and the file and place where it begins.
    segments: Vec<(SegmentName, u64, Spot)>,
    header: Option<PageHeader>,
}

impl Candidate<'_> {
    /// See [`Candidate::recognise`].
    pub(super) async fn tar_backup(&self, manifest: &Manifest) -> Result<Backup, Error> {
        if is_incremental(manifest) {
            return Err(Error::no_backup(
                "it is an incremental backup in tar files, which no tool combines\nHINT: pg_basebackup --incremental -Fp",
            ));
        }
        if !self.has_tar("base") {
            return Err(Error::no_backup("it has neither a backup_label nor a base.tar"));
        }
        let (label, map) = self.head_of_base().await?;
        let own = self.own_wal().await?;
        let size = self.segment_size(own.header.as_ref(), label.as_ref())?;
        let whole = own.segments.iter().filter(|(_, bytes, _)| *bytes == size.bytes());
        let wal = self.wal_ranges(manifest)?;
        let stop = wal.last().map_or(Lsn(0), |range| range.end);
        let of_label = label.as_ref().map(|label| landmark::of_label(label, stop));
        Ok(Backup {
            shape: Shape::Tar,
            system_identifier: system_id(manifest, own.header.as_ref()),
            postgresql_major: None,
            segment_bytes: size.bytes(),
            wal,
            ended: Ended {
                at: manifest.label_made.unwrap_or(Timestamp::UNIX_EPOCH),
                known_from: KnownFrom::Start,
            },
            from_standby: label
                .as_ref()
                .is_some_and(|label| label.from == BackupFrom::Standby),
            incremental_from: None,
            label: label
                .as_ref()
                .map(|label| label.label.clone())
                .unwrap_or_default(),
            dump_hash: None,
            plain_file: false,
            own_wal: whole.map(|(name, ..)| *name).collect(),
            awaited: Vec::new(),
            landmarks: of_label.unwrap_or_default(),
            tablespaces: self.tar_tablespaces(&map)?,
            links: Vec::new(),
            outside: Vec::new(),
            pages: None,
        })
    }

    /// Is it there, compressed or not?
    pub(super) fn has_tar(&self, tar: &str) -> bool {
        self.tar(tar).is_some()
    }

    fn tar(&self, tar: &str) -> Option<(Arc<DraftFile>, TarPacking)> {
        let there = |packing: TarPacking| {
            let file = self.0.file(format!("{tar}{}", packing.suffix()).as_bytes())?;
            Some((file, packing))
        };
        TarPacking::ALL.into_iter().find_map(there)
    }

    /// Label and tablespace map out of the beginning of `base.tar`; nothing where that is compressed in an unusual way.
    async fn head_of_base(&self) -> Result<(Option<BackupLabel>, Vec<tablespace_map::Tablespace>), Error> {
        let Some((file, packing)) = self.tar("base") else {
            return Ok((None, Vec::new()));
        };
        let head = self.0.read(&file, 0, HEAD_BYTES).await?;
        let head = packing.unpack_head(&head, HEAD_BYTES);
        let label = match (member(&head, "backup_label"), packing) {
            (None, TarPacking::Plain) => {
                return Err(Error::no_backup("base.tar does not begin with a backup_label"));
            }
            (label, _) => label.map(|label| label::parse(&label)).transpose(),
        };
        let map = member(&head, "tablespace_map").unwrap_or_default();
        let map = tablespace_map::parse(&map).map_err(Error::no_backup)?;
        Ok((label.map_err(Error::no_backup)?, map))
    }

    /// Every tablespace of the map must have its file; without a map, those there are.
    fn tar_tablespaces(&self, map: &[tablespace_map::Tablespace]) -> Result<Vec<Tablespace>, Error> {
        let names = self.0.names();
        let mut oids: Vec<u32> = names
            .children(ROOT)?
            .keys()
            .filter_map(|name| tar_of_tablespace(name))
            .collect();
        oids.sort_unstable();
        tablespaces::described(&oids, map).map_err(Error::NoBackup)
    }

    /// The whole segments in `pg_wal.tar`, and where they lie.
    pub(super) async fn members_of_wal(
        &self,
        segment_bytes: u64,
    ) -> Result<HashMap<SegmentName, Spot>, Error> {
        let own = self.own_wal().await?.segments.into_iter();
        let whole = own.filter(|(_, bytes, _)| *bytes == segment_bytes);
        Ok(whole.map(|(name, _, spot)| (name, spot)).collect())
    }

    async fn own_wal(&self) -> Result<OwnWal, Error> {
        let mut own = OwnWal::default();
        let Some(file) = self.0.file(b"pg_wal.tar") else {
            return Ok(own);
        };
        let mut at = 0;
        while at + BLOCK <= file.bytes() {
            let block = self.0.read(&file, at, BLOCK as usize).await?;
            let Some((name, bytes)) = header(&block) else {
                break;
            };
            if let Ok(segment) = String::from_utf8_lossy(&name).parse() {
                own.segments.push((segment, bytes, (file.clone(), at + BLOCK)));
                if own.header.is_none() {
                    let page = self.0.read(&file, at + BLOCK, PageHeader::BYTES).await?;
                    own.header = PageHeader::parse(&page).ok();
                }
            }
            at += BLOCK + bytes.next_multiple_of(BLOCK);
        }
        Ok(own)
    }

    /// As its own WAL says, or the name of the segment that it begins in, or the archive.
    fn segment_size(
        &self,
        header: Option<&PageHeader>,
        label: Option<&BackupLabel>,
    ) -> Result<SegmentSize, Error> {
        let of_archive = || {
            let cluster = self.0.archive().known_cluster();
            cluster.map(|cluster| cluster.segment_size)
        };
        let own = header.and_then(|header| header.segment_size().ok());
        let own = own.or_else(|| label.and_then(BackupLabel::segment_size));
        own.or_else(of_archive).ok_or_else(|| {
            Error::no_backup(
                "nothing says how long its segments of WAL are: the archive has none yet, and base.tar is compressed\n\
                 HINT: archive a segment first (SELECT pg_switch_wal()), or leave base.tar uncompressed",
            )
        })
    }
}

/// Has it files of which only some blocks are there? The label says so as well, where it can be read.
pub(super) fn is_incremental(manifest: &Manifest) -> bool {
    let is_partial = |path: &[u8]| {
        let name = path.rsplit(|&byte| byte == b'/').next();
        name.is_some_and(|name| name.starts_with(b"INCREMENTAL."))
    };
    manifest.files.iter().any(|file| is_partial(&file.path))
}

fn system_id(manifest: &Manifest, header: Option<&PageHeader>) -> Option<SystemId> {
    match manifest.version {
        ManifestVersion::V2(system_id) => Some(system_id),
        ManifestVersion::V1 => header.map(|header| header.system_id),
    }
}

/// Content of a member that lies whole in the beginning of a tar file.
fn member(head: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(head);
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        if *entry.path_bytes() == *name.as_bytes() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).ok()?;
            return (content.len() as u64 == entry.size()).then_some(content);
        }
    }
    None
}

/// Name and length that a member's header tells; `None` at the end of the file, and where there can be no such member.
pub(super) fn header(block: &[u8]) -> Option<(Vec<u8>, u64)> {
    if block.iter().all(|&byte| byte == 0) {
        return None;
    }
    let header = tar::Header::from_byte_slice(block);
    let bytes = header
        .size()
        .ok()
        .filter(|bytes| *bytes <= layout::MAX_FILE_BYTES)?;
    Some((header.path_bytes().into_owned(), bytes))
}

fn tar_of_tablespace(name: &[u8]) -> Option<u32> {
    let (digits, suffix) = str::from_utf8(name).ok()?.split_once('.')?;
    let is_tar = TarPacking::ALL
        .iter()
        .any(|packing| packing.suffix()[1..] == *suffix);
    is_tar.then(|| digits.parse().ok())?
}
