//! Is the archived WAL that of the backup, and the backup that of the archive's cluster (promise B2, W5)? A copy of a server
//! has its system identifier, and archives under the same names.

use super::beginning::Beginning;
use super::error::Error;
use super::place::CONTROL;
use crate::archive::Archive;
use crate::archive::tree::TreeName;
use crate::archive::tree::summary::{Method, Summary};
use crate::pg::landmark::{self, Landmark};
use crate::pg::{Lsn, SegmentSize};
use crate::store::Patience;

/// Looks for the records that the backup knows. What only its own `pg_wal` has is its own.
///
/// # Errors
/// [`Error::OtherWal`], [`Error::Content`], [`Error::Archive`].
pub(super) async fn check(
    archive: &Archive,
    (name, summary): (&TreeName, &Summary),
    beginning: &Beginning,
    patience: Patience,
) -> Result<(), Error> {
    let wrong = |file: &str, reason: String| Error::Content {
        backup: name.clone(),
        file: file.into(),
        reason,
    };
    let (label, control) = (beginning.label.as_ref(), beginning.control.as_ref());
    let cluster = archive.cluster(patience).await?.map(|cluster| cluster.system_id);
    if let (Some(cluster), Some(control)) = (cluster, control)
        && control.system_id != cluster
    {
        let (place, own) = (archive.place(), control.system_id);
        let reason =
            format!("it is of the cluster {own}, and {place} has the WAL of {cluster}: it would not recover");
        return Err(wrong(CONTROL, reason));
    }
    let backup = &summary.backup;
    let bad_summary = |reason| wrong("its summary", reason);
    let segments = backup.segments().map_err(bad_summary)?;
    let size = SegmentSize::new(backup.segment_bytes).map_err(|error| bad_summary(error.to_string()))?;
    let stop = backup.stop().map_or(Lsn(0), |(_, stop)| stop);
    let mut landmarks = landmark::of_backup(label, control, stop);
    // Somebody may have given a later end than its own.
    landmarks
        .retain(|landmark| summary.method != Method::ByHand || !matches!(landmark, Landmark::End { .. }));
    match archive
        .missed_landmark(&landmarks, &segments, size, patience)
        .await?
    {
        None => Ok(()),
        Some((segment, found)) => Err(Error::OtherWal {
            backup: name.clone(),
            place: archive.place(),
            segment,
            found,
        }),
    }
}
