//! Backup label: the `backup_label` from which recovery learns where it must begin (`xlogbackup.c`,
//! `read_backup_label` of `xlogrecovery.c`).
//!
//! ```text
//! START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
//! CHECKPOINT LOCATION: 0/2000060
//! BACKUP METHOD: streamed
//! BACKUP FROM: primary
//! START TIME: 2026-11-20 21:14:03 UTC
//! LABEL: nightly
//! START TIMELINE: 1
//! ```
//! A label goes into a backup byte for byte as PostgreSQL gave it; it is read here to know the backup, and to refuse
//! one that PostgreSQL would not start from. An incremental backup of PostgreSQL 17 has further lines, `INCREMENTAL
//! FROM LSN: 0/2000028` and `INCREMENTAL FROM TLI: 1`.

use std::fmt;

use super::{Lsn, SegmentName, SegmentSize, Timeline, lines};

/// What a backup label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery begins to replay.
    pub start_lsn: Lsn,
    /// The segment with that position, of the timeline on which the backup began.
    pub start_file: SegmentName,
    /// The checkpoint's record, at `start_lsn` or later.
    pub checkpoint_lsn: Lsn,
    /// `streamed`, or `pg_start_backup` for an exclusive backup of PostgreSQL 13 or 14.
    pub method: String,
    /// The server that was copied.
    pub from: BackupFrom,
    /// As the server wrote it, in its `log_timezone`.
    pub start_time: String,
    /// What the backup was called; may be empty. What is not UTF-8 is replaced.
    pub label: String,
}

impl BackupLabel {
    /// The size of the segments by which `start_file` is named; `None` if it goes with none, or with several.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        let sizes = (20..=30).filter_map(|log2| SegmentSize::new(1 << log2).ok());
        let is_named = |size: &SegmentSize| {
            let number = self.start_lsn.0 / size.bytes();
            SegmentName::from_number(self.start_file.timeline, number, *size) == Some(self.start_file)
        };
        let mut sizes = sizes.filter(is_named);
        sizes.next().filter(|_| sizes.next().is_none())
    }
}

/// Which kind of server was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFrom {
    /// One that wrote WAL of its own.
    Primary,
    /// One in recovery.
    Standby,
}

impl fmt::Display for BackupFrom {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
        })
    }
}

/// Why bytes are not the label of a backup that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A line that every label has is not there.
    #[error("the backup label is not complete: expected a line \"{expected}: ...\", found none")]
    Missing {
        /// How the line begins.
        expected: &'static str,
    },
    /// A line does not say what it should.
    #[error("the backup label has the line \"{key}: {found}\", expected {expected} after the colon")]
    Line {
        /// How the line begins.
        key: &'static str,
        /// What should follow.
        expected: &'static str,
        /// What follows.
        found: String,
    },
    /// The last line does not end.
    #[error("the backup label is cut short: it does not end in a newline")]
    Truncated,
    /// Two lines that must agree do not.
    #[error("the backup label contradicts itself: START TIMELINE is {found}, but the WAL begins in {file}")]
    OtherTimeline {
        /// The timeline that is stated.
        found: Timeline,
        /// The segment that is stated.
        file: SegmentName,
    },
    /// Only the blocks that changed since another backup.
    #[error(
        "the backup label is that of an incremental backup, from {from}, which no server can start from\n\
         HINT: pg_combinebackup makes a full backup of it and those before it"
    )]
    Incremental {
        /// Where the backup before began.
        from: Lsn,
    },
}

/// Reads the label of a backup from which a server can start.
///
/// # Errors
/// All of [`LabelError`].
pub fn parse(bytes: &[u8]) -> Result<BackupLabel, LabelError> {
    match read(bytes)? {
        (label, None) => Ok(label),
        (_, Some(from)) => Err(LabelError::Incremental { from }),
    }
}

/// Reads a backup label, also one of an incremental backup, with the position from which that is.
///
/// # Errors
/// All of [`LabelError`] but [`LabelError::Incremental`].
pub fn read(bytes: &[u8]) -> Result<(BackupLabel, Option<Lsn>), LabelError> {
    let text = String::from_utf8_lossy(bytes);
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(LabelError::Truncated);
    }
    let incremental = lines::value(&text, "INCREMENTAL FROM LSN");
    let incremental = incremental.map(|from| {
        from.parse().map_err(|_| LabelError::Line {
            key: "INCREMENTAL FROM LSN",
            expected: "a position in the WAL",
            found: from.to_owned(),
        })
    });
    let incremental_from = incremental.transpose()?;
    let (start_lsn, start_file) = place(&text)?;
    check_timeline(&text, start_file)?;
    let label = BackupLabel {
        start_lsn,
        start_file,
        checkpoint_lsn: checkpoint(&text)?,
        method: value(&text, "BACKUP METHOD")?.to_owned(),
        from: from(&text)?,
        start_time: value(&text, "START TIME")?.to_owned(),
        label: value(&text, "LABEL")?.to_owned(),
    };
    Ok((label, incremental_from))
}

impl BackupLabel {
    /// The timeline on which the backup began.
    pub fn start_timeline(&self) -> Timeline {
        self.start_file.timeline
    }
}

/// The text of the file.
impl fmt::Display for BackupLabel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, file) = (self.start_lsn, self.start_file);
        writeln!(out, "START WAL LOCATION: {start} (file {file})")?;
        writeln!(out, "CHECKPOINT LOCATION: {}", self.checkpoint_lsn)?;
        writeln!(out, "BACKUP METHOD: {}", self.method)?;
        writeln!(out, "BACKUP FROM: {}", self.from)?;
        writeln!(out, "START TIME: {}", self.start_time)?;
        writeln!(out, "LABEL: {}", self.label)?;
        writeln!(out, "START TIMELINE: {}", self.start_timeline())
    }
}

fn value<'a>(text: &'a str, key: &'static str) -> Result<&'a str, LabelError> {
    lines::value(text, key).ok_or(LabelError::Missing { expected: key })
}

/// The value of a line, if `parse` takes it.
fn parsed<T>(
    text: &str,
    key: &'static str,
    expected: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, LabelError> {
    let found = value(text, key)?;
    parse(found).ok_or_else(|| LabelError::Line {
        key,
        expected,
        found: found.to_owned(),
    })
}

fn place(text: &str) -> Result<(Lsn, SegmentName), LabelError> {
    let expected = "a position and a segment, such as 0/2000028 (file 000000010000000000000002),";
    parsed(text, "START WAL LOCATION", expected, lines::parse_place)
}

fn checkpoint(text: &str) -> Result<Lsn, LabelError> {
    let expected = "a position, such as 0/2000060,";
    parsed(text, "CHECKPOINT LOCATION", expected, |found| found.parse().ok())
}

fn from(text: &str) -> Result<BackupFrom, LabelError> {
    parsed(text, "BACKUP FROM", "primary or standby", |found| match found {
        // What PostgreSQL 13 calls a primary.
        "primary" | "master" => Some(BackupFrom::Primary),
        "standby" => Some(BackupFrom::Standby),
        _ => None,
    })
}

fn check_timeline(text: &str, file: SegmentName) -> Result<(), LabelError> {
    let expected = "a timeline, 1 or more,";
    let found = parsed(text, "START TIMELINE", expected, lines::parse_timeline)?;
    if found == file.timeline {
        return Ok(());
    }
    Err(LabelError::OtherTimeline { found, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 15 wrote it.
    const WHOLE: &str = "\
START WAL LOCATION: 0/7000028 (file 000000010000000000000007)
CHECKPOINT LOCATION: 0/7000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-21 12:52:33 UTC
LABEL: wei rd: x
START TIMELINE: 1
";

    fn expected() -> BackupLabel {
        BackupLabel {
            start_lsn: Lsn(0x700_0028),
            start_file: "000000010000000000000007".parse().unwrap(),
            checkpoint_lsn: Lsn(0x700_0060),
            method: "streamed".to_owned(),
            from: BackupFrom::Primary,
            start_time: "2026-11-21 12:52:33 UTC".to_owned(),
            label: "wei rd: x".to_owned(),
        }
    }

    #[test]
    fn read_and_written_as_postgresql_does() {
        assert_eq!(parse(WHOLE.as_bytes()), Ok(expected()));
        assert_eq!(expected().to_string(), WHOLE);
        assert_eq!(expected().start_timeline(), Timeline(1));
    }

    #[test]
    fn the_segments_size_follows_from_its_name() {
        let of = |lsn: u64, file: &str| BackupLabel {
            start_lsn: Lsn(lsn),
            start_file: file.parse().unwrap(),
            ..expected()
        };
        for (label, mib) in [
            (of(0x700_0028, "000000010000000000000007"), Some(16)),
            (of(0x700_0028, "000000010000000000000070"), Some(1)),
            (of(0x2_4000_0028, "000000010000000200000001"), Some(1024)),
            (of(0x700_0028, "000000010000000000000009"), None),
        ] {
            assert_eq!(
                label.segment_size().map(|size| size.bytes() >> 20),
                mib,
                "{label:?}"
            );
        }
    }

    #[test]
    fn of_a_standby_or_an_older_primary() {
        for (word, from) in [("standby", BackupFrom::Standby), ("master", BackupFrom::Primary)] {
            let text = WHOLE.replace("primary", word);
            assert_eq!(parse(text.as_bytes()), Ok(BackupLabel { from, ..expected() }));
        }
    }

    #[test]
    fn labels_of_any_kind() {
        for (found, read) in [("", ""), ("a\u{FFFD}", "a\u{FFFD}"), (" x ", " x ")] {
            let text = WHOLE.replace("wei rd: x", found);
            assert_eq!(parse(text.as_bytes()).unwrap().label, read);
        }
        let bytes = [b"LABEL: \xFF\n", WHOLE.as_bytes()].concat();
        assert_eq!(parse(&bytes).unwrap().label, "\u{FFFD}");
    }

    #[test]
    fn every_line_is_needed_and_whole() {
        for line in WHOLE.lines() {
            let without = WHOLE.replace(&format!("{line}\n"), "");
            let error = parse(without.as_bytes()).unwrap_err();
            assert!(
                matches!(error, LabelError::Missing { expected } if line.starts_with(expected)),
                "{line}"
            );
        }
        for length in 0..WHOLE.len() {
            assert!(parse(&WHOLE.as_bytes()[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn lines_refused() {
        for (from, to, key) in [
            ("0/7000028", "7000028", "START WAL LOCATION"),
            ("000007)", "000007", "START WAL LOCATION"),
            ("0/7000060", "0/", "CHECKPOINT LOCATION"),
            ("FROM: primary", "FROM: nobody", "BACKUP FROM"),
            ("TIMELINE: 1", "TIMELINE: 0", "START TIMELINE"),
            ("TIMELINE: 1", "TIMELINE: +1", "START TIMELINE"),
        ] {
            let error = parse(WHOLE.replace(from, to).as_bytes()).unwrap_err();
            assert!(
                matches!(error, LabelError::Line { key: found, .. } if found == key),
                "{error}"
            );
        }
        let other = WHOLE.replace("TIMELINE: 1", "TIMELINE: 2");
        let error = LabelError::OtherTimeline {
            found: Timeline(2),
            file: expected().start_file,
        };
        assert_eq!(parse(other.as_bytes()), Err(error));
    }

    #[test]
    fn an_incremental_backup_is_known_as_one() {
        let text = format!("{WHOLE}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        let from = Lsn(0x200_0028);
        assert_eq!(parse(text.as_bytes()), Err(LabelError::Incremental { from }));
        assert_eq!(read(text.as_bytes()), Ok((expected(), Some(from))));
        let odd = text.replace("LSN: 0/2000028", "LSN: 2000028");
        assert!(matches!(read(odd.as_bytes()), Err(LabelError::Line { .. })));
    }
}
