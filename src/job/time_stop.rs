//! Where recovery to a time stops: at the first transaction that ended later (`recoveryStopsBefore` of xlogrecovery.c).

use jiff::Timestamp;

use super::line::{Line, Told};
use crate::archive::Error;
use crate::pg::wal_index::Moment;
use crate::pg::Lsn;

/// The first end of a transaction from a position on that is later than `time`, in this segment.
///
/// # Errors
/// As [`Line::visit`].
pub(super) async fn stop_in(
    line: &Line,
    told: &Told,
    from: Lsn,
    is_later: impl Fn(Timestamp) -> bool + Send + Sync,
) -> Result<Option<Moment>, Error> {
    let latest = told.index.as_ref().and_then(|index| index.facts.latest_end());
    if !latest.is_some_and(|latest| is_later(latest.time)) {
        return Ok(None);
    }
    first(line, told, |at, time| at >= from && is_later(time)).await
}

/// The first end of a transaction in a segment that is such a one.
async fn first(
    line: &Line,
    told: &Told,
    is_it: impl Fn(Lsn, Timestamp) -> bool + Send + Sync,
) -> Result<Option<Moment>, Error> {
    let mut found: Option<Moment> = None;
    line.visit(told, |at, head| {
        if let Some(ended) = head.ended()
            && is_it(at, ended.time)
            && found.is_none_or(|found| at < found.at)
        {
            found = Some(Moment { at, time: ended.time });
        }
    })
    .await?;
    Ok(found)
}
