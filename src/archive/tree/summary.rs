//! The summary of a tree: `basebackups/<name>.json`, plain JSON, written last. The tree exists from then on.
//!
//! It has what a list of backups shows, and the hashes from which everything else of the tree is proved. Its own last
//! line proves itself: `"checksum"`, the BLAKE3 of all bytes before that line.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::backup::Backup;
use super::{TreeId, TreeKind, TreeName};
use crate::codec::{ContentHash, most_stored_bytes};
use crate::pg::{Lsn, Timeline};

/// The version of the summary that this program writes and reads.
pub const SUMMARY_VERSION: u32 = 1;

/// What there is to know of a complete tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// [`SUMMARY_VERSION`].
    pub summary_version: u32,
    /// Folder of its parts, below `trees/`.
    pub id: String,
    /// What it holds.
    pub content: TreeKind,
    /// Its manifest.
    pub manifest: Object,
    /// Permission bits of its own directory.
    pub mode: u32,
    /// Regular files in it.
    pub files: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Bytes of its own parts and manifest, as stored.
    pub stored_bytes: u64,
    /// Extents of its files: what its manifest takes in memory is mostly these.
    pub extents: u64,
    /// What of earlier trees it points to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builds_on: Vec<BuildsOn>,
    /// When the first of it was stored: long after it was taken, if it was brought from elsewhere.
    pub began: Timestamp,
    /// When it was complete in the archive, by the clock of the host that stored it, or the store's if that was ahead of it; see
    /// [`Backup::ended`].
    pub finished: Timestamp,
    /// What brought it.
    pub method: Method,
    /// Do the parts, put together, give exactly these files to stock `tar`? Not if files were renamed or removed after
    /// their bytes had gone out, nor if parts of earlier trees are pointed to.
    pub plain_tar: bool,
    /// What a base backup is besides a tree. Of another content it says when that was read, and what, and names no WAL.
    pub backup: Backup,
    /// Version of the program that wrote it.
    pub written_by: String,
}

/// What the maker of a tree says of it. The rest of the summary is found when the tree is committed.
#[derive(Debug, Clone)]
pub struct Description {
    /// See [`Summary::content`].
    pub content: TreeKind,
    /// See [`Summary::began`].
    pub began: Timestamp,
    /// See [`Summary::method`].
    pub method: Method,
    /// See [`Summary::plain_tar`].
    pub plain_tar: bool,
    /// See [`Summary::backup`].
    pub backup: Backup,
}

/// What the archive knows of a tree whose objects are stored.
#[derive(Debug, Clone)]
pub struct Inventory {
    pub(super) id: TreeId,
    pub(super) manifest: Object,
    /// Permission bits of the tree's own directory.
    pub(super) mode: u32,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Of the tree's own parts and manifest.
    pub(super) stored_bytes: u64,
    pub(super) extents: u64,
    pub(super) builds_on: Vec<BuildsOn>,
}

/// Parts of an earlier tree that hold content of a later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildsOn {
    /// Folder of the earlier one, below `trees/`.
    pub id: String,
    /// Bytes of these parts, as stored.
    pub stored_bytes: u64,
}

/// An object of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Length of its plain content, in bytes.
    pub plain_bytes: u64,
    /// Length of the object, in bytes.
    pub stored_bytes: u64,
    /// BLAKE3 of its plain content, 64 hexadecimal digits.
    pub hash: String,
}

impl Object {
    /// Its hash; `None` if it cannot be read.
    pub fn content_hash(&self) -> Option<ContentHash> {
        self.hash.parse().ok()
    }
}

/// What brought a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `walfs backup` or `walfs files`.
    Walfs,
    /// Files written through the mount, finished by the rename of `backup_manifest`.
    Mount,
    /// Files written through the mount, finished by hand: `fsync` of the directory or `walfs backup-finish`.
    ByHand,
}

/// What ends and is stored by one command is stored within this, if all clocks are right.
const MOST_BEHIND: SignedDuration = SignedDuration::from_hours(24);

/// Largest manifest, plain, in bytes: of some three million files.
const MOST_MANIFEST_BYTES: u64 = 512 << 20;

/// Earlier trees that one points to at most.
const MOST_TREES: usize = 10_000;

/// How much smaller it may become by compression.
const MOST_RATIO: u64 = 64;

/// What stands before the checksum's 64 digits, and what behind.
const CHECKSUM: (&str, &str) = (",\n  \"checksum\": \"", "\"\n}\n");

impl Summary {
    /// Its text, as stored.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = serde_json::to_string_pretty(self).expect("plain data becomes JSON");
        let open = text.trim_end_matches("\n}").len();
        text.truncate(open);
        let checksum = ContentHash::of(text.as_bytes());
        text.push_str(CHECKSUM.0);
        text.push_str(&checksum.to_string());
        text.push_str(CHECKSUM.1);
        text.into_bytes()
    }

    /// Reads and proves [`Summary::to_text`].
    ///
    /// # Errors
    /// Why not, as text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(text).map_err(|error| error.to_string())?;
        let proved = text
            .strip_suffix(CHECKSUM.1)
            .and_then(|text| text.rsplit_once(CHECKSUM.0));
        let Some((content, checksum)) = proved else {
            return Err("it does not end in its checksum".into());
        };
        let found = ContentHash::of(content.as_bytes()).to_string();
        if found != checksum {
            return Err(format!("its checksum is {found}, it states {checksum}"));
        }
        let summary: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        match summary.summary_version {
            SUMMARY_VERSION => summary.check().map(|()| summary),
            other => Err(format!(
                "it has version {other}, this walfs reads {SUMMARY_VERSION}"
            )),
        }
    }

    /// Is what it claims, plausible? Its checksum only says that it is as it was written.
    ///
    /// # Errors
    /// What is not, as text.
    pub fn check(&self) -> Result<(), String> {
        match self.content {
            TreeKind::BaseBackup => drop(self.backup.plausible_wal()?),
            TreeKind::Files | TreeKind::Dump => self.backup.plausible_without_wal()?,
        }
        if self.builds_on.len() > MOST_TREES {
            return Err(format!(
                "it builds on {} trees, which none does",
                self.builds_on.len()
            ));
        }
        let Object {
            plain_bytes,
            stored_bytes,
            ..
        } = self.manifest;
        let by_ratio = stored_bytes.saturating_mul(MOST_RATIO).saturating_add(1 << 20);
        let most = MOST_MANIFEST_BYTES.min(by_ratio);
        if plain_bytes > most || stored_bytes > most_stored_bytes(MOST_MANIFEST_BYTES) {
            return Err(format!(
                "it states a manifest of {plain_bytes} bytes, stored as {stored_bytes}, which none can have"
            ));
        }
        Ok(())
    }

    /// Of a tree that is complete from now on.
    pub(super) fn new(inventory: Inventory, description: Description) -> Self {
        let Description {
            content,
            began,
            method,
            plain_tar,
            backup,
        } = description;
        Self {
            summary_version: SUMMARY_VERSION,
            id: inventory.id.to_string(),
            content,
            manifest: inventory.manifest,
            mode: inventory.mode,
            files: inventory.files,
            bytes: inventory.bytes,
            stored_bytes: inventory.stored_bytes,
            extents: inventory.extents,
            builds_on: inventory.builds_on,
            began,
            finished: Timestamp::now(),
            method,
            plain_tar,
            backup,
            written_by: concat!("walfs ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Backups are as old as this: by the position where they end, and of the same position the one stored last is the
    /// newest (promise B8).
    pub fn age(&self) -> (Option<(Timeline, Lsn)>, Timestamp) {
        (self.backup.stop(), self.finished)
    }

    /// Is it known when it ended? A clock that was a day behind does not say it: nothing else lies between that and its storing.
    pub fn is_end_known(&self) -> bool {
        let is_stored_at_once = self.method != Method::ByHand;
        let behind = self.finished.duration_since(self.backup.ended.at);
        self.backup.ended.is_exact() && !(is_stored_at_once && behind > MOST_BEHIND)
    }

    /// Its folder, if it is one of that name's: what another tree's summary points to is not.
    pub fn tree_id(&self, name: &TreeName) -> Option<TreeId> {
        TreeId::parse(&self.id).filter(|id| id.name() == *name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::tree::backup::{OwnSegment, Shape, WalRange};
    use crate::archive::tree::ended::{Ended, KnownFrom};
    use crate::pg::landmark::{Known, Landmark};
    use crate::pg::record::Checkpoint;
    use crate::pg::{SegmentName, SystemId};

    pub(crate) fn sample(name: &str) -> Summary {
        let object = Object {
            plain_bytes: 10,
            stored_bytes: 20,
            hash: ContentHash::of(b"").to_string(),
        };
        Summary {
            summary_version: SUMMARY_VERSION,
            id: TreeId::fresh(&name.parse().unwrap()).to_string(),
            content: TreeKind::BaseBackup,
            manifest: object,
            mode: 0o750,
            files: 1,
            bytes: 2,
            stored_bytes: 3,
            extents: 3,
            builds_on: vec![],
            began: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            method: Method::Walfs,
            plain_tar: true,
            backup: Backup {
                shape: Shape::Plain,
                system_identifier: Some(SystemId(u64::MAX)),
                postgresql_major: Some(15),
                segment_bytes: 16 << 20,
                wal: vec![WalRange {
                    timeline: Timeline(1),
                    start: Lsn(0x2000028),
                    end: Lsn(0x3000100),
                }],
                label: "nightly".into(),
                ended: Ended {
                    at: Timestamp::UNIX_EPOCH,
                    known_from: KnownFrom::Server,
                },
                from_standby: false,
                incremental_from: None,
                dump_hash: None,
                plain_file: false,
                own_wal: vec![],
                awaited: vec![],
                landmarks: vec![],
                tablespaces: vec![],
                links: vec![],
                outside: vec![],
                pages: None,
            },
            written_by: "walfs".into(),
        }
    }

    #[test]
    fn a_summary_is_read_back() {
        let mut summary = sample("monday");
        for round in 0..2 {
            let text = summary.to_text();
            assert_eq!(Summary::parse(&text).unwrap(), summary);
            let readable = String::from_utf8(text.clone()).unwrap();
            assert!(readable.contains("\"start\": \"0/2000028\""), "{readable}");
            for at in 0..text.len() {
                let mut flipped = text.clone();
                flipped[at] ^= 1;
                assert!(Summary::parse(&flipped).is_err(), "flipped at {at}");
                assert!(Summary::parse(&text[..at]).is_err(), "cut at {at}");
            }
            if round == 0 {
                summary.backup.system_identifier = None;
                summary.backup.own_wal = vec![text_name("000000010000000000000002")];
                summary.backup.awaited = vec![OwnSegment {
                    segment: text_name("000000010000000000000003"),
                    bytes: 16 << 20,
                    hash: ContentHash::of(b"WAL"),
                }];
                let (redo, start) = (Lsn(0x2000028), Lsn(0x2000028));
                let all = Known::All(Checkpoint {
                    redo,
                    timeline: Timeline(1),
                    time: Timestamp::UNIX_EPOCH,
                });
                let checkpoints = [Known::Redo(redo), all].map(|known| Landmark::Checkpoint {
                    at: Lsn(0x2000060),
                    known,
                });
                let at = Lsn(0x3000100);
                summary.backup.landmarks = [
                    &checkpoints[..],
                    &[Landmark::End { at, start }, Landmark::Boundary { at, start }],
                ]
                .concat();
            }
        }
    }

    fn text_name(text: &str) -> SegmentName {
        match text.parse() {
            Ok(crate::pg::WalName::Segment(segment)) => segment,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn another_trees_summary_is_not_ones_own() {
        let summary = sample("monday");
        assert!(summary.tree_id(&"monday".parse().unwrap()).is_some());
        assert!(summary.tree_id(&"tuesday".parse().unwrap()).is_none());
    }
}
