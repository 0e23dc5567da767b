//! Recovery to a time stops at the first transaction that ended later. Where a clock was ahead for a while, that lies before
//! others that ended by then: said before it is begun.

use std::sync::Arc;

use futures::StreamExt;
use jiff::Timestamp;

use super::candidate::Candidate;
use super::settings::Recovery;
use super::target::Target;
use super::wal::Reach;
use super::way::Way;
use crate::archive::{Archive, Error};
use crate::job::line::{Line, Order};
use crate::job::time_stop;
use crate::pg::SegmentSize;
use crate::store::Patience;

/// Segments that are looked at, from the backup on: all of them will be fetched, and of each little is read.
const MOST_SEGMENTS: u64 = 4096;

/// What is not recovered although it ended by then.
///
/// # Errors
/// [`Error::Store`], [`Error::Damaged`].
pub(super) async fn warning(
    archive: &Arc<Archive>,
    recovery: &Recovery,
    (candidate, way): (&Candidate, &Way),
    reach: &Reach,
    (size, patience): (SegmentSize, Patience),
) -> Result<Option<String>, Error> {
    let Target::Time(target) = recovery.target else {
        return Ok(None);
    };
    let first = candidate.stop.0.saturating_sub(1) / size.bytes();
    let last = reach.last.number(size).min(first + MOST_SEGMENTS);
    if reach.is_own() || last < first {
        return Ok(None);
    }
    let line = Line::new(archive, way.runs(first..=last, size), None, (size, patience)).await?;
    let line = line.walking_at_most(0);
    let is_later = |time: Timestamp| time > target || !recovery.inclusive && time == target;
    let mut told = line.told(Order::OldestFirst);
    while let Some(one) = told.next().await {
        let one = one?;
        let Some(stop) = time_stop::stop_in(&line, &one, candidate.stop, is_later).await? else {
            continue;
        };
        let missed = time_stop::missed(&line, (stop, &one), &mut told, is_later).await?;
        return Ok(missed.map(|(_, missed)| {
            format!(
                "recovery to {target} stops at {}, before a transaction of {}, and does not reach what was committed behind that \
                 by {target}, as at {}, {}: a clock was ahead, or has gone back\n\
                 HINT: --target-lsn or --target-xid reach it (`walfs wal-find`)",
                stop.at, stop.time, missed.time, missed.at
            )
        }));
    }
    Ok(None)
}
