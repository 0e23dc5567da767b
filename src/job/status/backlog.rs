//! What waits in a server's `pg_wal` to be archived, and how long its disk will take that.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::age;
use crate::beneath::Root;
use crate::pg::{SegmentSize, WalName};

/// Marks that are looked at.
const MOST_MARKS: usize = 1_000_000;

/// What waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backlog {
    /// The directory.
    pub directory: String,
    /// Files with a `.ready` mark.
    pub waiting: u64,
    /// Since when the first of them waits.
    pub since: Option<Timestamp>,
    /// Bytes that are free on its disk.
    pub free_bytes: Option<u64>,
    /// Seconds until the disk is full, if WAL comes on as it did since then, and none is archived.
    pub full_in_seconds: Option<u64>,
    /// Why it cannot be looked at.
    pub error: Option<String>,
}

/// Looks at `pg_wal`.
pub(super) fn look(directory: &Path, size: SegmentSize, now: Timestamp) -> Backlog {
    let mut backlog = Backlog {
        directory: directory.display().to_string(),
        waiting: 0,
        since: None,
        free_bytes: None,
        full_in_seconds: None,
        error: None,
    };
    if let Err(error) = count(directory, &mut backlog) {
        backlog.error = Some(error.to_string());
        return backlog;
    }
    let seconds = backlog.since.map_or(0, |since| age(since, now));
    let written = backlog.waiting.saturating_mul(size.bytes());
    // One may be a segment that was just finished.
    if let (Some(free), true, true) = (backlog.free_bytes, backlog.waiting > 1, seconds > 0) {
        let full = u128::from(free) * u128::from(seconds) / u128::from(written.max(1));
        backlog.full_in_seconds = u64::try_from(full).ok();
    }
    backlog
}

fn count(directory: &Path, backlog: &mut Backlog) -> std::io::Result<()> {
    backlog.free_bytes = Some(Root::open(directory)?.free_bytes()?);
    let mut first: Option<SystemTime> = None;
    for mark in fs::read_dir(directory.join("archive_status"))?.take(MOST_MARKS) {
        let mark = mark?;
        let name = mark.file_name();
        let ready = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        if ready.is_none_or(|name| name.parse::<WalName>().is_err()) {
            continue;
        }
        backlog.waiting += 1;
        // It may have been archived meanwhile.
        if let Ok(modified) = mark.metadata().and_then(|meta| meta.modified()) {
            first = Some(first.map_or(modified, |first| first.min(modified)));
        }
    }
    backlog.since = first.and_then(|first| Timestamp::try_from(first).ok());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_waits() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let missing = look(dir.path(), SegmentSize::MIN, now);
        assert!(missing.error.is_some());
        let marks = dir.path().join("archive_status");
        fs::create_dir(&marks).unwrap();
        for name in [
            "000000010000000000000003.ready",
            "000000010000000000000004.ready",
            "000000010000000000000002.done",
            "odd.ready",
        ] {
            fs::write(marks.join(name), "").unwrap();
        }
        let later = now.checked_add(jiff::SignedDuration::from_secs(100)).unwrap();
        let found = look(dir.path(), SegmentSize::MIN, later);
        assert_eq!((found.waiting, found.error), (2, None));
        let (free, full) = (found.free_bytes.unwrap(), found.full_in_seconds.unwrap());
        let seconds = free / (2 << 20);
        assert!(full / 100 >= seconds.saturating_sub(seconds / 10 + 1) && full / 101 <= seconds + 1);
    }
}
