//! The summary of a tree: `basebackups/<name>.json`, plain JSON, written last. The tree exists from then on.
//!
//! It has what a list of backups shows, and the hashes from which everything else of the tree is proved. Its own last
//! line proves itself: `"checksum"`, the BLAKE3 of all bytes before that line.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ended::Ended;
use super::{TreeId, TreeKind, TreeName};
use crate::codec::{ContentHash, most_stored_bytes};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

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
    /// Its chunk hashes.
    pub chunks: Object,
    /// Permission bits of its own directory.
    pub mode: u32,
    /// Regular files in it.
    pub files: u64,
    /// Their plain bytes.
    pub bytes: u64,
    /// Bytes of its own parts, manifest and chunk hashes, as stored.
    pub stored_bytes: u64,
    /// When the first of it was stored: long after it was taken, if it was brought from elsewhere.
    pub began: Timestamp,
    /// When it was complete in the archive; see [`Backup::ended`].
    pub finished: Timestamp,
    /// What brought it.
    pub method: Method,
    /// Do the parts, put together, give exactly these files to stock `tar`? Not if files were renamed or removed after
    /// their bytes had gone out, nor if parts of earlier trees are pointed to.
    pub plain_tar: bool,
    /// What a base backup is besides a tree. A tree of another content will have something else in its place.
    pub backup: Backup,
    /// Version of the program that wrote it.
    pub written_by: String,
}

/// What the maker of a tree says of it. The rest of the summary is found when the tree is committed.
#[derive(Debug, Clone)]
pub struct Description {
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
    pub(super) chunks: Object,
    /// Permission bits of the tree's own directory.
    pub(super) mode: u32,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Of the tree's own parts, manifest and chunk hashes.
    pub(super) stored_bytes: u64,
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

/// What brought a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// `walfs backup`.
    Walfs,
    /// Files written through the mount, finished by the rename of `backup_manifest`.
    Mount,
    /// Files written through the mount, finished by hand: `fsync` of the directory or `walfs backup-finish`.
    ByHand,
}

/// How the files of a base backup are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// As in a data directory.
    Plain,
    /// In `base.tar` and its companions, as `pg_basebackup -Ft` writes them.
    Tar,
}

/// What makes a tree a base backup. Positions and identifiers are text, as PostgreSQL shows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// As in a data directory, or in tar files?
    pub shape: Shape,
    /// The cluster; absent where it could not be known (a tar backup with a manifest of version 1).
    #[serde(with = "text", default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<SystemId>,
    /// PostgreSQL's major version; absent as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql_major: Option<u32>,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// The WAL that makes it consistent, oldest first and never empty: one range, or one for each timeline that a
    /// standby followed meanwhile. Every segment of it must be at hand.
    pub wal: Vec<WalRange>,
    /// The label it was given.
    pub label: String,
    /// When it ended, at the end of that WAL.
    pub ended: Ended,
    /// Was it taken from a standby?
    pub from_standby: bool,
    /// Segments that it brings along in its own `pg_wal`.
    #[serde(with = "text_list", default, skip_serializing_if = "Vec::is_empty")]
    pub own_wal: Vec<SegmentName>,
    /// Segments that were not archived yet when it was stored, whether it has them itself or not. What comes under their names
    /// later must be this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<OwnSegment>,
    /// Its tablespaces, besides the two that every cluster has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<Tablespace>,
    /// Links of the data directory, but for those of tablespaces: the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// Files that the server's settings name and that are not in its data directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<Outside>,
    /// What its data pages were like while it was taken; absent if nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<Pages>,
}

/// What a server, or a backup, itself has of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnSegment {
    /// Its name.
    #[serde(with = "text")]
    pub segment: SegmentName,
    /// So many of its first bytes are meant.
    pub bytes: u64,
    /// Their BLAKE3, 64 hexadecimal digits.
    #[serde(with = "text")]
    pub hash: ContentHash,
}

/// WAL of one timeline, from `start` up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRange {
    /// Its timeline.
    #[serde(with = "text")]
    pub timeline: Timeline,
    /// Where replay begins: in the first range, where recovery from the backup does.
    #[serde(with = "text")]
    pub start: Lsn,
    /// Where it ends: in the last range, where the backup is consistent.
    #[serde(with = "text")]
    pub end: Lsn,
}

impl WalRange {
    fn count(self, size: SegmentSize) -> u64 {
        let last = self.end.0.saturating_sub(1).max(self.start.0) / size.bytes();
        last - self.start.0 / size.bytes() + 1
    }

    /// The segments that hold it, ascending. One that ends on a segment's first byte needs nothing of that segment
    /// (`XLByteToPrevSeg` in xlog_internal.h).
    pub fn segments(self, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
        let first = self.start.0 / size.bytes();
        let last = self.end.0.saturating_sub(1).max(self.start.0) / size.bytes();
        (first..=last).filter_map(move |number| SegmentName::from_number(self.timeline, number, size))
    }
}

impl Backup {
    /// Where recovery from it begins.
    pub fn start(&self) -> Option<(Timeline, Lsn)> {
        self.wal.first().map(|range| (range.timeline, range.start))
    }

    /// Where it is consistent.
    pub fn stop(&self) -> Option<(Timeline, Lsn)> {
        self.wal.last().map(|range| (range.timeline, range.end))
    }

    /// Every segment that must be at hand, ascending. A segment in which a timeline was left is that of the next one: it
    /// begins with a copy, and PostgreSQL reads no other.
    ///
    /// # Errors
    /// The text of why it cannot be: no backup needs so much WAL.
    pub fn segments(&self) -> Result<Vec<SegmentName>, String> {
        let size = self.plausible_wal()?;
        let nexts = self.wal.iter().skip(1).map(|next| next.start.0 / size.bytes());
        let ends = nexts.chain([u64::MAX]);
        let own = |(range, end): (&WalRange, u64)| {
            let segments = range.segments(size);
            segments.take_while(move |segment| segment.number(size) < end)
        };
        Ok(self.wal.iter().zip(ends).flat_map(own).collect())
    }

    /// Bounds what the ranges claim, before anybody counts them through.
    fn plausible_wal(&self) -> Result<SegmentSize, String> {
        let size = SegmentSize::new(self.segment_bytes).map_err(|error| error.to_string())?;
        let counts = self.wal.iter().map(|range| range.count(size));
        let count = counts.fold(0, u64::saturating_add);
        if let Some(range) = self.wal.iter().find(|range| range.start > range.end) {
            return Err(format!(
                "its WAL from {} ends before it, at {}",
                range.start, range.end
            ));
        }
        if !self.wal.is_sorted_by(|one, next| one.timeline < next.timeline) {
            return Err("the timelines of its WAL are not in order".into());
        }
        if self.awaited.len() > MOST_AWAITED {
            return Err(format!(
                "it awaits {} segments, more than the {MOST_AWAITED} of any backup",
                self.awaited.len()
            ));
        }
        if let Some(own) = self
            .awaited
            .iter()
            .find(|own| !(1..=size.bytes()).contains(&own.bytes))
        {
            return Err(format!("it awaits {} bytes of {}", own.bytes, own.segment));
        }
        match count {
            0 => Err("it names no WAL, which every backup needs".into()),
            1..=MOST_SEGMENTS => Ok(size),
            _ => Err(format!(
                "it claims to need {count} segments of WAL, more than the {MOST_SEGMENTS} of any backup"
            )),
        }
    }
}

/// Most segments of WAL that are written while a backup is taken: 4 TiB of the usual size.
const MOST_SEGMENTS: u64 = 1 << 18;

/// Segments that are compared when they come: as many as are asked for one by one.
pub const MOST_AWAITED: usize = super::needed::ASKED_ONE_BY_ONE;

/// Largest manifest and list of chunk hashes, plain, in bytes: of some three million files, or 8 TiB.
const MOST_INVENTORY_BYTES: u64 = 512 << 20;

/// How much smaller either may become by compression.
const MOST_RATIO: u64 = 64;

/// A tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object identifier; its files are in `pg_tblspc/<oid>`.
    pub oid: u32,
    /// Where it was. What is not UTF-8 is replaced; the tablespace map has it byte for byte.
    pub location: String,
}

/// A symbolic link in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From the data directory.
    pub path: String,
    /// Where it led.
    pub target: String,
    /// Is what it led to in the backup, in its place? Otherwise nothing of it is.
    pub followed: bool,
}

/// A file that a setting names and that is not in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// `config_file`, `hba_file`, `ident_file`, `include`, or `ssl_key_file` and the like.
    pub setting: String,
    /// Where it was on the server's machine.
    pub path: String,
    /// Where it is in the backup; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<String>,
}

/// What a look at all data pages found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Were checksums verified, or only headers, positions and lengths of files looked at?
    #[serde(default)]
    pub checksums: bool,
    /// Pages that were right; those that changed while the backup was taken are not among them.
    pub verified: u64,
    /// Pages that were damaged.
    pub bad: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_bad: Vec<BadPage>,
}

/// A damaged page, or the end of a file that is no whole number of pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// The file, from the data directory.
    pub path: String,
    /// The block's number in its relation.
    pub block: u32,
    /// What is wrong with it.
    #[serde(default)]
    pub reason: String,
}

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
        self.backup.plausible_wal()?;
        for (what, object) in [("manifest", &self.manifest), ("list of chunks", &self.chunks)] {
            let by_ratio = object
                .stored_bytes
                .saturating_mul(MOST_RATIO)
                .saturating_add(1 << 20);
            let most = MOST_INVENTORY_BYTES.min(by_ratio);
            if object.plain_bytes > most || object.stored_bytes > most_stored_bytes(MOST_INVENTORY_BYTES) {
                return Err(format!(
                    "it states a {what} of {} bytes, stored as {}, which none can have",
                    object.plain_bytes, object.stored_bytes
                ));
            }
        }
        Ok(())
    }

    /// Of a tree that is complete from now on.
    pub(super) fn new(inventory: Inventory, description: Description) -> Self {
        let Description {
            began,
            method,
            plain_tar,
            backup,
        } = description;
        Self {
            summary_version: SUMMARY_VERSION,
            id: inventory.id.to_string(),
            content: TreeKind::BaseBackup,
            manifest: inventory.manifest,
            chunks: inventory.chunks,
            mode: inventory.mode,
            files: inventory.files,
            bytes: inventory.bytes,
            stored_bytes: inventory.stored_bytes,
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

    /// Its folder, if it is one of that name's: what another tree's summary points to is not.
    pub fn tree_id(&self, name: &TreeName) -> Option<TreeId> {
        TreeId::parse(&self.id).filter(|id| id.name() == *name)
    }
}

/// Values as the text that they are shown as.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{ContentHash, Lsn, SegmentName, SystemId, Timeline};
    use crate::pg::WalName;

    /// A value of this module's parent that is written as text.
    pub(super) trait Text: Sized {
        fn show(&self) -> String;
        fn read(text: &str) -> Option<Self>;
    }

    impl Text for Lsn {
        fn show(&self) -> String {
            self.to_string()
        }
        fn read(text: &str) -> Option<Self> {
            Self::from_str(text).ok()
        }
    }

    impl Text for Timeline {
        fn show(&self) -> String {
            self.to_string()
        }
        fn read(text: &str) -> Option<Self> {
            text.parse().ok().map(Self)
        }
    }

    impl Text for ContentHash {
        fn show(&self) -> String {
            self.to_string()
        }
        fn read(text: &str) -> Option<Self> {
            text.parse().ok()
        }
    }

    impl Text for SegmentName {
        fn show(&self) -> String {
            WalName::Segment(*self).to_string()
        }
        fn read(text: &str) -> Option<Self> {
            match text.parse() {
                Ok(WalName::Segment(segment)) => Some(segment),
                _ => None,
            }
        }
    }

    impl Text for Option<SystemId> {
        fn show(&self) -> String {
            self.map(|id| id.to_string()).unwrap_or_default()
        }
        fn read(text: &str) -> Option<Self> {
            text.parse().ok().map(|id| Some(SystemId(id)))
        }
    }

    pub(super) fn serialize<S: Serializer>(value: &impl Text, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Shown(value))
    }

    pub(super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(from: D) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        T::read(&text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not what it should be")))
    }

    struct Shown<'a, T>(&'a T);

    impl<T: Text> Display for Shown<'_, T> {
        fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            out.write_str(&self.0.show())
        }
    }
}

/// Lists of such values.
mod text_list {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::text::Text;

    pub(super) fn serialize<S: Serializer>(values: &[impl Text], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(Text::show))
    }

    pub(super) fn deserialize<'a, T: Text, D: Deserializer<'a>>(from: D) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let read = |text: &String| {
            T::read(text).ok_or_else(|| D::Error::custom(format_args!("{text:?} is not what it should be")))
        };
        texts.iter().map(read).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::archive::tree::ended::KnownFrom;

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
            manifest: object.clone(),
            chunks: object,
            mode: 0o750,
            files: 1,
            bytes: 2,
            stored_bytes: 3,
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
                own_wal: vec![],
                awaited: vec![],
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
    fn needed_segments_end_before_a_boundary() {
        let segments = |start, end| -> Vec<u64> {
            let size = SegmentSize::new(1 << 20).unwrap();
            let range = WalRange {
                timeline: Timeline(3),
                start: Lsn(start),
                end: Lsn(end),
            };
            range.segments(size).map(|segment| segment.number(size)).collect()
        };
        assert_eq!(segments(0x200028, 0x200100), [2]);
        assert_eq!(segments(0x200028, 0x300000), [2]);
        assert_eq!(segments(0x200028, 0x300001), [2, 3]);
        assert_eq!(segments(0x200000, 0x200000), [2]);
    }

    /// The segment of a fork may be in the archive under its new timeline's name only.
    #[test]
    fn the_segment_of_a_fork_is_that_of_the_new_timeline() {
        let mut backup = sample("monday").backup;
        let range = |timeline, start, end| WalRange {
            timeline: Timeline(timeline),
            start: Lsn(start),
            end: Lsn(end),
        };
        let names = |ranges: &[WalRange], backup: &mut Backup| {
            backup.wal = ranges.to_vec();
            let segments = backup.segments().unwrap();
            segments.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let inside = [range(1, 0x2000028, 0x4000100), range(2, 0x4000100, 0x5000100)];
        assert_eq!(
            names(&inside, &mut backup),
            [
                "000000010000000000000002",
                "000000010000000000000003",
                "000000020000000000000004",
                "000000020000000000000005"
            ]
        );
        let boundary = [range(1, 0x2000028, 0x3000000), range(2, 0x3000000, 0x3000100)];
        assert_eq!(
            names(&boundary, &mut backup),
            ["000000010000000000000002", "000000020000000000000003"]
        );
        let twice = [
            range(1, 0x2000028, 0x2000100),
            range(2, 0x2000100, 0x2000200),
            range(3, 0x2000200, 0x2000300),
        ];
        assert_eq!(names(&twice, &mut backup), ["000000030000000000000002"]);
    }

    #[test]
    fn another_trees_summary_is_not_ones_own() {
        let summary = sample("monday");
        assert!(summary.tree_id(&"monday".parse().unwrap()).is_some());
        assert!(summary.tree_id(&"tuesday".parse().unwrap()).is_none());
    }
}
