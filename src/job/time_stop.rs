//! Where recovery to a time stops: at the first transaction that ended later (`recoveryStopsBefore` of xlogrecovery.c). And
//! what it does not reach although it ended by then, because a clock was ahead for a while, or has gone back since.

use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;

use super::line::{Line, Told};
use crate::archive::Error;
use crate::pg::wal_index::Moment;
use crate::pg::{Lsn, SegmentName};

/// Segments that are looked at behind that of the stop: an idle server's have few commits.
const MOST_SEGMENTS: usize = 16;

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
    first(line, told, |at, time, _| at >= from && is_later(time)).await
}

/// The first commit behind a stop that is not later, in its segment or in those that follow.
///
/// # Errors
/// As [`Line::visit`].
pub(super) async fn missed(
    line: &Line,
    (stop, segment): (Moment, &Told),
    told: &mut BoxStream<'_, Result<Told, Error>>,
    is_later: impl Fn(Timestamp) -> bool + Send + Sync,
) -> Result<Option<(SegmentName, Moment)>, Error> {
    let is_missed = |at, time, committed| committed && at > stop.at && !is_later(time);
    if let Some(missed) = first(line, segment, is_missed).await? {
        return Ok(Some((segment.segment, missed)));
    }
    for _ in 0..MOST_SEGMENTS {
        let Some(next) = told.next().await.transpose()? else {
            break;
        };
        let commits = next.index.as_ref().and_then(|index| index.facts.commits);
        if let Some(commits) = commits.filter(|commits| !is_later(commits.earliest.time)) {
            return Ok(Some((next.segment, commits.earliest)));
        }
    }
    Ok(None)
}

/// The first end of a transaction in a segment that is such a one.
async fn first(
    line: &Line,
    told: &Told,
    is_it: impl Fn(Lsn, Timestamp, bool) -> bool + Send + Sync,
) -> Result<Option<Moment>, Error> {
    let mut found: Option<Moment> = None;
    line.visit(told, |at, head| {
        if let Some(ended) = head.ended()
            && is_it(at, ended.time, ended.committed)
            && found.is_none_or(|found| at < found.at)
        {
            found = Some(Moment { at, time: ended.time });
        }
    })
    .await?;
    Ok(found)
}
