//! When the last transaction in the WAL that is archived, or received, ended. A server that recovers to a time stops at the first transaction that
//! ended later; if there is none it ends with an error, although all that there was at that time is restored.

use std::sync::Arc;

use jiff::Timestamp;

use super::error::Error;
use super::received::Rest;
use super::target::Target;
use super::wal::Reach;
use crate::archive::Archive;
use crate::cache::Cache;
use crate::pg::record::{Record, Window};
use crate::pg::{PageHeader, SegmentName, SegmentSize, WalName};
use crate::read::{PIECE_BYTES, Reader};
use crate::store::Patience;

/// Segments that are looked at, from the end: an idle server's may have no transaction.
const LOOKED_AT: u64 = 4;

/// Longer ones are not looked at.
const MOST_BYTES: u64 = 4 * PIECE_BYTES;

/// What the operator should know of a target time that lies behind all that is archived.
///
/// # Errors
/// [`Error::System`], if a segment cannot be read.
pub(super) async fn warning(
    archive: &Arc<Archive>,
    target: &Target,
    (reach, rest): (&Reach, Option<&Rest>),
    size: SegmentSize,
    patience: Patience,
) -> Result<Option<String>, Error> {
    let Target::Time(time) = target else {
        return Ok(None);
    };
    let received = match rest.filter(|_| size.bytes() <= MOST_BYTES) {
        Some(rest) => last_in(rest.segment, &rest.read(size).await?, size),
        None => None,
    };
    let ended = match received {
        Some(ended) => Some(ended),
        None => last(archive, reach, size, patience).await?,
    };
    // What was received came later than what is archived.
    let newest = reach.newest.filter(|_| rest.is_none());
    let newest = newest.and_then(|newest| Timestamp::try_from(newest).ok());
    let reason = match (newest, ended) {
        (_, Some(ended)) if ended < *time => {
            format!("the last transaction in the archived WAL ended at {ended:.0}")
        }
        (Some(newest), _) if newest < *time => format!("the newest WAL was archived at {newest:.0}"),
        _ => return Ok(None),
    };
    Ok(Some(format!(
        "{reason}, before the target {time}: unless more comes, the server will end with \"recovery ended before \
         configured recovery target was reached\".\nHINT: without --target-time all that is archived is recovered"
    )))
}

/// `None`: not in the last segments, or they are too long to be looked at.
async fn last(
    archive: &Arc<Archive>,
    reach: &Reach,
    size: SegmentSize,
    patience: Patience,
) -> Result<Option<Timestamp>, Error> {
    let number = reach.last.number(size);
    let reader = Reader::new(archive.clone(), Cache::new(PIECE_BYTES), None);
    for number in (0..LOOKED_AT).filter_map(|back| number.checked_sub(back)) {
        let segment = SegmentName::from_number(reach.last.timeline, number, size);
        let Some(segment) = segment.filter(|_| size.bytes() <= MOST_BYTES) else {
            return Ok(None);
        };
        let name = WalName::Segment(segment);
        // Before a fork it has another name, and a backup may have brought its own.
        if archive.wal_meta(name, patience).await?.is_none() {
            return Ok(None);
        }
        let bytes = reader
            .read(name, size.bytes(), 0, size.bytes() as usize, patience)
            .await;
        let bytes = bytes.map_err(|error| Error::unreadable(&error, name))?;
        if let Some(ended) = last_in(segment, &bytes, size) {
            return Ok(Some(ended));
        }
    }
    Ok(None)
}

fn last_in(segment: SegmentName, bytes: &[u8], size: SegmentSize) -> Option<Timestamp> {
    let header = PageHeader::parse(bytes).ok()?;
    let window = Window::new(&header, segment.start(size), bytes);
    window
        .records(window.first()?)
        .filter_map(|record: Record| record.ended())
        .last()
}
