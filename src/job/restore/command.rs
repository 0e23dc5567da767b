//! The `restore_command` of a restored server, which knows of segments that are not archived and where recovery may go on,
//! or end, all the same. Elsewhere a hole stops it (promise R6).

use futures::{StreamExt, TryStreamExt, stream};

use super::error::Error;
use super::wal::Reach;
use crate::archive::Archive;
use crate::archive::tree::summary::Summary;
use crate::pg::{SegmentName, WalName};
use crate::store::Patience;

/// The most names that a command has; of a backup that brings more of its own WAL the others are asked for.
const NAMES: usize = 1000;

/// Names asked for at once.
const LOOKS: usize = 8;

/// Segments that the server shall take for not archived: those that the backup brings itself and the archive does not have,
/// which PostgreSQL then finds in `pg_wal`; and the gap, where the operator has said to recover up to it, or to stop before.
///
/// # Errors
/// [`Error::Archive`].
pub(super) async fn unasked(
    archive: &Archive,
    summary: &Summary,
    (reach, may_end_at_gap): (&Reach, bool),
    patience: Patience,
) -> Result<Vec<SegmentName>, Error> {
    let own = summary.backup.own_wal.iter().take(NAMES).copied();
    let looks = stream::iter(own).map(|segment| async move {
        let found = archive.wal_meta(WalName::Segment(segment), patience).await?;
        Ok::<_, Error>(found.is_none().then_some(segment))
    });
    let found: Vec<Option<SegmentName>> = looks.buffered(LOOKS).try_collect().await?;
    let mut names: Vec<SegmentName> = found.into_iter().flatten().collect();
    // Of one that is broken the beginning is replayed.
    let gap = reach.gap.filter(|gap| reach.broken() != Some(*gap));
    names.extend(gap.filter(|_| may_end_at_gap));
    Ok(names)
}

/// A command that says of these segments that they are not archived, and otherwise does what it did.
pub(super) fn without(names: &[SegmentName], command: &[u8]) -> Vec<u8> {
    if names.is_empty() {
        return command.to_vec();
    }
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let begin = format!("case %f in {}) exit 1;; esac; ", names.join("|"));
    [begin.as_bytes(), command].concat()
}
