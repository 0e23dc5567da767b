//! Backup history: the `.backup` file that the end of a base backup leaves in the archive (`xlogbackup.c`).
//!
//! ```text
//! START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
//! STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)
//! CHECKPOINT LOCATION: 0/2000060
//! BACKUP METHOD: streamed
//! BACKUP FROM: primary
//! START TIME: 2026-11-20 21:14:03 UTC
//! LABEL: nightly
//! START TIMELINE: 1
//! STOP TIME: 2026-11-20 21:15:47 UTC
//! STOP TIMELINE: 1
//! ```
//! Lines that are not needed here are skipped, also ones that later versions add. `STOP TIMELINE` is the last
//! that all versions since 13 write, so a file that has it and ends in a newline is whole.

use super::{Lsn, SegmentName, SegmentSize, Timeline, lines};

/// What a backup history says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHistory {
    /// Where recovery from this backup begins.
    pub start_lsn: Lsn,
    /// The segment with that position.
    pub start_file: SegmentName,
    /// Where the backup is consistent.
    pub stop_lsn: Lsn,
    /// The last segment that is needed for that.
    pub stop_file: SegmentName,
    /// The label the backup was given; may be empty. What is not UTF-8 is replaced.
    pub label: String,
    /// When it began, as the server wrote it, in its `log_timezone`: `2026-11-20 21:14:03 UTC`.
    pub start_time: String,
    /// When it ended, likewise.
    pub stop_time: String,
    /// The timeline at the start.
    pub start_timeline: Timeline,
    /// The timeline at the end.
    pub stop_timeline: Timeline,
}

/// Why bytes are not a backup history, or not the one their name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupHistoryError {
    /// A line that every backup history has is not there.
    #[error("the backup history is not complete: expected a line \"{expected}: ...\", found none")]
    Missing {
        /// How the line begins.
        expected: &'static str,
    },
    /// A line does not say what it should.
    #[error("the backup history has the line \"{key}: {found}\", expected {expected} after the colon")]
    Line {
        /// How the line begins.
        key: &'static str,
        /// What should follow.
        expected: &'static str,
        /// What follows.
        found: String,
    },
    /// The last line does not end.
    #[error("the backup history is cut short: its last line, {found:?}, does not end in a newline")]
    Truncated {
        /// The last line.
        found: String,
    },
    /// The content of another backup's history.
    #[error(
        "the backup history should be that of a backup that began in {expected} at offset {offset:08X}, but \
         it states {found_file} and {found_lsn}"
    )]
    OtherBackup {
        /// The segment in the file's name.
        expected: SegmentName,
        /// The offset in the file's name, in bytes.
        offset: u32,
        /// The segment where the backup began.
        found_file: SegmentName,
        /// The position where the backup began.
        found_lsn: Lsn,
    },
}

/// Reads a backup history.
///
/// # Errors
/// All of [`BackupHistoryError`] but `OtherBackup`.
pub fn parse(bytes: &[u8]) -> Result<BackupHistory, BackupHistoryError> {
    let text = String::from_utf8_lossy(bytes);
    if !text.is_empty() && !text.ends_with('\n') {
        let found = text.lines().next_back().unwrap_or_default().to_owned();
        return Err(BackupHistoryError::Truncated { found });
    }
    let (start_lsn, start_file) = place(&text, "START WAL LOCATION")?;
    let (stop_lsn, stop_file) = place(&text, "STOP WAL LOCATION")?;
    Ok(BackupHistory {
        start_lsn,
        start_file,
        stop_lsn,
        stop_file,
        label: value(&text, "LABEL")?.to_owned(),
        start_time: value(&text, "START TIME")?.to_owned(),
        stop_time: value(&text, "STOP TIME")?.to_owned(),
        start_timeline: timeline(&text, "START TIMELINE")?,
        stop_timeline: timeline(&text, "STOP TIMELINE")?,
    })
}

impl BackupHistory {
    /// Is this the history that `SEGMENT.OFFSET.backup` names?
    ///
    /// # Errors
    /// [`BackupHistoryError::OtherBackup`].
    pub fn check_name(&self, segment: SegmentName, offset: u32) -> Result<(), BackupHistoryError> {
        // The segment size is not known here; at least the position must be the offset past some segment's
        // start.
        let past_start = self.start_lsn.0.checked_sub(offset.into());
        let fits = past_start.is_some_and(|start| start % SegmentSize::MIN.bytes() == 0);
        if self.start_file == segment && fits {
            return Ok(());
        }
        Err(BackupHistoryError::OtherBackup {
            expected: segment,
            offset,
            found_file: self.start_file,
            found_lsn: self.start_lsn,
        })
    }
}

fn value<'a>(text: &'a str, key: &'static str) -> Result<&'a str, BackupHistoryError> {
    lines::value(text, key).ok_or(BackupHistoryError::Missing { expected: key })
}

fn place(text: &str, key: &'static str) -> Result<(Lsn, SegmentName), BackupHistoryError> {
    let found = value(text, key)?;
    lines::parse_place(found).ok_or_else(|| BackupHistoryError::Line {
        key,
        expected: "a position and a segment, such as 0/2000028 (file 000000010000000000000002),",
        found: found.to_owned(),
    })
}

fn timeline(text: &str, key: &'static str) -> Result<Timeline, BackupHistoryError> {
    let found = value(text, key)?;
    lines::parse_timeline(found).ok_or_else(|| BackupHistoryError::Line {
        key,
        expected: "a timeline, 1 or more,",
        found: found.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "\
START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
STOP WAL LOCATION: 0/3000138 (file 000000010000000000000003)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 21:14:03 UTC
LABEL: nightly: the first
START TIMELINE: 1
STOP TIME: 2026-11-20 21:15:47 UTC
STOP TIMELINE: 1
";

    fn segment(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    fn expected() -> BackupHistory {
        BackupHistory {
            start_lsn: Lsn(0x200_0028),
            start_file: segment("000000010000000000000002"),
            stop_lsn: Lsn(0x300_0138),
            stop_file: segment("000000010000000000000003"),
            label: "nightly: the first".to_owned(),
            start_time: "2026-11-20 21:14:03 UTC".to_owned(),
            stop_time: "2026-11-20 21:15:47 UTC".to_owned(),
            start_timeline: Timeline(1),
            stop_timeline: Timeline(1),
        }
    }

    #[test]
    fn as_postgresql_writes_it() {
        assert_eq!(parse(WHOLE.as_bytes()), Ok(expected()));
    }

    #[test]
    fn lines_of_later_versions_are_skipped() {
        let incremental = format!("{WHOLE}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(parse(incremental.as_bytes()), Ok(expected()));
    }

    #[test]
    fn labels_of_any_kind() {
        let bytes = [b"LABEL: \xFF\n", WHOLE.as_bytes()].concat();
        assert_eq!(parse(&bytes).unwrap().label, "\u{FFFD}");
        let empty = WHOLE.replace("LABEL: nightly: the first", "LABEL: ");
        assert_eq!(parse(empty.as_bytes()).unwrap().label, "");
    }

    #[test]
    fn cut_short_anywhere() {
        for length in 0..WHOLE.len() {
            let error = parse(&WHOLE.as_bytes()[..length]).unwrap_err();
            let at_line_end = length == 0 || WHOLE.as_bytes()[length - 1] == b'\n';
            assert_eq!(
                at_line_end,
                matches!(error, BackupHistoryError::Missing { .. }),
                "{length}: {error}"
            );
            assert_eq!(
                !at_line_end,
                matches!(error, BackupHistoryError::Truncated { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn lines_that_say_something_else() {
        for (right, wrong, broken) in [
            ("0/2000028 (file", "2000028 (file", "START WAL LOCATION"),
            (
                "000000010000000000000002)",
                "000000010000000000000002",
                "START WAL LOCATION",
            ),
            (
                "000000010000000000000003)",
                "00000001000000000000000x)",
                "STOP WAL LOCATION",
            ),
            ("START TIMELINE: 1", "START TIMELINE: 0", "START TIMELINE"),
            ("STOP TIMELINE: 1", "STOP TIMELINE: +1", "STOP TIMELINE"),
            ("STOP TIMELINE: 1", "STOP TIMELINE: ", "STOP TIMELINE"),
        ] {
            let text = WHOLE.replace(right, wrong);
            assert_ne!(text, WHOLE);
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, BackupHistoryError::Line { key, .. } if key == broken),
                "{error}"
            );
        }
    }

    #[test]
    fn the_name_must_be_that_of_the_start() {
        let (history, start) = (expected(), segment("000000010000000000000002"));
        assert_eq!(history.check_name(start, 0x28), Ok(()));
        for (wrong, offset) in [
            (segment("000000010000000000000003"), 0x28),
            (start, 0x60),
            (start, u32::MAX),
        ] {
            let (found_file, found_lsn) = (history.start_file, history.start_lsn);
            let error = BackupHistoryError::OtherBackup {
                expected: wrong,
                offset,
                found_file,
                found_lsn,
            };
            assert_eq!(history.check_name(wrong, offset), Err(error));
        }
    }
}
