//! Is what is archived this server's WAL? A copy of a running server brings none that could be compared: what of its WAL is
//! in the copy may be half-written.

use super::Options;
use super::error::Error;
use super::place::Place;
use super::source::Source;
use crate::pg::backup_manifest::WalRange;
use crate::pg::landmark::{self, Landmark};
use crate::pg::{Lsn, SegmentName};

/// Looks for the records that this backup knows. A segment that is not archived is no other server's.
///
/// # Errors
/// [`Error::OtherRecord`], [`Error::OtherEnd`], [`Error::Io`].
pub(super) fn check(place: &Place, source: &Source, range: WalRange, options: &Options) -> Result<(), Error> {
    let size = source.control.segment_size;
    let named = |number| SegmentName::from_number(range.timeline, number, size);
    let label = source.label.as_ref();
    let start = label.map_or(Lsn(0), |label| label.start_lsn);
    let of_label = label.map(|label| landmark::of_label(label, range.end));
    let of_control = landmark::of_control(&source.control, start, range.end);
    let landmarks = of_label.into_iter().flatten().chain(of_control);
    // Somebody may give a standby's copy a later end than its own, and none need be a record's.
    let landmarks = landmarks.filter(|landmark| !matches!(landmark, Landmark::Boundary { .. }));
    for landmark in landmarks {
        let mut read = Vec::new();
        for (number, bytes) in landmark.ranges(size) {
            let Some(segment) = named(number) else { break };
            let Some(content) = place.read_archived(segment, bytes)? else {
                break;
            };
            read.push(content);
        }
        let Some(segment) = named(landmark.number(size)) else {
            continue;
        };
        landmark
            .check(&read)
            .map_err(|found| match (landmark, options.stop_lsn) {
                (Landmark::End { .. }, Some(stop)) => Error::OtherEnd { stop, found },
                _ => Error::OtherRecord { segment, found },
            })?;
    }
    Ok(())
}
