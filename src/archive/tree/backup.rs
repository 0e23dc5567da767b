//! What makes a tree a base backup: facts in its summary. Positions and identifiers are text, as PostgreSQL shows them.

use serde::{Deserialize, Serialize};

use super::ended::Ended;
use super::landmarks::{self, MOST_LANDMARKS};
use super::text;
use crate::codec::ContentHash;
use crate::pg::landmark::Landmark;
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

/// Most segments of WAL that are written while a backup is taken: 4 TiB of the usual size.
const MOST_SEGMENTS: u64 = 1 << 18;

/// Segments that are compared when they come: as many as are asked for one by one.
pub const MOST_AWAITED: usize = 64;

/// First version of PostgreSQL that takes incremental backups.
const COMBINES: u32 = 17;

/// How the files of a base backup are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// As in a data directory.
    Plain,
    /// In `base.tar` and its companions, as `pg_basebackup -Ft` writes them.
    Tar,
}

/// What makes a tree a base backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// As in a data directory, or in tar files?
    pub shape: Shape,
    /// The cluster; absent where it could not be known (compressed tar files with a manifest of version 1).
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
    /// Of an incremental backup of PostgreSQL 17 or later, which has only what changed since another one, and from which no
    /// server can start: where that one began.
    #[serde(with = "text", default, skip_serializing_if = "Option::is_none")]
    pub incremental_from: Option<Lsn>,
    /// Segments that it brings along in its own `pg_wal`.
    #[serde(with = "text::list", default, skip_serializing_if = "Vec::is_empty")]
    pub own_wal: Vec<SegmentName>,
    /// Segments that were not archived yet when it was stored, whether it has them itself or not. What comes under their names
    /// later must be this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub awaited: Vec<OwnSegment>,
    /// Records that it knows, in segments that were not archived yet and are not in `awaited`: what comes under their names
    /// later must have them.
    #[serde(with = "landmarks", default, skip_serializing_if = "Vec::is_empty")]
    pub landmarks: Vec<Landmark>,
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
    /// Of a dump: the BLAKE3 of its bytes without those that each run makes anew, by which an equal one is known. Of a plain
    /// file: that of all its bytes.
    #[serde(with = "text", default, skip_serializing_if = "Option::is_none")]
    pub dump_hash: Option<ContentHash>,
    /// Is it a version that was written as one plain file, and is shown as one? The file is all that is in the tree, and has
    /// the name of the set.
    #[serde(default, skip_serializing_if = "is_false")]
    pub plain_file: bool,
}

fn is_false(value: &bool) -> bool {
    !value
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
    /// Pages that were damaged when it was taken, as far as somebody looked.
    pub fn bad_pages(&self) -> u64 {
        self.pages.as_ref().map_or(0, |pages| pages.bad)
    }

    /// The size of its segments.
    ///
    /// # Errors
    /// The text of why it is none.
    pub fn segment_size(&self) -> Result<SegmentSize, String> {
        SegmentSize::new(self.segment_bytes).map_err(|error| error.to_string())
    }

    /// May PostgreSQL combine it with an incremental one?
    pub fn may_be_combined(&self) -> bool {
        self.postgresql_major.is_none_or(|major| major >= COMBINES)
    }

    /// Where recovery from it begins.
    pub fn start(&self) -> Option<(Timeline, Lsn)> {
        self.wal.first().map(|range| (range.timeline, range.start))
    }

    /// Where it is consistent.
    pub fn stop(&self) -> Option<(Timeline, Lsn)> {
        self.wal.last().map(|range| (range.timeline, range.end))
    }

    /// What is no base backup: when it was read, and under which label.
    pub fn without_wal(label: String, ended: Ended) -> Self {
        Self {
            shape: Shape::Plain,
            system_identifier: None,
            postgresql_major: None,
            segment_bytes: 0,
            wal: Vec::new(),
            label,
            ended,
            from_standby: false,
            incremental_from: None,
            own_wal: Vec::new(),
            awaited: Vec::new(),
            landmarks: Vec::new(),
            tablespaces: Vec::new(),
            links: Vec::new(),
            outside: Vec::new(),
            pages: None,
            dump_hash: None,
            plain_file: false,
        }
    }

    /// Is it as [`Backup::without_wal`] makes it?
    pub(super) fn plausible_without_wal(&self) -> Result<(), String> {
        let made = Self {
            dump_hash: self.dump_hash,
            plain_file: self.plain_file,
            ..Self::without_wal(self.label.clone(), self.ended)
        };
        match *self == made {
            true => Ok(()),
            false => Err("it says of WAL, or of a cluster, what only a base backup says".into()),
        }
    }

    /// Every segment that must be at hand, ascending. A segment in which a timeline was left is that of the next one: it
    /// begins with a copy, and PostgreSQL reads no other.
    ///
    /// # Errors
    /// The text of why it cannot be: no backup needs so much WAL.
    pub fn segments(&self) -> Result<Vec<SegmentName>, String> {
        if self.wal.is_empty() {
            return self.plausible_without_wal().map(|()| Vec::new());
        }
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
    pub(super) fn plausible_wal(&self) -> Result<SegmentSize, String> {
        let size = self.segment_size()?;
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
        self.plausible_landmarks()?;
        match count {
            0 => Err("it names no WAL, which every backup needs".into()),
            1..=MOST_SEGMENTS => Ok(size),
            _ => Err(format!(
                "it claims to need {count} segments of WAL, more than the {MOST_SEGMENTS} of any backup"
            )),
        }
    }

    /// Each lies in its WAL.
    fn plausible_landmarks(&self) -> Result<(), String> {
        if self.landmarks.len() > MOST_LANDMARKS {
            return Err(format!(
                "it has {} landmarks, more than the {MOST_LANDMARKS} of any backup",
                self.landmarks.len()
            ));
        }
        match self.landmarks.iter().find(|landmark| !self.spans(**landmark)) {
            Some(landmark) => Err(format!("it has a landmark outside of its WAL: {landmark:?}")),
            None => Ok(()),
        }
    }

    /// Does the landmark lie in its WAL?
    pub(super) fn spans(&self, landmark: Landmark) -> bool {
        let (Some((_, start)), Some((_, stop))) = (self.start(), self.stop()) else {
            return false;
        };
        let wal = start..stop;
        match landmark {
            Landmark::Checkpoint { at, .. } => wal.contains(&at),
            Landmark::End { at, start } | Landmark::Boundary { at, start } => {
                at == stop && wal.contains(&start)
            }
        }
    }

    /// Could WAL that comes later under a name of its own be another server's, although all that it needs is at hand now?
    pub fn may_lose_its_wal(&self) -> bool {
        !self.awaited.is_empty() || (!self.landmarks.is_empty() && !self.own_wal.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::summary::tests::sample;
    use crate::pg::landmark::Known;

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

    /// S8: positions are claims.
    #[test]
    fn s8_landmarks_lie_in_the_backups_wal() {
        let mut backup = sample("monday").backup;
        let (start, at) = (Lsn(0x2000028), Lsn(0x3000100));
        let known = Known::Redo(start);
        let checkpoint = |at: u64| Landmark::Checkpoint { at: Lsn(at), known };
        for (landmark, is_plausible) in [
            (checkpoint(0x2000028), true),
            (checkpoint(0x2000027), false),
            (checkpoint(0x3000100), false),
            (checkpoint(u64::MAX), false),
            (Landmark::End { at, start }, true),
            (Landmark::End { at: start, start }, false),
            (Landmark::End { at, start: at }, false),
            (Landmark::Boundary { at, start }, true),
            (Landmark::Boundary { at: start, start }, false),
        ] {
            backup.landmarks = vec![landmark];
            assert_eq!(backup.plausible_wal().is_ok(), is_plausible, "{landmark:?}");
        }
        backup.landmarks = vec![Landmark::End { at, start }; MOST_LANDMARKS + 1];
        assert!(backup.plausible_wal().is_err());
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
}
