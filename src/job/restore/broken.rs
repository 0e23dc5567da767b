//! Does the archived WAL lead from a backup to the target, segment by segment? A segment in which recovery ends is found before
//! anything is touched (promise K5).

use std::sync::Arc;

use super::candidate::Candidate;
use super::error::Error;
use super::target::Target;
use super::wal::Reach;
use super::way::Way;
use crate::archive::Archive;
use crate::job::broken::{self, Broken};
use crate::pg::{SegmentName, SegmentSize};
use crate::store::Patience;

/// Segments that are looked at, from the backup's beginning on.
const MOST_SEGMENTS: u64 = 8192;

/// The first segment from the backup's beginning to the target that does not lead on; and what the operator should know of those
/// that were not looked at. `has_rest`: there is WAL behind the last whole segment.
///
/// # Errors
/// [`Error::Content`]: it is one that the backup needs; [`Error::Archive`].
pub(super) async fn look(
    archive: &Arc<Archive>,
    (backup, way): (&Candidate, &Way),
    (reach, has_rest): (&Reach, bool),
    target: &Target,
    (size, patience): (SegmentSize, Patience),
) -> Result<(Option<Broken>, Option<String>), Error> {
    let number = |position: u64| position / size.bytes();
    let Some((_, start)) = backup.summary.backup.start() else {
        return Ok((None, None));
    };
    let (first, archived) = (number(start.0), reach.last.number(size));
    let last = match target {
        Target::Immediate => number(backup.stop.0.saturating_sub(1)),
        Target::Lsn(lsn) => archived.min(number(lsn.0)),
        _ => archived,
    };
    let looked = last.min(first.saturating_add(MOST_SEGMENTS - 1));
    let is_followed = looked < archived || has_rest || reach.gap.is_some();
    let runs = way.runs(first..=looked, size);
    let found = broken::first(archive, &runs, (is_followed, backup.stop), (size, patience)).await?;
    if let Some(broken) = found.filter(|broken| broken.at < backup.stop) {
        return Err(Error::Content {
            backup: backup.name.clone(),
            file: format!("wal/{}", broken.segment),
            reason: format!(
                "{}, and the backup is consistent at {} only",
                broken.fault.of(broken.segment),
                backup.stop
            ),
        });
    }
    let unseen = SegmentName::from_number(reach.timeline, looked + 1, size);
    let told = unseen.filter(|_| looked < last && found.is_none()).map(|unseen| {
        format!(
            "of the {} segments from {unseen} on only the names were looked at.\nHINT: `walfs verify` reads them back",
            last - looked
        )
    });
    Ok((found, told))
}
