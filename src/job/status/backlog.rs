//! What waits in a server's `pg_wal` to be archived, and how long its disk will take that.

use std::fs::{self, File};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task;

use super::age;
use crate::archive::wal::Found;
use crate::archive::{Archive, Error};
use crate::beneath::Root;
use crate::codec::ContentHash;
use crate::pg::{SegmentName, SegmentSize, WalName};
use crate::store::Patience;

/// Marks that are looked at.
const MOST_MARKS: usize = 1_000_000;

/// What waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Backlog {
    /// The directory.
    pub directory: String,
    /// Files with a `.ready` mark.
    pub waiting: u64,
    /// The segment among them that the archiver brings first.
    #[serde(default)]
    pub first: Option<String>,
    /// Has the archive other content under its name? Then the archiver comes no further.
    #[serde(default)]
    pub is_refused: bool,
    /// Since when the first of them waits.
    pub since: Option<Timestamp>,
    /// Bytes that are free on its disk.
    pub free_bytes: Option<u64>,
    /// Seconds until the disk is full, if WAL comes on as it did since then, and none is archived.
    pub full_in_seconds: Option<u64>,
    /// Why it cannot be looked at.
    pub error: Option<String>,
}

/// Looks at `pg_wal`, and whether the archive takes what comes first.
///
/// # Errors
/// [`Error::Store`].
pub(super) async fn look(
    archive: &Archive,
    directory: &Path,
    (size, now): (SegmentSize, Timestamp),
    patience: Patience,
) -> Result<Backlog, Error> {
    let mut backlog = waiting(directory, size, now);
    if let Some(first) = &backlog.first {
        backlog.is_refused = is_refused(archive, directory, first, patience).await?;
    }
    Ok(backlog)
}

/// Is something else archived under its name? One segment is read for it, if any is.
async fn is_refused(
    archive: &Archive,
    directory: &Path,
    segment: &str,
    patience: Patience,
) -> Result<bool, Error> {
    let Ok(name) = segment.parse() else {
        return Ok(false);
    };
    let table = match archive.look(name, patience).await {
        Ok(Found::Archived(table)) => table,
        Ok(Found::Absent) | Err(Error::Damaged { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let path = directory.join(segment);
    let hash = task::spawn_blocking(move || ContentHash::of_all(File::open(path)?)).await;
    // It may have been archived meanwhile, and be gone.
    let hash = hash.expect("no panic while it is read");
    Ok(hash.is_ok_and(|hash| hash != table.hash()))
}

fn waiting(directory: &Path, size: SegmentSize, now: Timestamp) -> Backlog {
    let mut backlog = Backlog {
        directory: directory.display().to_string(),
        waiting: 0,
        first: None,
        is_refused: false,
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
    let (mut first, mut first_segment): (Option<SystemTime>, Option<SegmentName>) = (None, None);
    for (name, modified) in marked(directory)? {
        backlog.waiting += 1;
        if let WalName::Segment(segment) = name {
            first_segment = Some(first_segment.map_or(segment, |first| first.min(segment)));
        }
        if let Some(modified) = modified {
            first = Some(first.map_or(modified, |first| first.min(modified)));
        }
    }
    backlog.first = first_segment.map(|segment| segment.to_string());
    backlog.since = first.and_then(|first| Timestamp::try_from(first).ok());
    Ok(())
}

/// Files with a `.ready` mark, and since when they have it; of one that was archived meanwhile that is not known.
pub(in crate::job) fn marked(pg_wal: &Path) -> std::io::Result<Vec<(WalName, Option<SystemTime>)>> {
    let mut marked = Vec::new();
    for mark in fs::read_dir(pg_wal.join("archive_status"))?.take(MOST_MARKS) {
        let mark = mark?;
        let name = mark.file_name();
        let ready = name.to_str().and_then(|name| name.strip_suffix(".ready"));
        if let Some(Ok(name)) = ready.map(str::parse::<WalName>) {
            let modified = mark.metadata().and_then(|meta| meta.modified());
            marked.push((name, modified.ok()));
        }
    }
    Ok(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_waits() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let missing = waiting(dir.path(), SegmentSize::MIN, now);
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
        let found = waiting(dir.path(), SegmentSize::MIN, later);
        assert_eq!((found.waiting, found.error), (2, None));
        assert_eq!(found.first.as_deref(), Some("000000010000000000000003"));
        let (free, full) = (found.free_bytes.unwrap(), found.full_in_seconds.unwrap());
        let seconds = free / (2 << 20);
        assert!(full / 100 >= seconds.saturating_sub(seconds / 10 + 1) && full / 101 <= seconds + 1);
    }
}
