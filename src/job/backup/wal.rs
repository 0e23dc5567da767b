//! The WAL of a backup: which it is, and waiting for it.

use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};

use super::Error;
use crate::archive::tree::backup::{Backup, MOST_AWAITED, OwnSegment, WalRange};
use crate::archive::wal::Compared;
use crate::archive::{self, Archive};
use crate::beneath::Root;
use crate::codec::ContentHash;
use crate::job::progress::{Phase, Progress};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalEnd, WalName, history};
use crate::server::Session;
use crate::store::{ErrorKind, Patience};

/// Between two looks into the archive: at first, and at last. The WAL of a server with nothing else to archive is there
/// after a tenth of a second or two.
const LOOK_EVERY: Range<Duration> = Duration::from_millis(20)..Duration::from_secs(1);

/// Segments asked for at once.
const LOOKS: usize = 16;

/// Segments compared at once.
const COMPARED: usize = 8;

/// After how long it is said why a segment may not come.
const EXPLAIN_AFTER: Duration = Duration::from_secs(20);

/// How long one look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(120);

/// More bytes than any history has.
const HISTORY_BYTES: u64 = 16 << 20;

/// The WAL from `start` on timeline `first` up to `end`, oldest first. A standby may have followed its primary to
/// `newest` meanwhile; where, its history in `pg_wal` says.
pub(super) fn ranges(
    root: &Path,
    (first, start): (Timeline, Lsn),
    (newest, end): (Timeline, Lsn),
) -> Result<Vec<WalRange>, Error> {
    if newest <= first {
        return Ok(vec![WalRange {
            timeline: first,
            start,
            end,
        }]);
    }
    let (directory, name) = (root.join("pg_wal"), WalName::History(newest).to_string());
    let path = directory.join(&name);
    let bytes = Root::open(&directory).and_then(|wal| wal.read(Path::new(&name), HISTORY_BYTES));
    let bytes = bytes.map_err(|source| Error::read(&path, source))?;
    let ancestors = history::parse(&bytes, newest).map_err(|source| Error::History { path, source })?;
    Ok(follow(&ancestors, first, newest, start, end))
}

fn follow(
    ancestors: &[history::HistoryEntry],
    first: Timeline,
    newest: Timeline,
    start: Lsn,
    end: Lsn,
) -> Vec<WalRange> {
    let steps = ancestors.iter().map(|entry| (entry.timeline, entry.end));
    let steps = steps
        .chain([(newest, end)])
        .filter(|(timeline, _)| *timeline >= first);
    let mut ranges: Vec<WalRange> = Vec::new();
    for (timeline, left) in steps {
        let start = ranges.last().map_or(start, |range| range.end);
        let range = WalRange {
            timeline,
            start,
            end: left.min(end),
        };
        // A timeline that began behind the backup's end has nothing of it.
        if range.start < range.end {
            ranges.push(range);
        }
    }
    ranges
}

/// What was still missing when the wait was over, and why, if the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingWal {
    /// The segments, ascending.
    pub segments: Vec<SegmentName>,
    /// What the server says of its archiver, with a hint.
    pub complaint: Option<String>,
}

/// How long the WAL is waited for: so long after the backup's files are stored. Before that it may be behind them in the
/// same line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within<'a> {
    /// When they were stored, once they are.
    pub(super) stored_at: &'a OnceLock<Instant>,
    pub(super) timeout: Duration,
}

impl Within<'_> {
    /// Time that is over; `None` while the files are on their way.
    fn waited(&self) -> Option<Duration> {
        self.stored_at.get().map(Instant::elapsed)
    }
}

/// Waits until every segment of a backup is archived. `None` when they are.
pub(super) async fn wait(
    archive: &Archive,
    backup: &Backup,
    session: &Session,
    within: Within<'_>,
    progress: &dyn Progress,
) -> Result<Option<MissingWal>, Error> {
    let began = Instant::now();
    let mut explained = false;
    let mut missing: Vec<SegmentName> = backup.segments().expect("the segment size was checked");
    loop {
        // Taken before the look: what has come by then is seen.
        let waited = within.waited();
        missing = match still_missing(archive, &missing).await {
            // While the files are on their way, it is they who say how long the store may be away.
            Err(archive::Error::Store(error)) if waited.is_none() && error.kind == ErrorKind::Transient => {
                missing
            }
            looked => looked?,
        };
        if missing.is_empty() {
            return Ok(None);
        }
        if let Some(waited) = waited {
            progress.phase(Phase::WaitingForWal(&missing));
            let over = waited >= within.timeout;
            if over || (!explained && waited >= EXPLAIN_AFTER) {
                // A session that is gone cannot say; the WAL may come all the same.
                let complaint = session
                    .archiver()
                    .await
                    .ok()
                    .and_then(|archiver| archiver.complaint());
                if over {
                    return Ok(Some(MissingWal {
                        segments: missing,
                        complaint,
                    }));
                }
                explain(archive, &missing, complaint);
                explained = true;
            }
        }
        let left = within.timeout - waited.unwrap_or_default().min(within.timeout);
        tokio::time::sleep(next_look(began.elapsed()).min(left)).await;
    }
}

/// How long until the next look, after so long a wait: a quarter of that, so a wait is hardly ever longer than it had to
/// be by more than that, for 23 looks instead of 5 in five seconds.
fn next_look(waited: Duration) -> Duration {
    (waited / 4).clamp(LOOK_EVERY.start, LOOK_EVERY.end)
}

/// What the server itself has of a range of WAL when a backup begins, in `pg_wal`: of its first segment, and of the last one,
/// which is being written.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn own_at_start(
    root: &Path,
    size: SegmentSize,
    range: WalRange,
) -> Result<Vec<OwnSegment>, Error> {
    let mut segments: Vec<SegmentName> = range.segments(size).collect();
    let last = segments.pop();
    segments.truncate(1);
    segments.extend(last);
    own(root, size, segments, range.end)
}

/// What the server itself has of a backup's WAL when that has ended.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn own_at_stop(root: &Path, backup: &Backup) -> Result<Vec<OwnSegment>, Error> {
    let size = SegmentSize::new(backup.segment_bytes).expect("the segment size was checked");
    let segments = backup.segments().expect("the segment size was checked");
    // A standby may not have the rest of the last one, or another one than is archived; a primary has ended it.
    let end = match (backup.stop(), backup.from_standby) {
        (Some((_, end)), true) => end,
        _ => Lsn(0),
    };
    own(root, size, segments, end)
}

/// Of the last segment only what is before `end`, and behind the record of a switch, with which `end` is that of the segment,
/// nothing: the zeros that follow may still be on their way to a standby.
fn own(
    root: &Path,
    size: SegmentSize,
    segments: Vec<SegmentName>,
    end: Lsn,
) -> Result<Vec<OwnSegment>, Error> {
    let wal = Root::open(&root.join("pg_wal")).map_err(|source| Error::read(root, source))?;
    let last = segments.last().copied();
    let mut found = Vec::new();
    for segment in segments {
        let bytes = match Some(segment) == last {
            true => end.0.wrapping_sub(1) % size.bytes() + 1,
            false => size.bytes(),
        };
        let name = segment.to_string();
        let is_switch = Some(segment) == last && end > Lsn(0) && end.0.is_multiple_of(size.bytes());
        let own = hash_of_first(&wal, Path::new(&name), bytes, is_switch);
        let own = own.map_err(|source| Error::read(&wal.path().join(&name), source))?;
        found.extend(own.map(|(bytes, hash)| OwnSegment { segment, bytes, hash }));
    }
    Ok(found)
}

/// How many bytes it is of: `bytes`, or up to a switch. `None` if the file is not there, or was recycled while it was read.
fn hash_of_first(
    wal: &Root,
    name: &Path,
    bytes: u64,
    is_switch: bool,
) -> io::Result<Option<(u64, ContentHash)>> {
    let file = match wal.open_file(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let opened = file.metadata()?.ino();
    let bytes = if is_switch {
        match WalEnd::find(bytes, |page, at| file.read_exact_at(page, at))? {
            WalEnd::Switch(end) | WalEnd::NoWal(end) => end,
            WalEnd::GoesOn => bytes,
        }
    } else {
        bytes
    };
    let hash = ContentHash::of_all(file.take(bytes))?;
    let is_there = matches!(wal.metadata(name), Ok(now) if now.ino() == opened);
    Ok((is_there && bytes > 0).then_some((bytes, hash)))
}

/// Is the archived WAL the server's own? Another server may have archived under the same names, while this one is refused:
/// then the backup would not recover. That the server has recycled a segment proves nothing: a standby does so with what its
/// primary archives, and any server with what its archive command has thrown away. Gives what is not archived yet: of very
/// much the newest.
///
/// # Errors
/// [`Error::OtherWal`]; [`Error::Archive`].
pub(super) async fn check_own(archive: &Archive, own: Vec<OwnSegment>) -> Result<Vec<OwnSegment>, Error> {
    let compare = |own: OwnSegment| async move {
        let patience = Patience::for_at_most(LOOK_PATIENCE);
        match archive.compare_wal(&own, patience).await? {
            Compared::Same => Ok(None),
            Compared::Absent => Ok(Some(own)),
            Compared::Other => Err(Error::OtherWal {
                segment: own.segment,
                place: archive.place(),
            }),
        }
    };
    let compared = stream::iter(own).map(compare).buffered(COMPARED);
    let absent: Vec<Option<OwnSegment>> = compared.try_collect().await?;
    let mut absent: Vec<OwnSegment> = absent.into_iter().flatten().collect();
    Ok(absent.split_off(absent.len().saturating_sub(MOST_AWAITED)))
}

async fn still_missing(
    archive: &Archive,
    segments: &[SegmentName],
) -> Result<Vec<SegmentName>, archive::Error> {
    let look = |segment: SegmentName| async move {
        let patience = Patience::for_at_most(LOOK_PATIENCE);
        let found = archive.wal_meta(WalName::Segment(segment), patience).await?;
        Ok::<_, archive::Error>(found.is_none().then_some(segment))
    };
    let looks = stream::iter(segments.iter().copied()).map(look).buffered(LOOKS);
    looks
        .try_filter_map(|missing| async move { Ok(missing) })
        .try_collect()
        .await
}

fn explain(archive: &Archive, missing: &[SegmentName], complaint: Option<String>) {
    tracing::warn!(
        "the files are stored; waiting for {} in {}. {}",
        named(missing),
        archive.place(),
        complaint
            .unwrap_or_else(|| "The server has no complaint: does it archive into this archive?".to_owned())
    );
}

/// The first few segments by name, the others by their number.
pub fn named(segments: &[SegmentName]) -> String {
    const NAMED: usize = 5;
    let names: Vec<String> = segments
        .iter()
        .take(NAMED)
        .map(|it| WalName::Segment(*it).to_string())
        .collect();
    match segments.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tree::summary::tests::sample;
    use crate::pg::history::HistoryEntry;

    fn entry(timeline: u32, end: u64) -> HistoryEntry {
        HistoryEntry {
            timeline: Timeline(timeline),
            end: Lsn(end),
            reason: String::new(),
        }
    }

    fn range(timeline: u32, start: u64, end: u64) -> WalRange {
        WalRange {
            timeline: Timeline(timeline),
            start: Lsn(start),
            end: Lsn(end),
        }
    }

    /// B2: up to the byte where a standby's backup ends, and no further.
    #[test]
    fn b2_a_file_is_compared_up_to_the_end_of_its_range() {
        let place = tempfile::tempdir().unwrap();
        let wal = place.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        let content = |number: usize| vec![number as u8; 1 << 20];
        for number in 2..=4 {
            std::fs::write(wal.join(format!("0000000100000000{number:08X}")), content(number)).unwrap();
        }
        let mut backup = Backup {
            segment_bytes: 1 << 20,
            wal: vec![range(1, 0x200028, 0x400100)],
            from_standby: true,
            incremental_from: None,
            ..sample("monday").backup
        };
        let bytes = |backup: &Backup| -> Vec<u64> {
            let own = own_at_stop(place.path(), backup).unwrap();
            for (own, number) in own.iter().zip(2..) {
                assert_eq!(own.hash, ContentHash::of(&content(number)[..own.bytes as usize]));
            }
            own.iter().map(|own| own.bytes).collect()
        };
        assert_eq!(bytes(&backup), [1 << 20, 1 << 20, 0x100]);
        // Behind a switch, of which a standby has not received the rest yet.
        let mut switched = vec![0; 1 << 20];
        let head = [
            &[0x18, 0xd1, 2, 0, 1, 0, 0, 0][..],
            &0x400000_u64.to_le_bytes(),
            &[0; 8],
            &[7; 8],
        ]
        .concat();
        let sizes = [&(1_u32 << 20).to_le_bytes()[..], &8192_u32.to_le_bytes()].concat();
        let switch = [&24_u32.to_le_bytes()[..], &[0; 12], &[0x40, 0, 0, 0]].concat();
        let switch = [&switch[..], &crc32c::crc32c(&switch).to_le_bytes()].concat();
        switched[..64].copy_from_slice(&[head, sizes, switch].concat());
        std::fs::write(wal.join("000000010000000000000004"), &switched).unwrap();
        backup.wal[0].end = Lsn(0x500000);
        let own = own_at_stop(place.path(), &backup).unwrap();
        assert_eq!(
            (own[2].bytes, own[2].hash),
            (64, ContentHash::of(&switched[..64]))
        );
        std::fs::write(wal.join("000000010000000000000004"), content(4)).unwrap();
        (backup.wal[0].end, backup.from_standby) = (Lsn(0x400100), false);
        assert_eq!(bytes(&backup), [1 << 20; 3]);
        std::fs::remove_file(wal.join("000000010000000000000004")).unwrap();
        assert_eq!(bytes(&backup), [1 << 20; 2], "one was recycled");
    }

    #[test]
    fn a_backup_over_timelines_needs_a_part_of_each() {
        let ancestors = [entry(1, 50), entry(2, 200), entry(3, 300)];
        let ranges = |first, end| follow(&ancestors, Timeline(first), Timeline(4), Lsn(100), Lsn(end));
        assert_eq!(
            ranges(2, 400),
            [range(2, 100, 200), range(3, 200, 300), range(4, 300, 400)]
        );
        assert_eq!(ranges(3, 400), [range(3, 100, 300), range(4, 300, 400)]);
        assert_eq!(ranges(2, 150), [range(2, 100, 150)]);
    }

    #[test]
    fn looks_are_many_at_first_and_few_at_last() {
        let looks = |from: u64, to: u64| {
            let mut waited = Duration::ZERO;
            let mut looks = 0;
            while waited < Duration::from_secs(to) {
                looks += u32::from(waited >= Duration::from_secs(from));
                waited += next_look(waited);
            }
            looks
        };
        assert_eq!(looks(0, 5), 23);
        assert_eq!(looks(10, 70), 60);
    }

    #[test]
    fn an_unbroken_timeline_needs_no_history() {
        let place = |lsn| (Timeline(2), Lsn(lsn));
        let found = ranges(Path::new("/nonexistent"), place(100), place(200)).unwrap();
        assert_eq!(found, [range(2, 100, 200)]);
    }
}
